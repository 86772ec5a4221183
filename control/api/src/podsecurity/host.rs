//! What of the host a pod may not have: namespaces, paths, ports, its processes, and probes aimed at it.

use std::collections::BTreeSet;

use super::{Finding, Subject, containers, finding, flag, name, plural, quoted, setters, text};
use crate::Value;

pub(super) fn namespaces(pod: &Subject<'_>) -> Option<Finding> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec.get(**field).and_then(Value::as_bool) == Some(true))
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    finding("host namespaces", shared.join(", "))
}

pub(super) fn paths(pod: &Subject<'_>) -> Option<Finding> {
    let volumes = pod.spec.get("volumes").and_then(Value::as_array);
    let bad: Vec<&str> = volumes
        .into_iter()
        .flatten()
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .map(name)
        .collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("volume", "volumes", bad.len());
    finding("hostPath volumes", format!("{what} {}", quoted(bad)))
}

pub(super) fn ports(pod: &Subject<'_>) -> Option<Finding> {
    let mut forbidden: BTreeSet<String> = BTreeSet::new();
    let bad = pod.bad(|container| {
        let ports = container.get("ports").and_then(Value::as_array);
        let on_host: Vec<i64> = ports
            .into_iter()
            .flatten()
            .filter_map(|port| port.get("hostPort")?.as_i64())
            .filter(|port| *port != 0)
            .collect();
        forbidden.extend(on_host.iter().map(ToString::to_string));
        !on_host.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let ports: Vec<String> = forbidden.into_iter().collect();
    finding(
        "hostPort",
        format!(
            "{} {} {} {}",
            containers(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    )
}

pub(super) fn probes(pod: &Subject<'_>) -> Option<Finding> {
    const HANDLERS: [&str; 5] = [
        "/livenessProbe",
        "/readinessProbe",
        "/startupProbe",
        "/lifecycle/postStart",
        "/lifecycle/preStop",
    ];
    let mut hosts: BTreeSet<&str> = BTreeSet::new();
    let bad = pod.bad(|container| {
        let named: Vec<&str> = HANDLERS
            .iter()
            .filter_map(|handler| container.pointer(handler))
            .flat_map(|handler| {
                [
                    text(handler, "/httpGet/host"),
                    text(handler, "/tcpSocket/host"),
                ]
            })
            .flatten()
            .filter(|host| !host.is_empty())
            .collect();
        hosts.extend(&named);
        !named.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let sorted: BTreeSet<&str> = bad.into_iter().collect();
    let bad: Vec<&str> = sorted.into_iter().collect();
    finding(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            containers(&bad),
            plural("uses", "use", bad.len()),
            plural(
                "probe or lifecycle host",
                "probe or lifecycle hosts",
                hosts.len()
            ),
            quoted(hosts)
        ),
    )
}

pub(super) fn windows_process(pod: &Subject<'_>) -> Option<Finding> {
    const FIELD: &str = "/securityContext/windowsOptions/hostProcess";
    let bad = pod.bad(|container| flag(container, FIELD) == Some(true));
    let who = setters(flag(pod.spec, FIELD) == Some(true), &bad)?;
    finding(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
