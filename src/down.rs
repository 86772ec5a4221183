//! `kernelet down`: ends the program; with `--pods` the pods too; with `--purge` everything that is ours.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    cli::{DownOptions, Global},
    control_socket::{self, Request, Stopped},
    instance::Instance,
    node, preflight,
};

/// How long the program may take to finish what it has begun.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a killed one may take to be gone once it has dropped its connections.
const DEATH_WITHIN: Duration = Duration::from_secs(5);

pub fn run(global: &Global, options: &DownOptions) -> anyhow::Result<ExitCode> {
    preflight::root("ends processes of root")?;
    let Some(instance) = Instance::find(&global.data_dir)? else {
        println!(
            "there is nothing of kernelet in {}",
            global.data_dir.display()
        );
        return Ok(ExitCode::SUCCESS);
    };
    let ends_pods = options.pods || options.purge;
    match stop(&instance, ends_pods)? {
        Some(stopped) => {
            println!("kernelet stopped");
            if ends_pods {
                println!("{} pods ended", stopped.pods_ended);
            }
            if !stopped.pods_left.is_empty() && !options.purge {
                bail!("these pods did not end: {}", stopped.pods_left.join(", "));
            }
        }
        None if options.pods && !options.purge => bail!(
            "kernelet does not run, so nobody can end its pods with their grace; \
             `kernelet up --detach` first, or `down --purge`, which kills them"
        ),
        None => {}
    }
    if options.purge {
        // From here on this process is the instance: no `up` may come between.
        crate::instance::private_dir(&instance.run_dir)?;
        let lock = instance.lock()?;
        purge(&instance)?;
        drop(lock);
        println!("purged {}", instance.data_dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops the running program, its pods first if they are to end, and waits for its end; `None` when none ran.
fn stop(instance: &Instance, pods: bool) -> anyhow::Result<Option<Stopped>> {
    let Some(connection) = control_socket::connect(&instance.socket())? else {
        return Ok(None);
    };
    let pid = connection.pid;
    let process = match kernelet_sys::process::pidfd_open(pid) {
        Ok(process) => process,
        // It ended just now; the connection was still its own.
        Err(error) if error.errno == nix::errno::Errno::ESRCH => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot watch process {pid}")),
    };
    let answer = connection
        .ask(Request::Stop { pods })
        .and_then(|line| serde_json::from_str(&line).context("its answer is not to be understood"));
    match answer {
        Ok(stopped) if ended(process.as_fd(), STOP_WITHIN)? => Ok(Some(stopped)),
        Ok(_) => bail!(
            "process {pid} did not end within {} s; its log is {}",
            STOP_WITHIN.as_secs(),
            instance.log_file().display()
        ),
        // Somebody killed it before it could answer: then nothing runs, which is what was asked for.
        Err(_) if ended(process.as_fd(), DEATH_WITHIN)? => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the process ends in that time.
fn ended(process: BorrowedFd<'_>, within: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
        // Rounded up, so that the last moment is no spin.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error).context("cannot wait for the program's end"),
        }
    }
}

/// Takes away everything that carries the instance's id; goes on past errors and names them all.
fn purge(instance: &Instance) -> anyhow::Result<()> {
    let mut errors = node::purge(instance);
    errors.extend(kernelet_netagent::purge(&instance.id, &instance.run_dir));
    for dir in [&instance.log_dir, &instance.run_dir, &instance.data_dir] {
        if let Err(error) = remove(dir) {
            errors.push(format!("cannot remove {}: {error}", dir.display()));
        }
    }
    // The folders that instances share go with the last one.
    for shared in ["/run/kernelet", "/var/log/kernelet"] {
        let _ = fs::remove_dir(shared);
    }
    if !errors.is_empty() {
        bail!(
            "not everything could be removed:\n  {}",
            errors.join("\n  ")
        );
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
