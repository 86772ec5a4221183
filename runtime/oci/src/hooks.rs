//! Hooks that run in the host's namespaces. Those that run in the container's are refused before
//! anything is made.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Hook, Hooks};

pub fn check(hooks: Option<&Hooks>) -> Result<()> {
    let Some(hooks) = hooks else {
        return Ok(());
    };
    for (name, list) in [
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
    ] {
        if list.iter().flatten().next().is_some() {
            bail!("config.json: hooks.{name}: is not supported");
        }
    }
    Ok(())
}

/// Runs hooks one after the other with the state (asked for only if there are any) on their stdin; the
/// first failure ends it.
pub fn run(name: &str, hooks: Option<&Vec<Hook>>, state: impl Fn() -> String) -> Result<()> {
    for hook in hooks.into_iter().flatten() {
        run_one(hook, &state())
            .with_context(|| format!("run the {name} hook {}", hook.path().display()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<()> {
    let mut command = Command::new(hook.path());
    // OCI's args hold the program's own name first.
    command.args(hook.args().iter().flatten().skip(1));
    #[cfg(feature = "weakened")]
    crate::weakened::give_environment(&mut command, state);
    #[cfg(not(feature = "weakened"))]
    command.env_clear();
    for pair in hook.env().iter().flatten() {
        if let Some((name, value)) = pair.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may end without having read it.
        let _ = stdin.write_all(state.as_bytes());
    }
    let limit = hook
        .timeout()
        .filter(|t| *t > 0)
        .map(|t| Duration::from_secs(t as u64));
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.success() {
                true => Ok(()),
                false => bail!("it ended with {status}"),
            };
        }
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            child.kill()?;
            child.wait()?;
            bail!(
                "it took longer than {} s",
                limit.unwrap_or_default().as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
