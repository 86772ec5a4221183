//! delete: everything that was made for a container goes.

use std::{os::fd::AsFd, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::ContainerId;
use kernelet_sys::{cgroup::Layout, process};
use nix::libc;

use crate::{
    cli::{self, Global},
    flags::{Flag, Given},
    hooks, log,
    state::{Folder, Place, Saved, Status},
};

pub const FLAGS: &[Flag] = &[Flag::switch(
    "force",
    "Forcibly deletes the container if it is still running (uses SIGKILL)",
)
.or("f")];

/// How long another command on the same container is waited for.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// How long killed processes may take to end, and their group to be given up.
const END_WITHIN: Duration = Duration::from_secs(10);
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

pub fn delete_command(global: &Global, given: &Given) -> Result<ExitCode> {
    delete(global, &cli::id(given.word(0))?, given.on("force")).map(|()| ExitCode::SUCCESS)
}

fn delete(global: &Global, id: &ContainerId, force: bool) -> Result<()> {
    let folder = Folder::of(global, id);
    let missing = || match force {
        true => Ok(()),
        false => Err(anyhow!("container does not exist")),
    };
    // Somebody who is just making it is left alone, unless force is asked for; then it is waited for.
    let within = if force || folder.try_load().is_ok_and(|it| it.is_some()) {
        LOCK_WITHIN
    } else {
        Duration::ZERO
    };
    let lock = match folder.lock(within) {
        Ok(Some(lock)) => lock,
        Ok(None) => return missing(),
        Err(_) if !force && folder.try_load().is_ok_and(|it| it.is_none()) => return missing(),
        Err(error) => return Err(error),
    };
    let saved = match folder.try_load() {
        Ok(Some(saved)) => saved,
        // A creation that was killed half-way.
        Ok(None) => return remove_half(&folder).and_then(|()| missing()),
        Err(error) if force => {
            log::warn(&format!("{error:#}"));
            return remove_half(&folder);
        }
        Err(error) => return Err(error),
    };
    if !force {
        let status = saved.status(&folder, &Layout::detect()?);
        if !matches!(status, Status::Stopped | Status::Created) {
            bail!(
                "cannot delete container {id} that is not stopped: {}",
                status.name()
            );
        }
    }
    let removed = remove_all(&folder, &saved);
    drop(lock);
    removed
}

/// What a creation that was killed half-way, or a state that can't be read, has left. Without a place nothing was made.
pub fn remove_half(folder: &Folder) -> Result<()> {
    if let Some(place) = folder.load_place() {
        remove_place(&place)?;
    }
    folder.remove()
}

/// Ends what runs in a container's group and removes it.
fn remove_place(place: &Place) -> Result<()> {
    if let Some(path) = &place.cgroup {
        let layout = Layout::detect()?;
        let group = layout.group(path);
        group.kill().context("unable to kill all processes")?;
        if !group.wait_empty(END_WITHIN)? {
            bail!("container init still running");
        }
        // Killed frozen, it has gone; a group that stays frozen would surprise the next of this name.
        if let Some(unit) = &place.unit {
            unit.stop()?;
        }
        group
            .remove(REMOVE_WITHIN)
            .context("unable to remove container's cgroup")?;
    }
    Ok(())
}

/// Ends the first process of a container without a group.
fn end_process(saved: &Saved) -> Result<()> {
    let Ok(pidfd) = saved.pidfd() else {
        return Ok(());
    };
    process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).context("unable to signal init")?;
    match process::wait_ended(pidfd.as_fd(), END_WITHIN)? {
        true => Ok(()),
        false => bail!("container init still running"),
    }
}

/// Ends and removes everything, continuing past errors; then the poststop hooks, of which a failure is a warning.
pub fn remove_all(folder: &Folder, saved: &Saved) -> Result<()> {
    let ended = match saved.place.cgroup {
        Some(_) => Ok(()),
        None => end_process(saved),
    };
    let removed = remove_place(&saved.place);
    let left = match &saved.rdt {
        Some(group) if group.is_dir() => std::fs::remove_dir(group)
            .with_context(|| "unable to remove container's IntelRDT group".to_owned()),
        _ => Ok(()),
    };
    // With something left, the folder stays, so that a repetition finds it.
    ended
        .and(removed)
        .and(left)
        .context("unable to destroy container")?;
    folder.remove()?;
    if !saved.poststop.is_empty() {
        hooks::run_all("poststop", &saved.poststop, &saved.oci_state("stopped", 0));
    }
    Ok(())
}
