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
    instance::{Instance, StoreUrl},
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
                say(&stopped, options.purge)?;
            }
        }
        None if options.pods && !options.purge => {
            println!("kernelet did not run");
            // No `up` may come between: two would own one pod.
            crate::instance::private_dir(&instance.run_dir)?;
            let lock = instance.lock()?;
            say(&node::end_left_pods(&instance)?, false)?;
            drop(lock);
        }
        None if !options.purge => println!("kernelet did not run"),
        None => {}
    }
    if options.purge {
        // From here on this process is the instance: no `up` may come between.
        crate::instance::private_dir(&instance.run_dir)?;
        let lock = instance.lock()?;
        let store = instance.remembered_store();
        purge(&instance)?;
        drop(lock);
        println!("purged {}", instance.data_dir.display());
        if let Some(StoreUrl::Etcd(url)) = store {
            println!("{}", left_in_etcd(&url));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of the pods; those that are left are an error, unless a purge comes next and kills them.
fn say(stopped: &Stopped, purge: bool) -> anyhow::Result<()> {
    println!("{} pods ended", stopped.pods_ended);
    if !stopped.pods_left.is_empty() && !purge {
        bail!("these pods did not end: {}", stopped.pods_left.join(", "));
    }
    Ok(())
}

/// An etcd is not ours, and other machines may serve the same cluster from it: nothing in it is touched.
fn left_in_etcd(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("etcd", url));
    let (hosts, certificates) = match rest.split_once('?') {
        Some((hosts, _)) => (hosts, " (and the certificates' options)"),
        None => (rest, ""),
    };
    let http = if scheme == "etcds" { "https" } else { "http" };
    let endpoints: Vec<String> = hosts
        .split(',')
        .map(|host| format!("{http}://{host}"))
        .collect();
    format!(
        "the cluster's objects are still in {url}; to remove them: \
         ETCDCTL_API=3 etcdctl --endpoints={}{certificates} del --prefix /registry/",
        endpoints.join(",")
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_etcd_is_said_with_the_command_that_removes_it() {
        for (url, says) in [
            (
                "etcd://a:1,b:2",
                "--endpoints=http://a:1,http://b:2 del --prefix /registry/",
            ),
            (
                "etcds://a:1?ca=/x",
                "--endpoints=https://a:1 (and the certificates' options) del",
            ),
        ] {
            let text = left_in_etcd(url);
            assert!(text.contains(says), "{text}");
        }
    }
}
