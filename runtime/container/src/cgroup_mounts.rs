//! `/sys/fs/cgroup` as the container sees it: on v2 the one tree, else a tmpfs with a folder for each
//! hierarchy. Inside a cgroup namespace of the container's own, a hierarchy's root is its own group, so that
//! `release_agent` doesn't exist there; without one, only its group is shown of v1.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{MountFlags, MountPlan, NamespaceOf, Propagation};
use kernelet_sys::{
    SysError,
    cgroup::Layout,
    fd, mount,
    root::{self, Symlinks},
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{CreateError, ErrorKind, mounts::Mounter};

pub(crate) fn add(mounter: &Mounter<'_>, plan: &MountPlan) -> Result<(), CreateError> {
    let view = mounter.cgroups;
    let place = root::folder(mounter.root, &plan.destination, Symlinks::Refused)?;
    if view.v1.is_empty() {
        let tree = finish(v2(mounter, plan)?, plan)?;
        return Ok(mount::attach(tree.as_fd(), place.as_fd())?);
    }
    let base = mount::tmpfs(
        Some(64 << 10),
        0o755,
        (0, 0),
        MountFlags {
            read_only: false,
            ..plan.flags
        },
    )?;
    mount::attach(base.as_fd(), place.as_fd())?;
    let folder = |name: &str| root::folder(base.as_fd(), Path::new(name), Symlinks::Refused);
    for (controllers, name) in &view.v1 {
        let fs = mount::fs_open("cgroup")?;
        fs.set("source", "cgroup")?;
        let title = match name {
            Some(name) => {
                fs.flag("none")?;
                fs.set("name", name)?;
                name.clone()
            }
            None => controllers.join(","),
        };
        for controller in controllers {
            fs.flag(controller)?;
        }
        let hierarchy = if mounter.plan.namespaces.cgroup == NamespaceOf::Host {
            bound(mounter, Some((controllers, name.as_deref())), plan.flags)?
        } else {
            match fs.mount(plan.flags) {
                // A cgroup namespace that is not this user namespace's.
                Err(e) if e.errno == Errno::EPERM => {
                    bound(mounter, Some((controllers, name.as_deref())), plan.flags)?
                }
                other => other?,
            }
        };
        let hierarchy = finish(hierarchy, plan)?;
        mount::attach(hierarchy.as_fd(), folder(&title)?.as_fd())?;
        if controllers.len() > 1 {
            for controller in controllers {
                nix::unistd::symlinkat(title.as_str(), &base, controller.as_str())
                    .map_err(|e| SysError::new(format!("link {controller}"), e))?;
            }
        }
    }
    if view.v2 {
        let tree = match mounter.plan.namespaces.cgroup {
            NamespaceOf::Host => bound(mounter, None, plan.flags)?,
            _ => v2(mounter, plan)?,
        };
        let tree = finish(tree, plan)?;
        mount::attach(tree.as_fd(), folder("unified")?.as_fd())?;
    }
    if plan.flags.read_only {
        mount::set_read_only(base.as_fd())?;
    }
    Ok(())
}

/// What is asked for beyond the flags of a new mount.
fn finish(made: OwnedFd, plan: &MountPlan) -> Result<OwnedFd, CreateError> {
    let flags = plan.flags;
    let more = !flags.recursive_set.is_empty() || !flags.recursive_clear.is_empty();
    if more || plan.propagation != Propagation::Private {
        mount::set_attributes(made.as_fd(), flags, plan.propagation)?;
    }
    Ok(made)
}

fn v2(mounter: &Mounter<'_>, plan: &MountPlan) -> Result<OwnedFd, CreateError> {
    let fs = mount::fs_open("cgroup2")?;
    fs.set("source", "cgroup")?;
    match fs.mount(plan.flags) {
        // In a user namespace without a cgroup namespace the tree can't be mounted anew: then a part of
        // the host's is shown.
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::EBUSY) => {
            let path = Path::new("/sys/fs/cgroup");
            let path = match mounter.plan.namespaces.cgroup {
                NamespaceOf::Host => path.to_owned(),
                _ => path.join(mounter.plan.cgroup.trim_start_matches('/')),
            };
            let source = fd::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            let copy = mount::copy_tree(source.as_fd(), true)?;
            mount::set_attributes(copy.as_fd(), plan.flags, Propagation::Private)?;
            Ok(copy)
        }
        other => Ok(other?),
    }
}

/// The container's own group of a hierarchy (of v1 by controllers and name, else v2), bound from where the host has it
/// mounted: a part of a mount that is in no namespace yet can't be copied before kernel 6.15, and a user namespace may
/// not mount a hierarchy anew. Without a group of its own (rootless, undelegated) it is the creator's that is shown.
fn bound(
    mounter: &Mounter<'_>,
    v1: Option<(&[String], Option<&str>)>,
    flags: MountFlags,
) -> Result<OwnedFd, CreateError> {
    let layout = Layout::detect().map_err(|e| {
        let source = std::error::Error::source(&e).map_or(String::new(), |s| format!(": {s}"));
        CreateError::new(
            ErrorKind::Kernel,
            format!("look at the cgroup mounts: {e}{source}"),
        )
    })?;
    let place = match v1 {
        Some((controllers, name)) => layout
            .v1
            .iter()
            .find(|h| h.controllers == controllers && h.name.as_deref() == name)
            .map(|h| &h.mount),
        None => layout.v2.as_ref(),
    };
    let gone = || SysError::new("find the hierarchy's mount", Errno::ENOENT);
    let tree = fd::open(
        place.ok_or_else(gone)?,
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        0,
    )?;
    match part_of(tree.as_fd(), &mounter.plan.cgroup, flags) {
        Err(e) if e.errno == Errno::ENOENT => {
            let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let own = groups.lines().find_map(|line| {
                let (listed, path) = line.split_once(':')?.1.split_once(':')?;
                let wanted = match v1 {
                    Some((_, Some(name))) => format!("name={name}"),
                    Some((controllers, None)) => controllers.join(","),
                    None => String::new(),
                };
                (listed == wanted).then(|| path.to_owned())
            });
            Ok(part_of(tree.as_fd(), &own.ok_or_else(gone)?, flags)?)
        }
        other => Ok(other?),
    }
}

fn part_of(tree: BorrowedFd<'_>, path: &str, flags: MountFlags) -> Result<OwnedFd, SysError> {
    let open = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let group = root::open_in(tree, Path::new(path), open, 0, Symlinks::Refused)?;
    let copy = mount::copy_tree(group.as_fd(), false)?;
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)?;
    Ok(copy)
}
