//! The agent: wires reflectors, plan, maps and links together and is the node's pod network.

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use kernelet_attach::{AttachError, AttachRequest, Attached, PodId, PodNetwork};
use tokio_util::sync::CancellationToken;

use crate::{NetConfig, StartError};

/// The running pod network of one node.
pub struct NetAgent {}

impl NetAgent {
    /// Loads or adopts the eBPF programs, puts the node's links and routes in place, proves the
    /// path with a canary connection and starts following the API. It does not wait for the API.
    pub async fn start(
        config: NetConfig,
        shutdown: CancellationToken,
    ) -> Result<Arc<NetAgent>, StartError> {
        let _ = (config, shutdown);
        todo!()
    }
}

impl PodNetwork for NetAgent {
    fn attach(&self, _request: AttachRequest) -> BoxFuture<'_, Result<Attached, AttachError>> {
        todo!()
    }

    fn detach<'a>(&'a self, _pod: &'a PodId) -> BoxFuture<'a, Result<(), AttachError>> {
        todo!()
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<(PodId, Attached)>, AttachError>> {
        todo!()
    }

    fn unavailable(&self) -> Option<String> {
        todo!()
    }
}

/// Takes away everything that the instance's network left on the machine (links, routes, nftables
/// table, pins, sysctls); goes on past errors and returns all of them.
pub fn purge(instance_id: &str, run_dir: &Path) -> Vec<String> {
    let _ = (instance_id, run_dir);
    todo!()
}
