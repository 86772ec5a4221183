//! In the foreground: signals go to the container, a terminal's bytes both ways, its end ends us. And
//! terminals for others, over a socket.

use std::{
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context, Result};
use kernelet_sys::{
    process::{self, Ended, Process},
    terminal,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessage, MsgFlags, sendmsg},
        termios::{self, SetArg, Termios},
    },
};

/// Sends a terminal's controlling end, as runc does: its name as the message, the descriptor beside.
pub fn hand_over(socket: &Path, control: &OwnedFd) -> Result<()> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let fds = [control.as_raw_fd()];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(b"/dev/ptmx")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .context("send the terminal")?;
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

/// Stays until the process ends.
pub fn attend(process: &Process, signals: SignalFd, control: Option<OwnedFd>) -> Result<Ended> {
    let raw = control.as_ref().and_then(|_| Raw::enter());
    if let Some(control) = &control {
        copy_size(control);
    }
    let mut stdin_open = control.is_some();
    let ended = loop {
        let mut fds = vec![
            PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = std::io::stdin();
        if let Some(control) = &control {
            fds.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
            if stdin_open {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("wait for the container"),
        }
        let ready: Vec<bool> = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|r| !r.is_empty()))
            .collect();
        if ready[1] {
            forward_signals(process, &signals, control.as_ref())?;
        }
        if let Some(control) = &control {
            if ready[2] {
                relay(control.as_fd(), std::io::stdout().as_fd());
            }
            if ready.get(3) == Some(&true) && !relay(stdin.as_fd(), control.as_fd()) {
                stdin_open = false;
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
