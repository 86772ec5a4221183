//! The container's view of files: root, mounts, what is masked and what is read-only. Runs in the
//! child, in its own mount namespace, before the pivot.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{ContainerPlan, MountFlags, MountPlan, MountSource, Propagation};
use kernelet_sys::{
    fd, mount,
    root::{self, Symlinks},
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{CreateError, Descriptors, dev, error::During, mounts::Mounter};

/// How the host's cgroup hierarchies show inside: name of the folder below `/sys/fs/cgroup`, and the
/// options of the mount. Empty: v2 alone, mounted there itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CgroupView {
    /// Controllers of each v1 hierarchy, and its name if it has one.
    pub v1: Vec<(Vec<String>, Option<String>)>,
    pub v2: bool,
}

impl CgroupView {
    pub fn of(layout: &kernelet_sys::cgroup::Layout) -> Self {
        CgroupView {
            v1: layout
                .v1
                .iter()
                .map(|h| (h.controllers.clone(), h.name.clone()))
                .collect(),
            v2: layout.v2.is_some(),
        }
    }
}

/// Attaches the root at its place and everything inside it. `proc` is the child's private procfs.
pub(crate) fn build(
    plan: &ContainerPlan,
    d: &mut Descriptors,
    place: &Path,
) -> Result<(), CreateError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let place = match fd::open(place, flags, 0) {
        // The user namespace's root may not go where the bundle lies. The root can be attached anywhere: on top of
        // the old one it is as well placed.
        Err(e) if e.errno == Errno::EACCES => fd::open(Path::new("/"), flags, 0)?,
        other => other?,
    };
    mount::attach(d.root.as_fd(), place.as_fd()).during(|| "the container's root".into())?;
    // What is mounted below the root from now on goes nowhere else, whatever the root itself receives.
    let mut dev = Dev::Missing;
    for (index, mount) in plan.mounts.iter().enumerate() {
        let source = d.sources.remove(&index);
        let mounter = Mounter {
            root: d.root.as_fd(),
            plan,
            cgroups: &d.cgroup_view,
        };
        mounter
            .add(mount, source)
            .during(|| format!("the mount at {}", mount.destination.display()))?;
        if mount.destination == Path::new("/dev") {
            dev = match &mount.source {
                MountSource::Dev => Dev::Filled,
                MountSource::Host { .. } | MountSource::Root { .. } => Dev::Bound,
                _ => Dev::Missing,
            };
        }
    }
    populate(plan, d.root.as_fd(), dev)
}

/// What the root has as `/dev`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dev {
    /// Whatever the image or an empty file system has.
    Missing,
    /// Ours, with the default nodes in it.
    Filled,
    /// A part of the host's, which is left as it is.
    Bound,
}

fn populate(plan: &ContainerPlan, root: BorrowedFd<'_>, dev: Dev) -> Result<(), CreateError> {
    let own: Vec<_> = match dev {
        Dev::Bound => {
            let outside = |node: &&kernelet_spec::DeviceNode| !node.path.starts_with("/dev");
            plan.devices.iter().filter(outside).cloned().collect()
        }
        _ => plan.devices.clone(),
    };
    if dev == Dev::Missing || (dev == Dev::Filled && dev::needs_binds()) {
        // One that the bundle lists has the mode and owner that it gives.
        let listed = |node: &kernelet_spec::DeviceNode| own.iter().any(|o| o.path == node.path);
        let defaults: Vec<_> = default_nodes().into_iter().filter(|n| !listed(n)).collect();
        dev::add_nodes(root, &defaults)?;
    }
    dev::add_nodes(root, &own)?;
    if dev == Dev::Missing {
        dev::add_links(root)?;
    }
    if dev != Dev::Bound
        && let Some(mount) = plan
            .mounts
            .iter()
            .find(|mount| mount.destination == Path::new("/dev") && mount.flags.read_only)
    {
        // Only now: its nodes were made in it.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let place = root::open_in(root, &mount.destination, flags, 0, Symlinks::Inside)?;
        mount::set_read_only(place.as_fd())?;
    }
    Ok(())
}

/// OCI's default devices for a bundle that doesn't ask for a `/dev` of ours.
fn default_nodes() -> Vec<kernelet_spec::DeviceNode> {
    let node = |name: &str, major, minor| kernelet_spec::DeviceNode {
        path: Path::new("/dev").join(name),
        kind: kernelet_spec::DeviceKind::Char,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    vec![
        node("null", 1, 3),
        node("zero", 1, 5),
        node("full", 1, 7),
        node("random", 1, 8),
        node("urandom", 1, 9),
        node("tty", 5, 0),
    ]
}

/// The procfs of the plan that a private one can become, with the flags it then gets: one that is at
/// least as bounded.
pub(crate) fn proc_to_share(plan: &ContainerPlan) -> Option<(usize, MountFlags)> {
    let is_proc = |mount: &MountPlan| {
        let flags = mount.flags;
        let plain = mount.propagation == Propagation::Private && flags.recursive_set.is_empty();
        mount.source == MountSource::Proc && plain && flags.no_suid && flags.no_dev && flags.no_exec
    };
    let index = plan.mounts.iter().position(is_proc)?;
    Some((index, plan.mounts[index].flags))
}

/// What the root's mount is told when it has become the root: said before, it would be told to the host.
pub(crate) fn finish_root(plan: &ContainerPlan, root: BorrowedFd<'_>) -> Result<(), CreateError> {
    let told = match plan.root.propagation {
        Propagation::Private | Propagation::HostToContainer | Propagation::TopSlave => Ok(()),
        wish @ (Propagation::Bidirectional | Propagation::Unbindable) => {
            mount::set_attributes(root, MountFlags::default(), wish)
        }
        Propagation::SlaveShared => {
            mount::set_attributes(root, MountFlags::default(), Propagation::Bidirectional)
        }
        wish @ (Propagation::TopShared | Propagation::TopUnbindable) => {
            mount::set_propagation(root, wish)
        }
    };
    told.during(|| "linux.rootfsPropagation".into())
}

/// Hides and write-protects. What isn't there needs neither.
pub(crate) fn protect(plan: &ContainerPlan, in_root: BorrowedFd<'_>) -> Result<(), CreateError> {
    for path in &plan.readonly_paths {
        protect_one(in_root, path).during(|| format!("make {} read-only", path.display()))?;
    }
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        mask(in_root, path, &mut empty).during(|| format!("mask {}", path.display()))?;
    }
    Ok(())
}

fn existing(in_root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, CreateError> {
    match root::open_in(in_root, path, OFlag::O_PATH, 0, Symlinks::Inside) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn protect_one(in_root: BorrowedFd<'_>, path: &Path) -> Result<(), CreateError> {
    let Some(place) = existing(in_root, path)? else {
        return Ok(());
    };
    let copy = mount::copy_tree(place.as_fd(), true)?;
    let flags = MountFlags {
        recursive_read_only: true,
        ..MountFlags::default()
    };
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)?;
    Ok(mount::attach(copy.as_fd(), place.as_fd())?)
}

/// Folders get an empty read-only tmpfs (one for all), files the null device.
fn mask(
    in_root: BorrowedFd<'_>,
    path: &Path,
    empty: &mut Option<OwnedFd>,
) -> Result<(), CreateError> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Masks) {
        return Ok(());
    }
    let Some(place) = existing(in_root, path)? else {
        return Ok(());
    };
    if !root::is_folder(place.as_fd())? {
        let null = root::open_in(
            in_root,
            Path::new("/dev/null"),
            OFlag::O_PATH,
            0,
            Symlinks::Refused,
        )?;
        fd::check_null(null.as_fd())?;
        let copy = mount::copy_tree(null.as_fd(), false)?;
        return Ok(mount::attach(copy.as_fd(), place.as_fd())?);
    }
    if let Some(first) = empty {
        let copy = mount::copy_tree(first.as_fd(), false)?;
        return Ok(mount::attach(copy.as_fd(), place.as_fd())?);
    }
    let flags = MountFlags {
        read_only: true,
        ..MountFlags::KERNEL
    };
    let tmpfs = mount::tmpfs(Some(4096), 0o555, (0, 0), flags)?;
    mount::attach(tmpfs.as_fd(), place.as_fd())?;
    *empty = Some(tmpfs);
    Ok(())
}
