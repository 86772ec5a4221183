//! Services.

use super::{
    meta, names,
    node::{Errors, Node},
    pod::port_or_name,
};
use crate::{FieldError, Value};
use std::{collections::BTreeSet, net::IpAddr};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_AFFINITY_SECONDS: i64 = 86400;

pub fn service(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    ports_and_type(&spec, &mut errors);
    meta::labels(&spec.get("selector"), &mut errors);
    affinity(&spec, &mut errors);
    cluster_ips(&spec, &mut errors);
    for ip in spec.get("externalIPs").each() {
        let messages = names::ip(ip.text());
        if messages.is_empty() {
            super::endpoints::endpoint_ip(&ip, &mut errors);
        }
        errors.messages(&ip, messages);
    }
    errors.one_of(
        &spec.get("type"),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    port_conflicts(&spec, &mut errors);
    traffic(&spec, &mut errors);
    errors.into_vec()
}

fn is_headless(spec: &Node<'_>) -> bool {
    let ips = spec.get("clusterIPs");
    ips.len() == 1 && ips.each().all(|ip| ip.text() == "None")
}

fn ports_and_type(spec: &Node<'_>, errors: &mut Errors) {
    let (ty, ports, ips) = (spec.get("type"), spec.get("ports"), spec.get("clusterIPs"));
    let headless = is_headless(spec);
    if ports.len() == 0 && !headless && ty.text() != "ExternalName" {
        errors.push(ports.required(""));
    }
    match ty.text() {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            for ip in ips.each() {
                errors.push(ip.invalid(format!("may not be set to 'None' for {kind} services")));
            }
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let node = spec.get(field);
                if node.len() > 0 {
                    errors.push(node.forbidden("may not be set for ExternalName services"));
                }
            }
            let name = spec.get("externalName");
            match name.text().strip_suffix('.').unwrap_or(name.text()) {
                "" => errors.push(name.required("")),
                text => {
                    for message in names::dns_subdomain(text) {
                        errors.push(FieldError::invalid(&name.path, text, message));
                    }
                }
            }
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for port in ports.each() {
        let name = port.get("name");
        if name.text().is_empty() {
            if ports.len() > 1 {
                errors.push(name.required(""));
            }
        } else {
            errors.messages(&name, names::dns_label(name.text()));
            if !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        errors.port(&port.get("port"));
        errors.one_of(&port.get("protocol"), PROTOCOLS);
        port_or_name(&port.get("targetPort"), errors);
        let app = port.get("appProtocol");
        if app.is_set() {
            errors.messages(&app, names::qualified_name(app.text()));
        }
    }
}

fn affinity(spec: &Node<'_>, errors: &mut Errors) {
    let (affinity, config) = (
        spec.get("sessionAffinity"),
        spec.get("sessionAffinityConfig"),
    );
    errors.one_of(&affinity, &["ClientIP", "None"]);
    match affinity.text() {
        "ClientIP" => {
            let client = config.get("clientIP");
            let seconds = client.get("timeoutSeconds");
            for node in [&config, &client, &seconds] {
                if !node.is_set() {
                    return errors.push(node.required("when session affinity type is ClientIP"));
                }
            }
            if !seconds
                .int()
                .is_some_and(|n| n > 0 && n <= MAX_AFFINITY_SECONDS)
            {
                errors.push(seconds.invalid(format!(
                    "must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"
                )));
            }
        }
        "None" if config.is_set() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn cluster_ips(spec: &Node<'_>, errors: &mut Errors) {
    if spec.get("type").text() == "ExternalName" {
        return;
    }
    let (ip, ips, families) = (
        spec.get("clusterIP"),
        spec.get("clusterIPs"),
        spec.get("ipFamilies"),
    );
    let first = ips.each().next().map(|ip| ip.text());
    if ip.text().is_empty() {
        if ips.len() > 0 {
            errors.push(ips.invalid("must be empty when `clusterIP` is not specified"));
        }
    } else {
        match first {
            None => errors.push(ips.required("")),
            Some(first) if first != ip.text() => {
                errors.push(ips.invalid("first value must match `clusterIP`"))
            }
            Some(_) => {}
        }
    }
    let mut seen = BTreeSet::new();
    for family in families.each() {
        if !matches!(family.text(), "IPv4" | "IPv6") {
            errors.push(family.not_supported(&["IPv4", "IPv6"]));
        }
        if !seen.insert(family.text()) {
            errors.push(family.duplicate());
        }
    }
    let policy = spec.get("ipFamilyPolicy");
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if policy.is_set() && !POLICIES.contains(&policy.text()) {
        errors.push(policy.not_supported(POLICIES));
    }
    addresses(spec, &ips, &families, errors);
}

fn addresses(spec: &Node<'_>, ips: &Node<'_>, families: &Node<'_>, errors: &mut Errors) {
    let mut malformed = false;
    for (i, ip) in ips.each().enumerate() {
        if i == 0 && ip.text() == "None" {
            if ips.len() > 1 {
                malformed = true;
                errors.push(ips.invalid("'None' must be the first and only value"));
            }
            continue;
        }
        let messages = names::ip(ip.text());
        malformed |= !messages.is_empty();
        errors.messages(&ip, messages);
    }
    if ips.len() > 2 {
        errors.push(ips.invalid("may only hold up to 2 values"));
    }
    if malformed {
        return;
    }
    let is_v6 = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    let v6 = ips.each().filter(|ip| is_v6(ip.text())).count();
    if ips.len() > 1 && (v6 == 0 || v6 == ips.len()) {
        errors.push(ips.invalid("may specify no more than one IP for each IP family"));
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.each().zip(families.each()).enumerate() {
        let wrong = match family.text() {
            "IPv4" => is_v6(ip.text()),
            "IPv6" => !is_v6(ip.text()),
            _ => false,
        };
        if wrong {
            errors.push(ip.invalid(format!(
                "expected an {} value as indicated by `ipFamilies[{i}]`",
                family.text()
            )));
        }
    }
}

fn port_conflicts(spec: &Node<'_>, errors: &mut Errors) {
    let ports = spec.get("ports");
    if spec.get("type").text() == "ClusterIP" {
        for node_port in ports.each().map(|p| p.get("nodePort")) {
            if node_port.int().unwrap_or(0) != 0 {
                errors.push(node_port.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for port in ports.each() {
        let node_port = port.get("nodePort");
        if let Some(number) = node_port.int().filter(|n| *n != 0)
            && !seen.insert((port.get("protocol").text(), number))
        {
            errors.push(node_port.duplicate());
        }
    }
    let mut seen = BTreeSet::new();
    for port in ports.each() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int());
        if !seen.insert((protocol, number)) {
            // Upstream prints its internal struct.
            let shown = serde_json::json!({"Name": "", "Protocol": protocol, "AppProtocol": null,
                "Port": number, "TargetPort": 0, "NodePort": 0});
            errors.push(FieldError::duplicate(&port.path, shown));
        }
    }
}

fn traffic(spec: &Node<'_>, errors: &mut Errors) {
    let ty = spec.get("type");
    let balanced = ty.text() == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    if ranges.len() > 0 {
        let path = spec.path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(
                &path,
                "may only be used when `type` is 'LoadBalancer'",
            ));
        }
        for (i, range) in ranges.each().enumerate() {
            for message in names::cidr(range.text().trim()) {
                errors.push(FieldError::invalid(
                    path.index(i),
                    range.text().trim(),
                    message,
                ));
            }
        }
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.is_set() && !balanced {
        errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        if !balanced {
            errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
        errors.messages(&class, names::qualified_name(class.text()));
    }
    let external = spec.get("externalTrafficPolicy");
    let accessible = balanced
        || ty.text() == "NodePort"
        || (ty.text() == "ClusterIP" && spec.get("externalIPs").len() > 0);
    if accessible {
        errors.one_of(&external, &["Cluster", "Local"]);
    } else if external.len() > 0 {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let health = spec.get("healthCheckNodePort");
    if balanced && external.text() == "Local" {
        match health.int().unwrap_or(0) {
            0 => errors.push(health.required("")),
            _ => errors.port(&health),
        }
    } else if health.int().unwrap_or(0) != 0 {
        errors.push(health.invalid(
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
    let internal = spec.get("internalTrafficPolicy");
    if !internal.is_set() {
        if matches!(ty.text(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            errors.push(internal.required(""));
        }
    } else if !matches!(internal.text(), "Cluster" | "Local") {
        errors.push(internal.not_supported(&["Cluster", "Local"]));
    }
}

pub fn service_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (spec, before) = (Node::root(new).get("spec"), Node::root(old).get("spec"));
    let named = [&spec, &before]
        .iter()
        .any(|s| s.get("type").text() == "ExternalName");
    let both_headless = is_headless(&spec) && is_headless(&before);
    if !named && !both_headless {
        once_set(
            &spec,
            &before,
            "clusterIPs",
            "primary clusterIP can not be unset",
            &mut errors,
        );
    }
    if !named && !is_headless(&spec) && !is_headless(&before) {
        once_set(
            &spec,
            &before,
            "ipFamilies",
            "primary ipFamily can not be unset",
            &mut errors,
        );
    }
    let class = |s: &Node<'_>| s.get("loadBalancerClass").value.clone();
    let balanced = |s: &Node<'_>| s.get("type").text() == "LoadBalancer";
    if balanced(&spec) && balanced(&before) && class(&spec) != class(&before) {
        errors.push(
            spec.get("loadBalancerClass")
                .invalid("may not change once set"),
        );
    }
    errors.extend(service(new));
    errors.into_vec()
}

/// A list whose first value stays; a second one may come and go.
fn once_set(spec: &Node<'_>, before: &Node<'_>, field: &str, unset: &str, errors: &mut Errors) {
    let (new, old) = (spec.get(field), before.get(field));
    let refuse = |i: usize, why: &str| {
        let shown = if new.value.is_null() {
            Value::Array(vec![])
        } else {
            new.value.clone()
        };
        FieldError::invalid(new.path.index(i), shown, why)
    };
    let pairs = old.each().zip(new.each());
    if old.len() == new.len() {
        for (i, (was, is)) in pairs.enumerate() {
            if was.text() != is.text() {
                errors.push(refuse(
                    if field == "ipFamilies" { 0 } else { i },
                    "may not change once set",
                ));
            }
        }
        return;
    }
    if old.len() > new.len() && new.len() == 0 {
        errors.push(refuse(0, unset));
    }
    if pairs.take(1).any(|(was, is)| was.text() != is.text()) {
        errors.push(refuse(0, "may not change once set"));
    }
    if old.len() > new.len() && new.len() == 1 {
        let policy = spec.get("ipFamilyPolicy");
        if policy.text() != "SingleStack" {
            let what = if field == "ipFamilies" {
                "ipFamily"
            } else {
                "clusterIP"
            };
            errors.push(policy.invalid(format!(
                "must be set to 'SingleStack' when releasing the secondary {what}"
            )));
        }
    }
}
