//! Hooks: programs that a bundle's author wants run at given moments of a container's life.
//!
//! ```text
//! mounts made ─ prestart, createRuntime (parent) ─ createContainer (here) ─ pivot ─ … go ─ startContainer (here) ─ exec
//! ```
//! Those of the runtime's namespaces are run by the caller, those of the container's by the child itself, which is in
//! them already. A hook gets OCI's state on its stdin. stdin, stdout and stderr are memory files: a hook that doesn't
//! read, or leaves something running behind it, blocks nobody.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use kernelet_sys::{SysError, process};

use crate::{CreateError, ErrorKind};

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With the program's own name first; empty: only that.
    pub args: Vec<String>,
    /// `NAME=value`; `None`: the runner's own.
    pub env: Option<Vec<String>>,
    /// After it the hook is killed and counts as failed.
    pub timeout: Option<Duration>,
}

/// OCI's state as JSON, given its status and the process's id where the hook runs.
pub type StateOf = Box<dyn Fn(&str, i32) -> String>;

/// What the child runs itself.
pub struct InsideHooks {
    /// After the mounts, before the pivot: their paths are the host's, their namespaces the container's.
    pub create_container: Vec<Hook>,
    /// Right before the program, with its user, working directory, capabilities and filter. Their paths are the
    /// container's.
    pub start_container: Vec<Hook>,
    pub state: StateOf,
    /// Why a start failed is written here, for who isn't at the line any more.
    pub report: Option<OwnedFd>,
}

impl fmt::Debug for InsideHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsideHooks")
            .field("create_container", &self.create_container)
            .field("start_container", &self.start_container)
            .finish_non_exhaustive()
    }
}

/// Something to be done in a hook's process, right before its program.
pub type BeforeHook = Box<dyn FnMut() -> Result<(), CreateError> + Send + Sync>;

/// Runs hooks one after the other; the first failure ends it.
pub fn run_hooks(
    name: &str,
    hooks: &[Hook],
    directory: Option<&Path>,
    state: impl Fn() -> String,
    before: impl Fn() -> Option<BeforeHook>,
) -> Result<(), CreateError> {
    for (number, hook) in hooks.iter().enumerate() {
        run_hook(hook, directory, &state(), before()).map_err(|reason| {
            CreateError::new(
                ErrorKind::Invalid,
                format!("error running {name} hook #{number}: {reason}"),
            )
        })?;
    }
    Ok(())
}

/// Runs one hook to its end. The error is the reason, in the words that callers of OCI runtimes know.
pub fn run_hook(
    hook: &Hook,
    directory: Option<&Path>,
    state: &str,
    before: Option<BeforeHook>,
) -> Result<(), String> {
    let plain = |error: std::io::Error| SysError::io("", &error).errno.desc().to_owned();
    let mut command = Command::new(&hook.path);
    if let Some((first, rest)) = hook.args.split_first() {
        command.arg0(first).args(rest);
    }
    if let Some(env) = &hook.env {
        command.env_clear();
        for pair in env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            command.env(name, value);
        }
    }
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut stdin = memory_file()?;
    stdin
        .write_all(state.as_bytes())
        .and_then(|()| stdin.rewind())
        .map_err(plain)?;
    let (mut stdout, mut stderr) = (memory_file()?, memory_file()?);
    command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone().map_err(plain)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(plain)?));
    let mut before = before;
    // SAFETY: between fork and exec of a process with one thread anything may be called; the closure only sets the
    // signal mask and what the caller asked for.
    unsafe {
        command.pre_exec(move || {
            // The runner may watch signals through a descriptor, with all of them blocked.
            let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
            match &mut before {
                None => Ok(()),
                Some(before) => before().map_err(|error| {
                    std::io::Error::from_raw_os_error(
                        error.errno.unwrap_or(nix::errno::Errno::EPERM) as i32,
                    )
                }),
            }
        });
    }
    let mut child = command
        .spawn()
        .map_err(|e| format!("fork/exec {}: {}", hook.path.display(), plain(e)))?;
    let deadline = hook.timeout.map(|timeout| Instant::now() + timeout);
    let pidfd = process::pidfd_open(child.id() as i32).map_err(|e| e.to_string())?;
    loop {
        let left = deadline.map_or(Duration::from_secs(3600), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        if process::wait_ended(pidfd.as_fd(), left).map_err(|e| e.to_string())? {
            break;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "hook ran past specified timeout of {:.1}s",
                hook.timeout.unwrap_or_default().as_secs_f64()
            ));
        }
    }
    let status = child.wait().map_err(plain)?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "{}, stdout: {}, stderr: {}",
        ending(status),
        said(&mut stdout),
        said(&mut stderr)
    ))
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal);
            name.map_or_else(
                |_| format!("signal: {signal}"),
                |name| format!("signal: {}", described(name)),
            )
        }
        _ => status.to_string(),
    }
}

/// As runc's users know them.
fn described(signal: nix::sys::signal::Signal) -> &'static str {
    use nix::sys::signal::Signal::*;
    match signal {
        SIGHUP => "hangup",
        SIGINT => "interrupt",
        SIGQUIT => "quit",
        SIGILL => "illegal instruction",
        SIGTRAP => "trace/breakpoint trap",
        SIGABRT => "aborted",
        SIGBUS => "bus error",
        SIGFPE => "floating point exception",
        SIGKILL => "killed",
        SIGUSR1 => "user defined signal 1",
        SIGSEGV => "segmentation fault",
        SIGUSR2 => "user defined signal 2",
        SIGPIPE => "broken pipe",
        SIGALRM => "alarm clock",
        SIGTERM => "terminated",
        SIGSYS => "bad system call",
        other => other.as_str(),
    }
}

fn memory_file() -> Result<File, String> {
    nix::sys::memfd::memfd_create(c"hook", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|e| format!("make a memory file: {}", e.desc()))
}

/// What a hook has written, up to a bound.
fn said(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.take(16 << 10).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["hook", "-c", script].map(str::to_owned).to_vec(),
            env: Some(vec!["A=b c".to_owned()]),
            timeout: Some(Duration::from_secs(10)),
        }
    }

    #[test]
    fn a_hook_gets_state_arguments_and_environment() {
        let script = r#"test "$(/bin/cat)" = state && test "$A" = "b c" && test "$0" = hook && test "$PWD" = /tmp"#;
        let dir = Some(Path::new("/tmp"));
        assert_eq!(run_hook(&shell(script), dir, "state", None), Ok(()));
    }

    #[test]
    fn failures_tell_how_and_what_was_said() {
        let failed = run_hook(&shell("echo out; echo err >&2; exit 3"), None, "", None);
        assert_eq!(
            failed.unwrap_err(),
            "exit status 3, stdout: out\n, stderr: err\n"
        );
        let killed = run_hook(&shell("kill -9 $$"), None, "", None).unwrap_err();
        assert!(killed.starts_with("signal: killed"), "{killed}");
        let missing = Hook {
            path: "/nothing/here".into(),
            ..shell("")
        };
        assert_eq!(
            run_hook(&missing, None, "", None).unwrap_err(),
            "fork/exec /nothing/here: No such file or directory"
        );
        let all = [shell("exit 0"), shell("exit 1")];
        let error = run_hooks("poststart", &all, None, String::new, || None).unwrap_err();
        assert!(
            error
                .what
                .starts_with("error running poststart hook #1: exit status 1"),
            "{error}"
        );
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let slow = Hook {
            timeout: Some(Duration::from_millis(50)),
            ..shell("exec /bin/sleep 1000")
        };
        assert_eq!(
            run_hook(&slow, None, "", None).unwrap_err(),
            "hook ran past specified timeout of 0.1s"
        );
    }
}
