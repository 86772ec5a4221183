//! The Endpoints object of a Service, for clients that don't know EndpointSlices. Pure.

use crate::{
    common::{is_finished, is_ready},
    endpoints::plan::{
        HEADLESS, address, families, hostname, is_headless, pod_reference, ports,
        publishes_not_ready,
    },
};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use kube::{ResourceExt, api::ObjectMeta};
use std::{collections::BTreeMap, sync::Arc};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST: usize = 1000;

/// Addresses that share their ports form a subset; ready and not ready ones are listed apart.
pub(crate) fn endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    known: Option<&Endpoints>,
) -> Endpoints {
    type Key = Vec<(String, String, i32, Option<String>)>;
    let mut subsets: BTreeMap<Key, EndpointSubset> = BTreeMap::new();
    let not_ready_too = publishes_not_ready(service);
    let family = families(service).into_iter().next();
    let mut count = 0;
    let mut over = false;
    for pod in pods.iter().filter(|pod| !is_finished(pod)) {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let Some(ip) = family.and_then(|family| address(pod, family)) else {
            continue;
        };
        if leaving && !not_ready_too {
            continue;
        }
        if count == MOST {
            over = true;
            break;
        }
        count += 1;
        let ports = ports(service, pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let subset = subsets.entry(ports).or_default();
        let address = EndpointAddress {
            ip,
            hostname: hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(pod_reference(pod)),
        };
        if not_ready_too || is_ready(pod) {
            subset.addresses.get_or_insert_default().push(address);
        } else {
            subset
                .not_ready_addresses
                .get_or_insert_default()
                .push(address);
        }
    }
    let subsets: Vec<_> = subsets
        .into_iter()
        .map(|(ports, mut subset)| {
            let lists = [&mut subset.addresses, &mut subset.not_ready_addresses];
            for list in lists.into_iter().flatten() {
                list.sort_by(|a, b| a.ip.cmp(&b.ip));
            }
            let ports = ports
                .into_iter()
                .map(|(name, protocol, port, app_protocol)| {
                    let name = Some(name).filter(|name| !name.is_empty());
                    EndpointPort {
                        name,
                        port,
                        protocol: Some(protocol),
                        app_protocol,
                    }
                });
            subset.ports = Some(ports.collect()).filter(|ports: &Vec<_>| !ports.is_empty());
            subset
        })
        .collect();
    let mut metadata = known.map_or_else(
        || ObjectMeta {
            name: Some(service.name_any()),
            namespace: service.namespace(),
            ..ObjectMeta::default()
        },
        |known| known.metadata.clone(),
    );
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    if over {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        metadata.annotations = None;
    }
    Endpoints {
        metadata,
        subsets: Some(subsets).filter(|subsets: &Vec<_>| !subsets.is_empty()),
    }
}
