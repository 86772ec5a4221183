//! The node: the kubelet's part of the cluster.
//!
//! **Invariant:** one task owns each pod; the pure `kernelet_pod_plan` decides, this crate only executes.
//! **Invariant:** the network is met only through `kernelet_attach`, containers only through their shims.

mod config;
mod handle;

pub use config::{NodeConfig, StartError};
pub use handle::{EndPodsError, Node, NodeHandle, NodeReport, PodReport, PurgeError, purge};
