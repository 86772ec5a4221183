//! What a creation starts from: the place of its group, and every descriptor.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_container::{CgroupView, Descriptors};
use kernelet_spec::{ContainerId, ContainerPlan, NamespaceOf, Resources, Rootfs};
use kernelet_sys::{
    cgroup::{Join, Layout},
    fd, namespace as ns,
};
use nix::fcntl::OFlag;
use oci_spec::runtime::Spec;

use crate::{
    cli::{Global, Manager},
    create::Wait,
    filters,
    flags::Given,
    rootless,
    state::{Folder, Place},
    systemd::Unit,
};

/// Who makes the group, and, with systemd, where: `linux.cgroupsPath` becomes the path of the unit's group.
pub fn place(global: &Global, spec: &mut Spec, id: &ContainerId) -> Result<Place> {
    let mut place = Place {
        cgroup: None,
        unit: None,
    };
    let Some(linux) = spec.linux_mut() else {
        return Ok(place);
    };
    match global.manager {
        Manager::Cgroupfs => {}
        // Nothing will be made: what the container sees as its own is the caller's.
        Manager::Disabled => {
            linux.set_cgroups_path(Some(own_group()?.into()));
        }
        Manager::Systemd => {
            let path = linux.cgroups_path().clone().unwrap_or_default();
            let unit = Unit::of(&path.to_string_lossy(), id, global.rootless_cgroups())?;
            linux.set_cgroups_path(Some(unit.cgroup()?.into()));
            place.unit = Some(unit);
        }
    }
    Ok(place)
}

/// This process's group: in the v2 tree, or in the first hierarchy.
fn own_group() -> Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("find the own cgroup")?;
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    let first = || {
        text.lines()
            .next()
            .and_then(|line| line.splitn(3, ':').nth(2))
    };
    Ok(v2.or_else(first).unwrap_or("/").to_owned())
}

/// A group of this name that somebody else uses, or that is frozen, would make the container what it isn't.
pub fn check_free(place: &Place, layout: &Layout) -> Result<()> {
    let Some(path) = &place.cgroup else {
        return Ok(());
    };
    let group = layout.group(path);
    if !group.exists() {
        return Ok(());
    }
    match group.pids_of_tree()?.len() {
        0 => {}
        count => bail!("container's cgroup is not empty: {count} process(es) found"),
    }
    match group.frozen() {
        Ok(true) => bail!("container's cgroup unexpectedly frozen"),
        _ => Ok(()),
    }
}

/// Makes the container's group, with its limits but for the devices. An ordinary user who can't, and hasn't asked for
/// a place or a limit either, goes without one, as with runc.
pub fn make_group(
    global: &Global,
    place: &mut Place,
    plan: &ContainerPlan,
    spec: &Spec,
    layout: &Layout,
) -> Result<()> {
    let limits = Resources {
        devices: None,
        ..plan.resources.clone()
    };
    let Some(path) = &place.cgroup else {
        return match limits == Resources::default() {
            true => Ok(()),
            false => bail!("cannot set limits: the cgroup manager is disabled"),
        };
    };
    let group = layout.group(path);
    let error = match group.create(&limits).and_then(|()| group.join()) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if !(global.rootless_cgroups() && rootless::denied(error.errno)) {
        return Err(error).context("unable to apply cgroup configuration");
    }
    let asked = spec
        .linux()
        .as_ref()
        .is_some_and(|linux| linux.cgroups_path().is_some());
    if asked || limits != Resources::default() {
        let error = anyhow!("{error}: {}", error.errno.desc());
        return Err(error.context("cannot set limits: container could not join or create cgroup"));
    }
    place.cgroup = None;
    Ok(())
}

pub fn rootfs(plan: &ContainerPlan) -> PathBuf {
    match &plan.rootfs {
        Rootfs::Path(path) => path.clone(),
        Rootfs::Overlay { upper, .. } => upper.clone(),
    }
}

/// The group of Intel's resource control that is made for this container alone.
pub fn rdt(spec: &Spec, id: &ContainerId) -> Option<PathBuf> {
    let wish = spec.linux().as_ref()?.intel_rdt().as_ref()?;
    let own = wish.clos_id().as_ref().is_none_or(String::is_empty);
    own.then(|| Path::new("/sys/fs/resctrl").join(id.as_str()))
}

/// Everything the container's process begins with. Hooks and inherited descriptors are the caller's to add.
pub fn descriptors(
    global: &Global,
    folder: &Folder,
    given: &Given,
    wait: Wait,
    plan: &ContainerPlan,
    place: &Place,
    layout: &Layout,
) -> Result<Descriptors> {
    rootless::check(plan)?;
    let (sources, joined) = rootless::sources(plan)?;
    let fifo = match wait {
        Wait::ForWord => None,
        Wait::AtFifo => {
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
            nix::unistd::mkfifo(&folder.fifo(), mode).context("make the exec fifo")?;
            Some(fd::open(&folder.fifo(), OFlag::O_RDWR, 0)?)
        }
    };
    let path = |wish: &NamespaceOf| match wish {
        NamespaceOf::Path(path) => fd::open(path, OFlag::O_RDONLY, 0).map(Some),
        _ => Ok(None),
    };
    let of = &plan.namespaces;
    let pid = path(&of.pid)?;
    let filter = filters::filter_for(global, &plan.process)?;
    Ok(Descriptors {
        root: sources.root,
        sources: sources.mounts,
        net: path(&of.net)?,
        ipc: path(&of.ipc)?,
        uts: path(&of.uts)?,
        cgroup: path(&of.cgroup)?,
        own_pid: own_pid(&pid)?,
        pid,
        joined,
        join: join(place, layout)?,
        cgroup_view: CgroupView::of(layout),
        stdio: if plan.terminal { None } else { Some(stdio()?) },
        // The root is attached where it lies, in the container's own mount namespace only.
        place: match &plan.rootfs {
            Rootfs::Path(path) => path.clone(),
            Rootfs::Overlay { work, .. } => work.clone(),
        },
        fifo,
        filter,
        listener: None,
        preserve: 0,
        new_keyring: !given.on("no-new-keyring"),
        hooks: None,
        stop_before_pivot: false,
        no_pivot: given.on("no-pivot"),
    })
}

/// What a process needs to enter the container's group; without one it stays where it is.
pub fn join(place: &Place, layout: &Layout) -> Result<Join> {
    match &place.cgroup {
        Some(path) => Ok(layout.group(path).join()?),
        None => Ok(Join {
            v2: None,
            v1: Vec::new(),
        }),
    }
}

/// The way back from another pid namespace, where one is entered.
fn own_pid(target: &Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let Some(_) = target else {
        return Ok(None);
    };
    let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    Ok(Some(ns::open(proc.as_fd(), "self", "pid")?))
}

/// Copies of this process's own three.
pub fn stdio() -> Result<[OwnedFd; 3]> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context("duplicate stdio");
    Ok([
        copy(std::io::stdin().as_fd())?,
        copy(std::io::stdout().as_fd())?,
        copy(std::io::stderr().as_fd())?,
    ])
}
