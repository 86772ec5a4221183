//! Processes that exec has added to a container.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use kernelet_sys::{
    SysError,
    process::{self, Ended, Process},
    socket,
};

use crate::protocol::ExecExit;

#[derive(Debug)]
pub(crate) struct Exec {
    pub id: u64,
    pub process: Process,
    pub capture: Option<Capture>,
    pub deadline: Option<Instant>,
    pub timed_out: bool,
}

impl Exec {
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        // Once killed for its time, its end is awaited, not a time.
        self.deadline
            .filter(|_| !self.timed_out)
            .map(|at| at.saturating_duration_since(now))
    }

    /// Kills the process and what it has started in its session's group.
    pub(crate) fn kill(&self) {
        let _ = process::pidfd_send_signal(self.process.pidfd.as_fd(), libc::SIGKILL);
        // The process isn't reaped yet, so its number, which is also its group's, can't be another's.
        let group = nix::unistd::Pid::from_raw(self.process.pid);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }

    pub(crate) fn exit(mut self, ended: Ended) -> ExecExit {
        let mut exit = ExecExit {
            exec: self.id,
            exit_code: ended.code(),
            timed_out: self.timed_out,
            output: Vec::new(),
            dropped_bytes: 0,
        };
        if let Some(capture) = &mut self.capture {
            // What it has written is in the pipe now; a grandchild that holds it open is not waited for.
            for _ in 0..1024 {
                if !capture.read() {
                    break;
                }
            }
            exit.output = std::mem::take(&mut capture.output);
            exit.dropped_bytes = capture.dropped;
        }
        exit
    }
}

/// Output kept for a probe.
#[derive(Debug)]
pub(crate) struct Capture {
    pipe: OwnedFd,
    output: Vec<u8>,
    limit: usize,
    dropped: u64,
    closed: bool,
}

impl Capture {
    pub(crate) fn new(limit: u32) -> Result<(Self, OwnedFd), SysError> {
        let (read, write) = process::pipe()?;
        socket::set_nonblocking(read.as_fd(), true)?;
        let capture = Capture {
            pipe: read,
            output: Vec::new(),
            limit: limit.min(1 << 20) as usize,
            dropped: 0,
            closed: false,
        };
        Ok((capture, write))
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.pipe.as_fd())
    }

    /// Reads a piece; says whether there may be more.
    pub(crate) fn read(&mut self) -> bool {
        let mut chunk = [0_u8; 4096];
        match nix::unistd::read(&self.pipe, &mut chunk) {
            Ok(n @ 1..) => {
                let kept = n.min(self.limit - self.output.len());
                self.output.extend_from_slice(&chunk[..kept]);
                self.dropped += (n - kept) as u64;
                true
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => false,
            Ok(_) | Err(_) => {
                self.closed = true;
                false
            }
        }
    }
}
