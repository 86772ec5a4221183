//! What can be asked of and done to a container that exists: state, kill, delete, list, ps, pause.

use std::{fs, io::ErrorKind, os::fd::AsFd, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kernelet_spec::ContainerId;
use kernelet_sys::{cgroup::Layout, process};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use serde_json::json;

use crate::{
    cli::{self, Global},
    create, hooks,
    state::{self, Folder, Saved, Status},
};

#[derive(Args)]
pub struct KillArgs {
    id: String,
    /// Name or number (default: TERM).
    #[arg(default_value = "SIGTERM")]
    signal: String,
    /// Every process of the container.
    #[arg(long, short)]
    all: bool,
}

#[derive(Args)]
pub struct ListArgs {
    #[arg(long, short, value_enum, default_value = "table")]
    format: Format,
    /// Only ids.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Args)]
pub struct PsArgs {
    id: String,
    #[arg(long, short, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// OCI's state, as `state` prints it and hooks read it.
pub fn state_json(folder: &Folder, saved: &Saved, layout: &Layout) -> String {
    let status = saved.status(folder, layout);
    let pid = if status == Status::Stopped {
        0
    } else {
        saved.pid
    };
    let state = json!({
        "ociVersion": saved.oci_version,
        "id": saved.id.as_str(),
        "pid": pid,
        "status": status,
        "bundle": saved.bundle,
        "rootfs": saved.rootfs,
        "created": state::rfc3339(saved.created),
        "annotations": saved.annotations,
    });
    serde_json::to_string_pretty(&state).expect("a JSON value can be written")
}

pub fn state(global: &Global, id: &ContainerId) -> Result<()> {
    let folder = Folder::of(global, id);
    println!(
        "{}",
        state_json(&folder, &folder.load()?, &Layout::detect()?)
    );
    Ok(())
}

fn signal_number(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return match number {
            0..=64 => Ok(number),
            _ => bail!("unknown signal {text:?}"),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let signal: Signal = name
        .parse()
        .with_context(|| format!("unknown signal {text:?}"))?;
    Ok(signal as i32)
}

pub fn kill(global: &Global, args: &KillArgs) -> Result<()> {
    let folder = Folder::of(global, &cli::id(&args.id)?);
    let saved = folder.load()?;
    let signal = signal_number(&args.signal)?;
    if args.all {
        let layout = Layout::detect()?;
        let group = layout.group(&saved.cgroup);
        if signal == nix::libc::SIGKILL {
            return Ok(group.kill()?);
        }
        for pid in group.pids_of_tree()? {
            let to = process::pidfd_open(pid);
            // It may have ended since it was listed.
            if let Ok(pidfd) = to {
                process::pidfd_send_signal(pidfd.as_fd(), signal)?;
            }
        }
        return Ok(());
    }
    Ok(process::pidfd_send_signal(saved.pidfd()?.as_fd(), signal)?)
}

pub fn delete(global: &Global, id: &ContainerId, force: bool) -> Result<()> {
    let folder = Folder::of(global, id);
    let saved = match folder.load() {
        Ok(saved) => saved,
        Err(_) if force && !folder.path.exists() => return Ok(()),
        Err(_) if force => return remove_half(&folder),
        Err(e) => return Err(e),
    };
    let layout = Layout::detect()?;
    match saved.status(&folder, &layout) {
        Status::Running | Status::Paused if !force => {
            bail!("cannot delete container {id} that is not stopped: use kill, or --force");
        }
        _ => {}
    }
    // The bundle may be gone by now; then so are its hooks.
    let spec = create::load_spec(&saved.bundle).unwrap_or_default();
    remove_all(&folder, &saved, &layout, &spec)
}

/// What a creation that was killed half-way has left. Without a plan it had made nothing yet.
fn remove_half(folder: &Folder) -> Result<()> {
    if let Ok(plan) = folder.load_plan() {
        let layout = Layout::detect()?;
        let group = layout.group(&plan.cgroup);
        group.kill()?;
        group.wait_empty(Duration::from_secs(10))?;
        group.remove(Duration::from_secs(5))?;
    }
    folder.remove()
}

/// Ends and removes everything, continuing past errors.
pub fn remove_all(folder: &Folder, saved: &Saved, layout: &Layout, spec: &Spec) -> Result<()> {
    let group = layout.group(&saved.cgroup);
    let killed = group.kill();
    let emptied = group.wait_empty(Duration::from_secs(10));
    let removed = group.remove(Duration::from_secs(5));
    let forgotten = folder.remove();
    let state = || {
        json!({
            "ociVersion": saved.oci_version,
            "id": saved.id.as_str(),
            "pid": 0,
            "status": "stopped",
            "bundle": saved.bundle,
            "annotations": saved.annotations,
        })
        .to_string()
    };
    let hooked = hooks::run(
        "poststop",
        spec.hooks().as_ref().and_then(|h| h.poststop().as_ref()),
        state,
    );
    killed?;
    if !emptied? {
        bail!("processes of container {} outlive SIGKILL", saved.id);
    }
    removed?;
    forgotten?;
    hooked
}

fn all(global: &Global) -> Result<Vec<(Folder, Saved)>> {
    let entries = match fs::read_dir(&global.root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("list {}", global.root.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path: PathBuf = entry?.path();
        let folder = Folder { path };
        // One that is being made or removed right now isn't there yet or any more.
        if let Ok(saved) = folder.load() {
            found.push((folder, saved));
        }
    }
    found.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    Ok(found)
}

pub fn list(global: &Global, args: &ListArgs) -> Result<()> {
    let layout = Layout::detect()?;
    let found = all(global)?;
    if args.quiet {
        found.iter().for_each(|(_, saved)| println!("{}", saved.id));
        return Ok(());
    }
    if args.format == Format::Json {
        let states: Vec<serde_json::Value> = found
            .iter()
            .map(|(folder, saved)| serde_json::from_str(&state_json(folder, saved, &layout)))
            .collect::<Result<_, _>>()?;
        println!("{}", serde_json::to_string(&states)?);
        return Ok(());
    }
    println!(
        "{:<24} {:<10} {:<10} {:<36} CREATED",
        "ID", "PID", "STATUS", "BUNDLE"
    );
    for (folder, saved) in &found {
        let status = saved.status(folder, &layout);
        let pid = if status == Status::Stopped {
            0
        } else {
            saved.pid
        };
        let status = serde_json::to_value(status)?
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let bundle = saved.bundle.display().to_string();
        println!(
            "{:<24} {pid:<10} {status:<10} {bundle:<36} {}",
            saved.id.as_str(),
            state::rfc3339(saved.created)
        );
    }
    Ok(())
}

pub fn ps(global: &Global, args: &PsArgs) -> Result<()> {
    let saved = Folder::of(global, &cli::id(&args.id)?).load()?;
    let layout = Layout::detect()?;
    let pids = layout.group(&saved.cgroup).pids_of_tree()?;
    if args.format == Format::Json {
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(());
    }
    println!("{:<10} {:<10} COMMAND", "PID", "PPID");
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1))
            .unwrap_or("?");
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        println!("{pid:<10} {parent:<10} {}", line.trim_end());
    }
    Ok(())
}

pub fn freeze(global: &Global, id: &ContainerId, on: bool) -> Result<()> {
    let folder = Folder::of(global, id);
    let saved = folder.load()?;
    let layout = Layout::detect()?;
    let status = saved.status(&folder, &layout);
    match (on, status) {
        (true, Status::Running | Status::Created) | (false, Status::Paused) => {}
        (true, _) => bail!("container not running: {id}"),
        (false, _) => bail!("container not paused: {id}"),
    }
    let group = layout.group(&saved.cgroup);
    group.freeze(on)?;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while group.frozen()? != on {
        if std::time::Instant::now() > deadline {
            bail!(
                "container {id} did not {} within 10 s",
                if on { "stop" } else { "go on" }
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGUSR1", 10),
            ("0", 0),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for text in ["-1", "65", "SIGNOTHING", ""] {
            assert!(signal_number(text).is_err(), "{text}");
        }
    }
}
