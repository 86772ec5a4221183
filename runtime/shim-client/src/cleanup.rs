//! What remains of a pod whose shim is gone, and how it goes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use kernelet_sys::cgroup::Layout;

use crate::CleanupError;

/// Where a dead pod can have left something. Mounts and namespaces end with their last process.
#[derive(Clone, Debug)]
pub struct Leftovers {
    pub pod: String,
    /// The shim's folder: socket, records.
    pub dir: PathBuf,
    /// Trees of cgroups, the shim's own among them. Everything in them is killed.
    pub cgroups: Vec<String>,
    pub layout: Arc<Layout>,
    /// How long dying processes are waited for.
    pub deadline: Duration,
}

/// Kills what runs in the cgroups, removes them and the folder. Idempotent; continues past errors.
pub async fn cleanup(leftovers: Leftovers) -> Result<(), CleanupError> {
    let _ = leftovers;
    todo!()
}
