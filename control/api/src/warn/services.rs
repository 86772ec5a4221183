//! Fields of Services that are ignored or on their way out.

use super::addresses;
use crate::validate::node::Node;

pub(super) fn service(root: &Node<'_>, warnings: &mut Vec<String>) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let annotations = root.get("metadata").get("annotations");
    if annotations.value.get(HINTS).is_some() {
        warnings.push(format!(
            "annotation {HINTS} is deprecated, please use {MODE} instead"
        ));
    }
    let spec = root.get("spec");
    let text = |field: &str| spec.get(field).text();
    let (ty, cluster_ip) = (text("type"), text("clusterIP"));
    if !cluster_ip.is_empty() && cluster_ip != "None" {
        for address in spec.get("clusterIPs").each() {
            addresses::ip(&address, warnings);
        }
    }
    let external = spec.get("externalIPs");
    let mut tell = |text: &str| warnings.push(text.to_owned());
    if ty == "ClusterIP" && cluster_ip == "None" {
        if !text("loadBalancerIP").is_empty() {
            tell("spec.loadBalancerIP is ignored for headless services");
        }
        if external.len() > 0 {
            tell("spec.externalIPs is ignored for headless services");
        }
        if text("sessionAffinity") != "None" {
            tell("spec.SessionAffinity is ignored for headless services");
        }
    }
    for address in external.each() {
        addresses::ip(&address, warnings);
    }
    if !text("loadBalancerIP").is_empty() {
        addresses::ip(&spec.get("loadBalancerIP"), warnings);
    }
    for range in spec.get("loadBalancerSourceRanges").each() {
        addresses::cidr(&range, warnings);
    }
    let mut tell = |text: &str| warnings.push(text.to_owned());
    if ty == "ExternalName" && external.len() > 0 {
        tell("spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    }
    if ty != "ExternalName" && !text("externalName").is_empty() {
        tell("spec.externalName is ignored when spec.type is not \"ExternalName\"");
    }
    if text("trafficDistribution") == "PreferClose" {
        tell("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    }
}
