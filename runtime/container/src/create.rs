//! The parent's side of a container's creation.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use kernelet_spec::{ContainerPlan, IdMappings};
use kernelet_sys::{
    cgroup::Join,
    namespace as ns,
    process::{self, Forked, Process},
    seccomp::Filter,
    socket, user_namespace,
};

use crate::{
    CgroupView, CreateError, ErrorKind, InsideHooks, Joined, Listener, attributes,
    birth::{self, Born},
    child, listener,
    report::{self, ChildEnd, Heard},
};

/// How long mounts and namespaces may take before the attempt is given up.
const READY_WITHIN: Duration = Duration::from_secs(25);
/// How long an exec may take: the kernel reads the program.
const EXEC_WITHIN: Duration = Duration::from_secs(25);

/// What a container is made from, beside its plan.
#[derive(Debug)]
pub struct Descriptors {
    /// The root's mount, not yet attached.
    pub root: OwnedFd,
    /// By index in the plan's mounts.
    pub sources: BTreeMap<usize, OwnedFd>,
    /// To be entered, as far as the plan says `Pod` or `Path`.
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
    pub cgroup: Option<OwnedFd>,
    pub joined: Joined,
    pub join: Join,
    pub cgroup_view: CgroupView,
    /// stdin, stdout, stderr; `None` with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// A folder in the caller's mount namespace where the root may be attached.
    pub place: PathBuf,
    /// The caller's own pid namespace, for the way back after entering another.
    pub own_pid: Option<OwnedFd>,
    /// OCI's exec fifo, open for reading and writing: a byte from it, not the parent's word, is the go.
    pub fifo: Option<OwnedFd>,
    pub filter: Option<Filter>,
    /// Who decides on the calls that the filter leaves to another process.
    pub listener: Option<Listener>,
    /// So many descriptors from 3 on, which the caller has inherited, stay open for the program
    /// (`--preserve-fds`).
    pub preserve: u16,
    /// A session keyring of the container's own: with the caller's, its programs could use keys of
    /// whoever started the runtime.
    pub new_keyring: bool,
    /// Hooks that run in the container's namespaces.
    pub hooks: Option<InsideHooks>,
    /// Whether somebody waits between the mounts and the pivot: the parent's own hooks, or those of `hooks`.
    pub stop_before_pivot: bool,
    /// The root moves over the old one, which `pivot_root` can't leave when it is a ramdisk (`--no-pivot`).
    pub no_pivot: bool,
}

/// A container whose process waits.
#[derive(Debug)]
pub struct Waiting {
    pub process: Process,
    line: OwnedFd,
    /// The controlling end, when the plan has a terminal.
    pub terminal: Option<OwnedFd>,
    exec_within: Duration,
}

/// How long the child may take. Its hooks have limits of their own, or none.
pub(crate) struct Limits {
    ready: Duration,
    exec: Duration,
}

impl Limits {
    pub(crate) const PLAIN: Limits = Limits {
        ready: READY_WITHIN,
        exec: EXEC_WITHIN,
    };

    fn of(descriptors: &Descriptors) -> Limits {
        const HOOKS: Duration = Duration::from_secs(24 * 3600);
        let mut limits = Limits::PLAIN;
        if let Some(hooks) = &descriptors.hooks {
            if !hooks.create_container.is_empty() {
                limits.ready = HOOKS;
            }
            if !hooks.start_container.is_empty() {
                limits.exec = HOOKS;
            }
        }
        limits
    }
}

impl Waiting {
    pub(crate) fn new(
        process: Process,
        line: OwnedFd,
        limits: Limits,
        listener: Option<Listener>,
        before_pivot: impl FnOnce(&Process) -> Result<(), CreateError>,
    ) -> Result<Self, CreateError> {
        let mut heard = report::hear(line.as_fd(), READY_WITHIN);
        if let Ok(Heard::BeforePivot) = heard {
            let went =
                before_pivot(&process).and_then(|()| Ok(socket::send(line.as_fd(), b"S", &[])?));
            heard = went.and_then(|()| report::hear(line.as_fd(), limits.ready));
        }
        if let Ok(Heard::Listening(number)) = heard {
            let went = listener::hand_over(&process, number, listener.as_ref())
                .and_then(|()| Ok(socket::send(line.as_fd(), b"S", &[])?));
            heard = went.and_then(|()| report::hear(line.as_fd(), READY_WITHIN));
        }
        match heard {
            Ok(Heard::Ready(terminal)) => Ok(Waiting {
                process,
                line,
                terminal,
                exec_within: limits.exec,
            }),
            Ok(Heard::Closed | Heard::BeforePivot | Heard::Child(_) | Heard::Listening(_)) => {
                report::discard(&process);
                Err(CreateError::new(
                    ErrorKind::Kernel,
                    "the new process died before it was ready",
                ))
            }
            Err(error) => {
                report::discard(&process);
                Err(error)
            }
        }
    }

    /// Lets it execute its program. Without success the process is gone and reaped.
    pub fn start(self) -> Result<(Process, Option<OwnedFd>), CreateError> {
        if let Err(error) = socket::send(self.line.as_fd(), b"S", &[]) {
            report::discard(&self.process);
            return Err(error.into());
        }
        match report::hear(self.line.as_fd(), self.exec_within) {
            // The line is close-on-exec: its end is the program's beginning. (Or the process was
            // killed; then its exit says so.)
            Ok(Heard::Closed) => Ok((self.process, self.terminal)),
            Ok(Heard::Ready(_) | Heard::BeforePivot | Heard::Child(_) | Heard::Listening(_)) => {
                report::discard(&self.process);
                Err(CreateError::new(
                    ErrorKind::Kernel,
                    "the new process was ready twice",
                ))
            }
            Err(error) => {
                report::discard(&self.process);
                Err(error)
            }
        }
    }

    /// Lets go of the line without a word: for a process that waits at a fifo instead.
    pub fn release(self) -> (Process, Option<OwnedFd>) {
        (self.process, self.terminal)
    }
}

/// Makes the container's process and waits until it is ready to be started.
pub fn create(plan: &ContainerPlan, descriptors: Descriptors) -> Result<Waiting, CreateError> {
    create_beside(plan, descriptors, || Ok(()))
}

/// The same, with something that must be done before the container's program begins, but not before its process
/// does: it runs here while that builds its root. When it fails, the process is ended.
pub fn create_beside(
    plan: &ContainerPlan,
    descriptors: Descriptors,
    beside: impl FnOnce() -> kernelet_sys::Result<()>,
) -> Result<Waiting, CreateError> {
    create_hooked(plan, descriptors, beside, |_| Ok(()))
}

/// The same, with what the caller does between the mounts and the pivot, when the descriptors say that there is
/// something. When it fails, the process is ended.
pub fn create_hooked(
    plan: &ContainerPlan,
    descriptors: Descriptors,
    beside: impl FnOnce() -> kernelet_sys::Result<()>,
    before_pivot: impl FnOnce(&Process) -> Result<(), CreateError>,
) -> Result<Waiting, CreateError> {
    attributes::check_host(&plan.process.attributes)?;
    let mut descriptors = descriptors;
    let (line, end) = socket::pair()?;
    match birth::born(plan, &mut descriptors, &line, end)? {
        Born::Child(end) => child::container(plan, descriptors, end),
        Born::Parent(process) => {
            let limits = Limits::of(&descriptors);
            let listener = descriptors.listener.take();
            drop(descriptors);
            if let Err(error) = beside() {
                report::discard(&process);
                return Err(error.into());
            }
            let waiting = Waiting::new(process, line, limits, listener, before_pivot)?;
            match birth::limit(plan, &waiting.process) {
                Ok(()) => Ok(waiting),
                Err(error) => {
                    report::discard(&waiting.process);
                    Err(error)
                }
            }
        }
    }
}

/// Runs a clone while new children go to another pid namespace. The parent comes back in any case:
/// its later children would be born there.
pub(crate) fn in_pid_namespace(
    target: &Option<OwnedFd>,
    own: &Option<OwnedFd>,
    clone: impl FnOnce() -> kernelet_sys::Result<Forked>,
) -> Result<Forked, CreateError> {
    let (Some(target), Some(own)) = (target, own) else {
        return Ok(clone()?);
    };
    ns::enter(target.as_fd(), ns::NEWPID)?;
    let forked = clone();
    match &forked {
        Ok(Forked::Child) => {}
        _ => ns::enter(own.as_fd(), ns::NEWPID)?,
    }
    Ok(forked?)
}

/// Where a short-lived child runs.
#[derive(Default)]
pub struct Child<'a> {
    /// Its new namespaces.
    pub flags: u64,
    /// The tables of its user namespace, when that is among them.
    pub ids: Option<&'a IdMappings>,
    /// Descriptors that it needs; the others it closes.
    pub keep: &'a [BorrowedFd<'a>],
}

/// Runs steps in a short-lived child, and `with` in this process while the child still holds its namespaces.
pub fn in_child<T>(
    Child { flags, ids, keep }: Child<'_>,
    steps: impl FnOnce() -> Result<(), CreateError>,
    with: impl FnOnce(&Process) -> Result<T, kernelet_sys::SysError>,
) -> Result<T, CreateError> {
    let (line, end) = socket::pair()?;
    // SAFETY: callers of this crate have one thread, so the child may do what it likes.
    match unsafe { process::clone3(flags, None) }? {
        Forked::Child => {
            let end = ChildEnd(end);
            let mut keep: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
            keep.push(end.number());
            let settled = match ids {
                Some(_) => birth::settle(&end),
                None => Ok(()),
            };
            let result = settled
                .map_err(CreateError::from)
                .and_then(|()| child::isolate_with(&mut keep))
                .and_then(|()| steps())
                .and_then(|()| Ok(end.ready(None)?));
            match result {
                // Until the parent has what it wants of this process, and lets go of the line.
                Ok(()) => drop(end.wait_for_go()),
                Err(error) => end.fail(&error),
            }
            // SAFETY: ends the process at once, without the destructors of the parent it is a copy of.
            unsafe { libc::_exit(0) }
        }
        Forked::Parent(process) => {
            drop(end);
            let mapped = match ids {
                Some(ids) => user_namespace::write_mappings(process.pid, ids)
                    .and_then(|()| socket::send(line.as_fd(), b"S", &[])),
                None => Ok(()),
            };
            let heard = mapped
                .map_err(CreateError::from)
                .and_then(|()| report::hear(line.as_fd(), READY_WITHIN));
            let result = match heard {
                Ok(Heard::Ready(_)) => with(&process).map_err(CreateError::from),
                Ok(Heard::Closed | Heard::BeforePivot | Heard::Child(_) | Heard::Listening(_)) => {
                    Err(CreateError::new(
                        ErrorKind::Kernel,
                        "the child died before it was ready",
                    ))
                }
                Err(error) => Err(error),
            };
            report::discard(&process);
            result
        }
    }
}
