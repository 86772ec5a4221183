//! Cluster IPs and node ports: claimed in the transaction that writes the Service, freed in the one that deletes it.
//!
//! A claim is a key of its own (`/registry/kernelet/clusterips/10.96.0.7`) that must not be there before. So no two
//! Services ever hold the same one, a crash leaves nothing to repair, and finding a free one is a guess that the
//! transaction confirms: upstream's in-memory allocators with their repair loops have no counterpart here.

mod allocate;

use std::{collections::BTreeSet, net::IpAddr};

use kernelet_api::{ApiError, Value};
use kernelet_store::{Compare, Delete, Key, Op, Put, Txn};
use serde_json::{Map, json};

use crate::handler::WriteRequest;
use allocate::allocate;

const IPS: &str = "/registry/kernelet/clusterips/";
const PORTS: &str = "/registry/kernelet/nodeports/";

/// Keys that a write takes and gives back.
#[derive(Debug, Default)]
pub struct Claims {
    take: Vec<Key>,
    give: Vec<Key>,
    owner: String,
}

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Held {
    fn keys(&self) -> BTreeSet<String> {
        let ips = self.ips.iter().map(|ip| format!("{IPS}{ip}"));
        ips.chain(self.ports.iter().map(|port| format!("{PORTS}{port}")))
            .collect()
    }

    fn of(service: &Value) -> Held {
        let Some(spec) = service.get("spec").and_then(Value::as_object) else {
            return Held::default();
        };
        let mut held = Held::default();
        if text(spec, "type") != "ExternalName" {
            let list = spec
                .get("clusterIPs")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            held.ips = list
                .iter()
                .chain(spec.get("clusterIP"))
                .filter_map(Value::as_str)
                .filter_map(|ip| ip.parse().ok())
                .collect();
        }
        if needs_node_ports(spec) {
            let ports = spec
                .get("ports")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            held.ports = ports
                .filter_map(|port| number(port.get("nodePort")))
                .collect();
            held.ports.extend(number(spec.get("healthCheckNodePort")));
        }
        held
    }
}

fn number(value: Option<&Value>) -> Option<u16> {
    value
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn text<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn needs_node_ports(spec: &Map<String, Value>) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn is_service(request: &WriteRequest<'_>) -> bool {
    request.served.resource.group.is_empty() && request.served.resource.plural == "services"
}

impl Claims {
    pub async fn of_create(
        request: &WriteRequest<'_>,
        new: &mut Value,
    ) -> Result<Claims, ApiError> {
        if !is_service(request) {
            return Ok(Claims::default());
        }
        allocate(request, new, &Held::default()).await
    }

    pub async fn of_update(
        request: &WriteRequest<'_>,
        old: &Value,
        new: &mut Value,
    ) -> Result<Claims, ApiError> {
        if !is_service(request) || request.subresource.is_some() {
            return Ok(Claims::default());
        }
        allocate(request, new, &Held::of(old)).await
    }

    pub fn of_delete(request: &WriteRequest<'_>, old: &Value) -> Claims {
        if !is_service(request) {
            return Claims::default();
        }
        Claims {
            give: Held::of(old).keys().into_iter().map(Key::from).collect(),
            ..Claims::default()
        }
    }

    /// Adds the claims to the write's transaction.
    pub fn add_to(&self, txn: &mut Txn) {
        for key in &self.take {
            txn.compares.push(Compare::absent(key.clone()));
            txn.success
                .push(Op::Put(Put::new(key.clone(), self.owner.clone())));
        }
        txn.success.extend(
            self.give
                .iter()
                .map(|key| Op::Delete(Delete::key(key.clone()))),
        );
    }
}

/// Keeps the old singular `clusterIP` and the list `clusterIPs` equal: a client that knows only one of them means both.
pub fn normalize(new: &mut Value, old: Option<&Value>) {
    if let Some(old) = old {
        drop_unneeded(old, new);
    }
    let before = old.and_then(|old| old.get("spec"));
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let ip = text(spec, "clusterIP").to_owned();
    let mut ips = spec
        .get("clusterIPs")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let changed = |spec: &Map<String, Value>, field: &str| {
        before.and_then(|b| b.get(field)) != spec.get(field)
    };
    if ips.is_empty() && !ip.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    } else if before.is_some() && changed(spec, "clusterIP") && !changed(spec, "clusterIPs") {
        if ip.is_empty() {
            spec.remove("clusterIPs");
        } else if let Some(first) = ips.first_mut() {
            *first = ip.into();
            spec.insert("clusterIPs".to_owned(), ips.into());
        }
    }
}

/// What a Service of its new type has no use for goes, unless the request set it on purpose.
fn drop_unneeded(old: &Value, new: &mut Value) {
    let (before, Some(spec)) = (
        old.get("spec").cloned().unwrap_or_default(),
        new.get_mut("spec").and_then(Value::as_object_mut),
    ) else {
        return;
    };
    let same = |spec: &Map<String, Value>, field: &str| spec.get(field) == before.get(field);
    if text(spec, "type") == "ExternalName"
        && before.get("type").and_then(Value::as_str) != Some("ExternalName")
    {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(spec, field) {
                spec.remove(field);
            }
        }
    }
    let (needed, needs) = (
        before.as_object().is_some_and(needs_node_ports),
        needs_node_ports(spec),
    );
    if needed && !needs {
        let old_ports = Held::of(old).ports;
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if number(port.get("nodePort")).is_some_and(|port| old_ports.contains(&port))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    let wants_health = |spec: &Map<String, Value>| {
        text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
    };
    if !wants_health(spec) && same(spec, "healthCheckNodePort") {
        spec.remove("healthCheckNodePort");
    }
    let external = needs
        || spec
            .get("externalIPs")
            .and_then(Value::as_array)
            .is_some_and(|ips| !ips.is_empty());
    if !external && same(spec, "externalTrafficPolicy") {
        spec.remove("externalTrafficPolicy");
    }
    if text(spec, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, field) {
                spec.remove(field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_addresses_and_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 81}], "healthCheckNodePort": 30081}});
        let keys: Vec<String> = Held::of(&service).keys().into_iter().collect();
        assert_eq!(
            keys,
            [
                "/registry/kernelet/clusterips/10.96.0.7",
                "/registry/kernelet/clusterips/fd00::7",
                "/registry/kernelet/nodeports/30080",
                "/registry/kernelet/nodeports/30081",
            ]
        );
        let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"nodePort": 30000}]}});
        assert_eq!(Held::of(&headless), Held::default());
    }

    #[test]
    fn a_type_takes_with_it_what_it_needed() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_unneeded(&old, &mut new);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80}]));
        let mut external = old.clone();
        external["spec"]["type"] = "ExternalName".into();
        drop_unneeded(&old, &mut external);
        assert_eq!(external["spec"].get("clusterIP"), None);
    }
}
