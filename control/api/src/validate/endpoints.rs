//! Endpoints and EndpointSlices.

use super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};
use std::{collections::BTreeSet, net::IpAddr};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// An address that pods can really be at.
pub(super) fn endpoint_ip(node: &Node<'_>, errors: &mut Errors) {
    let Ok(ip) = node.text().parse::<IpAddr>() else {
        return errors.push(node.invalid("must be a valid IP address"));
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (
            ip.segments()[0] & 0xffc0 == 0xfe80,
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if ip.is_unspecified() {
        errors.push(node.invalid(format!("may not be unspecified ({})", node.text())));
    }
    if ip.is_loopback() {
        errors.push(node.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        errors.push(node.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_multicast {
        errors.push(
            node.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        );
    }
}

pub fn endpoints(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for subset in Node::root(object).get("subsets").each() {
        let (ready, not_ready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.len() == 0 && not_ready.len() == 0 {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in ready.each().chain(not_ready.each()) {
            let (ip, hostname, node) = (
                address.get("ip"),
                address.get("hostname"),
                address.get("nodeName"),
            );
            errors.messages(&ip, names::ip(ip.text()));
            if hostname.len() > 0 {
                errors.messages(&hostname, names::dns_label(hostname.text()));
            }
            if node.is_set() {
                errors.messages(&node, names::dns_subdomain(node.text()));
            }
            endpoint_ip(&ip, &mut errors);
        }
        let ports = subset.get("ports");
        for port in ports.each() {
            let name = port.get("name");
            if name.len() > 0 {
                errors.messages(&name, names::dns_label(name.text()));
            } else if ports.len() > 1 {
                errors.push(name.required(""));
            }
            errors.port(&port.get("port"));
            errors.one_of(&port.get("protocol"), PROTOCOLS);
            app_protocol(&port, &mut errors);
        }
    }
    errors.into_vec()
}

pub fn endpoints_update(new: &Value, _: &Value) -> Vec<FieldError> {
    endpoints(new)
}

fn app_protocol(port: &Node<'_>, errors: &mut Errors) {
    let app = port.get("appProtocol");
    if app.is_set() {
        errors.messages(&app, names::qualified_name(app.text()));
    }
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

pub fn endpoint_slice(object: &Value) -> Vec<FieldError> {
    slice(object, true)
}

pub fn endpoint_slice_update(new: &Value, old: &Value) -> Vec<FieldError> {
    // Endpoints that were stored under older rules may stay as they are.
    let mut errors = Errors::default();
    errors.extend(slice(new, new.get("endpoints") != old.get("endpoints")));
    errors.immutable(
        &Node::root(new).get("addressType"),
        &Node::root(old).get("addressType"),
    );
    errors.into_vec()
}

fn slice(object: &Value, check_endpoints: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let ty = root.get("addressType");
    errors.one_of(&ty, &["FQDN", "IPv4", "IPv6"]);
    slice_ports(&root.get("ports"), &mut errors);
    let list = root.get("endpoints");
    if check_endpoints && list.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&list.path, list.len(), MAX_ENDPOINTS));
    } else if check_endpoints {
        for endpoint in list.each() {
            slice_endpoint(&endpoint, ty.text(), &mut errors);
        }
    }
    errors.into_vec()
}

fn slice_ports(ports: &Node<'_>, errors: &mut Errors) {
    if ports.len() > MAX_PORTS {
        return errors.push(FieldError::too_many(&ports.path, ports.len(), MAX_PORTS));
    }
    let mut seen = BTreeSet::new();
    for port in ports.each() {
        let name = port.get("name");
        if name.len() > 0 {
            errors.messages(&name, names::dns_label(name.text()));
        }
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        errors.one_of(&port.get("protocol"), PROTOCOLS);
        app_protocol(&port, errors);
    }
}

fn slice_endpoint(endpoint: &Node<'_>, ty: &str, errors: &mut Errors) {
    let addresses = endpoint.get("addresses");
    if addresses.len() == 0 {
        errors.push(addresses.required("must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(
            &addresses.path,
            addresses.len(),
            MAX_ADDRESSES,
        ));
    }
    for address in addresses.each() {
        let messages = match ty {
            "IPv4" => names::ip(address.text()),
            "IPv6" => names::canonical_ip(address.text()),
            _ => {
                if ty == "FQDN" {
                    fqdn(&address, errors);
                }
                continue;
            }
        };
        if messages.is_empty() {
            let v6 = address.text().contains(':');
            if v6 != (ty == "IPv6") {
                let detail = format!("must be an {ty} address");
                errors.push(FieldError::invalid(&addresses.path, address.text(), detail));
            }
            endpoint_ip(&address, errors);
        }
        errors.messages(&address, messages);
    }
    let (node, hostname) = (endpoint.get("nodeName"), endpoint.get("hostname"));
    if node.is_set() {
        errors.messages(&node, names::dns_subdomain(node.text()));
    }
    let topology = endpoint.get("deprecatedTopology");
    if topology.len() > MAX_TOPOLOGY {
        errors.push(FieldError::too_many(
            &topology.path,
            topology.len(),
            MAX_TOPOLOGY,
        ));
    }
    super::meta::labels(&topology, errors);
    if hostname.is_set() {
        errors.messages(&hostname, names::dns_label(hostname.text()));
    }
    hints(&endpoint.get("hints"), errors);
}

fn fqdn(address: &Node<'_>, errors: &mut Errors) {
    if !errors.require(address) {
        return;
    }
    let name = address.text().strip_suffix('.').unwrap_or(address.text());
    let messages = names::dns_subdomain(name);
    if !messages.is_empty() {
        errors.push(FieldError::invalid(&address.path, name, messages.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(&address.path, name, detail));
    }
}

fn hints(hints: &Node<'_>, errors: &mut Errors) {
    for (field, check) in [
        (
            "forZones",
            names::label_value as fn(&str) -> names::Messages,
        ),
        ("forNodes", names::dns_subdomain),
    ] {
        let list = hints.get(field);
        if list.len() > MAX_HINTS {
            return errors.push(FieldError::too_many(&list.path, list.len(), MAX_HINTS));
        }
        let mut seen = BTreeSet::new();
        for name in list.each().map(|hint| hint.get("name")) {
            if !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            errors.messages(&name, check(name.text()));
        }
    }
}
