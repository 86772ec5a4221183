//! Processes: clone3, pidfds, credentials, limits, exec.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{errno::Errno, fcntl::OFlag};

use crate::error::{Result, SysError};

/// A child and the descriptor that names it for good.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Which side of a [`clone3`] this is.
#[derive(Debug)]
pub enum Forked {
    Child,
    Parent(Process),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
}

impl Ended {
    /// 128 + the signal, as shells and Kubernetes have it.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Signaled(signal) => 128 + signal,
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks, with new namespaces by `flags` (`CLONE_NEW…`) and, on cgroup v2, straight into a group.
///
/// # Safety
/// In a process with several threads the child has only the calling one: until exec it must not
/// allocate, lock, or run a destructor. A single-threaded caller has no such bound.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut args = CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: this function's contract.
    unsafe { clone3_with(args) }
}

/// The same, but the new process is the caller's parent's child: that one is told of its end, and reaps it.
///
/// # Safety
/// As of [`clone3`].
pub unsafe fn clone3_sibling(flags: u64) -> Result<Forked> {
    let args = CloneArgs {
        flags: flags | libc::CLONE_PARENT as u64,
        // Its end is signalled as the caller's is; another signal may not be given.
        exit_signal: 0,
        ..CloneArgs::default()
    };
    // SAFETY: this function's contract.
    unsafe { clone3_with(args) }
}

/// # Safety
/// As of [`clone3`].
unsafe fn clone3_with(mut args: CloneArgs) -> Result<Forked> {
    let mut pidfd = -1_i32;
    args.flags |= CLONE_PIDFD;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // SAFETY: the arguments are valid and outlive the call; without CLONE_VM the child has memory of
    // its own, so nothing is shared behind Rust's back. The rest is this function's contract.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            size_of::<CloneArgs>(),
        )
    };
    match pid {
        ..0 => Err(SysError::last("clone a process")),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Process {
            pid: pid as i32,
            // SAFETY: the kernel has stored a new descriptor there, since CLONE_PIDFD was given.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        })),
    }
}

/// A descriptor for a running process. The caller makes sure that the pid still is who it means.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: makes a descriptor; no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(SysError::last(format!("open process {pid}")));
    }
    // SAFETY: new and only ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A copy of another process's descriptor. Needs the right to trace it. Kernel 5.6.
pub fn take_descriptor(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(SysError::last("take a process's descriptor"));
    }
    // SAFETY: new and only ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to the process itself; one that has ended is no error.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means "as kill(2)".
    let n = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    };
    match n {
        0 => Ok(()),
        _ if Errno::last() == Errno::ESRCH => Ok(()),
        _ => Err(SysError::last(format!("send signal {signal}"))),
    }
}

/// The pid behind a descriptor, as this process's pid namespace sees it; `None` once it was reaped.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text =
        std::fs::read_to_string(path).map_err(|e| SysError::io("read a pidfd's info", &e))?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse::<i32>().ok());
    Ok(pid.filter(|pid| *pid > 0))
}

/// Reaps a child if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Ended>> {
    wait_with(pidfd, libc::WEXITED | libc::WNOHANG)
}

/// Waits for a child's end and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Ended> {
    loop {
        match wait_with(pidfd, libc::WEXITED) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => {}
            Err(e) if e.errno == Errno::EINTR => {}
            Err(e) => return Err(e),
        }
    }
}

fn wait_with(pidfd: BorrowedFd<'_>, options: i32) -> Result<Option<Ended>> {
    // SAFETY: siginfo_t is plain data; all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is valid for writing over the call.
    let n = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, &mut info, options) };
    if n < 0 {
        return Err(SysError::last("wait for a child"));
    }
    // SAFETY: after a successful waitid these fields are the valid ones of the union.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Ended::Exited(status),
        _ => Ended::Signaled(status),
    }))
}

/// Whether the process behind the descriptor has ended, waiting for it at most so long. Works for
/// anybody's process, and reaps nothing.
pub fn wait_ended(pidfd: BorrowedFd<'_>, within: Duration) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(SysError::new("wait for a process", e)),
    }
}

/// When a process was started, in clock ticks after boot: with its pid it names it for good.
pub fn start_time(proc: BorrowedFd<'_>, pid: i32) -> Result<u64> {
    let path = format!("{pid}/stat");
    let stat = crate::fd::read_at(proc, &path)?;
    // The name in parentheses may contain anything, so fields count from behind it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = rest
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok());
    field.ok_or_else(|| SysError::new(format!("understand {path}"), Errno::EINVAL))
}

/// This boot's id.
pub fn boot_id() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Ok(text
        .map_err(|e| SysError::io("read the boot id", &e))?
        .trim()
        .to_owned())
}

/// Hides this process's memory and descriptors from others, until it executes something.
pub fn set_not_dumpable() -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Dumpable) {
        return Ok(());
    }
    prctl(libc::PR_SET_DUMPABLE, 0, "become not dumpable")
}

pub fn set_no_new_privileges() -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::NoNewPrivileges) {
        return Ok(());
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no-new-privileges")
}

/// Keeps permitted capabilities over the change to another user.
pub fn keep_capabilities(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), "keep capabilities")
}

/// Orphaned descendants become this process's children.
pub fn become_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, "become a subreaper")
}

pub fn set_name(name: &CStr) {
    // SAFETY: a C string, of which the kernel copies at most 16 bytes. It can't fail otherwise.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

fn prctl(option: i32, value: u64, what: &'static str) -> Result<()> {
    // SAFETY: these options take integers only.
    if unsafe { libc::prctl(option, value, 0, 0, 0) } < 0 {
        return Err(SysError::last(what));
    }
    Ok(())
}

/// Sets groups, group and user of the calling thread, in the order that keeps the right to do so.
/// The raw calls: glibc's would signal all threads, and a child of clone3 has only one.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // SAFETY: the slice is valid for the count given.
    let n = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if n < 0 {
        let error = SysError::last("set supplementary groups");
        // With the right to do it, this can only be a user namespace that has given it up: an ordinary user's,
        // whose groups stay as they are, because nobody can change them.
        let given_up = error.errno == Errno::EPERM
            && crate::capability::permitted()?.contains(kernelet_spec::Capability::SETGID);
        if !given_up {
            return Err(error);
        }
    }
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) } < 0 {
        return Err(change("gid", gid));
    }
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } < 0 {
        return Err(change("uid", uid));
    }
    Ok(())
}

fn change(kind: &str, id: u32) -> SysError {
    let errno = Errno::last();
    let what = match errno {
        Errno::EINVAL => format!("cannot set{kind} to unmapped {kind} {id} in user namespace"),
        _ => format!("become {kind} {id}"),
    };
    SysError::new(what, errno)
}

/// Leaves the session keyring that was inherited for a new, empty one. A kernel without keyrings has
/// nothing to leave.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    let n = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match n {
        ..0 if Errno::last() == Errno::ENOSYS => Ok(()),
        ..0 => Err(SysError::last("join a new session keyring")),
        _ => Ok(()),
    }
}

pub fn set_umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}

/// A new session without a terminal.
pub fn new_session() -> Result<()> {
    match nix::unistd::setsid() {
        // EPERM: it leads a group already; pid 1 of a new namespace can be so.
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(e) => Err(SysError::new("start a session", e)),
    }
}

/// Sets all signals to their defaults and blocks none: what a program expects to be started with.
pub fn reset_signals() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the default action has no code of ours; glibc refuses its two internal signals,
        // which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

/// Sets one limit of the calling process. Raising a hard limit needs CAP_SYS_RESOURCE.
pub fn set_rlimit(name: &str, soft: u64, hard: u64) -> Result<()> {
    set_rlimit_of(0, name, soft, hard)
}

/// The same of another process; 0 is the calling one.
pub fn set_rlimit_of(pid: i32, name: &str, soft: u64, hard: u64) -> Result<()> {
    let known = RLIMITS.iter().find(|(known, _)| *known == name);
    let Some((_, number)) = known else {
        return Err(SysError::new(
            format!("set {name}: no such limit"),
            Errno::EINVAL,
        ));
    };
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: a valid new limit, and null for the old one, which the call allows.
    let n = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            *number,
            std::ptr::from_ref(&limit),
            old,
        )
    };
    if n < 0 {
        return Err(SysError::last(format!(
            "set {name} to {soft}, at most {hard}"
        )));
    }
    Ok(())
}

/// C strings for exec; a NUL inside is refused.
pub fn c_strings<S: AsRef<[u8]>>(texts: &[S]) -> Result<Vec<CString>> {
    let convert = |text: &S| {
        CString::new(text.as_ref())
            .map_err(|_| SysError::new("pass a text with a NUL byte", Errno::EINVAL))
    };
    texts.iter().map(convert).collect()
}

/// Executes an open file. Only returns on failure.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> SysError {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|t| t.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays are null-terminated, and what they point to outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    SysError::last("execute")
}

/// A new process image for an agent's helper: everything is prepared before the clone, because the
/// caller has threads.
pub struct Spawn<'a> {
    pub program: BorrowedFd<'a>,
    pub argv: &'a [CString],
    pub env: &'a [CString],
    /// Become 0, 1, 2 and so on, in this order.
    pub descriptors: &'a [BorrowedFd<'a>],
    pub join: &'a crate::cgroup::Join,
    /// A mount namespace to enter and then to copy.
    pub mount_namespace: Option<BorrowedFd<'a>>,
}

impl Spawn<'_> {
    /// Starts it in a session of its own. A step that fails before exec shows as exit status 127.
    pub fn start(&self) -> Result<Process> {
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts
                .iter()
                .map(|t| t.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let (argv, env) = (pointers(self.argv), pointers(self.env));
        // A place above all targets, so that placing one never overwrites a source.
        let highest = self.descriptors.len() as i32 + 3;
        let mut sources = Vec::with_capacity(self.descriptors.len());
        for fd in self.descriptors {
            sources.push(dup_above(*fd, highest)?);
        }
        let program = dup_above(self.program, highest)?;
        // SAFETY: the child calls nothing below but system calls on what was prepared here.
        match unsafe { clone3(0, self.join.v2.as_ref().map(AsFd::as_fd)) }? {
            Forked::Parent(process) => Ok(process),
            Forked::Child => {
                // SAFETY: as above: `child` makes system calls only and doesn't return.
                unsafe { self.child(&sources, &program, &argv, &env) }
            }
        }
    }

    /// # Safety
    /// Only in a child just cloned.
    unsafe fn child(
        &self,
        sources: &[OwnedFd],
        program: &OwnedFd,
        argv: &[*const libc::c_char],
        env: &[*const libc::c_char],
    ) -> ! {
        // SAFETY: plain system calls with integers and with pointers prepared by the parent, whose
        // memory this child has a copy of. Failure ends the child; its parent sees status 127.
        unsafe {
            let or_die = |n: i64| {
                if n < 0 {
                    libc::_exit(127)
                }
            };
            for tasks in &self.join.v1 {
                or_die(libc::write(tasks.as_raw_fd(), b"0".as_ptr().cast(), 1) as i64);
            }
            libc::setsid();
            if let Some(ns) = self.mount_namespace {
                or_die(libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNS).into());
                or_die(libc::unshare(libc::CLONE_NEWNS).into());
            }
            // Signals that this process (a Rust program) ignores would stay ignored over exec.
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            for (target, source) in sources.iter().enumerate() {
                or_die(libc::dup2(source.as_raw_fd(), target as i32).into());
            }
            or_die(libc::syscall(
                libc::SYS_close_range,
                sources.len(),
                u32::MAX,
                4,
            ));
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(127)
        }
    }
}

fn dup_above(fd: BorrowedFd<'_>, least: i32) -> Result<OwnedFd> {
    // SAFETY: duplicates a valid descriptor.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if new < 0 {
        return Err(SysError::last("duplicate a descriptor"));
    }
    // SAFETY: new and only ours.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Makes a descriptor one of the standard three (or any other number) of this process.
pub fn dup_to(fd: BorrowedFd<'_>, target: i32) -> Result<()> {
    // SAFETY: the target's former holder is replaced on purpose; callers place 0, 1 and 2 in a child.
    if unsafe { libc::dup2(fd.as_raw_fd(), target) } < 0 {
        return Err(SysError::last("place a descriptor"));
    }
    Ok(())
}

/// A pair of pipe ends, both close-on-exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| SysError::new("make a pipe", e))
}
