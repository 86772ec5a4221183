//! Everything of an instance that isn't running, taken away: processes, cgroups, folders.

use std::{path::Path, time::Duration};

use kernelet_sys::cgroup::Layout;

use crate::{errors::chain, steps::remove_dir};

/// What could not be removed; everything else was.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove everything of the instance: {}", .left.join("; "))]
pub struct PurgeError {
    pub left: Vec<String>,
}

/// Kills all that runs below `cgroup_root` and removes its cgroups and the pods' folders; goes on past errors. Mounts
/// and namespaces end with their last process. What of the three folders isn't pods' (certificates, the store) is left
/// to the caller, the cgroup root itself is removed.
pub async fn purge(
    data_dir: &Path,
    run_dir: &Path,
    log_dir: &Path,
    cgroup_root: &str,
) -> Result<(), PurgeError> {
    let root = cgroup_root.trim_matches('/').to_owned();
    let folders = [
        data_dir.join("pods"),
        data_dir.join("images"),
        run_dir.join("pods"),
        log_dir.join("pods"),
    ];
    let work = tokio::task::spawn_blocking(move || {
        let mut left = Vec::new();
        // An empty root would be the machine's own.
        if root.is_empty() {
            left.push("the cgroup root is /".to_owned());
        } else if let Err(error) = end_group(&root) {
            left.push(error);
        }
        for folder in folders {
            if let Err(error) = remove_dir(&folder) {
                left.push(format!("remove {}: {error}", folder.display()));
            }
        }
        left
    });
    let left = work.await.unwrap_or_else(|error| vec![chain(&error)]);
    if left.is_empty() {
        Ok(())
    } else {
        Err(PurgeError { left })
    }
}

fn end_group(root: &str) -> Result<(), String> {
    const WITHIN: Duration = Duration::from_secs(10);
    let layout = Layout::detect().map_err(|e| chain(&e))?;
    let group = layout.group(root);
    if !group.exists() {
        return Ok(());
    }
    group.kill().map_err(|e| chain(&e))?;
    if !group.wait_empty(WITHIN).map_err(|e| chain(&e))? {
        return Err(format!(
            "processes below cgroup {root} are still there after SIGKILL"
        ));
    }
    group.remove(WITHIN).map_err(|e| chain(&e))
}
