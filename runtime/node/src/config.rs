//! What a node needs to be told, and why it may refuse to start.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use kernelet_attach::PodNetwork;
use kernelet_client::Informers;
use kernelet_pki::Identity;

use crate::{ImageSettings, Thresholds};

/// One instance's node.
#[derive(Clone)]
pub struct NodeConfig {
    pub node_name: String,
    /// `status.addresses` InternalIP; the kubelet API listens there.
    pub node_ips: Vec<IpAddr>,
    /// 10250 unless told otherwise.
    pub kubelet_port: u16,
    /// `/var/lib/kernelet`: pods' folders at `pods/`, images at `images/`.
    pub data_dir: PathBuf,
    /// `/run/kernelet/<id>`: shims' sockets and records; a tmpfs.
    pub run_dir: PathBuf,
    /// This instance's log folder (`/var/log/kernelet/<id>`): `pods/<ns>_<name>_<uid>/<container>/<n>.log`.
    pub log_dir: PathBuf,
    /// The path below each hierarchy's root under which pods' cgroups live, this instance's id included.
    pub cgroup_root: String,
    pub instance_id: String,
    /// The process's reflectors, on a client with the node's own identity (`system:node:<name>`).
    pub informers: Informers,
    pub network: Arc<dyn PodNetwork>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// Labels beside the standard ones.
    pub labels: Vec<(String, String)>,
    /// Certificate and key of the kubelet API.
    pub serving: Identity,
    /// Whose client certificates the kubelet API believes, PEM.
    pub client_ca_pem: String,
    /// Most pods on this node; 500 unless told otherwise.
    pub max_pods: u32,
    /// How images come and go.
    pub images: ImageSettings,
    /// When it is under pressure.
    pub thresholds: Thresholds,
}

/// Why the node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot {action} {path}")]
    Folder {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot listen on {address} for the kubelet API; is another instance running there? (--node-ip)"
    )]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the kubelet API's certificate cannot be used")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot open the image store")]
    Images(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{step}")]
    Kernel {
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
