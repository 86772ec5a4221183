//! What all parts of one node share, and where a pod's things stand on disk.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::Service;
use kernelet_client::{Client, Recorder, Shared};
use kernelet_pod_plan::{NodeFacts, network_files::Resolver};
use kernelet_sys::cgroup::Layout;
use tokio_util::sync::CancellationToken;

use crate::{
    NodeConfig,
    id_ranges::IdRanges,
    images::Images,
    objects::Objects,
    stats::{Counters, Disks, Rates},
};

pub(crate) struct Context {
    pub config: NodeConfig,
    pub client: Client,
    pub layout: Arc<Layout>,
    pub facts: Arc<NodeFacts>,
    pub recorder: Recorder,
    pub images: Images,
    /// Of pods with user namespaces.
    pub id_ranges: IdRanges,
    pub services: Shared<Service>,
    pub objects: Objects,
    /// The node's own resolver, read at the start.
    pub resolver: Resolver,
    /// What happened, and what was measured before.
    pub counters: Counters,
    pub rates: Rates,
    pub disks: Disks,
    pub shutdown: CancellationToken,
}

impl Context {
    /// Volumes, container roots, and what the agent must know of a pod that the API has forgotten.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    /// Socket and records of the pod's shim.
    pub fn shim_dir(&self, uid: &str) -> PathBuf {
        self.config.run_dir.join("pods").join(uid)
    }

    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config
            .log_dir
            .join("pods")
            .join(format!("{namespace}_{name}_{uid}"))
    }

    pub fn host_ips(&self) -> Vec<IpAddr> {
        self.config.node_ips.clone()
    }
}
