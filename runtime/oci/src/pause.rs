//! pause and resume.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use kernelet_sys::cgroup::Layout;

use crate::{
    cli::Global,
    container::{group, named},
    flags::Given,
    state::Status,
};

/// How long the kernel may take to stop everybody.
const WITHIN: Duration = Duration::from_secs(10);

pub fn pause(global: &Global, given: &Given) -> Result<ExitCode> {
    freeze(global, given, true)
}

pub fn resume(global: &Global, given: &Given) -> Result<ExitCode> {
    freeze(global, given, false)
}

fn freeze(global: &Global, given: &Given, on: bool) -> Result<ExitCode> {
    let (_, folder, saved) = named(global, given)?;
    let layout = Layout::detect()?;
    match (on, saved.status(&folder, &layout)) {
        (true, Status::Running | Status::Created) | (false, Status::Paused) => {}
        (true, _) => bail!("container not running"),
        (false, _) => bail!("container not paused"),
    }
    let group = group(&saved, &layout)?;
    group.freeze(on)?;
    let deadline = Instant::now() + WITHIN;
    while group.frozen()? != on {
        if Instant::now() > deadline {
            bail!(
                "the container didn't {} in time",
                if on { "stop" } else { "go on" }
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(ExitCode::SUCCESS)
}
