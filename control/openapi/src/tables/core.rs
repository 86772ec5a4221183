//! Cells of the core group's kinds but pods, and of the smaller groups.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kernelet_api::Value;

use super::cells::{
    NONE, UNKNOWN, at, first_three, human_duration, list, number, or, or_none, since, text, time,
};

pub(super) fn cluster_ip(service: &Value) -> String {
    let first = list(service, "spec.clusterIPs")
        .first()
        .and_then(Value::as_str);
    first
        .unwrap_or_else(|| or_none(service, "spec.clusterIP"))
        .to_owned()
}

/// `pods: 1/2, requests.cpu: 1/4`, of limits or of all others.
pub(super) fn quota(object: &Value, limits: bool) -> String {
    let hard = at(object, "status.hard").and_then(Value::as_object);
    let used = at(object, "status.used");
    let cells: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = used.and_then(|used| used.get(name)).and_then(Value::as_str);
            format!(
                "{name}: {}/{}",
                used.unwrap_or("0"),
                hard.as_str().unwrap_or_default()
            )
        })
        .collect();
    cells.join(", ")
}

/// `80:30080/TCP,443/TCP`
pub(super) fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, "spec.ports")
        .iter()
        .map(|port| {
            let (own, node, protocol) = (
                number(port, "port"),
                number(port, "nodePort"),
                text(port, "protocol"),
            );
            if node > 0 {
                format!("{own}:{node}/{protocol}")
            } else {
                format!("{own}/{protocol}")
            }
        })
        .collect();
    or(&ports.join(","), NONE).to_owned()
}

pub(super) fn external_ip(service: &Value) -> String {
    let external: Vec<String> = list(service, "spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), NONE).to_owned(),
        "LoadBalancer" => {
            let ingress: BTreeSet<String> = list(service, "status.loadBalancer.ingress")
                .iter()
                .map(|ingress| or(text(ingress, "ip"), text(ingress, "hostname")).to_owned())
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<String> = ingress.into_iter().chain(external).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub(super) fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = || {
            list(subset, "addresses")
                .iter()
                .map(|address| text(address, "ip"))
        };
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| host_port(ip, number(port, "port"))));
        }
    }
    let nothing = if list(object, "subsets").is_empty() {
        NONE
    } else {
        ""
    };
    first_three(&all, nothing)
}

pub(super) fn slice_ports(object: &Value) -> String {
    let ports: Vec<String> = list(object, "ports")
        .iter()
        .map(|port| {
            match (
                port.get("port").and_then(Value::as_i64),
                port.get("name").and_then(Value::as_str),
            ) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            }
        })
        .collect();
    first_three(&ports, "<unset>")
}

pub(super) fn slice_endpoints(object: &Value) -> String {
    let addresses: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    first_three(&addresses, "<unset>")
}

pub(super) fn node_status(node: &Value) -> String {
    let ready = list(node, "status.conditions")
        .iter()
        .find(|it| text(it, "type") == "Ready");
    let status = match ready {
        Some(ready) if text(ready, "status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let unschedulable = at(node, "spec.unschedulable").and_then(Value::as_bool) == Some(true);
    format!(
        "{status}{}",
        if unschedulable {
            ",SchedulingDisabled"
        } else {
            ""
        }
    )
}

pub(super) fn node_roles(node: &Value) -> String {
    let labels = at(node, "metadata.labels").and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    or(&roles.into_iter().collect::<Vec<_>>().join(","), NONE).to_owned()
}

pub(super) fn node_address(node: &Value, ty: &str) -> String {
    let address = list(node, "status.addresses")
        .iter()
        .find(|address| text(address, "type") == ty);
    address
        .map_or(NONE, |address| text(address, "address"))
        .to_owned()
}

pub(super) fn node_info(node: &Value, field: &str) -> String {
    or(text(node, &format!("status.nodeInfo.{field}")), UNKNOWN).to_owned()
}

/// An event in either group's form: `events.k8s.io` renamed most fields.
pub(super) struct Event<'o>(pub &'o Value);

impl<'o> Event<'o> {
    fn either(&self, core: &str, events: &str) -> &'o str {
        or(text(self.0, core), text(self.0, events))
    }

    /// The first of these fields that holds a time.
    fn stamp(&self, fields: [&str; 3]) -> Option<&'o Value> {
        fields
            .into_iter()
            .filter_map(|field| at(self.0, field))
            .find(|value| time(Some(value)).is_some())
    }

    fn series(&self) -> Option<&'o Value> {
        self.0.get("series").filter(|series| !series.is_null())
    }

    pub(super) fn first_seen(&self, now: Timestamp) -> String {
        since(
            self.stamp(["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]),
            now,
        )
    }

    pub(super) fn last_seen(&self, now: Timestamp) -> String {
        match (
            self.series(),
            self.stamp(["lastTimestamp", "deprecatedLastTimestamp", ""]),
        ) {
            (Some(series), _) => since(series.get("lastObservedTime"), now),
            (None, Some(last)) => since(Some(last), now),
            (None, None) => self.first_seen(now),
        }
    }

    /// Events that happened once may have no count.
    pub(super) fn count(&self) -> i64 {
        match self.series() {
            Some(series) => number(series, "count"),
            None => (number(self.0, "count") + number(self.0, "deprecatedCount")).max(1),
        }
    }

    pub(super) fn target(&self) -> String {
        let kind = self
            .either("involvedObject.kind", "regarding.kind")
            .to_lowercase();
        match self.either("involvedObject.name", "regarding.name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        }
    }

    pub(super) fn subobject(&self) -> &'o str {
        self.either("involvedObject.fieldPath", "regarding.fieldPath")
    }

    pub(super) fn message(&self) -> &'o str {
        self.either("message", "note").trim()
    }

    pub(super) fn source(&self) -> String {
        let component = or(
            self.either("source.component", "deprecatedSource.component"),
            self.either("reportingComponent", "reportingController"),
        );
        let host = or(
            self.either("source.host", "deprecatedSource.host"),
            text(self.0, "reportingInstance"),
        );
        if host.is_empty() {
            component.to_owned()
        } else {
            format!("{component}, {host}")
        }
    }
}

pub(super) fn csr_condition(object: &Value) -> String {
    let has = |ty: &str| {
        list(object, "status.conditions")
            .iter()
            .any(|it| text(it, "type") == ty)
    };
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !text(object, "status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    status
}

pub(super) fn csr_duration(object: &Value) -> String {
    let seconds = at(object, "spec.expirationSeconds").and_then(Value::as_i64);
    seconds.map_or_else(|| NONE.to_owned(), human_duration)
}

pub(super) fn binding_role(object: &Value) -> String {
    format!(
        "{}/{}",
        text(object, "roleRef.kind"),
        text(object, "roleRef.name")
    )
}

/// The names of a binding's subjects of one kind.
pub(super) fn subjects(object: &Value, kind: &str) -> String {
    let names: Vec<String> = list(object, "subjects")
        .iter()
        .filter(|subject| text(subject, "kind") == kind)
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        })
        .collect();
    names.join(", ")
}
