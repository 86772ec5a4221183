//! Pods that run on while no agent does, ended with their grace.
//!
//! The same workers, plan and steps as a running node's, so that hooks, signals and the order of containers are the
//! same. Deliberately without an API (nothing is told to anybody; the next start finds the objects as they were) and
//! without a network: a pod's link ends with its namespace, and the next agent takes away what it had in maps.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use kernelet_attach::{AttachError, AttachRequest, Attached, PodId, PodNetwork};
use kernelet_client::{Informers, Recorder};
use kernelet_image::ImageStore;
use kernelet_pki::Identity;
use kernelet_pod_plan::network_files::Resolver;
use kernelet_sys::cgroup::Layout;
use tokio_util::sync::CancellationToken;

use crate::{
    ImageSettings, NodeConfig, StartError, Thresholds,
    context::Context,
    facts::Machine,
    images::Images,
    objects::Objects,
    pods::Pods,
    stats::{Counters, Disks, Rates},
};

const NO_SERVER: &str = "no API server runs here";

/// Where an agent that is gone kept its pods.
#[derive(Clone, Debug)]
pub struct LeftPods {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    pub cgroup_root: String,
    pub instance_id: String,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedPods {
    /// How many there were.
    pub pods: usize,
    /// Those that would not end.
    pub left: Vec<String>,
}

impl LeftPods {
    /// Ends every pod's containers with at most `grace` and takes their sandboxes down. The caller holds the
    /// instance's lock: no agent may own the same pods.
    pub async fn end(self, grace: Duration) -> Result<EndedPods, StartError> {
        let shutdown = CancellationToken::new();
        let client = kernelet_client::of_no_server(NO_SERVER);
        let informers = Informers::new(client.clone(), shutdown.clone());
        let layout = Layout::detect().map_err(|e| StartError::Kernel {
            step: "find the cgroup hierarchies",
            source: Box::new(e),
        })?;
        let images = ImageStore::open(self.data_dir.join("images"))
            .map_err(|e| StartError::Images(Box::new(e)))?;
        let id_ranges = crate::handle::id_ranges(&self.data_dir)?;
        let machine = Machine::look();
        let config = self.config(informers);
        let ctx = Arc::new(Context {
            client: client.clone(),
            layout: Arc::new(layout),
            facts: Arc::new(machine.node_facts(&config)),
            recorder: Recorder::new(client.clone(), "kubelet", None),
            images: Images::new(images, &config.images),
            id_ranges,
            services: config.informers.all::<Service>(),
            objects: Objects::new(client),
            resolver: Resolver::default(),
            counters: Counters::default(),
            rates: Rates::default(),
            disks: Disks::default(),
            shutdown: shutdown.clone(),
            config,
        });
        let (pods, count) = Pods::of_remains(ctx, grace);
        let left = pods.suspend(grace).await;
        shutdown.cancel();
        Ok(EndedPods { pods: count, left })
    }

    /// Nothing of it but the folders and the cgroups is looked at when a pod ends.
    fn config(self, informers: Informers) -> NodeConfig {
        NodeConfig {
            node_name: String::new(),
            node_ips: Vec::new(),
            kubelet_port: 0,
            data_dir: self.data_dir,
            run_dir: self.run_dir,
            log_dir: self.log_dir,
            cgroup_root: self.cgroup_root,
            instance_id: self.instance_id,
            informers,
            network: Arc::new(NoNetwork),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            labels: Vec::new(),
            serving: Identity {
                cert_pem: String::new(),
                key_pem: String::new(),
            },
            client_ca_pem: String::new(),
            max_pods: 0,
            images: ImageSettings::default(),
            thresholds: Thresholds::default(),
        }
    }
}

struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn attach(&self, _: AttachRequest) -> BoxFuture<'_, Result<Attached, AttachError>> {
        let reason = self.unavailable().unwrap_or_default();
        Box::pin(async { Err(AttachError::NotReady { reason }) })
    }

    fn detach<'a>(&'a self, _: &'a PodId) -> BoxFuture<'a, Result<(), AttachError>> {
        Box::pin(async { Ok(()) })
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<(PodId, Attached)>, AttachError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn unavailable(&self) -> Option<String> {
        Some("the pods of this node are being ended".to_owned())
    }
}
