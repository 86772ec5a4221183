//! What the controllers are told by whoever starts them.

use kernelet_pki::{Ca, ServiceAccountKeys};
use std::time::Duration;

/// Settings of all controllers; `ControllersConfig::new` has upstream's defaults.
pub struct ControllersConfig {
    /// Signs certificate requests, and is published as `kube-root-ca.crt`.
    pub ca: Ca,
    /// Signs the tokens of `kubernetes.io/service-account-token` Secrets; without it those stay empty.
    pub service_account_keys: Option<ServiceAccountKeys>,
    /// The range that nodes' pod ranges are cut from, one per address family.
    pub cluster_cidrs: Vec<String>,
    /// Prefix length of a node's IPv4 range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub node_mask_v6: u8,
    /// How long a node may be silent before its Ready condition becomes Unknown.
    pub node_grace: Duration,
    /// How many finished pods are kept; the oldest beyond that are deleted.
    pub terminated_pods_kept: usize,
}

impl ControllersConfig {
    pub fn new(ca: Ca, cluster_cidrs: Vec<String>) -> Self {
        Self {
            ca,
            service_account_keys: None,
            cluster_cidrs,
            node_mask_v4: 23,
            node_mask_v6: 64,
            node_grace: Duration::from_secs(50),
            terminated_pods_kept: 12_500,
        }
    }
}
