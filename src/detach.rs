//! `up --detach`: the same program again, in a session of its own, and a pipe through which it says that it
//! is Ready or why it can't be.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::setsid,
};

use crate::{
    cli::{Global, UpOptions},
    instance::Instance,
    preflight,
};

/// Tells the child which descriptor to report on.
const REPORT_FD: &str = "KERNELET_REPORT_FD";

/// What the child reports, first byte of the message.
const READY: u8 = b'+';
const FAILED: u8 = b'-';

pub fn run(global: &Global, options: &UpOptions) -> anyhow::Result<ExitCode> {
    preflight::node()?;
    let instance = Instance::create(&global.data_dir)?;
    // Asked here too, so that the answer is not in a log file; the child takes it for good.
    drop(instance.lock()?);
    let _ = options;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(instance.log_file())
        .with_context(|| format!("cannot open the log {}", instance.log_file().display()))?;
    let (mut report, child_end) = std::io::pipe()?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut child = Command::new(program);
    child
        .arg0("kernelet")
        .args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"))
        .env(REPORT_FD, child_end.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // What the caller left open (a lock's descriptor, say) must not live on in a program that outlives it;
    // this one descriptor has to survive the exec.
    kernelet_sys::fd::close_on_exec_from(3).context("cannot close inherited descriptors")?;
    fcntl(&child_end, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut child = child.spawn().context("cannot start the detached program")?;
    drop(child_end);
    let mut message = Vec::new();
    report.read_to_end(&mut message)?;
    match message.split_first() {
        Some((&READY, text)) => {
            print!("{}", String::from_utf8_lossy(text));
            Ok(ExitCode::SUCCESS)
        }
        Some((&FAILED, text)) => {
            let _ = child.wait();
            bail!("{}", String::from_utf8_lossy(text).trim())
        }
        _ => {
            let status = child.wait()?;
            bail!(
                "the detached program ended ({status}) before it was Ready; see {}",
                instance.log_file().display()
            )
        }
    }
}

/// The child's end: where the outcome of the start is reported. In the foreground it is the terminal.
pub struct Report {
    pipe: Option<std::fs::File>,
}

impl Report {
    /// Leaves the terminal's session if this process was started by `run`.
    pub fn open() -> anyhow::Result<Self> {
        let Ok(fd) = std::env::var(REPORT_FD) else {
            return Ok(Self { pipe: None });
        };
        // Opened anew through /proc: a descriptor number from the environment is not ours to own.
        let pipe = OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .context("cannot open the reporting pipe")?;
        let inherited: i32 = fd.parse().context("the reporting pipe is not a number")?;
        nix::unistd::close(inherited)
            .context("cannot close the inherited end of the reporting pipe")?;
        setsid().context("cannot leave the terminal's session")?;
        Ok(Self { pipe: Some(pipe) })
    }

    /// Says that the node is Ready; `text` goes to whoever started us.
    pub fn ready(&mut self, text: &str) {
        match self.pipe.take() {
            Some(mut pipe) => {
                let _ = pipe.write_all(&[&[READY], text.as_bytes()].concat());
            }
            None => print!("{text}"),
        }
    }

    /// Says why it can't be, when somebody waits for that; the error goes on to the log either way.
    pub fn failed(&mut self, error: &anyhow::Error) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(&[&[FAILED], format!("{error:#}").as_bytes()].concat());
        }
    }
}
