//! The node as its program holds it: start, status, and the ways to end pods.

use std::{path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{NodeConfig, StartError};

/// Starts nodes.
pub struct Node;

impl Node {
    /// Registers the node, adopts the pods that still run, and serves until `shutdown`; pods run on after it.
    /// Answers when the node is registered and its kubelet API listens.
    pub async fn start(
        config: NodeConfig,
        shutdown: CancellationToken,
    ) -> Result<NodeHandle, StartError> {
        let _ = (config, shutdown);
        todo!("lands with the next commit")
    }
}

/// A running node.
#[derive(Clone)]
pub struct NodeHandle {}

/// What `kernelet status` shows of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeReport {
    pub registered: bool,
    /// `None` when Ready, or why not.
    pub not_ready: Option<String>,
    pub pods: Vec<PodReport>,
}

#[derive(Clone, Debug)]
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

#[derive(Debug, thiserror::Error)]
#[error("cannot remove everything of the instance: {}", .left.join("; "))]
pub struct PurgeError {
    pub left: Vec<String>,
}

impl NodeHandle {
    pub fn report(&self) -> NodeReport {
        todo!("lands with the next commit")
    }

    /// Ends every pod's containers with at most `grace` and takes their sandboxes down; the objects stay in the API.
    pub async fn end_pods(&self, grace: Duration) -> Result<(), EndPodsError> {
        let _ = grace;
        todo!("lands with the next commit")
    }

    /// Resolves when the node has stopped after `shutdown`.
    pub async fn stopped(&self) {
        todo!("lands with the next commit")
    }
}

/// Kills and removes all pods' processes, cgroups, mounts and folders of an instance that isn't running; goes on past errors.
pub async fn purge(
    data_dir: &Path,
    run_dir: &Path,
    log_dir: &Path,
    cgroup_root: &str,
) -> Result<(), PurgeError> {
    let _ = (data_dir, run_dir, log_dir, cgroup_root);
    todo!("lands with the next commit")
}
