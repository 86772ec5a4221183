//! The node as its program holds it: start, status, and the ways to end pods.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Service};
use kernelet_client::{Recorder, Scope};
use kernelet_image::ImageStore;
use kernelet_pod_plan::{cgroup::qos_path, network_files::Resolver, resources::QosClass};
use kernelet_spec::Resources;
use kernelet_sys::cgroup::Layout;
use kube::ResourceExt;
use tokio::{
    net::TcpListener,
    sync::{OnceCell, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    NodeConfig, StartError, api, builtin,
    context::Context,
    facts::Machine,
    id_ranges::IdRanges,
    images::Images,
    objects::Objects,
    pods::Pods,
    register::{self, Registered},
    stats::{Counters, Disks, Rates},
};

/// Starts nodes.
pub struct Node;

impl Node {
    /// Opens what the node needs on this machine, then registers it, takes over the pods that still run and serves
    /// until `shutdown`; pods run on after it. Answers when the kubelet API listens; the rest goes on in the
    /// background, since a node may come up before its server ([`NodeHandle::ready`] waits for it).
    pub async fn start(
        config: NodeConfig,
        shutdown: CancellationToken,
    ) -> Result<NodeHandle, StartError> {
        folders(&config)?;
        let listener = listen(&config).await?;
        let tls = kernelet_pki::server_config(&config.serving, &config.client_ca_pem)
            .map_err(|e| StartError::Identity(Box::new(e)))?;
        let layout = Layout::detect().map_err(|e| StartError::Kernel {
            step: "find the cgroup hierarchies",
            source: Box::new(e),
        })?;
        let layout = Arc::new(layout);
        groups(&layout, &config.cgroup_root)?;
        let images = open_images(&config).await?;
        let id_ranges = id_ranges(&config.data_dir)?;
        let machine = Machine::look();
        let client = config.informers.client().clone();
        let ctx = Arc::new(Context {
            client: client.clone(),
            layout,
            facts: Arc::new(machine.node_facts(&config)),
            recorder: Recorder::new(client.clone(), "kubelet", Some(config.node_name.clone())),
            images: Images::new(images, &config.images),
            id_ranges,
            services: config.informers.all::<Service>(),
            objects: Objects::new(client),
            resolver: Resolver::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            counters: Counters::default(),
            rates: Rates::default(),
            disks: Disks::default(),
            shutdown: shutdown.clone(),
            config,
        });
        let (level, registered) = watch::channel(Registered::default());
        let tasks = TaskTracker::new();
        let pods = Arc::new(OnceCell::new());
        tasks.spawn(register::keep(ctx.clone(), machine, level));
        tasks.spawn(api::serve(
            ctx.clone(),
            pods.clone(),
            listener,
            Arc::new(tls),
        ));
        tasks.spawn(run_pods(ctx.clone(), pods.clone()));
        tasks.spawn(crate::image_watch::follow(ctx.clone(), pods.clone()));
        tasks.spawn(crate::image_gc::keep(ctx.clone()));
        tasks.close();
        Ok(NodeHandle {
            ctx,
            pods,
            registered,
            tasks,
        })
    }
}

fn folders(config: &NodeConfig) -> Result<(), StartError> {
    let make = |path: &Path| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| StartError::Folder {
                action: "make the folder",
                path: path.to_owned(),
                source,
            })
    };
    make(&config.data_dir.join("pods"))?;
    make(&config.run_dir.join("pods"))?;
    make(&config.log_dir.join("pods"))
}

/// What pods with user namespaces have of the host's ids.
pub(crate) fn id_ranges(data_dir: &Path) -> Result<IdRanges, StartError> {
    let dir = data_dir.join("userns");
    IdRanges::open(dir.clone(), &data_dir.join("pods")).map_err(|source| StartError::Folder {
        action: "read",
        path: dir,
        source,
    })
}

async fn listen(config: &NodeConfig) -> Result<TcpListener, StartError> {
    let ip = config
        .node_ips
        .first()
        .copied()
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    let address = SocketAddr::new(ip, config.kubelet_port);
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

/// The groups above the pods', as the kubelet has them.
fn groups(layout: &Layout, root: &str) -> Result<(), StartError> {
    for (qos, shares) in [
        (QosClass::Guaranteed, None),
        // With requests of its pods it grows; without any it weighs the least.
        (QosClass::Burstable, None),
        (QosClass::BestEffort, Some(2)),
    ] {
        let resources = Resources {
            cpu_shares: shares,
            ..Resources::default()
        };
        layout
            .group(&qos_path(root, qos))
            .create(&resources)
            .map_err(|e| StartError::Kernel {
                step: "make the pods' cgroups",
                source: Box::new(e),
            })?;
    }
    Ok(())
}

async fn open_images(config: &NodeConfig) -> Result<ImageStore, StartError> {
    let dir = config.data_dir.join("images");
    let opened = tokio::task::spawn_blocking(move || {
        let store = ImageStore::open(dir).map_err(|e| StartError::Images(Box::new(e)))?;
        builtin::load(&store).map_err(|e| StartError::Images(Box::new(e)))?;
        Ok(store)
    });
    opened.await.map_err(|e| StartError::Images(Box::new(e)))?
}

async fn run_pods(ctx: Arc<Context>, pods: Arc<OnceCell<Arc<Pods>>>) {
    let scope = Scope::fields(format!("spec.nodeName={}", ctx.config.node_name));
    let api = ctx.config.informers.scoped::<Pod>(scope);
    let shutdown = ctx.shutdown.clone();
    let started = Pods::start(ctx, &api).await;
    let _ = pods.set(started.clone());
    shutdown.cancelled().await;
    started.let_go().await;
}

/// A running node.
#[derive(Clone)]
pub struct NodeHandle {
    ctx: Arc<Context>,
    pods: Arc<OnceCell<Arc<Pods>>>,
    registered: watch::Receiver<Registered>,
    tasks: TaskTracker,
}

/// What `kernelet status` shows of the node.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct NodeReport {
    pub registered: bool,
    /// `None` when Ready, or why not.
    pub not_ready: Option<String>,
    pub pods: Vec<PodReport>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct PodReport {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub phase: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{} pods did not end: {}", .left.len(), .left.join(", "))]
pub struct EndPodsError {
    pub left: Vec<String>,
}

impl NodeHandle {
    pub fn report(&self) -> NodeReport {
        let Registered {
            registered,
            not_ready,
        } = self.registered.borrow().clone();
        let views = self.pods.get().map(|p| p.views()).unwrap_or_default();
        let pods = views.into_iter().map(|view| PodReport {
            namespace: view.pod.namespace().unwrap_or_default(),
            name: view.pod.name_any(),
            uid: view.pod.uid().unwrap_or_default(),
            phase: view.status.phase.unwrap_or_default(),
        });
        NodeReport {
            registered,
            not_ready,
            pods: pods.collect(),
        }
    }

    /// Resolves when the API shows the node as Ready; never if it stops before.
    pub async fn ready(&self) {
        let mut level = self.registered.clone();
        if level
            .wait_for(|r| r.registered && r.not_ready.is_none())
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// The node's images.
    pub fn images(&self) -> &ImageStore {
        self.ctx.images.store()
    }

    /// Ends every pod's containers with at most `grace` and takes their sandboxes down; the objects stay in the API,
    /// and the next start runs them again.
    pub async fn end_pods(&self, grace: Duration) -> Result<(), EndPodsError> {
        let Some(pods) = self.pods.get() else {
            return Ok(());
        };
        let left = pods.suspend(grace).await;
        if left.is_empty() {
            Ok(())
        } else {
            Err(EndPodsError { left })
        }
    }

    /// Resolves when the node has stopped after its `shutdown`.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle")
            .field("node", &self.ctx.config.node_name)
            .finish_non_exhaustive()
    }
}
