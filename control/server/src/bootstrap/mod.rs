//! What every cluster has: system namespaces and priorities, default roles and bindings, and the `kubernetes` Service with its
//! endpoints. Made at start through the same write path as everything else, as the server's own identity.

mod cluster_info;
pub mod flow;
mod policy;

use std::{net::IpAddr, sync::Arc};

use kernelet_api::{ApiError, Value, meta};
use serde_json::json;

use crate::{
    handler::{Pipeline, WriteRequest, params::DryRun},
    state::State,
    user::UserInfo,
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
const MANAGER: &str = "kube-apiserver";

/// What couldn't be made.
#[derive(Debug)]
pub struct Failed {
    pub what: String,
    pub error: ApiError,
}

/// Makes what is missing and mends what differs.
pub async fn run(state: &Arc<State>) -> Result<(), Failed> {
    let user = UserInfo::apiserver();
    for name in NAMESPACES {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(state, &user, "", "namespaces", namespace, &|_| None).await?;
    }
    for (name, value, text) in PRIORITIES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": text,
        });
        ensure(
            state,
            &user,
            "scheduling.k8s.io",
            "priorityclasses",
            class,
            &|_| None,
        )
        .await?;
    }
    policy::reconcile(state, &user).await?;
    flow::reconcile(state, &user).await?;
    cluster_info::publish(state, &user).await?;
    kubernetes_service(state, &user).await
}

/// Creates `object`, or writes what `mend` makes of the one that is there.
async fn ensure(
    state: &Arc<State>,
    user: &UserInfo,
    group: &str,
    plural: &str,
    object: Value,
    mend: &(dyn Fn(&Value) -> Option<Value> + Send + Sync),
) -> Result<(), Failed> {
    let (namespace, name) = (
        meta::namespace(&object).to_owned(),
        meta::name(&object).to_owned(),
    );
    let failed = |error| Failed {
        what: format!("{plural} {name:?}"),
        error,
    };
    let snapshot = state.registry.load_full();
    let served = snapshot
        .get(group, plural)
        .ok_or_else(|| failed(ApiError::page_not_found()))?;
    let version = served
        .resource
        .versions
        .first()
        .map_or("v1", |version| version.name.as_str());
    let request = WriteRequest {
        state,
        snapshot: &snapshot,
        served,
        version,
        user,
        namespace: &namespace,
        subresource: None,
        dry_run: DryRun::No,
        manager: MANAGER.to_owned(),
        pipeline: Pipeline::Full,
        notes: None,
    };
    let change = |old: &Value| Ok(mend(old).unwrap_or_else(|| old.clone()));
    match request.update(&name, None, &change).await {
        Err(failure) if failure.error.code == 404 => match request.create(object).await {
            Err(failure) if failure.error.reason != "AlreadyExists" => Err(failed(failure.error)),
            _ => Ok(()),
        },
        Err(failure) => Err(failed(failure.error)),
        Ok(_) => Ok(()),
    }
}

/// The `kubernetes` Service and, behind it, this server's advertised address.
async fn kubernetes_service(state: &Arc<State>, user: &UserInfo) -> Result<(), Failed> {
    let config = &state.config;
    let Some(ip) = config.kubernetes_service_ip() else {
        return Ok(());
    };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "targetPort": config.port, "protocol": "TCP"}],
        },
    });
    let ports = service["spec"]["ports"].clone();
    ensure(state, user, "", "services", service, &|old| {
        let mut new = old.clone();
        new["spec"]["ports"] = ports.clone();
        Some(new)
    })
    .await?;
    if config.advertise.is_loopback() {
        // Endpoints can't be on loopback: nobody else would reach them there.
        tracing::warn!(advertise = %config.advertise, "the kubernetes Service gets no endpoint");
        return Ok(());
    }
    let advertise = config.advertise.to_string();
    let subsets = json!([{
        "addresses": [{"ip": advertise}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
    }]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            // The mirrored slice is written here too; no controller need make another.
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    });
    ensure(state, user, "", "endpoints", endpoints, &|old| {
        let mut new = old.clone();
        new["subsets"] = subsets.clone();
        Some(new)
    })
    .await?;
    let address_type = match config.advertise {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let targets = json!([{"addresses": [advertise], "conditions": {"ready": true}}]);
    let slice_ports = json!([{"name": "https", "port": config.port, "protocol": "TCP"}]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": address_type, "endpoints": targets, "ports": slice_ports,
    });
    ensure(
        state,
        user,
        "discovery.k8s.io",
        "endpointslices",
        slice,
        &|old| {
            let mut new = old.clone();
            new["endpoints"] = targets.clone();
            new["ports"] = slice_ports.clone();
            Some(new)
        },
    )
    .await
}
