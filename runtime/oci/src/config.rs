//! Reading `config.json` and exec's process as runc does: a capability that isn't known is passed over with a warning,
//! a limit that isn't known is an error of its own.
//!
//! The plain decoding comes first, and what's here only when that fails, so that the usual file is read once.

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::log;

/// A whole configuration.
pub fn spec(text: &[u8]) -> Result<Spec> {
    decode(text, |value| value.get_mut("process"))
}

/// One process, for exec.
pub fn process(text: &[u8]) -> Result<Process> {
    decode(text, |value| Some(value))
}

fn decode<T: DeserializeOwned>(
    text: &[u8],
    process: fn(&mut Value) -> Option<&mut Value>,
) -> Result<T> {
    let error = match serde_json::from_slice(text) {
        Ok(decoded) => return Ok(decoded),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(error.into());
    };
    check_memory_policy(&value)?;
    let Some(process) = process(&mut value) else {
        return Err(error.into());
    };
    if let Some(process) = process.as_object_mut() {
        // Who isn't named is root, as with runc.
        process
            .entry("user")
            .or_insert_with(|| serde_json::json!({"uid": 0, "gid": 0}));
    }
    let unknown = take_unknown_capabilities(process);
    check_limits(process)?;
    respell_flags(process);
    let decoded = serde_json::from_value(value).context("decode it")?;
    if !unknown.is_empty() {
        log::warn(&format!(
            "ignoring unknown or unavailable capabilities: [{}]",
            unknown.join(" ")
        ));
    }
    Ok(decoded)
}

fn take_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            let known =
                serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str()) {
                unknown.push(name.to_owned());
            }
            known || !name.is_string()
        });
    }
    unknown.sort();
    unknown.dedup();
    unknown
}

/// The words of runc for a policy of memory that the decoder's crate doesn't know.
fn check_memory_policy(value: &Value) -> Result<()> {
    let Some(policy) = value.pointer("/linux/memoryPolicy") else {
        return Ok(());
    };
    let mode = policy.get("mode").cloned().unwrap_or_default();
    if serde_json::from_value::<oci_spec::runtime::MemoryPolicyModeType>(mode.clone()).is_err() {
        bail!(
            "invalid memory policy mode {:?}",
            mode.as_str().unwrap_or_default()
        );
    }
    let flags = policy.get("flags").and_then(Value::as_array);
    for flag in flags.into_iter().flatten() {
        if serde_json::from_value::<oci_spec::runtime::MemoryPolicyFlagType>(flag.clone()).is_err()
        {
            bail!(
                "invalid memory policy flag {:?}",
                flag.as_str().unwrap_or_default()
            );
        }
    }
    Ok(())
}

fn check_limits(process: &Value) -> Result<()> {
    let limits = process.get("rlimits").and_then(Value::as_array);
    for limit in limits.into_iter().flatten() {
        let name = limit.get("type").cloned().unwrap_or_default();
        if serde_json::from_value::<oci_spec::runtime::PosixRlimitType>(name.clone()).is_err() {
            bail!("wrong rlimit value: {}", name.as_str().unwrap_or_default());
        }
    }
    Ok(())
}

/// The specification's spelling of a flag that the decoder's crate spells otherwise.
fn respell_flags(process: &mut Value) {
    let flags = process
        .pointer_mut("/scheduler/flags")
        .and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = "SCHED_RESET_ON_FORK".into();
        }
        if flag == "SCHED_FLAG_DL_OVERRUN" {
            *flag = serde_json::to_value(oci_spec::runtime::LinuxSchedulerFlag::SchedFlagDLOverrun)
                .expect("a name can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_go_and_unknown_limits_are_named() {
        let decoded = process(
            br#"{"cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL", "CAP_TO_FLY"]},
            "scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_DL_OVERRUN"]}}"#,
        )
        .unwrap();
        let sets = decoded.capabilities().clone().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        let flags = decoded
            .scheduler()
            .as_ref()
            .unwrap()
            .flags()
            .clone()
            .unwrap();
        assert_eq!(
            flags,
            [oci_spec::runtime::LinuxSchedulerFlag::SchedFlagDLOverrun]
        );
        let error =
            process(br#"{"user": {}, "cwd": "/", "rlimits": [{"type": "RLIMIT_X"}]}"#).unwrap_err();
        assert_eq!(error.to_string(), "wrong rlimit value: RLIMIT_X");
        assert!(process(b"{").is_err());
    }
}
