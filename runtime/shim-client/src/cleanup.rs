//! What remains of a pod whose shim is gone, and how it goes.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

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
    let pod = leftovers.pod.clone();
    let task = tokio::task::spawn_blocking(move || clean(&leftovers));
    let failures = match task.await {
        Ok(failures) => failures,
        Err(e) => vec![format!("the clean-up itself ended: {e}")],
    };
    match failures.is_empty() {
        true => Ok(()),
        false => Err(CleanupError { pod, failures }),
    }
}

fn clean(leftovers: &Leftovers) -> Vec<String> {
    let mut failures = Vec::new();
    // All are killed before any is waited for: they may hold each other.
    for path in &leftovers.cgroups {
        if let Err(e) = leftovers.layout.group(path).kill() {
            failures.push(line(&e));
        }
    }
    for path in &leftovers.cgroups {
        let group = leftovers.layout.group(path);
        match group.wait_empty(leftovers.deadline) {
            Ok(true) => {}
            Ok(false) => failures.push(format!("processes in the cgroup {path} outlive SIGKILL")),
            Err(e) => failures.push(line(&e)),
        }
        if let Err(e) = group.remove(leftovers.deadline) {
            failures.push(line(&e));
        }
    }
    match std::fs::remove_dir_all(&leftovers.dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            failures.push(format!("remove {}: {e}", leftovers.dir.display()));
        }
        _ => {}
    }
    failures
}

/// An error with its cause in one line.
pub(crate) fn line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", line(source)),
        None => error.to_string(),
    }
}
