//! Starts the pod network and the node in this process.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use kernelet_attach::PodNetwork;
use kernelet_client::Informers;
use kernelet_net_plan::Cidr;
use kernelet_netagent::{NetAgent, NetConfig};
use kernelet_node::{LeftPods, Node, NodeConfig, NodeHandle};
use kernelet_pki::{IdentitySpec, Usage};
use kernelet_server::UserInfo;
use kernelet_sys::cgroup::Layout;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{NodeOptions, UpOptions},
    control_plane::ControlPlane,
    control_socket::Stopped,
    health::{Health, PartHealth},
    instance::Instance,
};

/// Longer than any pod's grace: its own is what counts.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A node that runs in this process.
pub struct RunningNode {
    handle: NodeHandle,
}

impl RunningNode {
    /// Waits until the node has let go; its pods run on.
    pub async fn stop(self) {
        self.handle.stopped().await;
    }

    /// Ends every pod with its own grace.
    pub async fn end_pods(&self) -> Stopped {
        let all = self.handle.report().pods.len();
        let left = match self.handle.end_pods(GRACE).await {
            Ok(()) => Vec::new(),
            Err(error) => error.left,
        };
        Stopped {
            pods_ended: all.saturating_sub(left.len()),
            pods_left: left,
        }
    }
}

/// The node's name: the given one, or the host's name as a DNS subdomain.
pub fn name(options: &NodeOptions) -> anyhow::Result<String> {
    match &options.node_name {
        Some(name) => Ok(name.clone()),
        None => {
            let host = nix::unistd::gethostname().context("cannot ask for the host's name")?;
            Ok(host.to_string_lossy().to_lowercase())
        }
    }
}

pub async fn start(
    instance: &Instance,
    options: &UpOptions,
    node_name: &str,
    node_ip: IpAddr,
    plane: &ControlPlane,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<RunningNode> {
    let cidr = |text: &str, option: &str| {
        text.parse::<Cidr>()
            .with_context(|| format!("{option} {text}"))
    };
    let service_cidr = cidr(&options.cluster.service_cidr, "--service-cidr")?;
    let dns_address = service_cidr
        .nth(10)
        .context("--service-cidr has no room for the DNS address")?;
    health.set("network", PartHealth::Starting);
    let network = NetAgent::start(
        NetConfig {
            client: plane.client(UserInfo::new("system:kube-proxy", [] as [&str; 0])),
            node_name: node_name.to_owned(),
            node_ip,
            instance_id: instance.id.clone(),
            pod_cidrs: Vec::new(),
            cluster_cidrs: vec![cidr(&options.cluster.cluster_cidr, "--cluster-cidr")?],
            service_cidrs: vec![service_cidr],
            dns_address,
            cluster_domain: options.cluster.cluster_domain.clone(),
            mtu: None,
            run_dir: instance.run_dir.clone(),
        },
        shutdown.clone(),
    )
    .await
    .context("cannot start the pod network")?;
    health.set("network", PartHealth::Healthy);

    health.set("node", PartHealth::Starting);
    let serving = IdentitySpec {
        common_name: format!("system:node:{node_name}"),
        organization: Some("system:nodes".into()),
        dns_names: vec![node_name.to_owned()],
        ips: vec![node_ip],
        usage: Usage::Server,
    };
    let handle = Node::start(
        NodeConfig {
            node_name: node_name.to_owned(),
            node_ips: vec![node_ip],
            kubelet_port: options.node.kubelet_port,
            data_dir: instance.data_dir.clone(),
            run_dir: instance.run_dir.clone(),
            log_dir: instance.log_dir.clone(),
            cgroup_root: instance.cgroups(&options.node.cgroup_root),
            instance_id: instance.id.clone(),
            informers: Informers::new(plane.client(UserInfo::node(node_name)), shutdown.clone()),
            network: network as Arc<dyn PodNetwork>,
            cluster_dns: vec![dns_address],
            cluster_domain: options.cluster.cluster_domain.clone(),
            labels: Vec::new(),
            serving: plane
                .ca
                .load_or_issue(&instance.pki_dir(), "kubelet", &serving)?,
            client_ca_pem: plane.ca.cert_pem().to_owned(),
            max_pods: options.node.max_pods,
            images: crate::registry_options::settings(instance, &options.node.images)?,
            thresholds: options.node.eviction_hard.clone().unwrap_or_default(),
        },
        shutdown.clone(),
    )
    .await
    .context("cannot start the node")?;
    health.set("node", PartHealth::Healthy);
    Ok(RunningNode { handle })
}

/// Ends, each with its own grace, the pods that outlived the program.
pub fn end_left_pods(instance: &Instance) -> anyhow::Result<Stopped> {
    // Without a start there was no node, and so no pod.
    let Some(root) = instance.remembered_cgroup_root() else {
        return Ok(Stopped::default());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let left = LeftPods {
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        log_dir: instance.log_dir.clone(),
        cgroup_root: instance.cgroups(&root),
        instance_id: instance.id.clone(),
    };
    let ended = runtime
        .block_on(left.end(GRACE))
        .context("cannot end the pods")?;
    Ok(Stopped {
        pods_ended: ended.pods.saturating_sub(ended.left.len()),
        pods_left: ended.left,
    })
}

/// Removes what the node left on the machine; what could not be removed is the answer.
pub fn purge(instance: &Instance) -> Vec<String> {
    let Some(root) = instance.remembered_cgroup_root() else {
        return Vec::new();
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return vec![format!("cannot start the runtime: {error}")],
    };
    let cgroups = instance.cgroups(&root);
    let purged = kernelet_node::purge(
        &instance.data_dir,
        &instance.run_dir,
        &instance.log_dir,
        &cgroups,
    );
    let mut left = match runtime.block_on(purged) {
        Ok(()) => Vec::new(),
        Err(error) => error.left,
    };
    if let Err(error) = remove_shared_root(&root) {
        left.push(format!("{error:#}"));
    }
    left
}

/// The pods of a start with another `--cgroup-root` would be nobody's: they are kept where they are, or ended first.
pub fn check_cgroup_root(instance: &Instance, root: &str) -> anyhow::Result<()> {
    let same = |a: &str, b: &str| a.trim_matches('/') == b.trim_matches('/');
    let Some(was) = instance
        .remembered_cgroup_root()
        .filter(|was| !same(was, root))
    else {
        return Ok(());
    };
    let layout = Layout::detect().context("cannot find the cgroup hierarchies")?;
    let group = instance.cgroups(&was);
    let group = layout.group(&group);
    if !group.exists() {
        return Ok(());
    }
    if group.populated()? {
        bail!(
            "the pods of {} run below the cgroup {was}; start it with --cgroup-root {was}, \
             or end them first: kernelet down --pods --data-dir {}",
            instance.data_dir.display(),
            instance.data_dir.display(),
        );
    }
    group
        .remove(Duration::ZERO)
        .with_context(|| format!("cannot remove the cgroup {}", group.path()))?;
    remove_shared_root(&was)
}

/// The cgroup root is every instance's; it goes with the last one.
fn remove_shared_root(root: &str) -> anyhow::Result<()> {
    if root.trim_matches('/').is_empty() {
        return Ok(());
    }
    let layout = Layout::detect().context("cannot find the cgroup hierarchies")?;
    let group = layout.group(root);
    if group.exists() && group.children()?.is_empty() && !group.populated()? {
        group
            .remove(Duration::ZERO)
            .with_context(|| format!("cannot remove the cgroup {root}"))?;
    }
    Ok(())
}
