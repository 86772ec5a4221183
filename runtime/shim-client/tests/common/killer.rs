//! Kills another process at its n-th system call, from outside: nothing in the product knows of it.

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Killed,
    /// It ended before it had made so many calls.
    EndedBefore,
}

/// Follows `pid` on the calling thread (`attached` is called once it does) until it is killed at its `n`-th call from now, or `stop` says
/// that the work is done, which leaves it running.
pub fn kill_at_call(
    pid: i32,
    n: u32,
    attached: impl FnOnce(),
    stop: impl Fn() -> bool,
) -> Option<Outcome> {
    let pid = Pid::from_raw(pid);
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).ok()?;
    ptrace::interrupt(pid).ok()?;
    attached();
    let mut calls = 0;
    let outcome = loop {
        // `__WALL`, and only this process: children of the test's own stay alone.
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                if stop() {
                    // Interrupted once more, so that it can be let go.
                    let _ = ptrace::interrupt(pid);
                    let _ = waitpid(pid, Some(WaitPidFlag::__WALL));
                    let _ = ptrace::detach(pid, None);
                    return None;
                }
                std::thread::yield_now();
            }
            Ok(WaitStatus::PtraceSyscall(_)) => {
                calls += 1;
                // Each call stops twice: going in and coming out. Both are moments to die at.
                if calls >= n {
                    let _ = kill(pid, Signal::SIGKILL);
                    break Outcome::Killed;
                }
                let _ = ptrace::syscall(pid, None);
            }
            Ok(WaitStatus::Stopped(_, signal)) => {
                let signal =
                    Some(signal).filter(|s| *s != Signal::SIGTRAP && *s != Signal::SIGSTOP);
                let _ = ptrace::syscall(pid, signal);
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => {
                break Outcome::EndedBefore;
            }
            Ok(_) => drop(ptrace::syscall(pid, None)),
        }
    };
    Some(outcome)
}
