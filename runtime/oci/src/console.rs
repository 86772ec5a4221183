//! In the foreground: signals go to the container, a terminal's bytes both ways, its end ends us. And
//! terminals for others, over a socket.

use std::{
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context, Result};
use kernelet_sys::{
    process::{self, Ended, Process},
    terminal,
};

use crate::{log, notify::Listening};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessage, MsgFlags, sendmsg},
        termios::{self, OutputFlags, SetArg, Termios},
    },
};

/// Sends a descriptor (a terminal's controlling end, a process's) over a socket, as runc does: its name as the message,
/// itself beside.
pub fn hand_over(socket: &Path, name: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("dial unix {}", socket.display()))?;
    let fds = [descriptor.as_raw_fd()];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(name)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .with_context(|| format!("send a descriptor to {}", socket.display()))?;
    Ok(())
}

/// All signals that can be, as readable events. Before the container is made: it resets its own.
pub fn block_signals() -> Result<SignalFd> {
    let mut set = SigSet::all();
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGABRT,
        Signal::SIGTRAP,
    ] {
        set.remove(signal);
    }
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("watch for signals")
}

/// The caller's terminal in raw mode, put back at the end.
struct Raw {
    saved: Termios,
}

impl Raw {
    fn enter() -> Option<Raw> {
        let saved = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Raw { saved })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.saved);
    }
}

/// No carriage return before each line's end: whose terminal this one's output goes to adds its own, and a file
/// shall have none.
fn leave_line_ends(control: &OwnedFd) {
    if let Ok(mut modes) = termios::tcgetattr(control) {
        modes.output_flags.remove(OutputFlags::ONLCR);
        let _ = termios::tcsetattr(control, SetArg::TCSANOW, &modes);
    }
}

/// Before the program begins: its terminal has the caller's size, and leaves line ends alone.
pub fn prepare(control: &OwnedFd) {
    copy_size(control);
    leave_line_ends(control);
}

/// Stays until the process ends. Once it says that it is ready, the service manager hears so.
pub fn attend(
    process: &Process,
    signals: SignalFd,
    control: Option<OwnedFd>,
    mut notify: Option<Listening>,
) -> Result<Ended> {
    let raw = control.as_ref().and_then(|_| Raw::enter());
    let mut stdin_open = control.is_some();
    let ended = loop {
        let mut fds = vec![
            PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = std::io::stdin();
        let mut push = |fd| {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            fds.len() - 1
        };
        let from_control = control.as_ref().map(|control| push(control.as_fd()));
        let from_stdin = stdin_open.then(|| push(stdin.as_fd()));
        let from_notify = notify.as_ref().map(|notify| push(notify.as_fd()));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("wait for the container"),
        }
        let ready: Vec<bool> = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|r| !r.is_empty()))
            .collect();
        let is_ready = |at: Option<usize>| at.is_some_and(|at| ready[at]);
        if ready[1] {
            forward_signals(process, &signals, control.as_ref())?;
            reap_others(process);
        }
        if let Some(control) = &control {
            if is_ready(from_control) {
                relay(control.as_fd(), std::io::stdout().as_fd());
            }
            if is_ready(from_stdin) && !relay(stdin.as_fd(), control.as_fd()) {
                stdin_open = false;
            }
        }
        if is_ready(from_notify)
            && let Some(listening) = &notify
        {
            // This process is the service's main one as long as it is in the foreground.
            match listening.take(std::process::id() as i32) {
                Ok(false) => {}
                Ok(true) => notify = None,
                Err(error) => {
                    log::warn(&format!("{error:#}"));
                    notify = None;
                }
            }
        }
        if ready[0]
            && let Some(ended) = process::try_wait(process.pidfd.as_fd())?
        {
            break ended;
        }
    };
    // What it said last is still in the terminal.
    if let Some(control) = &control {
        while readable(control) && relay(control.as_fd(), std::io::stdout().as_fd()) {}
    }
    drop(raw);
    Ok(ended)
}

fn readable(control: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
        && fds[0]
            .revents()
            .is_some_and(|r| r.contains(PollFlags::POLLIN))
}

fn copy_size(control: &OwnedFd) {
    if let Ok(size) = kernelet_sys::terminal::size(std::io::stdin().as_fd()) {
        let _ = terminal::resize(control.as_fd(), size.0, size.1);
    }
}

fn forward_signals(process: &Process, signals: &SignalFd, control: Option<&OwnedFd>) -> Result<()> {
    while let Ok(Some(info)) = signals.read_signal() {
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGCHLD) => {}
            Ok(Signal::SIGWINCH) if control.is_some() => copy_size(control.expect("checked")),
            _ => process::pidfd_send_signal(process.pidfd.as_fd(), info.ssi_signo as i32)?,
        }
    }
    Ok(())
}

/// Orphans of the container's, which come here when it has no pid namespace of its own.
fn reap_others(process: &Process) {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Looked at first: the container's own process is reaped by who wants its status.
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
        waitid(Id::All, look)
    {
        if pid.as_raw() == process.pid || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Moves a piece; says whether the source may have more.
fn relay(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut buffer = [0_u8; 4096];
    let Ok(n @ 1..) = nix::unistd::read(from, &mut buffer) else {
        return false;
    };
    let mut rest = &buffer[..n];
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return false,
        }
    }
    true
}
