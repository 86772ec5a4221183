//! One more process in a running container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use kernelet_spec::ExecPlan;
use kernelet_sys::{
    cgroup::Join,
    fd, mount, namespace as ns,
    process::{self, Forked},
    seccomp::Filter,
    socket,
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    CreateError, ErrorKind, Waiting,
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
    /// So many inherited descriptors from 3 on stay open for the program.
    pub preserve: u16,
}

/// Makes the process and waits until it is ready to be started.
pub fn exec(plan: &ExecPlan, descriptors: ExecDescriptors) -> Result<Waiting, CreateError> {
    let (line, end) = socket::pair()?;
    let target = Some(
        descriptors
            .container
            .try_clone()
            .map_err(|e| kernelet_sys::SysError::io("duplicate the container's descriptor", &e))?,
    );
    let v2 = descriptors.join.v2.as_ref().map(AsFd::as_fd);
    let forked = in_pid_namespace(&target, &descriptors.own_pid, || {
        // SAFETY: callers of this crate have one thread, so the child may do what it likes.
        unsafe { process::clone3(0, v2) }
    });
    match forked {
        Ok(Forked::Child) => exec_child(plan, descriptors, ChildEnd(end)),
        Ok(Forked::Parent(process)) => {
            drop(end);
            drop(descriptors);
            Waiting::new(process, line, Limits::PLAIN, |_| Ok(()))
        }
        Err(error) if error.errno == Some(Errno::ESRCH) => Err(gone()),
        Err(error) => Err(error),
    }
}

fn gone() -> CreateError {
    CreateError::new(ErrorKind::Gone, "the container is not running")
}

fn exec_child(plan: &ExecPlan, descriptors: ExecDescriptors, line: ChildEnd) -> ! {
    let error = match become_exec(plan, descriptors, &line) {
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
    let proc = mount::private_proc()?;
    child::set_oom_score(&plan.process, proc.as_fd())?;
    drop(proc);
    ns::enter(
        d.container.as_fd(),
        ns::NEWNS | ns::NEWNET | ns::NEWIPC | ns::NEWUTS | ns::NEWCGROUP,
    )?;
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
    };
    drop(d);
    child::finish(&plan.process, root, last, line)
}
