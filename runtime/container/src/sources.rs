//! Host paths to descriptors: done by who sees the host's mounts (the agent, `kernelet-oci`), so that
//! the shim's small mount namespace needs none of them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{ContainerPlan, MountFlags, MountPlan, MountSource, Propagation, Rootfs};
use kernelet_sys::{fd, mount, root};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{CreateError, error::During};

/// Mounts that aren't anywhere yet.
#[derive(Debug)]
pub struct Sources {
    pub root: OwnedFd,
    /// By index in the plan's mounts; those from the host only.
    pub mounts: BTreeMap<usize, OwnedFd>,
}

/// Opens everything of the plan that lies on the host.
pub fn open_sources(plan: &ContainerPlan) -> Result<Sources, CreateError> {
    let root = open_root(&plan.rootfs).during(|| "the container's root".into())?;
    let mut mounts = BTreeMap::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let MountSource::Host {
            path,
            sub_path,
            recursive,
        } = &mount.source
        else {
            continue;
        };
        let source = open_host(path, sub_path.as_deref(), *recursive, mount)
            .during(|| format!("the mount at {}", mount.destination.display()))?;
        mounts.insert(index, source);
    }
    Ok(Sources { root, mounts })
}

fn open_root(rootfs: &Rootfs) -> Result<OwnedFd, CreateError> {
    match rootfs {
        Rootfs::Path(path) => {
            let source = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            let copy = mount::copy_tree(source.as_fd(), true)?;
            mount::make_private(copy.as_fd())?;
            Ok(copy)
        }
        Rootfs::Overlay { lower, upper, work } => {
            Ok(mount::overlay(lower, upper, work, MountFlags::default())?)
        }
    }
}

fn open_host(
    path: &Path,
    sub_path: Option<&Path>,
    recursive: bool,
    plan: &MountPlan,
) -> Result<OwnedFd, CreateError> {
    let mut source = fd::open(path, OFlag::O_PATH, 0)?;
    if let Some(sub) = sub_path {
        // The volume's content is the pod's: a symlink in it is walked as if the volume were `/`.
        source = match root::open_in(
            source.as_fd(),
            sub,
            OFlag::O_PATH,
            0,
            root::Symlinks::Inside,
        ) {
            // Kubernetes makes a missing subPath as a folder.
            Err(e) if e.errno == Errno::ENOENT => {
                root::folder(source.as_fd(), sub, root::Symlinks::Inside)?
            }
            other => other?,
        };
    }
    let copy = mount::copy_tree(source.as_fd(), recursive)?;
    mount::set_attributes(copy.as_fd(), plan.flags, plan.propagation)?;
    Ok(copy)
}

/// A copy of a part of a mount that this process's namespace has (a pod volume), for one container.
pub fn copy_for(
    volume: &OwnedFd,
    sub_path: Option<&Path>,
    flags: MountFlags,
) -> Result<OwnedFd, CreateError> {
    let copy = match sub_path {
        None => mount::copy_tree(volume.as_fd(), false)?,
        Some(sub) => {
            let place = root::open_in(
                volume.as_fd(),
                sub,
                OFlag::O_PATH,
                0,
                root::Symlinks::Inside,
            );
            let place = match place {
                Err(e) if e.errno == Errno::ENOENT => {
                    root::folder(volume.as_fd(), sub, root::Symlinks::Inside)?
                }
                other => other?,
            };
            mount::copy_tree(place.as_fd(), false)?
        }
    };
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)?;
    Ok(copy)
}
