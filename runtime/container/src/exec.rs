//! One more process in a running container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use kernelet_spec::{ExecPlan, NamespaceOf, Namespaces};
use kernelet_sys::{
    SysError, attributes as sys,
    cgroup::Join,
    fd, mount, namespace as ns,
    process::{self, Forked},
    seccomp::Filter,
    socket, user_namespace,
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    CreateError, ErrorKind, Listener, Waiting,
    attributes::{self, Labels},
    birth::{self, Born},
    child::{self, Last, Stdio},
    create::{Limits, in_pid_namespace},
    report::ChildEnd,
};

/// What an exec is made from, beside its plan.
#[derive(Debug)]
pub struct ExecDescriptors {
    /// The container's first process: its namespaces are entered through it.
    pub container: OwnedFd,
    pub join: Join,
    /// `None` with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    pub own_pid: Option<OwnedFd>,
    pub filter: Option<Filter>,
    /// Who decides on the calls that the filter leaves to another process.
    pub listener: Option<Listener>,
    /// So many inherited descriptors from 3 on stay open for the program.
    pub preserve: u16,
    pub inside: Inside,
}

/// Which namespaces the container has that most have not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    pub user: bool,
    pub time: bool,
}

impl Inside {
    pub fn of(namespaces: &Namespaces) -> Self {
        Inside {
            user: namespaces.user != NamespaceOf::Host,
            time: namespaces.time != NamespaceOf::Host,
        }
    }
}

/// Makes the process and waits until it is ready to be started.
pub fn exec(plan: &ExecPlan, descriptors: ExecDescriptors) -> Result<Waiting, CreateError> {
    let wish = &plan.process.attributes;
    attributes::check_host(wish)?;
    let (line, end) = socket::pair()?;
    // Where this process runs, so does its child; the cgroup's CPUs come with the clone.
    let affinity = wish.exec_cpu_affinity.clone().unwrap_or_default();
    let before = match &affinity.initial {
        Some(initial) => {
            let before = sys::affinity()?;
            sys::set_affinity(initial, "error setting initial CPU affinity")?;
            Some(before)
        }
        None => None,
    };
    // Only the host's root has rights in all namespaces from outside, and can come back from another PID namespace.
    let staged = !nix::unistd::geteuid().is_root() || user_namespace::inside();
    let born = match staged {
        true => birth::born_beside(&descriptors, &line, end),
        false => born(&descriptors, end),
    };
    let is_child = matches!(born, Ok(Born::Child(_)));
    if let (Some(before), false) = (before, is_child) {
        sys::set_affinity(&before, "go back to the runtime's CPUs")?;
    }
    match born {
        Ok(Born::Child(end)) => exec_child(plan, descriptors, end, staged),
        Ok(Born::Parent(process)) => {
            if let Err(error) = prepare(plan, descriptors.inside, process.pid) {
                crate::report::discard(&process);
                return Err(error);
            }
            let listener = descriptors.listener;
            Waiting::new(process, line, Limits::PLAIN, listener, |_| Ok(()))
        }
        Err(error) if error.errno == Some(Errno::ESRCH) => Err(gone()),
        Err(error) => Err(error),
    }
}

fn born(d: &ExecDescriptors, end: OwnedFd) -> Result<Born, CreateError> {
    let target = Some(
        d.container
            .try_clone()
            .map_err(|e| SysError::io("duplicate the container's descriptor", &e))?,
    );
    let v2 = d.join.v2.as_ref().map(AsFd::as_fd);
    let forked = in_pid_namespace(&target, &d.own_pid, || {
        // SAFETY: callers of this crate have one thread, so the child may do what it likes.
        unsafe { process::clone3(0, v2) }
    })?;
    Ok(match forked {
        Forked::Child => Born::Child(ChildEnd(end)),
        Forked::Parent(process) => Born::Parent(process),
    })
}

/// What the process may not do any more once it is in a user namespace.
fn prepare(plan: &ExecPlan, inside: Inside, pid: i32) -> Result<(), CreateError> {
    if !inside.user {
        return Ok(());
    }
    if let Some(score) = plan.process.oom_score_adj {
        birth::set_oom_score(pid, score)?;
    }
    for limit in &plan.process.rlimits {
        process::set_rlimit_of(pid, &limit.name, limit.soft, limit.hard)?;
    }
    Ok(())
}

fn gone() -> CreateError {
    CreateError::new(ErrorKind::Gone, "the container is not running")
}

fn exec_child(plan: &ExecPlan, descriptors: ExecDescriptors, line: ChildEnd, staged: bool) -> ! {
    let error = match become_exec(plan, descriptors, &line, staged) {
        Ok(never) => match never {},
        Err(error) if error.errno == Some(Errno::ESRCH) => gone(),
        Err(error) => error,
    };
    line.fail(&error);
    // SAFETY: ends the process at once, without the destructors of the parent it is a copy of.
    unsafe { libc::_exit(127) }
}

fn become_exec(
    plan: &ExecPlan,
    mut d: ExecDescriptors,
    line: &ChildEnd,
    staged: bool,
) -> Result<std::convert::Infallible, CreateError> {
    let mut keep = vec![line.number(), d.container.as_raw_fd()];
    keep.extend(d.join.v2.iter().map(AsRawFd::as_raw_fd));
    keep.extend(d.join.v1.iter().map(AsRawFd::as_raw_fd));
    keep.extend(d.stdio.iter().flatten().map(AsRawFd::as_raw_fd));
    keep.extend(d.own_pid.iter().map(AsRawFd::as_raw_fd));
    keep.extend(child::preserved(d.preserve));
    // Before the container's namespaces are entered: from then on its processes see this one.
    child::isolate_with(&mut keep)?;
    d.join.enter_v1()?;
    process::new_session_keyring()?;
    let wish = &plan.process.attributes;
    if wish.exec_cpu_affinity.is_none() {
        sys::reset_affinity();
    }
    if let Some(after) = wish
        .exec_cpu_affinity
        .as_ref()
        .and_then(|a| a.after.as_ref())
    {
        // In the container's cgroup by now, which may have CPUs of its own.
        sys::set_affinity(after, "error setting final CPU affinity")?;
    }
    if !d.inside.user && plan.process.oom_score_adj.is_some() {
        let proc = mount::private_proc()?;
        child::set_oom_score(plan.process.oom_score_adj, proc.as_fd())?;
    }
    let labels = Labels::open_alone(wish)?;
    let mut kinds = ns::NEWNS | ns::NEWNET | ns::NEWIPC | ns::NEWUTS | ns::NEWCGROUP;
    if d.inside.time {
        kinds |= ns::NEWTIME;
    }
    match d.inside.user {
        _ if staged => birth::enter_owned(&d, kinds)?,
        false => ns::enter(d.container.as_fd(), kinds)?,
        true => {
            // The user namespace last: from inside, what belongs to the host couldn't be entered.
            ns::enter(d.container.as_fd(), kinds)?;
            ns::enter(d.container.as_fd(), ns::NEWUSER)?;
            user_namespace::become_root()?;
        }
    }
    let root = fd::open(
        std::path::Path::new("/"),
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        0,
    )?;
    let (control, stdio) = match plan.terminal {
        true => {
            let (control, end) = child::open_terminal(root.as_fd())?;
            (Some(control), Stdio::Terminal(end))
        }
        false => {
            let stdio = d.stdio.take();
            let stdio =
                stdio.ok_or_else(|| CreateError::new(ErrorKind::Invalid, "stdio is missing"))?;
            (None, Stdio::Pipes(stdio))
        }
    };
    let last = Last {
        stdio,
        control,
        fifo: None,
        filter: d.filter.take(),
        preserve: d.preserve,
        hooks: None,
        labels,
        limits: match d.inside.user {
            false => child::Limits::Own,
            true => child::Limits::SetByParent,
        },
        cwd: child::MissingCwd::Refused,
        has_cpuset: false,
    };
    drop(d);
    child::finish(&plan.process, root, last, line)
}
