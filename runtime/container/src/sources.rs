//! Host paths to descriptors: done by who sees the host's mounts (the agent, `kernelet-oci`), so that
//! the shim's small mount namespace needs none of them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{
    ContainerPlan, IdMapSource, IdMappings, MountFlags, MountPlan, MountSource, Propagation,
    Rootfs, SourceLink,
};
use kernelet_sys::{
    SysError, fd,
    mount::{self, Locks},
    root,
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{CreateError, ErrorKind, error::During, mounts::locks};

/// Mounts that aren't anywhere yet.
#[derive(Debug)]
pub struct Sources {
    pub root: OwnedFd,
    /// By index in the plan's mounts; those from the host only. For a bind from the root itself, the user
    /// namespace that maps its ids.
    pub mounts: BTreeMap<usize, OwnedFd>,
}

/// Opens everything of the plan that lies on the host.
pub fn open_sources(plan: &ContainerPlan) -> Result<Sources, CreateError> {
    let mut maps = IdMaps::default();
    let root = open_root(&plan.rootfs, plan.root.propagation, &mut maps)
        .during(|| "the container's root".into())?;
    let mut mounts = BTreeMap::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let opened = match &mount.source {
            MountSource::Host {
                path,
                sub_path,
                recursive,
            } => {
                let from = (path.as_path(), sub_path.as_deref(), *recursive);
                open_host(from, mount, locks(plan), &mut maps)
            }
            // The bind itself is made where the container's mounts are; a table of ids only here, where
            // ids of the host can be mapped.
            MountSource::Root { .. } => match &mount.extra.id_map {
                None => continue,
                Some(map) => mount::id_map_namespace(&map.ids).map_err(CreateError::from),
            },
            _ => continue,
        };
        let source = opened.during(|| format!("the mount at {}", mount.destination.display()))?;
        mounts.insert(index, source);
    }
    Ok(Sources { root, mounts })
}

/// The user namespaces behind idmapped mounts: mostly one, however many mounts there are.
#[derive(Default)]
struct IdMaps(Vec<(IdMapSource, OwnedFd)>);

impl IdMaps {
    fn of(&mut self, ids: &IdMapSource) -> Result<BorrowedFd<'_>, SysError> {
        let index = match self.0.iter().position(|(known, _)| known == ids) {
            Some(index) => index,
            None => {
                self.0.push((ids.clone(), mount::id_map_namespace(ids)?));
                self.0.len() - 1
            }
        };
        Ok(self.0[index].1.as_fd())
    }
}

fn open_root(
    rootfs: &Rootfs,
    propagation: Propagation,
    maps: &mut IdMaps,
) -> Result<OwnedFd, CreateError> {
    match rootfs {
        Rootfs::Path(path) => {
            let source = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            let copy = mount::copy_tree(source.as_fd(), true)?;
            match propagation {
                // What the host mounts below the root shows in the container.
                Propagation::HostToContainer | Propagation::TopSlave | Propagation::SlaveShared => {
                    let flags = MountFlags::default();
                    mount::set_attributes(copy.as_fd(), flags, Propagation::HostToContainer)?;
                }
                // Shared and unbindable are said inside, when it is the root.
                _ => mount::make_private(copy.as_fd())?,
            }
            Ok(copy)
        }
        Rootfs::Overlay {
            lower,
            upper,
            work,
            ids: None,
        } => Ok(mount::overlay(lower, upper, work, MountFlags::default())?),
        Rootfs::Overlay {
            lower,
            upper,
            work,
            ids: Some(ids),
        } => {
            let of = |list, kind| {
                let unmapped = || format!("the user namespace maps no {kind} 0");
                IdMappings::to_host(list, 0)
                    .ok_or_else(|| CreateError::new(ErrorKind::Invalid, unmapped()))
            };
            let owner = (of(&ids.uids, "uid")?, of(&ids.gids, "gid")?);
            let namespace = maps.of(&IdMapSource::of(ids))?;
            Ok(mount::overlay_of_mapped(
                lower, upper, work, namespace, owner,
            )?)
        }
    }
}

fn open_host(
    (path, sub_path, recursive): (&Path, Option<&Path>, bool),
    plan: &MountPlan,
    locks: Locks,
    maps: &mut IdMaps,
) -> Result<OwnedFd, CreateError> {
    let link = plan.extra.source_link;
    let follow = match link {
        SourceLink::Followed => OFlag::empty(),
        SourceLink::Mounted | SourceLink::Copied => OFlag::O_NOFOLLOW,
    };
    let mut source = fd::open(path, OFlag::O_PATH | follow, 0)?;
    if link == SourceLink::Copied && is_symlink(source.as_fd())? {
        // Its text is all that is wanted of it.
        return Ok(source);
    }
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
    if let Some(map) = &plan.extra.id_map {
        mount::set_id_map(copy.as_fd(), maps.of(&map.ids)?, map.recursive)?;
    }
    mount::set_attributes_with(copy.as_fd(), plan.flags, plan.propagation, locks)?;
    Ok(copy)
}

pub(crate) fn is_symlink(fd: BorrowedFd<'_>) -> Result<bool, SysError> {
    let stat =
        nix::sys::stat::fstat(fd).map_err(|e| SysError::new("look at a mount's source", e))?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// A copy of a part of a mount that this process's namespace has (a pod volume), for one container; with the ids that
/// a user namespace gives those of its files.
pub fn copy_for(
    volume: &OwnedFd,
    sub_path: Option<&Path>,
    flags: MountFlags,
    ids: Option<BorrowedFd<'_>>,
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
    if let Some(namespace) = ids {
        mount::set_id_map(copy.as_fd(), namespace, false)?;
    }
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)?;
    Ok(copy)
}
