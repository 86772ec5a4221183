//! Ports that several containers of a pod declare.

use std::collections::BTreeMap;

use crate::validate::node::Node;

/// A port that was declared before.
struct Declared {
    path: String,
    host_ip: String,
    host_port: i64,
}

pub(super) fn ports(containers: &[Node<'_>], warnings: &mut Vec<String>) {
    let mut all: BTreeMap<String, Vec<Declared>> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut about_names = Vec::new();
    for container in containers {
        for port in container.get("ports").each() {
            let number = |field: &str| port.get(field).int().unwrap_or(0);
            let text = |field: &str| port.get(field).text();
            let own = Declared {
                path: port.path.to_string(),
                host_ip: text("hostIP").to_owned(),
                host_port: number("hostPort"),
            };
            if !own.host_ip.is_empty() && own.host_port == 0 {
                warnings.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    own.path,
                    text("name"),
                    number("containerPort"),
                    text("protocol"),
                    own.host_ip
                ));
            }
            let key = format!("{}/{}", number("containerPort"), text("protocol"));
            let others = all.entry(key).or_default();
            warnings.extend(others.iter().filter_map(|other| clash(&own, other)));
            let name = text("name");
            if !name.is_empty() {
                match names.get(name) {
                    Some(first) => about_names.push(format!(
                        "{}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}",
                        own.path
                    )),
                    None => drop(names.insert(name.to_owned(), own.path.clone())),
                }
            }
            others.push(own);
        }
    }
    warnings.extend(about_names);
}

fn clash(own: &Declared, other: &Declared) -> Option<String> {
    let same_ip = own.host_ip == other.host_ip;
    let same_port = own.host_port == other.host_port;
    let what = if same_ip && same_port {
        "duplicate"
    } else if own.host_port == 0 || other.host_port == 0 {
        "overlapping"
    } else if same_port && own.host_ip.is_empty() != other.host_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!(
        "{}: {what} port definition with {}",
        own.path, other.path
    ))
}
