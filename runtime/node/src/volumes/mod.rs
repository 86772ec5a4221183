//! A pod's volumes: each becomes a folder of the host or a tmpfs that the pod's shim holds.
//!
//! What comes from the API (configMap, secret, projected, downwardAPI) lives in memory only, in the shim's mount
//! namespace, read-only for containers and replaced atomically when its source changes.

mod atomic;
mod gather;
mod host_path;
mod token;

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume};
use kernelet_pod_plan::{Done, FailureReason, Outcome, StepError, Wanted, quantity};
use kernelet_shim_client::VolumePlan;

pub(crate) use token::Tokens;

use crate::{images::blocking, pod::PodHome};

/// How a mounted volume is reached.
#[derive(Clone, Debug)]
pub(crate) enum Mounted {
    Host(PathBuf),
    /// A tmpfs of the shim's. `content`: written by us, so read-only for containers.
    Tmpfs {
        plan: VolumePlan,
        content: bool,
    },
}

/// The volume of the pod's own files (`/etc/hosts` and the like); no Kubernetes name has an underscore. In memory and
/// bounded, so that a container that writes to it fills nothing else.
pub(crate) const OWN_FILES: &str = "_files";
const OWN_FILES_BYTES: u64 = 1 << 20;

fn failed(volume: &str, why: impl std::fmt::Display) -> StepError {
    StepError {
        reason: FailureReason::FailedMount,
        message: format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}"),
    }
}

/// Makes the volume, or finds it again, and writes its content.
pub(crate) async fn mount(home: &Arc<PodHome>, wanted: &Wanted, name: &str) -> Outcome {
    let volume = wanted
        .spec()
        .volumes
        .iter()
        .flatten()
        .find(|v| v.name == name);
    let Some(volume) = volume else {
        return Err(failed(name, "the pod has no such volume"));
    };
    let fs_group = wanted
        .spec()
        .security_context
        .as_ref()
        .and_then(|c| c.fs_group);
    let gid = fs_group.and_then(|g| u32::try_from(g).ok());
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(home, volume, empty, gid).await;
    }
    if let Some(host) = &volume.host_path {
        let (path, type_) = (host.path.clone(), host.type_.clone().unwrap_or_default());
        let checked = blocking(move || host_path::check(&path, &type_)).await?;
        checked.map_err(|e| failed(name, e))?;
        home.set_volume(name, Mounted::Host(PathBuf::from(&host.path)));
        return Ok(Done::Mounted { refresh_at: None });
    }
    content(home, wanted, volume, gid).await
}

async fn empty_dir(
    home: &Arc<PodHome>,
    volume: &Volume,
    empty: &EmptyDirVolumeSource,
    gid: Option<u32>,
) -> Outcome {
    let name = &volume.name;
    match empty.medium.as_deref().unwrap_or_default() {
        "" => {
            let path = home
                .dir()
                .join("volumes/kubernetes.io~empty-dir")
                .join(name);
            let made = path.clone();
            blocking(move || open_dir(&made, gid))
                .await?
                .map_err(|e| failed(name, e))?;
            home.set_volume(name, Mounted::Host(path));
        }
        "Memory" => {
            let limit = empty.size_limit.as_ref().and_then(quantity::value);
            let plan = VolumePlan {
                name: name.clone(),
                size_bytes: limit.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0),
                mode: if gid.is_some() { 0o2777 } else { 0o1777 },
                gid: gid.unwrap_or(0),
            };
            make_tmpfs(home, &plan).await?;
            home.set_volume(
                name,
                Mounted::Tmpfs {
                    plan: plan.clone(),
                    content: false,
                },
            );
        }
        other => {
            return Err(failed(
                name,
                format!("emptyDir medium {other:?} is not implemented"),
            ));
        }
    }
    Ok(Done::Mounted { refresh_at: None })
}

/// Everybody may write, as upstream has it; with fsGroup new files belong to the group. A folder that is there is left
/// as the pod has made it.
fn open_dir(path: &Path, gid: Option<u32>) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    if gid.is_some() {
        chown(path, None, gid)?;
    }
    let mode = if gid.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

async fn make_tmpfs(home: &PodHome, plan: &VolumePlan) -> Result<OwnedFd, StepError> {
    let shim = home
        .await_shim()
        .await
        .ok_or_else(|| failed(&plan.name, "the pod's shim is not there"))?;
    shim.create_volume(plan)
        .await
        .map_err(|e| failed(&plan.name, home.shim_error(&e)))
}

async fn content(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    volume: &Volume,
    gid: Option<u32>,
) -> Outcome {
    let name = volume.name.clone();
    let plan = VolumePlan {
        name: name.clone(),
        size_bytes: None,
        mode: 0o755,
        gid: gid.unwrap_or(0),
    };
    // The content comes from the API while the shim makes the volume.
    let (root, gathered) = tokio::join!(
        make_tmpfs(home, &plan),
        gather::payload(home, wanted, volume)
    );
    let (root, gathered) = (root?, gathered.map_err(|e| failed(&name, e))?);
    let owner = atomic::Ownership {
        uid: gathered.owner,
        gid,
    };
    write(root, gathered.payload, owner)
        .await?
        .map_err(|e| failed(&name, e))?;
    home.set_volume(
        &name,
        Mounted::Tmpfs {
            plan: plan.clone(),
            content: true,
        },
    );
    Ok(Done::Mounted {
        refresh_at: gathered.refresh_at,
    })
}

async fn write(
    root: OwnedFd,
    payload: kernelet_pod_plan::project::Payload,
    owner: atomic::Ownership,
) -> Result<std::io::Result<bool>, StepError> {
    blocking(move || {
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        atomic::write(&path, &payload, owner, Timestamp::now())
    })
    .await
}

/// The pod's own files, written once a sandbox; `files`: name and content.
pub(crate) async fn own_files(
    home: &PodHome,
    files: Vec<(String, String)>,
) -> Result<(), StepError> {
    let plan = VolumePlan {
        name: OWN_FILES.to_owned(),
        size_bytes: Some(OWN_FILES_BYTES),
        mode: 0o755,
        gid: 0,
    };
    let shim = home.need_shim(FailureReason::CreateContainerError)?;
    let root = shim
        .create_volume(&plan)
        .await
        .map_err(|e| failed(&plan.name, home.shim_error(&e)))?;
    let dir = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let written = files.iter().try_for_each(|(name, text)| {
        let path = dir.join(name);
        fs::write(&path, text)?;
        let termination_log = name.starts_with(TERMINATION_LOG);
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(if termination_log { 0o666 } else { 0o644 }),
        )
    });
    written.map_err(|e| StepError {
        reason: FailureReason::CreateContainerError,
        message: format!("write the pod's own files: {e}"),
    })
}

/// Begins the name of a container's termination log among the pod's own files.
pub(crate) const TERMINATION_LOG: &str = "log-";

/// What a container left in its termination log, at most so many bytes.
pub(crate) async fn read_own_file(home: &PodHome, name: &str, limit: u64) -> Option<String> {
    use std::io::Read;
    let plan = VolumePlan {
        name: OWN_FILES.to_owned(),
        size_bytes: Some(OWN_FILES_BYTES),
        mode: 0o755,
        gid: 0,
    };
    let root = home.shim()?.create_volume(&plan).await.ok()?;
    let file = fs::File::open(format!("/proc/self/fd/{}/{name}", root.as_raw_fd())).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a change of the pod's labels or annotations changes this volume.
pub(crate) fn speaks_of_metadata(volume: &Volume) -> bool {
    let projected = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    volume.downward_api.is_some() || projected.into_iter().any(|s| s.downward_api.is_some())
}
