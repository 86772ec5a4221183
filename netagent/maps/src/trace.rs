//! What the data plane would do with a connection, asked of the kernel's own maps: the same look-ups in the same
//! order as the programs make (`ebpf/programs`: `socket.rs`, `packet.rs`, `nat.rs`), without sending anything.
//!
//! Deliberately not in it: what the node's stack does with a packet that is handed to it (routes, other people's
//! netfilter chains), and which of several backends a connection would get, which is drawn for each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kernelet_ebpf_abi::{Reason, TCP, UDP};
use serde::Serialize;

use crate::{
    LoadError,
    view::{self, NodeRow, PodRow, ServiceRow},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A process in the node's own network namespace.
    Node,
    /// A process in the pod that has this address.
    Pod(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// One look-up and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HopRow {
    /// Where it is made, named as in flows.
    pub hook: &'static str,
    /// The address that is looked at.
    pub destination: SocketAddr,
    /// The map and the entry that was found there, or that none was.
    pub entry: String,
    /// One of `Reason`'s names, or what is beyond the programs.
    pub verdict: &'static str,
    pub drop: bool,
}

/// Every hop of a new connection from `from` to `to`; several of the last kind when a Service has several backends.
pub fn trace(
    instance_id: &str,
    from: From,
    to: SocketAddr,
    protocol: Protocol,
) -> Result<Vec<HopRow>, LoadError> {
    let maps = Maps {
        services: view::services(instance_id)?,
        pods: view::pods(instance_id)?,
        node: view::node(instance_id)?,
    };
    Ok(maps.trace(from, to, protocol))
}

struct Maps {
    services: Vec<ServiceRow>,
    pods: Vec<PodRow>,
    node: NodeRow,
}

impl Maps {
    fn trace(&self, from: From, to: SocketAddr, protocol: Protocol) -> Vec<HopRow> {
        let hook = match protocol {
            Protocol::Tcp => "connect",
            Protocol::Udp => "sendmsg",
        };
        let hop = |entry: String, verdict: &'static str, drop| HopRow {
            hook,
            destination: to,
            entry,
            verdict,
            drop,
        };
        let Some(service) = self.service(from, to, protocol) else {
            let mut hops = vec![hop("SERVICES: none".into(), "unchanged", false)];
            hops.push(self.packet(from, to));
            return hops;
        };
        let name = format!("SERVICES: {} ({})", service.name, service.kind);
        if service.backends.is_empty() {
            let refused = Reason::NoBackend;
            return vec![hop(
                format!("{name}, no backend"),
                refused.name(),
                refused.is_drop(),
            )];
        }
        let backends: Vec<String> = service.backends.iter().map(ToString::to_string).collect();
        let choice = match (service.affinity_s, backends.len()) {
            (_, 1) => String::new(),
            (Some(seconds), _) => format!(", one of them for {seconds} s a client"),
            (None, _) => ", any of them".to_owned(),
        };
        let entry = format!("{name} -> {}{choice}", backends.join(","));
        let mut hops = vec![hop(entry, Reason::Translated.name(), false)];
        hops.extend(service.backends.iter().map(|to| self.packet(from, *to)));
        hops
    }

    /// The entry that the socket hooks find.
    fn service(&self, from: From, to: SocketAddr, protocol: Protocol) -> Option<&ServiceRow> {
        let number = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        let protocol = view::protocol_name(number);
        let find = |address: SocketAddr| {
            self.services
                .iter()
                .find(|row| row.address == address && row.protocol == protocol)
        };
        let is_own = if to.ip().is_loopback() {
            from == From::Node
        } else {
            self.node.addresses.contains(&to.ip())
        };
        let any: IpAddr = match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        find(to).or_else(|| find(SocketAddr::new(any, to.port())).filter(|_| is_own))
    }

    /// What becomes of the connection's first packet.
    fn packet(&self, from: From, to: SocketAddr) -> HopRow {
        let pod = |address: IpAddr| self.pods.iter().find(|row| row.address == address);
        let own = self.node.addresses.contains(&to.ip()) || to.ip().is_loopback();
        let (hook, entry, verdict) = match from {
            From::Node => match pod(to.ip()) {
                Some(row) => (
                    "node",
                    format!("PODS: link {}", row.ifindex),
                    "routed to the pod's link",
                ),
                None if own => ("node", "HOST_ADDRESSES: found".into(), "stays on the node"),
                None => ("node", "PODS: none".into(), "left to the node's stack"),
            },
            From::Pod(source) if pod(source).is_none() => {
                let drop = Reason::ForeignSource;
                return HopRow {
                    hook: "from-pod",
                    destination: to,
                    entry: format!("PODS: {source} is not of this node"),
                    verdict: drop.name(),
                    drop: drop.is_drop(),
                };
            }
            From::Pod(_) if to.ip().is_loopback() => ("pod", "none".into(), "stays in the pod"),
            From::Pod(_) => match pod(to.ip()) {
                Some(row) => (
                    "from-pod",
                    format!("PODS: link {}", row.ifindex),
                    Reason::ToLocalPod.name(),
                ),
                None if own && self.node.host_by_loopback => (
                    "from-pod",
                    "HOST_ADDRESSES: found; by lo, past an input chain that drops".into(),
                    Reason::ToNode.name(),
                ),
                None if own => (
                    "from-pod",
                    "HOST_ADDRESSES: found".into(),
                    Reason::ToNode.name(),
                ),
                None if self.node.egress => (
                    "from-pod",
                    "CONFIG: egress, past a forward chain that drops".into(),
                    Reason::ToOutside.name(),
                ),
                None => (
                    "from-pod",
                    "PODS, HOST_ADDRESSES: none".into(),
                    Reason::ToStack.name(),
                ),
            },
        };
        HopRow {
            hook,
            destination: to,
            entry,
            verdict,
            drop: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, kind: &str, address: &str, backends: &[&str]) -> ServiceRow {
        ServiceRow {
            name: name.into(),
            kind: kind.into(),
            address: address.parse().unwrap(),
            protocol: "TCP".into(),
            id: 1,
            affinity_s: None,
            backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
        }
    }

    fn maps() -> Maps {
        let pod = |address: &str, ifindex| PodRow {
            address: address.parse().unwrap(),
            ifindex,
        };
        Maps {
            services: vec![
                service(
                    "default/web:http",
                    "ClusterIP",
                    "10.96.0.7:80",
                    &["10.244.0.2:8080", "10.1.0.9:8080"],
                ),
                service("default/none:", "ClusterIP", "10.96.0.8:80", &[]),
                service(
                    "default/out:",
                    "NodePort",
                    "0.0.0.0:30080",
                    &["10.244.0.2:8080"],
                ),
            ],
            pods: vec![pod("10.244.0.1", 5), pod("10.244.0.2", 6)],
            node: NodeRow {
                host_by_loopback: false,
                egress: false,
                translations: 0,
                addresses: vec!["192.0.2.1".parse().unwrap()],
            },
        }
    }

    #[track_caller]
    fn check(from: From, to: &str, expect: &[(&str, &str, &str)]) {
        let hops = maps().trace(from, to.parse().unwrap(), Protocol::Tcp);
        let seen: Vec<(&str, String, &str)> = hops
            .iter()
            .map(|hop| (hop.hook, hop.destination.to_string(), hop.verdict))
            .collect();
        let seen: Vec<(&str, &str, &str)> = seen
            .iter()
            .map(|(hook, to, verdict)| (*hook, to.as_str(), *verdict))
            .collect();
        assert_eq!(seen, expect, "{hops:#?}");
    }

    #[test]
    fn a_connection_meets_the_maps_in_the_programs_order() {
        let pod = From::Pod("10.244.0.1".parse().unwrap());
        check(
            pod,
            "10.96.0.7:80",
            &[
                ("connect", "10.96.0.7:80", "translated"),
                ("from-pod", "10.244.0.2:8080", "to-local-pod"),
                ("from-pod", "10.1.0.9:8080", "to-stack"),
            ],
        );
        check(
            From::Node,
            "10.96.0.8:80",
            &[("connect", "10.96.0.8:80", "no-backend")],
        );
        check(
            From::Node,
            "127.0.0.1:30080",
            &[
                ("connect", "127.0.0.1:30080", "translated"),
                ("node", "10.244.0.2:8080", "routed to the pod's link"),
            ],
        );
        // A pod's loopback is its own.
        check(
            pod,
            "127.0.0.1:30080",
            &[
                ("connect", "127.0.0.1:30080", "unchanged"),
                ("pod", "127.0.0.1:30080", "stays in the pod"),
            ],
        );
        check(
            pod,
            "192.0.2.1:30080",
            &[
                ("connect", "192.0.2.1:30080", "translated"),
                ("from-pod", "10.244.0.2:8080", "to-local-pod"),
            ],
        );
        check(
            pod,
            "192.0.2.1:22",
            &[
                ("connect", "192.0.2.1:22", "unchanged"),
                ("from-pod", "192.0.2.1:22", "to-node"),
            ],
        );
        check(
            From::Pod("10.244.9.9".parse().unwrap()),
            "10.244.0.1:80",
            &[
                ("connect", "10.244.0.1:80", "unchanged"),
                ("from-pod", "10.244.0.1:80", "foreign-source"),
            ],
        );
    }
}
