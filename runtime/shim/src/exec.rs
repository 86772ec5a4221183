//! Processes that exec has added to a container.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use kernelet_container::{ExecDescriptors, Inside};
use kernelet_sys::{
    SysError,
    process::{self, Ended, Process},
    seccomp::Filter,
    socket,
};

use crate::{
    answer::{Answered, Taken, duplicate, failure},
    pod::Pod,
    protocol::{self, Answer, ExecExit, ExecStdio, FailureKind, Message, Phase},
    session::chain,
};

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

impl Pod {
    pub(crate) fn exec(&mut self, exec: protocol::Exec, mut taken: Taken) -> Answered {
        let container = self.get(&exec.container)?;
        let (Some(process), Phase::Running { .. }) = (&container.process, &container.state.phase)
        else {
            return Err(failure(
                FailureKind::Conflict,
                format!("container {} is not running", exec.container),
            ));
        };
        let join = taken.join(exec.join)?;
        let mut capture = None;
        let stdio = match (exec.plan.terminal, exec.stdio) {
            (true, _) => None,
            (false, ExecStdio::Passed) => Some(taken.stdio()?),
            (false, ExecStdio::Capture { limit }) => {
                let (kept, end) = Capture::new(limit)?;
                capture = Some(kept);
                let null = duplicate(std::io::stdin().as_fd())?;
                Some([null, duplicate(end.as_fd())?, end])
            }
        };
        let filter = match exec
            .filter
            .map(|bytes| Filter::from_bytes(&bytes))
            .transpose()
        {
            Ok(filter) => filter,
            Err(e) => return Err(failure(FailureKind::Invalid, chain(&e))),
        };
        let made = ExecDescriptors {
            container: duplicate(process.pidfd.as_fd())?,
            join,
            stdio,
            own_pid: Some(duplicate(self.own_pid.as_fd())?),
            filter,
            listener: None,
            preserve: 0,
            inside: Inside {
                user: self.sandbox.as_ref().is_some_and(|s| s.user.is_some()),
                ..Inside::default()
            },
        };
        let waiting = kernelet_container::exec(&exec.plan, made)?;
        let (process, terminal) = waiting.start()?;
        let id = self.next_exec;
        self.next_exec += 1;
        let mut answers = vec![duplicate(process.pidfd.as_fd())?];
        answers.extend(terminal);
        let pid = process.pid;
        self.execs.insert(
            id,
            Exec {
                id,
                process,
                capture,
                deadline: exec.plan.timeout.map(|timeout| Instant::now() + timeout),
                timed_out: false,
            },
        );
        Ok((Answer::ExecStarted { exec: id, pid }, answers))
    }

    pub(crate) fn reap_exec(&mut self, id: u64) {
        let Some(exec) = self.execs.get(&id) else {
            return;
        };
        let ended = match process::try_wait(exec.process.pidfd.as_fd()) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(_) => Ended::Exited(255),
        };
        if let Some(exec) = self.execs.remove(&id) {
            self.outbox.push(Message::ExecExited(exec.exit(ended)));
        }
    }

    /// Kills execs whose time is over, and cuts off clients that read nothing.
    pub(crate) fn expire(&mut self, now: Instant) {
        for log in self.containers.values_mut().filter_map(|c| c.log.as_mut()) {
            log.taps.expire(now);
        }
        for exec in self.execs.values_mut() {
            if !exec.timed_out && exec.deadline.is_some_and(|deadline| deadline <= now) {
                exec.timed_out = true;
                exec.kill();
            }
        }
    }

    /// The agent has gone, and with it who wanted the execs.
    pub(crate) fn end_execs(&mut self) {
        for exec in self.execs.values() {
            exec.kill();
        }
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
