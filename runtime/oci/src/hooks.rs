//! OCI's hooks, in the form that is run.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow, bail};
use kernelet_container::{BeforeHook, run_hook, run_hooks};
use oci_spec::runtime::{Hook, Hooks};

use crate::log;

/// All six lists, never missing.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Lists {
    /// Checks each, too: paths are absolute, timeouts are some time.
    pub fn of(hooks: Option<&Hooks>) -> Result<Lists> {
        let Some(hooks) = hooks else {
            return Ok(Lists::default());
        };
        let take = |name: &str, list: &Option<Vec<Hook>>| {
            for (index, hook) in list.iter().flatten().enumerate() {
                let field = format!("config.json: hooks.{name}[{index}]");
                if !hook.path().is_absolute() {
                    bail!("{field}.path: {} is not absolute", hook.path().display());
                }
                if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                    bail!("{field}.timeout: must be greater than zero");
                }
            }
            Ok(list.clone().unwrap_or_default())
        };
        Ok(Lists {
            prestart: take("prestart", hooks.prestart())?,
            create_runtime: take("createRuntime", hooks.create_runtime())?,
            create_container: take("createContainer", hooks.create_container())?,
            start_container: take("startContainer", hooks.start_container())?,
            poststart: take("poststart", hooks.poststart())?,
            poststop: take("poststop", hooks.poststop())?,
        })
    }
}

/// The form that is run. A hook without an environment has an empty one: neither the runtime's nor, above all, one
/// that an image's author chose (CVE-2025-23266). startContainer's run inside, with the program's.
pub fn convert(hooks: &[Hook], inside: bool) -> Vec<kernelet_container::Hook> {
    let one = |hook: &Hook| kernelet_container::Hook {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: match hook.env() {
            None if inside => None,
            env => Some(env.clone().unwrap_or_default()),
        },
        timeout: hook
            .timeout()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
    };
    hooks.iter().map(one).collect()
}

fn prepared(hooks: &[Hook], state: &str) -> Vec<kernelet_container::Hook> {
    #[cfg_attr(
        not(feature = "weakened"),
        expect(unused_mut, reason = "only weakened builds change it")
    )]
    let mut hooks = convert(hooks, false);
    #[cfg(feature = "weakened")]
    crate::weakened::give_environment(&mut hooks, state);
    #[cfg(not(feature = "weakened"))]
    let _ = state;
    hooks
}

fn nothing() -> Option<BeforeHook> {
    None
}

/// Runs hooks of the runtime's namespaces one after the other with the state (asked for only if there are any) on
/// their stdin; the first failure ends it.
pub fn run(
    name: &str,
    hooks: &[Hook],
    directory: Option<&Path>,
    state: impl Fn() -> String,
) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state();
    let hooks = prepared(hooks, &state);
    run_hooks(name, &hooks, directory, || state.clone(), nothing)
        .map_err(|error| anyhow!(error.line()))
}

/// Runs all, whatever becomes of each: a failure is a warning.
pub fn run_all(name: &str, hooks: &[Hook], state: &str) {
    for (number, hook) in prepared(hooks, state).iter().enumerate() {
        if let Err(reason) = run_hook(hook, None, state, None) {
            log::warn(&format!("error running {name} hook #{number}: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(hook: serde_json::Value) -> Result<Lists, String> {
        let hooks: Hooks = serde_json::from_value(serde_json::json!({"poststop": [hook]})).unwrap();
        Lists::of(Some(&hooks)).map_err(|e| e.to_string())
    }

    #[test]
    fn hooks_are_checked_before_anything_is_made() {
        let fails = |hook, what: &str| assert!(lists(hook).unwrap_err().contains(what));
        fails(
            serde_json::json!({"path": "bin/true"}),
            "hooks.poststop[0].path",
        );
        fails(
            serde_json::json!({"path": "/bin/true", "timeout": 0}),
            "hooks.poststop[0].timeout",
        );
        assert_eq!(
            lists(serde_json::json!({"path": "/bin/true", "timeout": 1}))
                .unwrap()
                .poststop
                .len(),
            1
        );
    }
}
