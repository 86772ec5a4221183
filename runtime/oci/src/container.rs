//! What is asked of one container that exists: its state, and signals to it.

use std::{collections::BTreeMap, os::fd::AsFd, path::Path, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::ContainerId;
use kernelet_sys::{
    cgroup::{Group, Layout},
    process,
};
use nix::{libc, sys::signal::Signal};
use serde::Serialize;

use crate::{
    cli::{self, Global},
    flags::{Flag, Given},
    log,
    state::{self, Folder, Saved},
};

pub const KILL: &[Flag] =
    &[Flag::switch("all", "send the signal to all processes of the container").or("a")];

/// What `state` and `list` print.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    oci_version: &'a str,
    pub id: &'a str,
    pub pid: i32,
    pub status: &'static str,
    pub bundle: &'a Path,
    rootfs: &'a Path,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub owner: String,
}

impl<'a> Shown<'a> {
    pub fn of(folder: &Folder, saved: &'a Saved, layout: &Layout) -> Shown<'a> {
        let status = saved.status(folder, layout);
        Shown {
            oci_version: &saved.oci_version,
            id: saved.id.as_str(),
            pid: saved.pid_in(status),
            status: status.name(),
            bundle: &saved.bundle,
            rootfs: &saved.rootfs,
            created: state::rfc3339(saved.created_ns),
            annotations: &saved.annotations,
            owner: String::new(),
        }
    }
}

/// The container that a command's first word names.
pub fn named(global: &Global, given: &Given) -> Result<(ContainerId, Folder, Saved)> {
    let id = cli::id(given.word(0))?;
    let folder = Folder::of(global, &id);
    let saved = folder.load()?;
    Ok((id, folder, saved))
}

/// The container's group, for commands that can't do without.
pub fn group<'a>(saved: &Saved, layout: &'a Layout) -> Result<Group<'a>> {
    let path = saved.place.cgroup.as_ref();
    Ok(layout.group(path.context("the container has no cgroup of its own")?))
}

pub fn state(global: &Global, given: &Given) -> Result<ExitCode> {
    let (_, folder, saved) = named(global, given)?;
    let layout = Layout::detect()?;
    let shown = serde_json::to_string_pretty(&Shown::of(&folder, &saved, &layout))?;
    log::out(&shown);
    Ok(ExitCode::SUCCESS)
}

fn signal_number(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let unknown = || anyhow!("unknown signal {text:?}");
    // The real-time ones, as the C library numbers them.
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(34, offset).with_context(unknown);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(64, offset).with_context(unknown);
    }
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

fn real_time(from: i32, offset: &str) -> Option<i32> {
    let offset = if offset.is_empty() {
        0
    } else {
        offset.parse::<i32>().ok()?
    };
    Some(from + offset).filter(|signal| (34..=64).contains(signal))
}

pub fn kill(global: &Global, given: &Given) -> Result<ExitCode> {
    let (_, _, saved) = named(global, given)?;
    let signal = match given.word(1) {
        "" => libc::SIGTERM,
        text => signal_number(text)?,
    };
    match send(&saved, signal, given.on("all")) {
        // Whoever wants all of them gone has what it wanted.
        Err(error) if given.on("all") && error.to_string() == "container not running" => {
            Ok(ExitCode::SUCCESS)
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

fn send(saved: &Saved, signal: i32, all: bool) -> Result<()> {
    // Without a pid namespace of its own, a container's processes outlive its first.
    if saved.place.cgroup.is_some() && (all || signal == libc::SIGKILL && !saved.own_pids) {
        let layout = Layout::detect()?;
        let group = group(saved, &layout)?;
        if signal == libc::SIGKILL {
            return group.kill().context("unable to kill all processes");
        }
        for pid in group.pids_of_tree()? {
            // It may have ended since it was listed.
            if let Ok(pidfd) = process::pidfd_open(pid) {
                process::pidfd_send_signal(pidfd.as_fd(), signal).context("unable to signal")?;
            }
        }
        return Ok(());
    }
    process::pidfd_send_signal(saved.pidfd()?.as_fd(), signal).context("unable to signal init")?;
    if signal == libc::SIGKILL {
        // On cgroup v1 it dies when it is thawed, and not before.
        let layout = Layout::detect()?;
        if saved.is_paused(&layout) {
            let _ = group(saved, &layout)?.freeze(false);
        }
    }
    Ok(())
}

/// Refuses a container that has ended.
pub fn must_live(saved: &Saved) -> Result<()> {
    match saved.is_alive() {
        true => Ok(()),
        false => bail!("container not running"),
    }
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
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for text in ["SIGNOTHING", "", "RTMIN+99", "RTMIN-1"] {
            let error = signal_number(text).unwrap_err();
            assert_eq!(error.to_string(), format!("unknown signal {text:?}"));
        }
    }
}
