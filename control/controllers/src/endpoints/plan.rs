//! A Service's endpoints from its pods. Pure.
//!
//! Pods whose named ports lead to the same numbers share slices. A slice that needs no change is
//! left as it is, and freed places are filled before a slice is added: a change of one pod costs
//! one write, whatever the Service's size.

use crate::common::{controller_reference, is_finished, is_ready};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{ResourceExt, api::ObjectMeta};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
const MOST_PER_SLICE: usize = 100;

/// Writes that bring the slices in line.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(crate) fn of(address: &str) -> Option<Self> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Self::V4),
            IpAddr::V6(_) => Some(Self::V6),
        }
    }
}

/// Ports as the API's object has them, comparable: name, protocol, number, application protocol.
type Ports = Vec<(String, String, i32, Option<String>)>;

pub(crate) fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// Whether the endpoints are made from a selector at all.
pub(crate) fn is_managed(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector
            .as_ref()
            .is_some_and(|selector| !selector.is_empty())
            && spec.type_.as_deref() != Some("ExternalName")
    })
}

pub(crate) fn families(service: &Service) -> BTreeSet<Family> {
    let spec = service.spec.as_ref();
    let named: BTreeSet<_> = spec
        .and_then(|spec| spec.ip_families.as_ref())
        .into_iter()
        .flatten()
        .map(|family| match family.as_str() {
            "IPv6" => Family::V6,
            _ => Family::V4,
        })
        .collect();
    if named.is_empty() {
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
        return BTreeSet::from([address.and_then(Family::of).unwrap_or(Family::V4)]);
    }
    named
}

pub(crate) fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
    all.chain(status.pod_ip.clone())
        .find(|address| Family::of(address) == Some(family))
}

/// The port's number in this pod; `None` when the pod has no port of that name.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|found| found.container_port)
}

pub(crate) fn ports(service: &Service, pod: &Pod) -> Ports {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref());
    ports
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default(),
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                target(port, pod)?,
                port.app_protocol.clone(),
            ))
        })
        .collect()
}

pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(&service.name_any())).then_some(hostname)
}

pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

fn endpoint(service: &Service, pod: &Pod, address: String, node: Option<&Node>) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(pod_reference(pod)),
        zone,
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = service
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, _)| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&key.as_str()))
        .collect();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn new_slice(service: &Service, family: Family, ports: &Ports) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: Vec::new(),
        ports: Some(
            ports
                .iter()
                .map(|(name, protocol, port, app_protocol)| EndpointPort {
                    name: Some(name.clone()),
                    protocol: Some(protocol.clone()),
                    port: Some(*port),
                    app_protocol: app_protocol.clone(),
                })
                .collect(),
        ),
    }
}

fn ports_of(slice: &EndpointSlice) -> Ports {
    let ports = slice.ports.iter().flatten();
    ports
        .map(|port| {
            (
                port.name.clone().unwrap_or_default(),
                port.protocol.clone().unwrap_or_default(),
                port.port.unwrap_or_default(),
                port.app_protocol.clone(),
            )
        })
        .collect()
}

fn key(endpoint: &Endpoint) -> (Option<String>, Vec<String>) {
    let target = endpoint.target_ref.as_ref();
    (
        target.and_then(|target| target.uid.clone()),
        endpoint.addresses.clone(),
    )
}

/// `pods` are those that the Service selects; `known` the slices that this controller made for it.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    node_of: &dyn Fn(&str) -> Option<Arc<Node>>,
    known: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::default();
    let families = families(service);
    for slice in known {
        let wanted = families.iter().any(|f| f.name() == slice.address_type);
        if !wanted {
            plan.delete.push(slice.clone());
        }
    }
    for family in families {
        let mut wanted: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !is_finished(pod)) {
            let Some(address) = address(pod, family) else {
                continue;
            };
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = node.and_then(node_of);
            wanted
                .entry(ports(service, pod))
                .or_default()
                .push(endpoint(service, pod, address, node.as_deref()));
        }
        let known: Vec<_> = known
            .iter()
            .filter(|slice| slice.address_type == family.name())
            .cloned()
            .collect();
        arrange(service, family, wanted, known, &mut plan);
    }
    plan
}

fn arrange(
    service: &Service,
    family: Family,
    mut wanted: BTreeMap<Ports, Vec<Endpoint>>,
    known: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    // An empty slice says "no endpoints", which is not the same as "not looked at yet".
    if wanted.is_empty() {
        wanted.insert(Ports::new(), Vec::new());
    }
    let labels = labels(service);
    let mut by_ports: BTreeMap<Ports, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in known {
        by_ports.entry(ports_of(&slice)).or_default().push(slice);
    }
    let mut spare: Vec<Arc<EndpointSlice>> = by_ports
        .iter()
        .filter(|(ports, _)| !wanted.contains_key(*ports))
        .flat_map(|(_, slices)| slices.clone())
        .collect();
    for (ports, endpoints) in wanted {
        let is_placeholder = endpoints.is_empty();
        let mut missing: BTreeMap<_, _> = endpoints.into_iter().map(|e| (key(&e), e)).collect();
        let mut slices: Vec<(Arc<EndpointSlice>, EndpointSlice)> = Vec::new();
        for slice in by_ports.remove(&ports).unwrap_or_default() {
            let mut next = (*slice).clone();
            next.endpoints = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| missing.remove(&key(endpoint)))
                .collect();
            slices.push((slice, next));
        }
        let mut missing = missing.into_values();
        for (_, next) in &mut slices {
            let room = MOST_PER_SLICE.saturating_sub(next.endpoints.len());
            next.endpoints.extend(missing.by_ref().take(room));
        }
        loop {
            let chunk: Vec<_> = missing.by_ref().take(MOST_PER_SLICE).collect();
            let first_placeholder = is_placeholder && slices.is_empty();
            if chunk.is_empty() && !first_placeholder {
                break;
            }
            let fresh = new_slice(service, family, &ports);
            match spare.pop() {
                // A slice of other ports is re-used: watchers see one change instead of two.
                Some(slice) => {
                    let mut next = (*slice).clone();
                    next.ports = fresh.ports;
                    next.endpoints = chunk;
                    slices.push((slice, next));
                }
                None => {
                    plan.create.push(EndpointSlice {
                        endpoints: chunk,
                        ..fresh
                    });
                    if first_placeholder {
                        break;
                    }
                }
            }
        }
        let mut kept = 0;
        for (slice, mut next) in slices {
            if next.endpoints.is_empty() && !(is_placeholder && kept == 0) {
                plan.delete.push(slice);
                continue;
            }
            kept += 1;
            next.metadata.labels = Some(labels.clone());
            if next != *slice {
                plan.update.push(next);
            }
        }
    }
    plan.delete.extend(spare);
}
