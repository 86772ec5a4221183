//! Addresses and ranges that aren't written as they should be.

use std::net::IpAddr;

use crate::{
    field::Path,
    validate::{names::parse_cidr, node::Node},
};

/// An address, wherever its text stands.
pub(super) fn ip(node: &Node<'_>, warnings: &mut Vec<String>) {
    ip_at(&node.path, node.text(), warnings);
}

pub(super) fn ip_at(path: &Path, text: &str, warnings: &mut Vec<String>) {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => warnings.push(format!(
                "{path}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use \"{v4}\""
            )),
            None if v6.to_string() != text => warnings.push(format!(
                "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{v6}\")"
            )),
            None => {}
        },
        // What is no address is validation's.
        Ok(IpAddr::V4(_)) | Err(_) => {}
    }
}

/// The range's first address.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

pub(super) fn cidr(node: &Node<'_>, warnings: &mut Vec<String>) {
    let (path, text) = (&node.path, node.text());
    let Some((ip, bits)) = parse_cidr(text) else {
        return;
    };
    let first = masked(ip, bits);
    let ambiguous = first != ip;
    if ambiguous {
        let all = if ip.is_ipv4() { 32 } else { 128 };
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be \"{first}/{bits}\" or \"{ip}/{all}\"?)"
        ));
    }
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped {
        warnings.push(format!(
            "{path}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use \"{first}/{bits}\""
        ));
    }
    let canonical = format!("{ip}/{bits}");
    if !ambiguous && !mapped && ip.is_ipv6() && canonical != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})"
        ));
    }
}

pub(super) fn endpoints(root: &Node<'_>, warnings: &mut Vec<String>) {
    let manager = "endpoints.kubernetes.io/managed-by";
    if label(root, manager) == "endpoint-controller" {
        return;
    }
    for subset in root.get("subsets").each() {
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.get(list).each() {
                ip(&address.get("ip"), warnings);
            }
        }
    }
}

pub(super) fn slice(root: &Node<'_>, warnings: &mut Vec<String>) {
    let controllers = [
        "endpointslice-controller.k8s.io",
        "endpointslicemirroring-controller.k8s.io",
    ];
    let manager = label(root, "endpointslice.kubernetes.io/managed-by");
    if controllers.contains(&manager) {
        return;
    }
    for endpoint in root.get("endpoints").each() {
        for address in endpoint.get("addresses").each() {
            ip(&address, warnings);
        }
    }
}

fn label<'a>(root: &Node<'a>, key: &str) -> &'a str {
    crate::meta::labels(root.value)
        .and_then(|labels| labels.get(key)?.as_str())
        .unwrap_or_default()
}
