//! The Node object, its status and its lease: how the cluster knows that this node is there and well.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
            NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
};
use kernelet_client::{EventType, is_already_exists, is_not_found};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    context::Context,
    errors::chain,
    facts::{Machine, go_architecture},
    pressure::Pressure,
};

/// Upstream's rhythm: the lease every 10 s for 40 s; the status when it changes, and every 5 minutes.
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LOOK_EVERY: Duration = Duration::from_secs(10);
const REPORT_EVERY: Duration = Duration::from_secs(300);
const IMAGES_SHOWN: usize = 50;

/// What the registration has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registered {
    pub registered: bool,
    pub not_ready: Option<String>,
}

/// Keeps the Node and its lease until the node stops.
pub(crate) async fn keep(ctx: Arc<Context>, machine: Machine, level: watch::Sender<Registered>) {
    let node = tokio::select! {
        node = register(&ctx) => node,
        () = ctx.shutdown.cancelled() => return,
    };
    let reference = node_reference(&node);
    ctx.recorder.event_about(
        reference,
        EventType::Normal,
        "Starting",
        "Starting kubelet.",
    );
    let lease = tokio::spawn(keep_lease(
        ctx.clone(),
        node.metadata.uid.clone().unwrap_or_default(),
    ));
    tokio::select! {
        () = keep_status(&ctx, &machine, node, &level) => {}
        () = ctx.shutdown.cancelled() => {}
    }
    lease.abort();
}

fn node_reference(node: &Node) -> k8s_openapi::api::core::v1::ObjectReference {
    // Upstream's kubelet names itself by name instead of uid, and kubectl describe looks for that.
    let name = node.metadata.name.clone();
    k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Node".to_owned()),
        uid: name.clone(),
        name,
        ..Default::default()
    }
}

/// Tries until the API takes it: a node may come up before its server.
async fn register(ctx: &Context) -> Node {
    let mut pause = Duration::from_millis(20);
    loop {
        match try_register(ctx).await {
            Ok(node) => return node,
            Err(error) => tracing::warn!(error = %chain(&error), "register the node"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(7));
    }
}

async fn try_register(ctx: &Context) -> kube::Result<Node> {
    let api = Api::<Node>::all(ctx.client.clone());
    let name = &ctx.config.node_name;
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        (
            "kubernetes.io/arch".to_owned(),
            go_architecture().to_owned(),
        ),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        (
            "beta.kubernetes.io/arch".to_owned(),
            go_architecture().to_owned(),
        ),
    ]);
    labels.extend(ctx.config.labels.iter().cloned());
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    match api.create(&PostParams::default(), &node).await {
        Err(error) if is_already_exists(&error) => {
            let known = api.get(name).await?;
            let has = known.metadata.labels.clone().unwrap_or_default();
            if labels.iter().all(|(k, v)| has.get(k) == Some(v)) {
                return Ok(known);
            }
            let patch = json!({"metadata": {"labels": labels}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
        }
        other => other,
    }
}

async fn keep_status(
    ctx: &Context,
    machine: &Machine,
    node: Node,
    level: &watch::Sender<Registered>,
) {
    let mut known = node.status.clone().unwrap_or_default();
    let reference = node_reference(&node);
    let rebooted = known
        .node_info
        .as_ref()
        .is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != machine.info.boot_id);
    if rebooted {
        let message = format!(
            "Node {} has been rebooted, boot id: {}",
            ctx.config.node_name, machine.info.boot_id
        );
        ctx.recorder
            .event_about(reference.clone(), EventType::Warning, "Rebooted", message);
    }
    let mut reported: Option<Instant> = None;
    // While something keeps the node from being Ready at its start it is looked at more often: the network says what
    // holds it up, and not when that ends.
    let mut pause = Duration::from_millis(10);
    loop {
        let now = Timestamp::now();
        let wanted = status(ctx, machine, &known, now);
        let changed = differs(&known, &wanted);
        let due = reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if changed || due {
            match patch_status(ctx, &known, &wanted).await {
                Ok(()) => {
                    announce(ctx, &reference, &known, &wanted);
                    known = wanted.clone();
                    reported = Some(Instant::now());
                }
                Err(error) if is_not_found(&error) => {
                    // Somebody deleted the node under us: it registers again.
                    known = register(ctx).await.status.unwrap_or_default();
                    continue;
                }
                Err(error) => tracing::warn!(error = %chain(&error), "report the node's status"),
            }
        }
        let not_ready = condition(&wanted, "Ready")
            .filter(|c| c.status != "True")
            .and_then(|c| c.message.clone());
        let settled = not_ready.is_none() && reported.is_some();
        level.send_if_modified(|old| {
            let new = Registered {
                registered: reported.is_some(),
                not_ready,
            };
            let news = *old != new;
            *old = new;
            news
        });
        pause = if settled {
            LOOK_EVERY
        } else {
            (pause * 2).min(Duration::from_secs(1))
        };
        tokio::time::sleep(pause).await;
    }
}

fn condition<'a>(status: &'a NodeStatus, type_: &str) -> Option<&'a NodeCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == type_)
}

/// Events for conditions that have turned.
fn announce(
    ctx: &Context,
    reference: &k8s_openapi::api::core::v1::ObjectReference,
    old: &NodeStatus,
    new: &NodeStatus,
) {
    for wanted in new.conditions.iter().flatten() {
        let before = condition(old, &wanted.type_).map(|c| c.status.as_str());
        if before == Some(wanted.status.as_str()) {
            continue;
        }
        let reason = match (wanted.type_.as_str(), wanted.status.as_str()) {
            ("Ready", "True") => "NodeReady".to_owned(),
            ("Ready", _) => "NodeNotReady".to_owned(),
            _ => wanted.reason.clone().unwrap_or_default(),
        };
        let message = format!("Node {} status is now: {reason}", ctx.config.node_name);
        ctx.recorder
            .event_about(reference.clone(), EventType::Normal, &reason, message);
    }
}

/// Whether there is more news than the time of the heartbeat.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        let ours = |c: &NodeCondition| OWN.contains(&c.type_.as_str());
        (
            status.conditions.map(|list| {
                let mut list: Vec<_> = list.into_iter().filter(ours).collect();
                list.sort_by(|a, b| a.type_.cmp(&b.type_));
                list
            }),
            status.addresses,
            status.capacity,
            status.allocatable,
            status.node_info,
            status.daemon_endpoints,
            status.images,
        )
    };
    bare(old) != bare(new)
}

const OWN: [&str; 5] = [
    "Ready",
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "NetworkUnavailable",
];

async fn patch_status(ctx: &Context, known: &NodeStatus, wanted: &NodeStatus) -> kube::Result<()> {
    let mut status = json!(wanted);
    // Addresses merge by type in a strategic patch: two of one type would become one.
    if known.addresses.as_ref().is_some_and(|a| !a.is_empty())
        && let Some(Value::Array(list)) = status.get_mut("addresses")
    {
        list.insert(0, json!({"$patch": "replace"}));
    }
    let patch = json!({"status": status});
    let api = Api::<Node>::all(ctx.client.clone());
    api.patch_status(
        &ctx.config.node_name,
        &PatchParams::default(),
        &Patch::Strategic(&patch),
    )
    .await
    .map(drop)
}

fn status(ctx: &Context, machine: &Machine, known: &NodeStatus, now: Timestamp) -> NodeStatus {
    let capacity = machine.capacity(&ctx.config.data_dir, ctx.config.max_pods);
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    let mut addresses: Vec<NodeAddress> = ctx
        .config
        .node_ips
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()))
        .collect();
    addresses.push(address("Hostname", ctx.config.node_name.clone()));
    let port = i32::from(ctx.config.kubelet_port);
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(ctx, known, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port }),
        }),
        images: images(ctx),
        node_info: Some(machine.info.clone()),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(true),
            }),
        }]),
        ..NodeStatus::default()
    }
}

fn images(ctx: &Context) -> Option<Vec<ContainerImage>> {
    let mut images: Vec<ContainerImage> = ctx
        .images
        .store()
        .ls()
        .ok()?
        .into_iter()
        .map(|image| ContainerImage {
            size_bytes: i64::try_from(image.size).ok(),
            names: Some(
                image
                    .repo_digests
                    .into_iter()
                    .chain(image.references.iter().map(ToString::to_string))
                    .collect(),
            ),
        })
        .collect();
    images.sort_by(|a, b| {
        b.size_bytes
            .cmp(&a.size_bytes)
            .then_with(|| a.names.cmp(&b.names))
    });
    images.truncate(IMAGES_SHOWN);
    Some(images)
}

fn conditions(ctx: &Context, known: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let config = &ctx.config;
    let Pressure { memory, disk, pids } = config
        .thresholds
        .look(&config.data_dir, ctx.images.store().dir());
    let network = ctx.config.network.unavailable();
    let not_ready = network.as_ref().map(|why| {
        format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{why}")
    });
    let rows = [
        (
            "NetworkUnavailable",
            network.is_some(),
            if network.is_some() {
                "NetworkNotReady"
            } else {
                "NetworkReady"
            },
            network.unwrap_or_else(|| "the pod network is ready".to_owned()),
        ),
        (
            "MemoryPressure",
            memory,
            if memory {
                "KubeletHasInsufficientMemory"
            } else {
                "KubeletHasSufficientMemory"
            },
            format!(
                "kubelet has {}sufficient memory available",
                if memory { "in" } else { "" }
            ),
        ),
        (
            "DiskPressure",
            disk,
            if disk {
                "KubeletHasDiskPressure"
            } else {
                "KubeletHasNoDiskPressure"
            },
            format!("kubelet has {}disk pressure", if disk { "" } else { "no " }),
        ),
        (
            "PIDPressure",
            pids,
            if pids {
                "KubeletHasInsufficientPID"
            } else {
                "KubeletHasSufficientPID"
            },
            format!(
                "kubelet has {}sufficient PID available",
                if pids { "in" } else { "" }
            ),
        ),
        (
            "Ready",
            not_ready.is_none(),
            if not_ready.is_none() {
                "KubeletReady"
            } else {
                "KubeletNotReady"
            },
            not_ready.unwrap_or_else(|| "kubelet is posting ready status".to_owned()),
        ),
    ];
    let second = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    rows.into_iter()
        .map(|(type_, holds, reason, message)| {
            let text = if holds { "True" } else { "False" };
            let before = condition(known, type_).filter(|c| c.status == text);
            NodeCondition {
                type_: type_.to_owned(),
                status: text.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(second.clone()),
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(second.clone())),
            }
        })
        .collect()
}

async fn keep_lease(ctx: Arc<Context>, node_uid: String) {
    let api = Api::<Lease>::namespaced(ctx.client.clone(), "kube-node-lease");
    let mut pause = Duration::from_millis(100);
    loop {
        match renew(&ctx, &api, &node_uid).await {
            Ok(()) => pause = LEASE_EVERY,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "renew the node's lease");
                pause = (pause * 2).min(LEASE_EVERY / 2);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn renew(ctx: &Context, api: &Api<Lease>, node_uid: &str) -> kube::Result<()> {
    let name = &ctx.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Err(error) if is_not_found(&error) => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some("kube-node-lease".to_owned()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: name.clone(),
                        uid: node_uid.to_owned(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.clone()),
                    lease_duration_seconds: Some(LEASE_SECONDS),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
