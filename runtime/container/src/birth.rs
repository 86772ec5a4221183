//! How a container's process comes into its namespaces, when the kernel can't make them all in the one clone.
//!
//! ```text
//! no user namespace, or the caller's own   parent ──clone3(new ones)──► child
//! a new user namespace                     parent ──clone3(user + new ones)──► child, waits ◄─ ids ── parent
//! a user namespace that exists, or a new   parent ──clone3──► stage: enters, shifts the clocks
//! time namespace                             ▲                  └─clone3(new ones, as the parent's child)──► child
//!                                            └────── its pidfd ─────┘
//! ```
//! The order is the kernel's: the user namespace comes first, because it owns what is made after it; what belongs to
//! the host is entered before it, because from inside nobody may. A new time namespace is only its maker's children's.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{ContainerPlan, IdMappings, NamespaceOf};
use kernelet_sys::{
    cgroup::Join,
    fd, mount, namespace as ns, net_device,
    process::{self, Forked, Process},
    socket, user_namespace,
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    CreateError, Descriptors, ErrorKind,
    create::in_pid_namespace,
    error::During,
    report::{self, ChildEnd, Heard},
};

/// The namespaces that few containers join, and where their sources are opened.
#[derive(Debug, Default)]
pub struct Joined {
    /// `Pod` or `Path`: it is entered before anything that it owns.
    pub user: Option<OwnedFd>,
    pub mount: Option<OwnedFd>,
    pub time: Option<OwnedFd>,
    /// The caller may not copy mounts: the child opens the plan's sources itself, in the mount namespace that is
    /// its own. `Descriptors::root` is then only the folder.
    pub sources_in_child: bool,
}

impl Joined {
    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> {
        let all = [&self.user, &self.mount, &self.time];
        all.into_iter().flatten().map(AsRawFd::as_raw_fd)
    }
}

/// Which side this is, and the child's end of the line.
pub(crate) enum Born {
    Child(ChildEnd),
    Parent(Process),
}

/// Makes the child, in its namespaces and with its ids.
pub(crate) fn born(
    plan: &ContainerPlan,
    d: &mut Descriptors,
    line: &OwnedFd,
    end: OwnedFd,
) -> Result<Born, CreateError> {
    let of = &plan.namespaces;
    let flags = new_ones(of);
    let own_user = of.user == NamespaceOf::New;
    let staged = d.joined.user.is_some() || of.time == NamespaceOf::New;
    let end = ChildEnd(end);
    if staged {
        return by_stage(plan, d, line, end, flags);
    }
    let visit = match own_user {
        true => Visit::begin(d)?,
        false => Visit::default(),
    };
    let v2 = d.join.v2.as_ref().map(AsFd::as_fd);
    let user = if own_user { ns::NEWUSER } else { 0 };
    let forked = in_pid_namespace(&d.pid, &d.own_pid, || {
        // SAFETY: callers of this crate have one thread, so the child may do what it likes.
        unsafe { process::clone3(flags | user, v2) }
    });
    let forked = match forked {
        Ok(Forked::Child) => Ok(Forked::Child),
        other => visit.end().and(other),
    };
    match forked? {
        Forked::Child => {
            if own_user && let Err(error) = settle(&end) {
                give_up(&end, &error.into());
            }
            Ok(Born::Child(end))
        }
        Forked::Parent(process) => {
            drop(end);
            let prepared = match own_user {
                true => map(plan, process.pid)
                    .and_then(|()| prepare(plan, d, &process))
                    .and_then(|()| Ok(socket::send(line.as_fd(), b"S", &[])?)),
                false => prepare(plan, d, &process),
            };
            kept(process, prepared)
        }
    }
}

/// Waits for the ids, and takes root's. Who has the same ids and sees this process may not look into it.
pub(crate) fn settle(end: &ChildEnd) -> kernelet_sys::Result<()> {
    end.wait_for_go()?;
    user_namespace::become_root()?;
    process::set_not_dumpable()
}

fn kept(process: Process, prepared: Result<(), CreateError>) -> Result<Born, CreateError> {
    if let Err(error) = prepared {
        report::discard(&process);
        return Err(error);
    }
    Ok(Born::Parent(process))
}

/// The flags of all that is new, but for the user and time namespaces.
fn new_ones(of: &kernelet_spec::Namespaces) -> u64 {
    let kinds = [
        (&of.mount, ns::NEWNS),
        (&of.pid, ns::NEWPID),
        (&of.net, ns::NEWNET),
        (&of.ipc, ns::NEWIPC),
        (&of.uts, ns::NEWUTS),
    ];
    let new = kinds.iter().filter(|(of, _)| **of == NamespaceOf::New);
    new.fold(0, |flags, (_, flag)| flags | flag)
}

fn map(plan: &ContainerPlan, pid: i32) -> Result<(), CreateError> {
    let mappings = plan.namespaces.mappings.as_ref().ok_or_else(|| {
        CreateError::new(ErrorKind::Invalid, "a new user namespace has no mappings")
    })?;
    Ok(user_namespace::write_mappings(pid, mappings)?)
}

/// What only the parent may do, while the child waits or builds: rights over the host's things end at a user
/// namespace's border.
fn prepare(plan: &ContainerPlan, d: &Descriptors, process: &Process) -> Result<(), CreateError> {
    if !plan.net_devices.is_empty() {
        move_devices(plan, d, process.pid)?;
    }
    if plan.namespaces.user == NamespaceOf::Host {
        return Ok(());
    }
    let pid = process.pid;
    if let Some(score) = plan.process.oom_score_adj {
        set_oom_score(pid, score)?;
    }
    if let (Some(mappings), Some(stdio)) = (&plan.namespaces.mappings, &d.stdio) {
        give_pipes(plan, mappings, stdio);
    }
    Ok(())
}

/// The limits of a process in a user namespace, who can't raise its own any more. When it is ready: until then it may
/// need more, of descriptors for one.
pub(crate) fn limit(plan: &ContainerPlan, process: &Process) -> Result<(), CreateError> {
    if plan.namespaces.user == NamespaceOf::Host {
        return Ok(());
    }
    for limit in &plan.process.rlimits {
        process::set_rlimit_of(process.pid, &limit.name, limit.soft, limit.hard)?;
    }
    Ok(())
}

pub(crate) fn set_oom_score(pid: i32, score: i32) -> Result<(), CreateError> {
    let proc = mount::proc_of(pid)?;
    Ok(fd::write_at(
        proc.as_fd(),
        "oom_score_adj",
        &score.to_string(),
    )?)
}

/// Pipes become the container's user's: inside, whoever made them has no id, and nobody could reopen
/// `/dev/stdout`. Where the caller may not (an ordinary user), they are its own already.
fn give_pipes(plan: &ContainerPlan, mappings: &IdMappings, stdio: &[OwnedFd; 3]) {
    let kernelet_spec::NameOrId::Id(id) = plan.process.user.user else {
        return;
    };
    let Some(uid) = IdMappings::to_host(&mappings.uids, id) else {
        return;
    };
    for end in stdio {
        let is_pipe = nix::sys::stat::fstat(end)
            .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
        if is_pipe {
            let _ = nix::unistd::fchown(end, Some(uid.into()), None);
        }
    }
}

fn move_devices(plan: &ContainerPlan, d: &Descriptors, pid: i32) -> Result<(), CreateError> {
    let open = |who: &str| {
        let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        ns::open(proc.as_fd(), who, "net")
    };
    let own = open("self")?;
    let target = match (&plan.namespaces.net, &d.net) {
        (NamespaceOf::New, _) | (_, None) => open(&pid.to_string())?,
        (_, Some(joined)) => joined
            .try_clone()
            .map_err(|e| kernelet_sys::SysError::io("duplicate a network namespace", &e))?,
    };
    for (name, new_name) in &plan.net_devices {
        net_device::move_device(name, new_name, target.as_fd(), own.as_fd())
            .during(|| "linux.netDevices".into())?;
    }
    Ok(())
}

/// Namespaces of the host's that the parent is in while it clones: a child in a new user namespace could not
/// enter them any more.
#[derive(Default)]
struct Visit {
    back: Vec<(OwnedFd, u64)>,
}

impl Visit {
    fn begin(d: &mut Descriptors) -> Result<Visit, CreateError> {
        let mut visit = Visit::default();
        let slots = [
            (&mut d.net, ns::NEWNET, "net"),
            (&mut d.ipc, ns::NEWIPC, "ipc"),
            (&mut d.uts, ns::NEWUTS, "uts"),
            (&mut d.cgroup, ns::NEWCGROUP, "cgroup"),
        ];
        for (slot, kind, name) in slots {
            let Some(target) = slot else {
                continue;
            };
            let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            let own = ns::open(proc.as_fd(), "self", name)?;
            match ns::enter(target.as_fd(), kind) {
                Ok(()) => {
                    visit.back.push((own, kind));
                    *slot = None;
                }
                // Perhaps the child may.
                Err(e) if e.errno == Errno::EPERM => {}
                Err(e) => return visit.end().and(Err(e.into())),
            }
        }
        Ok(visit)
    }

    fn end(self) -> Result<(), CreateError> {
        for (own, kind) in self.back {
            ns::enter(own.as_fd(), kind)?;
        }
        Ok(())
    }
}

/// The way over a stage: a process that enters what the child is to be born in, and then makes the child as the
/// parent's.
fn by_stage(
    plan: &ContainerPlan,
    d: &mut Descriptors,
    line: &OwnedFd,
    end: ChildEnd,
    flags: u64,
) -> Result<Born, CreateError> {
    let own_user = plan.namespaces.user == NamespaceOf::New;
    let first = if own_user { ns::NEWUSER } else { 0 };
    let visit = match own_user {
        true => Visit::begin(d)?,
        false => Visit::default(),
    };
    let v2 = d.join.v2.as_ref().map(AsFd::as_fd);
    // SAFETY: callers of this crate have one thread, so the child may do what it likes.
    let forked = unsafe { process::clone3(first, v2) };
    let forked = match forked {
        Ok(Forked::Child) => Ok(Forked::Child),
        other => visit.end().and(Ok(other?)),
    };
    let stage = match forked? {
        Forked::Child => {
            match on_stage(plan, d, &end, flags) {
                Ok(()) => return Ok(Born::Child(end)),
                Err(error) => give_up(&end, &error),
            };
        }
        Forked::Parent(stage) => stage,
    };
    drop(end);
    let mapped = match own_user {
        true => map(plan, stage.pid),
        false => Ok(()),
    };
    let process = mapped
        .and_then(|()| Ok(socket::send(line.as_fd(), b"S", &[])?))
        .and_then(|()| report::hear_of_child(line.as_fd()));
    // Its work is done, or there is none.
    report::discard(&stage);
    let process = process?;
    let prepared = check_mappings(plan, process.pid)
        .and_then(|()| prepare(plan, d, &process))
        .and_then(|()| Ok(socket::send(line.as_fd(), b"S", &[])?));
    kept(process, prepared)
}

/// Says why and ends this process, which is none that the caller of this crate knows.
fn give_up(end: &ChildEnd, error: &CreateError) -> ! {
    end.fail(error);
    // SAFETY: ends the process at once, without the destructors of the parent it is a copy of.
    unsafe { libc::_exit(127) }
}

/// Comes back in the child alone.
fn on_stage(
    plan: &ContainerPlan,
    d: &mut Descriptors,
    end: &ChildEnd,
    flags: u64,
) -> Result<(), CreateError> {
    end.wait_for_go()?;
    let of = &plan.namespaces;
    let enters_user = d.joined.user.is_some();
    if enters_user {
        // Before others in there see it.
        process::set_not_dumpable()?;
    }
    enter_all(d, enters_user)?;
    if let Some(user) = d.joined.user.take() {
        ns::enter(user.as_fd(), ns::NEWUSER)?;
        enter_all(d, false)?;
    }
    if of.time == NamespaceOf::New {
        ns::unshare(ns::NEWTIME)?;
        let offsets = of.time_offsets.text();
        if !offsets.is_empty() {
            // Before this becomes the namespace's root, to whom the file would not belong.
            let proc = fd::open(
                Path::new("/proc/self"),
                OFlag::O_PATH | OFlag::O_DIRECTORY,
                0,
            )?;
            fd::write_at(proc.as_fd(), "timens_offsets", &offsets)
                .during(|| "linux.timeOffsets".into())?;
        }
    }
    if enters_user || of.user == NamespaceOf::New {
        user_namespace::become_root()?;
        process::set_not_dumpable()?;
    }
    leave_to_sibling(flags, end)
}

/// The stage's last step: makes the child as the parent's, tells of it and ends. Comes back in the child, when the
/// parent has heard.
fn leave_to_sibling(flags: u64, end: &ChildEnd) -> Result<(), CreateError> {
    // SAFETY: this copy of the caller has its one thread.
    match unsafe { process::clone3_sibling(flags) }? {
        Forked::Child => Ok(end.wait_for_go()?),
        Forked::Parent(child) => {
            end.child(&child)?;
            // SAFETY: ends the process at once, without the destructors of the parent it is a copy of.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Enters what is there by descriptor; what isn't allowed yet stays for later, if there is one.
fn enter_all(d: &mut Descriptors, later: bool) -> Result<(), CreateError> {
    let slots = [
        (&mut d.pid, ns::NEWPID),
        (&mut d.net, ns::NEWNET),
        (&mut d.ipc, ns::NEWIPC),
        (&mut d.uts, ns::NEWUTS),
        (&mut d.cgroup, ns::NEWCGROUP),
        (&mut d.joined.time, ns::NEWTIME),
    ];
    for (slot, kind) in slots {
        let Some(target) = slot else {
            continue;
        };
        match ns::enter(target.as_fd(), kind) {
            Ok(()) => *slot = None,
            Err(e) if e.errno == Errno::EPERM && later => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A bundle may say what the namespace that it joins has; then it must be so.
fn check_mappings(plan: &ContainerPlan, pid: i32) -> Result<(), CreateError> {
    let (NamespaceOf::Path(_), Some(wanted)) = (&plan.namespaces.user, &plan.namespaces.mappings)
    else {
        return Ok(());
    };
    let sorted = |list: &[kernelet_spec::IdMapping]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    let found = user_namespace::read_mappings(pid)?;
    if sorted(&found.uids) == sorted(&wanted.uids) && sorted(&found.gids) == sorted(&wanted.gids) {
        return Ok(());
    }
    Err(CreateError::new(
        ErrorKind::Invalid,
        "user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one",
    ))
}

/// Makes a child in a user namespace that exists and in `others` that it owns, with new ones by `flags`, in the cgroups
/// of `join`. Comes back on both sides.
pub fn clone_inside(
    user: BorrowedFd<'_>,
    others: &[(BorrowedFd<'_>, u64)],
    flags: u64,
    join: &Join,
) -> Result<Forked, CreateError> {
    let (line, end) = socket::pair()?;
    let end = ChildEnd(end);
    // SAFETY: callers of this crate have one thread, so the child may do what it likes.
    let stage = match unsafe { process::clone3(0, join.v2.as_ref().map(AsFd::as_fd)) }? {
        Forked::Child => match stage_inside(user, others, flags, join, &end) {
            Ok(()) => return Ok(Forked::Child),
            Err(error) => give_up(&end, &error),
        },
        Forked::Parent(stage) => stage,
    };
    drop(end);
    let child = report::hear_of_child(line.as_fd());
    report::discard(&stage);
    let child = child?;
    match socket::send(line.as_fd(), b"S", &[]) {
        Ok(()) => Ok(Forked::Parent(child)),
        Err(error) => {
            report::discard(&child);
            Err(error.into())
        }
    }
}

/// Comes back in the child alone.
fn stage_inside(
    user: BorrowedFd<'_>,
    others: &[(BorrowedFd<'_>, u64)],
    flags: u64,
    join: &Join,
    end: &ChildEnd,
) -> Result<(), CreateError> {
    // Before others in there see it.
    process::set_not_dumpable()?;
    join.enter_v1()?;
    for (namespace, kind) in others {
        ns::enter(*namespace, *kind)?;
    }
    ns::enter(user, ns::NEWUSER)?;
    user_namespace::become_root()?;
    process::set_not_dumpable()?;
    leave_to_sibling(flags, end)
}

/// How exec's process comes into a container when the caller isn't the host's root: a process that need not come back
/// enters the container's user namespace, if it has one of its own, and then may enter the others.
pub(crate) fn born_beside(
    d: &crate::ExecDescriptors,
    line: &OwnedFd,
    end: OwnedFd,
) -> Result<Born, CreateError> {
    let end = ChildEnd(end);
    // SAFETY: callers of this crate have one thread, so the child may do what it likes.
    let stage = match unsafe { process::clone3(0, d.join.v2.as_ref().map(AsFd::as_fd)) }? {
        Forked::Child => match enter_beside(d, &end) {
            Ok(()) => return Ok(Born::Child(end)),
            Err(error) => give_up(&end, &error),
        },
        Forked::Parent(stage) => stage,
    };
    drop(end);
    let process = socket::send(line.as_fd(), b"S", &[])
        .map_err(CreateError::from)
        .and_then(|()| report::hear_of_child(line.as_fd()));
    report::discard(&stage);
    let process = process?;
    let told = socket::send(line.as_fd(), b"S", &[]).map_err(CreateError::from);
    kept(process, told)
}

fn enter_beside(d: &crate::ExecDescriptors, end: &ChildEnd) -> Result<(), CreateError> {
    end.wait_for_go()?;
    // Before those in there see it.
    process::set_not_dumpable()?;
    if d.inside.user {
        ns::enter(d.container.as_fd(), ns::NEWUSER)?;
        user_namespace::become_root()?;
        process::set_not_dumpable()?;
    }
    enter_owned(d, ns::NEWPID)?;
    leave_to_sibling(0, end)
}

/// Enters those of a process's namespaces that its user namespace owns. Those of the host it shares with this
/// process, or nobody in there may enter them.
pub(crate) fn enter_owned(d: &crate::ExecDescriptors, kinds: u64) -> Result<(), CreateError> {
    let all = [
        ns::NEWPID,
        ns::NEWTIME,
        ns::NEWNET,
        ns::NEWIPC,
        ns::NEWUTS,
        ns::NEWCGROUP,
        ns::NEWNS,
    ];
    for kind in all.into_iter().filter(|kind| kinds & kind != 0) {
        match ns::enter(d.container.as_fd(), kind) {
            Err(e) if e.errno == Errno::EPERM && kind != ns::NEWNS => {}
            other => other?,
        }
    }
    Ok(())
}

/// What a stage says instead of having made the child.
pub(crate) fn unexpected(heard: &Heard) -> CreateError {
    let what = match heard {
        Heard::Closed => "the process that prepares the namespaces died",
        _ => "the process that prepares the namespaces said something unknown",
    };
    CreateError::new(ErrorKind::Kernel, what)
}
