//! The contract between the runtime, which makes pods, and the pod network, which connects them.
//!
//! The node asks `attach` once the pod's network namespace exists and before its first process runs,
//! and `detach` after its last one has ended. Both are idempotent, so that a restarted agent repeats
//! them without harm. Nothing else crosses this border: the runtime never sees a link, the network
//! never sees a container.

use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A pod's identity, as the API gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodId {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// A container port that the pod asks to have on the node's address (`ports[].hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// `None`: every address of the node.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// What the network needs to connect a pod.
#[derive(Debug)]
pub struct AttachRequest {
    pub pod: PodId,
    /// The pod's network namespace. The network may keep a duplicate while the pod is attached.
    pub netns: Arc<OwnedFd>,
    pub host_ports: Vec<HostPort>,
    /// Addresses that the pod already had (after a restart of the agent); kept where possible.
    pub wanted_ips: Vec<IpAddr>,
}

/// The pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// One address per family; the first is `status.podIP`.
    pub ips: Vec<IpAddr>,
    /// The node's end of the link, for `kernelet status` and logs.
    pub host_link: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("no free address in {range} for pod {pod}")]
    NoAddress { range: String, pod: String },
    #[error("the pod network is not ready: {reason}")]
    NotReady { reason: String },
    #[error("{step} for pod {pod}")]
    Step {
        step: &'static str,
        pod: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The pod network of one node.
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the namespace: when it answers, the pod has its addresses and routes, and Services
    /// are translated for it.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attached, AttachError>>;

    /// Takes away everything `attach` made for the pod. A pod that isn't attached is no error.
    fn detach<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), AttachError>>;

    /// A namespace that isn't a pod's (the node's own) whose sockets shall reach Services too is
    /// the network's own affair; this lists the pods it holds, for reconciliation after a restart.
    fn attached(&self) -> BoxFuture<'_, Result<Vec<(PodId, Attached)>, AttachError>>;

    /// `None` when pods can be connected, or why not: becomes the node's `NetworkUnavailable`
    /// and `Ready` conditions.
    fn unavailable(&self) -> Option<String>;
}
