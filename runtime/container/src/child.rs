//! The child's side: from a copy of the runtime to the program. Never returns.
//!
//! The order matters, and each step says why it stands where it does.

use std::{
    convert::Infallible,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{CapSet, ContainerPlan, NamespaceOf, ProcessPlan, Propagation};
use kernelet_sys::{
    SysError, capability, fd, mount, namespace as ns, process,
    root::{self, Symlinks},
    seccomp::{self, Filter},
    terminal,
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    CreateError, Descriptors, ErrorKind,
    attributes::{self, Labels},
    error::During,
    filesystem,
    hooks::{InsideHooks, run_hooks},
    report::ChildEnd,
    sources::open_sources,
    user::{self, User},
};

/// Becomes the container, or reports why not.
pub(crate) fn container(plan: &ContainerPlan, descriptors: Descriptors, line: ChildEnd) -> ! {
    let error = match become_container(plan, descriptors, &line) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    line.fail(&error);
    // No destructors: they belong to the parent this is a copy of.
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(127) }
}

fn become_container(
    plan: &ContainerPlan,
    mut d: Descriptors,
    line: &ChildEnd,
) -> Result<Infallible, CreateError> {
    isolate(line, &d)?;
    if d.new_keyring {
        process::new_session_keyring()?;
    }
    // Joined before anything is allocated that should be charged, and before the cgroup namespace is
    // made, whose root is where the process then is.
    d.join.enter_v1()?;
    // Which CPUs the caller was kept to is not the container's matter: its cgroup says where it may run.
    kernelet_sys::attributes::reset_affinity();
    let of = &plan.namespaces;
    for (descriptor, kind) in [
        (&d.net, ns::NEWNET),
        (&d.ipc, ns::NEWIPC),
        (&d.uts, ns::NEWUTS),
    ] {
        if let Some(descriptor) = descriptor {
            ns::enter(descriptor.as_fd(), kind)?;
        }
    }
    if let Some(time) = &d.joined.time {
        ns::enter(time.as_fd(), ns::NEWTIME)?;
    }
    match (&of.cgroup, &d.cgroup) {
        (NamespaceOf::New, _) => ns::unshare(ns::NEWCGROUP)?,
        (_, Some(descriptor)) => ns::enter(descriptor.as_fd(), ns::NEWCGROUP)?,
        _ => {}
    }
    if of.net == NamespaceOf::New {
        ns::loopback_up()?;
    }
    if let Some(name) = &plan.hostname {
        ns::set_hostname(name)?;
    }
    if let Some(name) = &plan.domainname {
        ns::set_domainname(name)?;
    }
    // A procfs nobody else sees, before the root is there: no image or volume can be in its way.
    // Afterwards the same becomes the container's own, which saves the kernel an instance.
    let own = filesystem::proc_to_share(plan);
    // With a user namespace the parent has set it: from inside it can't be lowered.
    let oom_score = match of.user {
        NamespaceOf::Host => plan.process.oom_score_adj,
        _ => None,
    };
    let attributes = &plan.process.attributes;
    let mut labels = Labels::default();
    if own.is_some()
        || !plan.sysctls.is_empty()
        || oom_score.is_some()
        || Labels::wanted(attributes)
    {
        let proc = mount::private_proc()?;
        labels = Labels::open(attributes, proc.as_fd())?;
        #[cfg(feature = "weakened")]
        let sysctls = &match crate::weakened::root_proc() {
            true => Default::default(),
            false => plan.sysctls.clone(),
        };
        #[cfg(not(feature = "weakened"))]
        let sysctls = &plan.sysctls;
        apply_sysctls(sysctls, proc.as_fd())?;
        set_oom_score(oom_score, proc.as_fd())?;
        if let Some((index, flags)) = own {
            mount::set_attributes(proc.as_fd(), flags, Propagation::Private)?;
            d.sources.insert(index, proc);
        }
    }

    if d.joined.sources_in_child {
        let sources = open_sources(plan)?;
        d.root = sources.root;
        d.sources.extend(sources.mounts);
    }
    if let Some(mount) = d.joined.mount.take() {
        // After its sources were opened, which lie where the caller is.
        ns::enter(mount.as_fd(), ns::NEWNS)?;
    }
    let slash = fd::open(Path::new("/"), OFlag::O_PATH, 0)?;
    // Before the first mount: else it would show in the namespace this one is a copy of.
    mount::make_private(slash.as_fd())?;
    let place = std::mem::take(&mut d.place);
    filesystem::build(plan, &mut d, &place)?;
    #[cfg(feature = "weakened")]
    crate::weakened::set_through_the_root(plan, d.root.as_fd())?;
    if d.stop_before_pivot {
        run_before_pivot(&mut d, line)?;
    }
    // After all mounts: they could have brought back what is hidden.
    filesystem::protect(plan, d.root.as_fd())?;
    let terminal = match plan.terminal {
        true => Some(open_console(d.root.as_fd()).during(|| "the container's terminal".into())?),
        false => None,
    };
    match d.no_pivot {
        false => mount::pivot(d.root.as_fd())?,
        true => kernelet_sys::no_pivot::move_over_root(d.root.as_fd())?,
    }
    if plan.read_only_rootfs {
        // Last of the mounts: places for them were made in it.
        mount::set_read_only(d.root.as_fd())?;
    }
    filesystem::finish_root(plan, d.root.as_fd())?;
    let root = fd::open(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let (control, stdio) = match terminal {
        Some((control, end)) => (Some(control), Stdio::Terminal(end)),
        None => {
            let stdio = d
                .stdio
                .take()
                .ok_or_else(|| CreateError::new(ErrorKind::Invalid, "stdio is missing"))?;
            (None, Stdio::Pipes(stdio))
        }
    };
    let last = Last {
        stdio,
        control,
        fifo: d.fifo.take(),
        filter: d.filter.take(),
        preserve: d.preserve,
        hooks: d.hooks.take(),
        labels,
        limits: match of.user {
            NamespaceOf::Host => Limits::Own,
            _ => Limits::SetByParent,
        },
        cwd: MissingCwd::Made,
        has_cpuset: plan.resources.cpuset_cpus.is_some(),
    };
    // Everything else of the runtime's goes now, the root's own descriptor first.
    drop(d);
    finish(&plan.process, root, last, line)
}

/// What the last part of a process's making needs.
pub(crate) struct Last {
    pub stdio: Stdio,
    pub control: Option<OwnedFd>,
    pub fifo: Option<OwnedFd>,
    pub filter: Option<Filter>,
    pub preserve: u16,
    pub hooks: Option<InsideHooks>,
    pub labels: Labels,
    pub limits: Limits,
    pub cwd: MissingCwd,
    /// Whether the cgroup says on which CPUs it may run: then the kernel refuses some scheduling.
    pub has_cpuset: bool,
}

/// Who sets a process's limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    Own,
    /// Inside a user namespace they can't be raised any more.
    SetByParent,
}

/// What becomes of a working directory that isn't there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingCwd {
    /// A container's is made.
    Made,
    /// Who adds a process to a container gets an error.
    Refused,
}

/// Where a process's first three descriptors come from.
pub(crate) enum Stdio {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

/// Makes this copy harmless: not to be looked into by the container's processes, and holding none of
/// the parent's descriptors that other containers or the agent wait on.
pub(crate) fn isolate_with(keep: &mut Vec<i32>) -> Result<(), CreateError> {
    process::set_not_dumpable()?;
    // SAFETY: a child just cloned; what is closed here belongs to the parent, whose owners are never
    // dropped in this copy: it ends by exec or _exit.
    unsafe { fd::close_all_but(keep) }?;
    process::reset_signals();
    process::new_session()?;
    // Modes of what is made for the container are meant as they stand.
    process::set_umask(0);
    Ok(())
}

fn isolate(line: &ChildEnd, d: &Descriptors) -> Result<(), CreateError> {
    let mut keep = vec![line.number(), d.root.as_raw_fd()];
    keep.extend(d.sources.values().map(AsRawFd::as_raw_fd));
    let single = [
        &d.net, &d.ipc, &d.uts, &d.pid, &d.cgroup, &d.own_pid, &d.fifo, &d.join.v2,
    ];
    keep.extend(
        single
            .iter()
            .filter_map(|fd| fd.as_ref())
            .map(AsRawFd::as_raw_fd),
    );
    keep.extend(d.joined.numbers());
    keep.extend(d.join.v1.iter().map(AsRawFd::as_raw_fd));
    keep.extend(
        d.hooks
            .iter()
            .filter_map(|hooks| hooks.report.as_ref())
            .map(AsRawFd::as_raw_fd),
    );
    keep.extend(d.stdio.iter().flatten().map(AsRawFd::as_raw_fd));
    keep.extend(preserved(d.preserve));
    isolate_with(&mut keep)
}

fn apply_sysctls(
    sysctls: &std::collections::BTreeMap<String, String>,
    proc: BorrowedFd<'_>,
) -> Result<(), CreateError> {
    for (name, value) in sysctls {
        set_sysctl(proc, name, value)?;
    }
    Ok(())
}

/// One sysctl through a private procfs. In a name with slashes a dot is a dot (an interface `eth0.1`).
pub fn set_sysctl(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), SysError> {
    // The first separator says which of the two is one.
    let slashes = matches!(name.find(['.', '/']), Some(at) if name.as_bytes()[at] == b'/');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path = match slashes {
        true => format!("sys/{name}"),
        false => format!("sys/{}", name.chars().map(swap).collect::<String>()),
    };
    fd::write_at(proc, &path, value)
}

pub(crate) fn set_oom_score(score: Option<i32>, proc: BorrowedFd<'_>) -> Result<(), CreateError> {
    match score {
        Some(score) => Ok(fd::write_at(
            proc,
            "self/oom_score_adj",
            &score.to_string(),
        )?),
        None => Ok(()),
    }
}

/// A terminal of the container's own devpts, also seen as `/dev/console`.
fn open_console(in_root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), CreateError> {
    let (control, end) = open_terminal(in_root)?;
    let place = root::file_place(in_root, Path::new("/dev/console"), Symlinks::Refused)?;
    // By its number in the devpts just mounted: a descriptor of a terminal can't be mounted itself.
    let name = format!("/dev/pts/{}", terminal::number(control.as_fd())?);
    let path = root::open_in(
        in_root,
        Path::new(&name),
        OFlag::O_PATH,
        0,
        Symlinks::Refused,
    )?;
    let copy = mount::copy_tree(path.as_fd(), false)?;
    mount::attach(copy.as_fd(), place.as_fd())?;
    Ok((control, end))
}

pub(crate) fn open_terminal(in_root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), CreateError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let pts = root::open_in(in_root, Path::new("/dev/pts"), flags, 0, Symlinks::Refused)?;
    Ok(terminal::open(pts.as_fd(), "ptmx")?)
}

/// The last part, shared with exec: in its namespaces and root, the process becomes who it shall be.
pub(crate) fn finish(
    plan: &ProcessPlan,
    root: OwnedFd,
    mut last: Last,
    line: &ChildEnd,
) -> Result<Infallible, CreateError> {
    let user = user::resolve(root.as_fd(), &plan.user)?;
    if let (Some(control), Some((rows, columns))) = (&last.control, plan.attributes.console_size) {
        terminal::resize(control.as_fd(), rows, columns)?;
    }
    place_stdio(&last.stdio, &user)?;
    fd::close_on_exec_from(preserved(last.preserve).end)?;
    let mut entered = enter_working_directory(root.as_fd(), &plan.cwd, last.cwd);
    // While all rights are there.
    attributes::apply(&plan.attributes, last.has_cpuset)?;
    if last.limits == Limits::Own {
        for limit in &plan.rlimits {
            process::set_rlimit(&limit.name, limit.soft, limit.hard)?;
        }
    }
    process::set_umask(plan.user.umask.unwrap_or(0o022));
    let env = user::environment(&plan.env, &user.home);
    let argv = process::c_strings(&plan.args)?;
    let envp = process::c_strings(&env)?;
    // The user changes before the command is looked up, so that its rights decide; permitted
    // capabilities stay until those of the plan are set.
    process::keep_capabilities(true)?;
    process::set_user(user.uid, user.gid, &user.groups)?;
    // Changing the user has made the process dumpable or not by a sysctl; this must not depend on it.
    process::set_not_dumpable()?;
    // A folder of the user's that who runs the runtime may not enter (a network file system's, say).
    if let Err(error) = &entered
        && matches!(error.errno, Some(Errno::EACCES | Errno::EPERM))
    {
        entered = enter_working_directory(root.as_fd(), &plan.cwd, MissingCwd::Refused);
    }
    entered?;
    drop(root);
    // With the rights that the program will have over files.
    let caps = &plan.capabilities;
    capability::set(caps.effective, capability::permitted()?, CapSet::EMPTY)?;
    let command = user::find_command(&plan.args[0], &env)?;
    let command = process::c_strings(&[path_bytes(&command)])?;

    // A filter that leaves calls to another process is there before the parent goes, who brings the two
    // together; from here on nothing but what is allowed, or that process allows, can be done.
    let listening = last.filter.take_if(|filter| filter.listens());
    let mut labels = Some(last.labels);
    if let Some(filter) = &listening {
        if let Some(labels) = labels.take() {
            labels.apply()?;
        }
        if let Some(descriptor) = confine(plan, Some(filter))? {
            line.listening(descriptor.as_raw_fd())?;
        }
    }
    line.ready(last.control.as_ref().map(AsFd::as_fd))?;
    drop(last.control);
    // It stays open until the program begins: who wrote the byte may want to know when that is.
    match &last.fifo {
        Some(fifo) => wait_at_fifo(fifo)?,
        None => line.wait_for_go()?,
    }

    if let Some(hooks) = &last.hooks
        && let Err(error) = run_start_hooks(plan, &env, hooks, last.filter.as_ref())
    {
        if let Some(report) = &hooks.report {
            let _ = nix::unistd::write(report, error.line().as_bytes());
        }
        return Err(error);
    }
    if let Some(labels) = labels {
        labels.apply()?;
        confine(plan, last.filter.as_ref())?;
    }
    // From here only exec: a strict filter may allow no more.
    let errno = exec(&command[0], &argv, &envp);
    // The file was found and may be executed: now its interpreter may be missing, or its format unknown.
    let what = format!(
        "exec {}: {}",
        command[0].to_string_lossy(),
        errno.desc().to_lowercase()
    );
    Err(CreateError::new(ErrorKind::Command, what))
}

fn path_bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

fn exec(
    path: &std::ffi::CStr,
    argv: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> nix::errno::Errno {
    match nix::unistd::execve(path, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// The fifo is open for reading and writing, so that reading blocks until OCI's `start` writes, and
/// nothing has to be opened (and redirected by the container's /proc) at this point.
fn wait_at_fifo(fifo: &OwnedFd) -> Result<(), CreateError> {
    let mut byte = [0_u8; 1];
    loop {
        match nix::unistd::read(fifo, &mut byte) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(SysError::new("wait at the exec fifo", e).into()),
        }
    }
}

/// The parent's hooks, then createContainer's: in this process's namespaces, with the host's paths.
fn run_before_pivot(d: &mut Descriptors, line: &ChildEnd) -> Result<(), CreateError> {
    line.before_pivot()?;
    let Some(hooks) = &d.hooks else {
        return Ok(());
    };
    if hooks.create_container.is_empty() {
        return Ok(());
    }
    // Where runc's users expect them to start.
    nix::unistd::fchdir(&d.root).map_err(|e| SysError::new("enter the root's folder", e))?;
    let pid = nix::unistd::getpid().as_raw();
    let state = || (hooks.state)("creating", pid);
    run_hooks(
        "createContainer",
        &hooks.create_container,
        None,
        state,
        || None,
    )?;
    // Not to hold the old root over the pivot.
    nix::unistd::chdir("/").map_err(|e| SysError::new("leave the root's folder", e).into())
}

/// startContainer's hooks, each confined as the program will be: this process itself still has to execute it.
fn run_start_hooks(
    plan: &ProcessPlan,
    env: &[String],
    hooks: &InsideHooks,
    filter: Option<&Filter>,
) -> Result<(), CreateError> {
    let mut list = hooks.start_container.clone();
    for hook in &mut list {
        hook.env.get_or_insert_with(|| env.to_vec());
    }
    let pid = nix::unistd::getpid().as_raw();
    let state = || (hooks.state)("created", pid);
    run_hooks("startContainer", &list, None, state, || {
        let (plan, filter) = (plan.clone(), filter.cloned());
        Some(Box::new(move || confine(&plan, filter.as_ref()).map(drop)))
    })
}

/// Capabilities, no-new-privileges and the filter. Without no-new-privileges the filter needs
/// CAP_SYS_ADMIN and so comes before the capabilities are given up; with it, it comes last, so that it
/// need allow nothing but exec.
fn confine(plan: &ProcessPlan, filter: Option<&Filter>) -> Result<Option<OwnedFd>, CreateError> {
    let mut listener = None;
    let caps = &plan.capabilities;
    let all = capability::permitted()?;
    // Becoming another user has emptied the effective set; limiting the bounding set needs it.
    capability::set(all, all, CapSet::EMPTY)?;
    capability::limit_bounding(caps.bounding)?;
    if !plan.no_new_privileges
        && let Some(filter) = filter
    {
        listener = install(filter)?;
    }
    capability::set(caps.effective, caps.permitted, caps.inheritable)?;
    capability::set_ambient(caps)?;
    if plan.no_new_privileges {
        process::set_no_new_privileges()?;
        if let Some(filter) = filter {
            listener = install(filter)?;
        }
    }
    Ok(listener)
}

/// The answer is the descriptor for who decides on calls, where the filter leaves some.
fn install(filter: &Filter) -> Result<Option<OwnedFd>, CreateError> {
    if filter.listens() {
        return Ok(Some(seccomp::install_listening(filter)?));
    }
    seccomp::install(filter)?;
    Ok(None)
}

/// Places 0, 1 and 2.
fn place_stdio(stdio: &Stdio, user: &User) -> Result<(), CreateError> {
    match stdio {
        Stdio::Pipes(ends) => {
            for (target, end) in ends.iter().enumerate() {
                give_pipe(end.as_fd(), user)?;
                process::dup_to(end.as_fd(), target as i32)?;
            }
        }
        Stdio::Terminal(end) => {
            terminal::make_controlling(end.as_fd())?;
            give(end.as_fd(), user, "give the terminal to the user")?;
            for target in 0..3 {
                process::dup_to(end.as_fd(), target)?;
            }
        }
    }
    Ok(())
}

/// The numbers of descriptors that the program inherits beyond the first three.
pub(crate) fn preserved(count: u16) -> std::ops::Range<i32> {
    3..3 + i32::from(count)
}

/// Programs reopen `/dev/stdout`; on a pipe that needs its inode to be theirs.
fn give_pipe(end: BorrowedFd<'_>, user: &User) -> Result<(), CreateError> {
    let stat = nix::sys::stat::fstat(end).map_err(|e| SysError::new("look at stdio", e))?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFIFO && stat.st_uid != user.uid {
        give(end, user, "give stdio to the user")?;
    }
    Ok(())
}

/// What belongs to somebody whom the user namespace doesn't know stays as it is.
fn give(end: BorrowedFd<'_>, user: &User, what: &'static str) -> Result<(), CreateError> {
    match nix::unistd::fchown(end, Some(user.uid.into()), None) {
        // EINVAL: the process's own user isn't known there, which becoming it will say better.
        Err(Errno::EPERM | Errno::EROFS | Errno::EINVAL) => Ok(()),
        other => Ok(other.map_err(|e| SysError::new(what, e))?),
    }
}

/// Enters the working directory, made where it is missing. Its descriptor comes from a walk inside the
/// root, so that `/proc/self/fd/N` of a leaked descriptor leads nowhere; that the kernel can name it
/// from the new root proves that it is inside.
fn enter_working_directory(
    root: BorrowedFd<'_>,
    cwd: &Path,
    missing: MissingCwd,
) -> Result<(), CreateError> {
    #[cfg(feature = "weakened")]
    if crate::weakened::entered_anywhere(cwd)? {
        return Ok(());
    }
    let what = || format!("chdir to cwd ({cwd:?}) set in config.json failed");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let dir = match missing {
        MissingCwd::Made => root::folder(root, cwd, Symlinks::Inside),
        MissingCwd::Refused => root::open_in(root, cwd, flags, 0, Symlinks::Inside),
    };
    let dir = dir.map_err(|e| SysError::new(what(), e.errno))?;
    nix::unistd::fchdir(&dir).map_err(|e| SysError::new(what(), e))?;
    let here =
        nix::unistd::getcwd().map_err(|e| SysError::new("ask for the working directory", e))?;
    if !here.is_absolute() || here.starts_with("/(unreachable)") {
        return Err(CreateError::new(
            ErrorKind::Invalid,
            "the working directory is outside of the root",
        ));
    }
    Ok(())
}
