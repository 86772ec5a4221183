//! The agent: wires reflectors, plan, maps and links together and is the node's pod network.
//!
//! ```text
//!  start ── data plane loaded or adopted ── pods found ── node's side ── canary ── DNS
//!    ├─ services.rs: Services, EndpointSlices ─→ maps
//!    ├─ pod ranges: the own Node's spec.podCIDRs
//!    ├─ kernel's network events ─→ node.rs
//!    └─ canary, from then on
//! ```
//! Nothing of it is needed for what is connected already: maps, programs and links stay when it ends.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kernelet_attach::{AttachError, AttachRequest, Attached, PodId, PodNetwork};
use kernelet_client::{Informers, Scope};
use kernelet_ebpf_abi::NetnsKind;
use kernelet_link::{NetworkWatch, own_cookie};
use kernelet_maps::DataPlane;
use kernelet_net_plan::{Cidr, NodeView, link_name};
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    NetConfig, StartError,
    canary::Canary,
    dns, hooks,
    kernel::Kernel,
    node::{NodeError, NodeSide, sysctl_record},
    pods::{self, AdoptError, PodDefaults},
    removal::Removal,
    services::{self, Stores},
};

/// How often the path is proven again.
const CANARY_EVERY: Duration = Duration::from_secs(30);
const DEFAULT_MTU: u32 = 1500;

/// The running pod network of one node.
pub struct NetAgent {
    kernel: Arc<Kernel>,
    defaults: PodDefaults,
    removal: Removal,
    node: Arc<Mutex<NodeSide>>,
    /// Why the path is broken, as the canary last found it.
    canary: watch::Receiver<Option<String>>,
}

impl NetAgent {
    /// Loads or adopts the eBPF programs, puts the node's links and routes in place, proves the
    /// path with a canary connection and starts following the API. It does not wait for the API.
    pub async fn start(
        config: NetConfig,
        shutdown: CancellationToken,
    ) -> Result<Arc<NetAgent>, StartError> {
        let (kernel, defaults, node) = {
            let config = config.clone();
            blocking(move || bring_up(&config)).await?
        };
        let (kernel, node) = (Arc::new(kernel), Arc::new(Mutex::new(node)));

        let services = config.service_cidrs.first().copied();
        let canary = match services {
            Some(services) => Some(prove(&kernel, &services).await?),
            None => None,
        };
        let (tell_canary, canary_state) = watch::channel(None);
        if let Some(canary) = canary {
            tokio::spawn(keep_proving(canary, tell_canary, shutdown.clone()));
        }

        let informers = Informers::new(config.client.clone(), shutdown.clone());
        let stores = Stores::open(&informers);
        let records = dns::start(&kernel, &config, &shutdown).await?;

        let view = NodeView {
            node_name: config.node_name.clone(),
            reserved: vec![config.dns_address],
        };
        tokio::spawn(services::follow(
            kernel.clone(),
            stores,
            records,
            view,
            shutdown.clone(),
        ));
        let watch = NetworkWatch::open()?;
        tokio::spawn(follow_kernel(
            kernel.clone(),
            node.clone(),
            watch,
            shutdown.clone(),
        ));
        if config.pod_cidrs.is_empty() {
            let scope = Scope::fields(format!("metadata.name={}", config.node_name));
            let nodes = informers.scoped::<Node>(scope);
            tokio::spawn(follow_pod_ranges(
                kernel.clone(),
                node.clone(),
                nodes,
                shutdown.clone(),
            ));
        }
        info!(instance = config.instance_id, "pod network started");
        Ok(Arc::new(Self {
            kernel,
            removal: Removal::start(&defaults.instance_id),
            defaults,
            node,
            canary: canary_state,
        }))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The synchronous part of a start, in the order in which each step may rely on the one before.
fn bring_up(config: &NetConfig) -> Result<(Kernel, PodDefaults, NodeSide), StartError> {
    let record = config.run_dir.join("net");
    std::fs::create_dir_all(&record).map_err(|source| StartError::Io {
        step: format!("make {}", record.display()),
        source,
    })?;
    let mut plane = DataPlane::open(&config.instance_id)?;
    let node_cookie = own_cookie()?;
    plane.put_netns(node_cookie, NetnsKind::Node)?;
    let kernel = Kernel::adopt(plane, node_cookie)?;
    let mut node = NodeSide::new(
        &config.instance_id,
        config.node_ip,
        &config.cluster_cidrs,
        &config.service_cidrs,
        &config.run_dir,
    )?;
    let uplinks = node.uplinks(&kernel).map_err(node_error)?;
    let mtu = config
        .mtu
        .or_else(|| uplinks.iter().map(|uplink| uplink.mtu).min());
    let defaults = PodDefaults {
        instance_id: config.instance_id.clone(),
        node_ip: config.node_ip,
        mtu: mtu.unwrap_or(DEFAULT_MTU),
    };
    kernel.pods().ipam.set_ranges(&config.pod_cidrs);
    pods::adopt(&kernel, &defaults).map_err(|error| match error {
        AdoptError::Link(error) => StartError::Link(error),
        AdoptError::Entry(error) => StartError::Entry(error),
    })?;
    node.sync(&kernel).map_err(node_error)?;
    if !config.pod_cidrs.is_empty() {
        node.set_pod_cidrs(&kernel, &config.pod_cidrs)
            .map_err(node_error)?;
    }
    Ok((kernel, defaults, node))
}

fn node_error(error: NodeError) -> StartError {
    match error {
        NodeError::Link(error) => StartError::Link(error),
        NodeError::Entry(error) => StartError::Entry(error),
        NodeError::Hook(error) => StartError::Uplinks {
            source: error.into(),
        },
    }
}

async fn prove(kernel: &Kernel, services: &Cidr) -> Result<Canary, StartError> {
    let io = |source| StartError::Io {
        step: "listen for the canary connection".into(),
        source,
    };
    let canary = Canary::bind(services).await.map_err(io)?;
    let spec = canary.spec().map_err(io)?;
    kernel
        .set_services(canary.owner(), &[spec])
        .map_err(|error| StartError::Canary {
            reason: with_sources(&error),
        })?;
    canary
        .prove()
        .await
        .map_err(|reason| StartError::Canary { reason })?;
    Ok(canary)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

async fn keep_proving(
    canary: Canary,
    tell: watch::Sender<Option<String>>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(CANARY_EVERY);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let result = canary.prove().await.err();
        if result != *tell.borrow() {
            match &result {
                Some(reason) => error!(reason, "Services are not translated any more"),
                None => info!("Services are translated again"),
            }
            tell.send_replace(result);
        }
    }
}

/// Somebody changed something in the node's network: ours is looked at again.
async fn follow_kernel(
    kernel: Arc<Kernel>,
    node: Arc<Mutex<NodeSide>>,
    watch: NetworkWatch,
    shutdown: CancellationToken,
) {
    loop {
        let changed = tokio::select! {
            changed = watch.changed() => changed,
            () = shutdown.cancelled() => return,
        };
        let changed = match changed {
            Ok(changed) => changed,
            Err(error) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    "the kernel's network changes can't be heard any more"
                );
                return;
            }
        };
        let (kernel, node) = (kernel.clone(), node.clone());
        let result = blocking(move || -> Result<(), NodeError> {
            let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
            if changed.addresses {
                node.addresses(&kernel)?;
            }
            if changed.default_routes {
                node.uplinks(&kernel)?;
                node.look_at_firewall(&kernel)?;
            }
            if changed.our_routes {
                node.routes(&kernel)?;
            }
            if changed.firewall {
                node.look_at_firewall(&kernel)?;
            }
            Ok(())
        })
        .await;
        if let Err(error) = result {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot answer a change of the node's network"
            );
        }
    }
}

/// The node's pod ranges, from its own Node object.
async fn follow_pod_ranges(
    kernel: Arc<Kernel>,
    node: Arc<Mutex<NodeSide>>,
    nodes: kernelet_client::Shared<Node>,
    shutdown: CancellationToken,
) {
    let mut changes = nodes.changed();
    let mut known: Vec<Cidr> = Vec::new();
    loop {
        let ranges: Vec<Cidr> = nodes
            .list()
            .first()
            .map_or_else(Vec::new, |node| ranges_of(node));
        if !ranges.is_empty() && ranges != known {
            info!(?ranges, "the node's pod ranges");
            kernel.pods().ipam.set_ranges(&ranges);
            known.clone_from(&ranges);
            let (kernel, node) = (kernel.clone(), node.clone());
            let result = blocking(move || {
                let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
                node.set_pod_cidrs(&kernel, &ranges)
            })
            .await;
            if let Err(error) = result {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot set up the pod ranges"
                );
                // Tried again with the Node's next change, which heartbeats bring.
                known.clear();
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

fn ranges_of(node: &Node) -> Vec<Cidr> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    match &spec.pod_cidrs {
        Some(all) if !all.is_empty() => all.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        _ => spec
            .pod_cidr
            .iter()
            .filter_map(|cidr| cidr.parse().ok())
            .collect(),
    }
}

impl PodNetwork for NetAgent {
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attached, AttachError>> {
        let (kernel, defaults) = (self.kernel.clone(), self.defaults.clone());
        Box::pin(blocking(move || pods::attach(&kernel, &defaults, request)))
    }

    fn detach<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), AttachError>> {
        Box::pin(async move {
            let (kernel, withdrawn) = (self.kernel.clone(), pod.clone());
            blocking(move || pods::withdraw(&kernel, &withdrawn)).await?;
            self.removal
                .remove(link_name(&pod.uid))
                .await
                .map_err(|source| AttachError::Step {
                    step: "remove the link",
                    pod: format!("{}/{}", pod.namespace, pod.name),
                    source: Box::new(source),
                })?;
            pods::forget(&self.kernel, pod);
            Ok(())
        })
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<(PodId, Attached)>, AttachError>> {
        let pods = self.kernel.pods();
        let all = pods
            .attached
            .values()
            .map(|pod| {
                let attached = Attached {
                    ips: pod.link.addresses.clone(),
                    host_link: pod.link.name.clone(),
                };
                (pod.id.clone(), attached)
            })
            .collect();
        drop(pods);
        Box::pin(std::future::ready(Ok(all)))
    }

    fn unavailable(&self) -> Option<String> {
        if !self.kernel.pods().ipam.has_ranges() {
            return Some("the node has no pod address range yet (spec.podCIDRs)".into());
        }
        if let Some(reason) = &*self.canary.borrow() {
            return Some(format!("Services are not translated: {reason}"));
        }
        self.node
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocked()
    }
}

/// Takes away everything that the instance's network left on the machine (links, routes, nftables
/// table, pins, sysctls); goes on past errors and returns all of them.
pub fn purge(instance_id: &str, run_dir: &Path) -> Vec<String> {
    let (mut errors, mut hooks_left) = (Vec::new(), Vec::new());
    let mut note = |result: Result<(), kernelet_link::LinkError>| {
        if let Err(error) = result {
            errors.push(with_sources(&error));
        }
    };
    match kernelet_link::pod_links(instance_id) {
        Ok(links) => {
            let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
            note(kernelet_link::disconnect_pods(instance_id, &names));
        }
        Err(error) => note(Err(error)),
    }
    note(kernelet_link::remove_routes());
    for ifindex in kernelet_maps::uplinks(instance_id) {
        if let Err(error) = hooks::detach_uplink(ifindex, run_dir) {
            hooks_left.push(with_sources(&error));
        }
    }
    note(kernelet_link::remove_docker_accept(instance_id));
    note(kernelet_link::remove_table(instance_id));
    errors.extend(hooks_left);
    match kernelet_link::Sysctls::open(&sysctl_record(run_dir)) {
        Ok(mut sysctls) => errors.extend(sysctls.restore().iter().map(|error| with_sources(error))),
        Err(error) => errors.push(with_sources(&error)),
    }
    errors.extend(kernelet_maps::purge(instance_id));
    if let Err(error) = std::fs::remove_dir(run_dir.join("net"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        errors.push(format!("remove {}: {error}", run_dir.join("net").display()));
    }
    errors
}
