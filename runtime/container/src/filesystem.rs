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

use crate::{CreateError, Descriptors, ErrorKind, dev, error::During};

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
    let place = fd::open(place, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    mount::attach(d.root.as_fd(), place.as_fd()).during(|| "the container's root".into())?;
    let mut dev_is_ours = false;
    for (index, mount) in plan.mounts.iter().enumerate() {
        let source = d.sources.remove(&index);
        let root = d.root.as_fd();
        add_mount(root, mount, source, &d.cgroup_view)
            .during(|| format!("the mount at {}", mount.destination.display()))?;
        dev_is_ours |= mount.source == MountSource::Dev;
    }
    let root = d.root.as_fd();
    if !dev_is_ours {
        dev::add_nodes(root, &default_nodes())?;
    }
    dev::add_nodes(root, &plan.devices)?;
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
        mount.source == MountSource::Proc && flags.no_suid && flags.no_dev && flags.no_exec
    };
    let index = plan.mounts.iter().position(is_proc)?;
    Some((index, plan.mounts[index].flags))
}

fn add_mount(
    in_root: BorrowedFd<'_>,
    plan: &MountPlan,
    source: Option<OwnedFd>,
    cgroups: &CgroupView,
) -> Result<(), CreateError> {
    let mounted = match &plan.source {
        MountSource::Host { .. } | MountSource::Volume { .. } | MountSource::PodShm => source
            .ok_or_else(|| {
                CreateError::new(ErrorKind::Invalid, "its source was not handed over")
            })?,
        MountSource::Cgroup => return cgroup_mounts(in_root, plan, cgroups),
        own => match source {
            Some(made) => made,
            None => open_own(own, plan.flags)?,
        },
    };
    // procfs and sysfs at a symlink of the image would be somewhere else than everybody believes.
    let symlinks = match plan.source {
        MountSource::Proc | MountSource::Sysfs => Symlinks::Refused,
        _ => Symlinks::Inside,
    };
    let place = match root::is_folder(mounted.as_fd())? {
        true => root::folder(in_root, &plan.destination, symlinks)?,
        false => root::file_place(in_root, &plan.destination, symlinks)?,
    };
    Ok(mount::attach(mounted.as_fd(), place.as_fd())?)
}

/// File systems of the kernel's, made for this container alone.
fn open_own(source: &MountSource, flags: MountFlags) -> Result<OwnedFd, CreateError> {
    let simple = |name: &str| -> Result<OwnedFd, CreateError> {
        let fs = mount::fs_open(name)?;
        fs.set("source", name)?;
        Ok(fs.mount(flags)?)
    };
    match source {
        MountSource::Proc => simple("proc"),
        MountSource::Sysfs => simple("sysfs"),
        MountSource::Mqueue => simple("mqueue"),
        MountSource::Devpts => {
            let fs = mount::fs_open("devpts")?;
            fs.set("source", "devpts")?;
            fs.set("ptmxmode", "0666")?;
            fs.set("mode", "0620")?;
            fs.set("gid", "5")?;
            Ok(fs.mount(flags)?)
        }
        MountSource::Dev => dev::filled(flags),
        MountSource::Tmpfs {
            size_bytes,
            mode,
            uid,
            gid,
        } => Ok(mount::tmpfs(*size_bytes, *mode, (*uid, *gid), flags)?),
        MountSource::Filesystem {
            fs_type,
            source,
            options,
        } => {
            let fs = mount::fs_open(fs_type)?;
            fs.set("source", source)?;
            for (key, value) in options {
                match value {
                    Some(value) => fs.set(key, value)?,
                    None => fs.flag(key)?,
                }
            }
            Ok(fs.mount(flags)?)
        }
        MountSource::Host { .. }
        | MountSource::Volume { .. }
        | MountSource::PodShm
        | MountSource::Cgroup => Err(CreateError::new(
            ErrorKind::Invalid,
            "is not a file system of the kernel's",
        )),
    }
}

/// `/sys/fs/cgroup` as the container's cgroup namespace shows it: on v2 the one tree, else a tmpfs
/// with a folder for each hierarchy. Inside the namespace a hierarchy's root is the container's own
/// group, so `release_agent` doesn't exist there.
fn cgroup_mounts(
    in_root: BorrowedFd<'_>,
    plan: &MountPlan,
    view: &CgroupView,
) -> Result<(), CreateError> {
    let place = root::folder(in_root, &plan.destination, Symlinks::Refused)?;
    let v2 = || -> Result<OwnedFd, CreateError> {
        let fs = mount::fs_open("cgroup2")?;
        fs.set("source", "cgroup")?;
        Ok(fs.mount(plan.flags)?)
    };
    if view.v1.is_empty() {
        return Ok(mount::attach(v2()?.as_fd(), place.as_fd())?);
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
        let mounted = fs.mount(plan.flags)?;
        mount::attach(mounted.as_fd(), folder(&title)?.as_fd())?;
        if controllers.len() > 1 {
            for controller in controllers {
                nix::unistd::symlinkat(title.as_str(), &base, controller.as_str())
                    .map_err(|e| kernelet_sys::SysError::new(format!("link {controller}"), e))?;
            }
        }
    }
    if view.v2 {
        mount::attach(v2()?.as_fd(), folder("unified")?.as_fd())?;
    }
    if plan.flags.read_only {
        mount::set_read_only(base.as_fd())?;
    }
    Ok(())
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
