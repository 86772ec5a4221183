//! From the API's Services and EndpointSlices to the virtual addresses that the data plane shall hold.

use std::{borrow::Borrow, collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kernelet_ebpf_abi::{Address, ServiceKey, TCP, UDP, service_flags};

/// One virtual address, wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    pub key: ServiceKey,
    /// `namespace/name:port`, for people.
    pub name: String,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
    /// `service_flags`.
    pub flags: u32,
    pub backends: BTreeSet<BackendSpec>,
}

/// Where a connection may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendSpec {
    pub address: IpAddr,
    pub port: u16,
}

/// What of the node decides over its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub node_name: String,
    /// Addresses that the agent itself serves (the cluster DNS): no Service takes them over.
    pub reserved: Vec<IpAddr>,
}

/// An address of a key as it stands in the maps.
pub fn key(address: IpAddr, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        address: Address::from(address),
        port: port.to_be(),
        protocol,
        pad: 0,
    }
}

/// Every virtual address of `service`, given all EndpointSlices that carry its name.
pub fn service_specs<S: Borrow<EndpointSlice>>(
    service: &Service,
    slices: &[S],
    view: &NodeView,
) -> Vec<ServiceSpec> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if type_ == "ExternalName" || spec.cluster_ip.as_deref() == Some("None") {
        return Vec::new();
    }
    let cluster_ips: Vec<IpAddr> = match &spec.cluster_ips {
        Some(all) if !all.is_empty() => all.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => spec
            .cluster_ip
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
    };
    let external: Vec<IpAddr> = spec
        .external_ips
        .iter()
        .flatten()
        .map(String::as_str)
        .chain(load_balancer_ips(service))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let affinity_s = affinity(service);
    let local_only = spec.internal_traffic_policy.as_deref() == Some("Local");
    let mut specs = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol(port) else {
            continue;
        };
        let name = port_name(service, port);
        let spec = |address: IpAddr, number: u16, flags: u32, local_only: bool| ServiceSpec {
            key: key(address, number, protocol),
            name: name.clone(),
            affinity_s,
            flags,
            backends: backends(slices, port, address.is_ipv4(), local_only, view),
        };
        let Ok(number) = u16::try_from(port.port) else {
            continue;
        };
        for address in cluster_ips.iter().filter(|ip| !view.reserved.contains(ip)) {
            specs.push(spec(
                *address,
                number,
                service_flags::CLUSTER_IP,
                local_only,
            ));
        }
        for address in external.iter().filter(|ip| !view.reserved.contains(ip)) {
            // Somebody inside the cluster reaches every endpoint; `externalTrafficPolicy` is for who
            // comes from outside.
            specs.push(spec(*address, number, service_flags::EXTERNAL, false));
        }
        if matches!(type_, "NodePort" | "LoadBalancer")
            && let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok())
            && node_port != 0
        {
            let families: BTreeSet<bool> = cluster_ips.iter().map(IpAddr::is_ipv4).collect();
            for is_ipv4 in families {
                specs.push(spec(
                    any(is_ipv4),
                    node_port,
                    service_flags::NODE_PORT,
                    false,
                ));
            }
        }
    }
    specs
}

/// A family's unspecified address: in a key, any of the node's own.
pub fn any(is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

fn load_balancer_ips(service: &Service) -> impl Iterator<Item = &str> {
    service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.as_deref())
}

fn affinity(service: &Service) -> u32 {
    const DEFAULT_S: i32 = 10800;
    let Some(spec) = &service.spec else { return 0 };
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    spec.session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds)
        .unwrap_or(DEFAULT_S)
        .max(1) as u32
}

fn protocol(port: &ServicePort) -> Option<u8> {
    match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        _ => None,
    }
}

fn port_name(service: &Service, port: &ServicePort) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref().unwrap_or_default();
    match port.name.as_deref() {
        Some(port) if !port.is_empty() => format!("{namespace}/{name}:{port}"),
        _ => format!("{namespace}/{name}:{}", port.port),
    }
}

/// Ready endpoints; when there is none at all, those that still serve while they end: better than
/// refusing during the last moments of a rollout.
fn backends<S: Borrow<EndpointSlice>>(
    slices: &[S],
    port: &ServicePort,
    is_ipv4: bool,
    local_only: bool,
    view: &NodeView,
) -> BTreeSet<BackendSpec> {
    let mut ready = BTreeSet::new();
    let mut serving = BTreeSet::new();
    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
    let slices = slices
        .iter()
        .map(Borrow::borrow)
        .filter(|slice| slice.address_type == family);
    for slice in slices {
        let Some(number) = slice_port(slice, port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            if local_only && endpoint.node_name.as_deref() != Some(&view.node_name) {
                continue;
            }
            let into = match condition(endpoint) {
                Condition::Ready => &mut ready,
                Condition::Serving => &mut serving,
                Condition::Neither => continue,
            };
            // All addresses of one endpoint are the same endpoint: upstream uses the first.
            let address = endpoint
                .addresses
                .first()
                .and_then(|address| address.parse().ok());
            into.extend(address.map(|address| BackendSpec {
                address,
                port: number,
            }));
        }
    }
    if ready.is_empty() { serving } else { ready }
}

enum Condition {
    Ready,
    Serving,
    Neither,
}

fn condition(endpoint: &Endpoint) -> Condition {
    let Some(conditions) = &endpoint.conditions else {
        return Condition::Ready;
    };
    // Unknown counts as ready (EndpointConditions.ready).
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    if ready {
        Condition::Ready
    } else if terminating && conditions.serving.unwrap_or(ready) {
        Condition::Serving
    } else {
        Condition::Neither
    }
}

/// The port number in a slice for a Service's port: the one of the same name and protocol.
fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let wanted_name = port.name.as_deref().unwrap_or_default();
    let wanted_protocol = port.protocol.as_deref().unwrap_or("TCP");
    slice
        .ports
        .iter()
        .flatten()
        .find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == wanted_name
                && candidate.protocol.as_deref().unwrap_or("TCP") == wanted_protocol
        })
        .and_then(|found| found.port)
        .and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> NodeView {
        NodeView {
            node_name: "node-a".into(),
            reserved: vec!["10.96.0.10".parse().expect("an address")],
        }
    }

    fn specs(service: serde_json::Value, slices: &[serde_json::Value]) -> Vec<ServiceSpec> {
        let service: Service = serde_json::from_value(service).expect("a Service");
        let slices: Vec<EndpointSlice> = slices
            .iter()
            .map(|slice| serde_json::from_value(slice.clone()).expect("an EndpointSlice"))
            .collect();
        service_specs(&service, &slices, &view())
    }

    fn slice(endpoints: serde_json::Value) -> serde_json::Value {
        json!({
            "metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "echo", "port": 5353, "protocol": "UDP"}],
            "endpoints": endpoints,
        })
    }

    fn service(spec: serde_json::Value) -> serde_json::Value {
        let mut all = json!({
            "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
            "ports": [{"name": "http", "port": 80}, {"name": "echo", "port": 53, "protocol": "UDP"}],
        });
        for (key, value) in spec.as_object().expect("an object") {
            all[key] = value.clone();
        }
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": all})
    }

    /// `address/port -> backends`, one line a virtual address.
    fn lines(specs: &[ServiceSpec]) -> Vec<String> {
        specs
            .iter()
            .map(|spec| {
                let backends: Vec<String> = spec
                    .backends
                    .iter()
                    .map(|backend| format!("{}:{}", backend.address, backend.port))
                    .collect();
                format!(
                    "{} {}:{}/{} -> {}",
                    spec.name,
                    IpAddr::from(spec.key.address),
                    u16::from_be(spec.key.port),
                    spec.key.protocol,
                    backends.join(",")
                )
            })
            .collect()
    }

    #[test]
    fn named_ports_lead_to_the_slices_ports_of_the_same_name() {
        let endpoints = json!([
            {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"]},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false}},
        ]);
        assert_eq!(
            lines(&specs(service(json!({})), &[slice(endpoints)])),
            [
                "default/web:http 10.96.0.20:80/6 -> 10.244.0.2:8080,10.244.0.3:8080",
                "default/web:echo 10.96.0.20:53/17 -> 10.244.0.2:5353,10.244.0.3:5353",
            ]
        );
    }

    #[test]
    fn serving_endpoints_that_end_are_used_only_when_none_is_ready() {
        let ending = json!({"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let dead = json!({"addresses": ["10.244.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}});
        let ready = json!({"addresses": ["10.244.0.2"], "conditions": {"ready": true}});
        let one_port = json!({"ports": [{"name": "http", "port": 80}]});
        assert_eq!(
            lines(&specs(
                service(one_port.clone()),
                &[slice(json!([ending, dead]))]
            )),
            ["default/web:http 10.96.0.20:80/6 -> 10.244.0.4:8080"]
        );
        assert_eq!(
            lines(&specs(
                service(one_port),
                &[slice(json!([ending, dead, ready]))]
            )),
            ["default/web:http 10.96.0.20:80/6 -> 10.244.0.2:8080"]
        );
    }

    #[test]
    fn several_slices_are_one_set_and_no_slice_is_an_empty_one() {
        let one = |ip: &str| slice(json!([{"addresses": [ip]}]));
        let one_port = json!({"ports": [{"name": "http", "port": 80}]});
        assert_eq!(
            lines(&specs(
                service(one_port.clone()),
                &[one("10.244.0.2"), one("10.244.2.9"), one("10.244.0.2")]
            )),
            ["default/web:http 10.96.0.20:80/6 -> 10.244.0.2:8080,10.244.2.9:8080"]
        );
        assert_eq!(
            lines(&specs(service(one_port), &[])),
            ["default/web:http 10.96.0.20:80/6 -> "]
        );
    }

    #[test]
    fn headless_external_name_and_reserved_addresses_have_no_virtual_address() {
        assert!(
            specs(
                service(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
                &[]
            )
            .is_empty()
        );
        assert!(specs(service(json!({"type": "ExternalName"})), &[]).is_empty());
        assert!(
            specs(
                service(json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]})),
                &[]
            )
            .is_empty()
        );
    }

    #[test]
    fn node_ports_and_external_addresses_are_further_ways_in() {
        let mut object = service(json!({
            "type": "LoadBalancer", "externalIPs": ["203.0.113.7"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        }));
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}]}});
        let specs = specs(object, &[slice(json!([{"addresses": ["10.244.0.2"]}]))]);
        assert_eq!(
            lines(&specs),
            [
                "default/web:http 10.96.0.20:80/6 -> 10.244.0.2:8080",
                "default/web:http 203.0.113.7:80/6 -> 10.244.0.2:8080",
                "default/web:http 203.0.113.8:80/6 -> 10.244.0.2:8080",
                "default/web:http 0.0.0.0:30080/6 -> 10.244.0.2:8080",
            ]
        );
    }

    #[test]
    fn affinity_has_upstreams_default_and_the_given_timeout() {
        let check = |extra: serde_json::Value, expect: u32| {
            assert_eq!(specs(service(extra), &[])[0].affinity_s, expect);
        };
        check(json!({}), 0);
        check(json!({"sessionAffinity": "None"}), 0);
        check(json!({"sessionAffinity": "ClientIP"}), 10800);
        check(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            5,
        );
    }

    #[test]
    fn a_local_traffic_policy_keeps_to_this_nodes_endpoints() {
        let endpoints = json!([
            {"addresses": ["10.244.0.2"], "nodeName": "node-a"},
            {"addresses": ["10.244.2.2"], "nodeName": "node-b"},
        ]);
        assert_eq!(
            lines(&specs(
                service(
                    json!({"internalTrafficPolicy": "Local", "ports": [{"name": "http", "port": 80}]})
                ),
                &[slice(endpoints)]
            )),
            ["default/web:http 10.96.0.20:80/6 -> 10.244.0.2:8080"]
        );
    }
}
