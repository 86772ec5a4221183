//! The pod's namespaces, held as descriptors, and the init of a shared process namespace.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::SystemTime,
};

use kernelet_container::{Child, CreateError};
use kernelet_spec::{MountFlags, SandboxPlan};
use kernelet_sys::{
    SysError,
    cgroup::Join,
    fd, mount, namespace as ns,
    process::{self, Forked, Process},
};
use nix::fcntl::OFlag;

use crate::protocol::SandboxState;

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub plan: SandboxPlan,
    /// It owns the others.
    pub user: Option<OwnedFd>,
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    /// The shared process namespace and its init.
    pub pid: Option<OwnedFd>,
    pub init: Option<Process>,
    pub init_exited: bool,
    pub created_at: SystemTime,
}

impl Sandbox {
    pub(crate) fn state(&self) -> SandboxState {
        SandboxState {
            plan: self.plan.clone(),
            init_pid: self.init.as_ref().map(|init| init.pid),
            init_exited: self.init_exited,
            created_at: self.created_at,
        }
    }

    /// The same with their kinds.
    fn owned(&self) -> Vec<(BorrowedFd<'_>, u64)> {
        let kinds = [ns::NEWNET, ns::NEWIPC, ns::NEWUTS];
        let all = self.descriptors().into_iter().zip(kinds);
        all.filter_map(|(namespace, kind)| Some((namespace?, kind)))
            .collect()
    }

    /// net, ipc and uts, as far as they are the pod's own.
    pub(crate) fn descriptors(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [&self.net, &self.ipc, &self.uts].map(|fd| fd.as_ref().map(AsFd::as_fd))
    }
}

/// Makes the namespaces in a child that then ends: the shim itself never leaves the host's.
pub(crate) fn create(
    plan: SandboxPlan,
    proc: BorrowedFd<'_>,
    init: Option<(OwnedFd, Join)>,
) -> Result<Sandbox, CreateError> {
    let mut flags = 0;
    if !plan.host_network {
        // A pod in the host's network shows the host's name, too.
        flags |= ns::NEWNET | ns::NEWUTS;
    }
    if !plan.host_ipc {
        flags |= ns::NEWIPC;
    }
    if plan.ids.is_some() {
        flags |= ns::NEWUSER;
    }
    let mut sandbox = Sandbox {
        user: None,
        net: None,
        ipc: None,
        uts: None,
        pid: None,
        init: None,
        init_exited: false,
        created_at: SystemTime::now(),
        plan,
    };
    if flags != 0 {
        make(&mut sandbox, flags, proc)?;
        set_sysctls(&sandbox)?;
    }
    if sandbox.plan.share_process_namespace
        && let Some((program, join)) = init
    {
        let init = start_init(&sandbox, &program, &join)?;
        sandbox.pid = Some(ns::open(proc, &init.pid.to_string(), "pid")?);
        sandbox.init = Some(init);
    }
    Ok(sandbox)
}

fn make(sandbox: &mut Sandbox, flags: u64, proc: BorrowedFd<'_>) -> Result<(), CreateError> {
    let plan = &sandbox.plan;
    let steps = || -> Result<(), CreateError> {
        if flags & ns::NEWNET != 0 {
            ns::loopback_up()?;
        }
        if flags & ns::NEWUTS != 0 {
            ns::set_hostname(&plan.hostname)?;
            if let Some(name) = &plan.domainname {
                ns::set_domainname(name)?;
            }
        }
        Ok(())
    };
    let child = Child {
        flags,
        ids: plan.ids.as_ref(),
        keep: &[],
    };
    let made = kernelet_container::in_child(child, steps, |child| {
        let pid = child.pid.to_string();
        let open = |flag: u64, kind: &str| match flags & flag {
            0 => Ok(None),
            _ => ns::open(proc, &pid, kind).map(Some),
        };
        Ok([
            open(ns::NEWUSER, "user")?,
            open(ns::NEWNET, "net")?,
            open(ns::NEWIPC, "ipc")?,
            open(ns::NEWUTS, "uts")?,
        ])
    })?;
    [sandbox.user, sandbox.net, sandbox.ipc, sandbox.uts] = made;
    Ok(())
}

/// By a child that keeps the host's rights: inside a user namespace no procfs can be made without a process namespace.
fn set_sysctls(sandbox: &Sandbox) -> Result<(), CreateError> {
    let sysctls = &sandbox.plan.sysctls;
    if sysctls.is_empty() {
        return Ok(());
    }
    let entered = sandbox.owned();
    let keep: Vec<BorrowedFd<'_>> = entered.iter().map(|(namespace, _)| *namespace).collect();
    let child = Child {
        keep: &keep,
        ..Child::default()
    };
    let steps = || -> Result<(), CreateError> {
        for (namespace, kind) in &entered {
            ns::enter(*namespace, *kind)?;
        }
        let proc = mount::private_proc()?;
        for (name, value) in sysctls {
            kernelet_container::set_sysctl(proc.as_fd(), name, value)?;
        }
        Ok(())
    };
    kernelet_container::in_child(child, steps, |_| Ok(()))
}

/// Pid 1 of the shared namespace: in the pod's cgroup and namespaces, with an empty root.
fn start_init(sandbox: &Sandbox, program: &OwnedFd, join: &Join) -> Result<Process, CreateError> {
    let flags = ns::NEWPID | ns::NEWNS;
    let (read, write) = process::pipe()?;
    let forked = match &sandbox.user {
        // The process namespace must be the user namespace's: only then may containers mount a procfs of it.
        Some(user) => kernelet_container::clone_inside(user.as_fd(), &sandbox.owned(), flags, join),
        // SAFETY: the shim has one thread; the child ends by exec or _exit.
        None => unsafe { process::clone3(flags, join.v2.as_ref().map(AsFd::as_fd)) }
            .map_err(CreateError::from),
    };
    match forked? {
        Forked::Child => {
            let error = match become_init(sandbox, program, join, &write) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let _ = nix::unistd::write(&write, error.to_string().as_bytes());
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(127) }
        }
        Forked::Parent(process) => {
            drop(write);
            let mut message = Vec::new();
            let mut buffer = [0_u8; 512];
            while let Ok(n @ 1..) = nix::unistd::read(&read, &mut buffer) {
                message.extend_from_slice(&buffer[..n]);
            }
            if message.is_empty() {
                return Ok(process);
            }
            let _ = process::wait(process.pidfd.as_fd());
            let what = format!(
                "start the pod's init: {}",
                String::from_utf8_lossy(&message)
            );
            Err(SysError::new(what, nix::errno::Errno::ECHILD).into())
        }
    }
}

fn become_init(
    sandbox: &Sandbox,
    program: &OwnedFd,
    join: &Join,
    line: &OwnedFd,
) -> Result<std::convert::Infallible, SysError> {
    process::set_not_dumpable()?;
    let namespaces = sandbox.descriptors();
    let mut keep = vec![program.as_raw_fd(), line.as_raw_fd()];
    keep.extend(join.v1.iter().map(AsRawFd::as_raw_fd));
    keep.extend(namespaces.iter().flatten().map(AsRawFd::as_raw_fd));
    // SAFETY: a child just cloned; the closed descriptors are the shim's, no owner is dropped here.
    unsafe { fd::close_all_but(&mut keep) }?;
    process::reset_signals();
    process::new_session()?;
    if sandbox.user.is_none() {
        join.enter_v1()?;
        for (namespace, kind) in sandbox.owned() {
            ns::enter(namespace, kind)?;
        }
    }
    ns::unshare(ns::NEWCGROUP)?;
    let slash = fd::open(Path::new("/"), OFlag::O_PATH, 0)?;
    mount::make_private(slash.as_fd())?;
    let place = fd::open(Path::new("/root"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let flags = MountFlags {
        read_only: true,
        ..MountFlags::KERNEL
    };
    let root = mount::tmpfs(Some(4096), 0o555, (0, 0), flags)?;
    mount::attach(root.as_fd(), place.as_fd())?;
    mount::pivot(root.as_fd())?;
    fd::close_on_exec_from(3)?;
    let argv = process::c_strings(&["kernelet-init"])?;
    Err(process::exec_fd(program.as_fd(), &argv, &[]))
}
