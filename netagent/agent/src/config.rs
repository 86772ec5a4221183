//! What the agent is told when it starts, and why it may not start.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use kernelet_net_plan::Cidr;

/// Everything that `NetAgent::start` needs to know.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's identity at the API server; the agent watches Services, EndpointSlices and its own Node.
    pub client: kube::Client,
    pub node_name: String,
    /// The address that pods and Services see as the node's (`--node-ip`).
    pub node_ip: IpAddr,
    /// Names everything global to the machine: pins, nftables table, link aliases.
    pub instance_id: String,
    /// This node's pod ranges; empty: taken from the Node's `spec.podCIDRs` as soon as they are there.
    pub pod_cidrs: Vec<Cidr>,
    /// The whole cluster's pod ranges: traffic among them is never masqueraded.
    pub cluster_cidrs: Vec<Cidr>,
    pub service_cidrs: Vec<Cidr>,
    /// The cluster DNS's Service address.
    pub dns_address: IpAddr,
    pub cluster_domain: String,
    /// Pod links' MTU; `None`: the uplink's.
    pub mtu: Option<u32>,
    /// `/run/kernelet/<id>`: holds the record of what purge has to restore.
    pub run_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("bring up the data plane")]
    Maps(#[from] kernelet_maps::LoadError),
    #[error("write the data plane's maps")]
    Entry(#[from] kernelet_maps::EntryError),
    #[error("serve the uplinks")]
    Uplinks {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("set up the node's network")]
    Link(#[from] kernelet_link::LinkError),
    #[error("{step}")]
    Io {
        step: String,
        #[source]
        source: std::io::Error,
    },
    #[error("start the cluster DNS on {address}")]
    Dns {
        address: SocketAddr,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "a connection through the data plane did not reach its backend, so Services would not work: {reason}"
    )]
    Canary { reason: String },
}
