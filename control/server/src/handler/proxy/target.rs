//! Where a proxied request goes: the pod, the node, or a ready pod behind the Service that it names.
//!
//! A name is `name`, `name:port` or `scheme:name:port`. Only addresses that a pod or a node really has are dialled, and
//! none that would lead back into this machine: a pod's status is written by its node, which must not get the server to
//! talk to the server's own loopback.

use std::net::{IpAddr, SocketAddr};

use kernelet_api::{ApiError, Value};
use rand::seq::SliceRandom;

use super::super::{Call, container};
use crate::registry::Stored;

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub scheme: Scheme,
    pub address: SocketAddr,
    /// Whom TLS trusts and to whom it shows a certificate.
    pub trust: Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// How a backend's certificate is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The kubelet's API: the cluster's authority, and the server's client certificate.
    Kubelet,
    /// A pod's certificate is nobody's that this server knows.
    Anyone,
}

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl<'a> Name<'a> {
    fn split(id: &'a str) -> Option<Name<'a>> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Name { scheme, name, port })
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// The backend that the call's name means.
pub fn find(call: &Call) -> Result<Target, ApiError> {
    let (id, plural) = (call.target.name.as_str(), call.target.gvr.resource.as_str());
    let name = Name::split(id).ok_or_else(|| {
        let kind = plural.trim_end_matches('s');
        ApiError::bad_request(format!("invalid {kind} request {id:?}"))
    })?;
    match plural {
        "pods" => pod(call, &name),
        "services" => service(call, &name),
        "nodes" => node(call, &name),
        _ => Err(ApiError::page_not_found()),
    }
}

/// An object of the core group.
fn object(call: &Call, plural: &str, name: &str) -> Result<Value, ApiError> {
    let namespace = call.target.namespace.as_str();
    let found = call
        .snapshot
        .get("", plural)
        .and_then(|served| served.stored.as_ref())
        .and_then(|stored| stored.cache.get(&Stored::cache_key(namespace, name)));
    found
        .map(|object| object.tree())
        .ok_or_else(|| ApiError::not_found("", plural, name))
}

fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn port_of(value: &Value, pointer: &str) -> Option<u16> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
}

fn not_allowed() -> ApiError {
    ApiError::bad_request("address not allowed")
}

/// Go's `IsGlobalUnicast`: private ranges are among them, loopback and link-local are not.
fn allowed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_broadcast()
                || v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local())
        }
    }
}

fn pod(call: &Call, name: &Name<'_>) -> Result<Target, ApiError> {
    let pod = object(call, "pods", name.name)?;
    let port = match name.port {
        "" => list(&pod, "/spec/containers")
            .iter()
            .find_map(|container| port_of(container, "/ports/0/containerPort"))
            .unwrap_or(name.scheme.port()),
        // A name would be one of the services that the system knows, not the container's.
        port => port.parse().map_err(|_| {
            let id = &call.target.name;
            ApiError::bad_request(format!("invalid pod request {id:?}"))
        })?,
    };
    let ip: Option<IpAddr> = text(&pod, "/status/podIPs/0/ip").parse().ok();
    let ip = ip.filter(|ip| allowed(*ip)).ok_or_else(not_allowed)?;
    Ok(Target {
        scheme: name.scheme,
        address: (ip, port).into(),
        trust: Trust::Anyone,
    })
}

fn node(call: &Call, name: &Name<'_>) -> Result<Target, ApiError> {
    let kubelet = container::endpoint(call, name.name)?;
    let (ip, kubelet_port) = (kubelet.address, kubelet.port);
    if !allowed(ip) {
        return Err(not_allowed());
    }
    let port = match name.port {
        "" => kubelet_port,
        port => port.parse().map_err(|_| {
            let id = &call.target.name;
            ApiError::bad_request(format!("invalid node request {id:?}"))
        })?,
    };
    Ok(if port == kubelet_port {
        Target {
            scheme: Scheme::Https,
            address: (ip, port).into(),
            trust: Trust::Kubelet,
        }
    } else {
        Target {
            scheme: name.scheme,
            address: (ip, port).into(),
            trust: Trust::Anyone,
        }
    })
}

fn service(call: &Call, name: &Name<'_>) -> Result<Target, ApiError> {
    let unavailable = |what: &str| {
        ApiError::service_unavailable(format!("no endpoints available for service {what:?}"))
    };
    let mut port = name.port.to_owned();
    if let Ok(number) = name.port.parse::<i64>() {
        let service = object(call, "services", name.name)?;
        let found = list(&service, "/spec/ports")
            .iter()
            .find(|entry| entry.get("port").and_then(Value::as_i64) == Some(number));
        port = match found {
            Some(entry) => text(entry, "/name").to_owned(),
            None => {
                let name = name.name;
                return Err(ApiError::service_unavailable(format!(
                    "no service port {number} found for service {name:?}"
                )));
            }
        };
    }
    let endpoints = object(call, "endpoints", name.name)?;
    let mut subsets: Vec<&Value> = list(&endpoints, "/subsets").iter().collect();
    if subsets.is_empty() {
        return Err(unavailable(name.name));
    }
    let mut random = rand::rng();
    subsets.shuffle(&mut random);
    for subset in subsets {
        for entry in list(subset, "/ports") {
            let Some(number) = port_of(entry, "/port").filter(|_| text(entry, "/name") == port)
            else {
                continue;
            };
            let mut addresses: Vec<&Value> = list(subset, "/addresses").iter().collect();
            addresses.shuffle(&mut random);
            if let Some(ip) = addresses
                .into_iter()
                .find_map(|address| address_of_a_pod(call, address))
            {
                return Ok(Target {
                    scheme: name.scheme,
                    address: (ip, number).into(),
                    trust: Trust::Anyone,
                });
            }
        }
    }
    Err(unavailable(&call.target.name))
}

/// An endpoint's address, if it is really one of the pod that it refers to: whoever may write Endpoints could otherwise
/// have the server dial anything.
fn address_of_a_pod(call: &Call, address: &Value) -> Option<IpAddr> {
    if text(address, "/targetRef/namespace") != call.target.namespace {
        return None;
    }
    let ip = text(address, "/ip");
    let pod = object(call, "pods", text(address, "/targetRef/name")).ok()?;
    let is_its = list(&pod, "/status/podIPs")
        .iter()
        .any(|known| text(known, "/ip") == ip);
    let ip: IpAddr = ip.parse().ok()?;
    (is_its && allowed(ip)).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let name = |scheme, name, port| Some(Name { scheme, name, port });
        for (id, expect) in [
            ("x", name(Scheme::Http, "x", "")),
            ("x:80", name(Scheme::Http, "x", "80")),
            ("http:x:web", name(Scheme::Http, "x", "web")),
            ("https:x:", name(Scheme::Https, "x", "")),
            (":x:80", name(Scheme::Http, "x", "80")),
            ("ftp:x:80", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Name::split(id), expect, "{id}");
        }
    }

    #[test]
    fn the_machine_itself_is_not_dialled() {
        for (ip, expect) in [
            ("10.244.0.7", true),
            ("192.0.2.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("fe80::1", false),
            ("fd00::7", true),
        ] {
            assert_eq!(allowed(ip.parse().unwrap()), expect, "{ip}");
        }
    }
}
