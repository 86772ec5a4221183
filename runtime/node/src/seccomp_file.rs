//! Seccomp profiles of the node (type Localhost): JSON files below `<data-dir>/seccomp`, in OCI's form, as upstream's
//! runtimes read them. Fields that they don't know are passed over, as there.

use std::path::{Component, Path};

use kernelet_spec::{
    ArgCompare, Seccomp, SeccompAction, SeccompArch, SeccompArg, SeccompFlags, SeccompProfile,
    SeccompRule,
};
use serde::Deserialize;

/// More than this is no profile.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Calls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// The profile of that name below `dir`.
pub(crate) fn localhost_profile(dir: &Path, name: &str) -> Result<Seccomp, String> {
    let relative = Path::new(name);
    let plain = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    let path = dir.join(relative);
    let shown = path.display();
    let failed = |why: String| format!("cannot load seccomp profile \"{shown}\": {why}");
    if name.is_empty() || !plain {
        return Err(failed("it is not below the node's folder".to_owned()));
    }
    let size = std::fs::metadata(&path).map(|meta| meta.len());
    let size = size.map_err(|e| failed(format!("open {shown}: {}", reason(&e))))?;
    if size > MAX_BYTES {
        return Err(failed(format!("it is larger than {MAX_BYTES} bytes")));
    }
    let text = std::fs::read(&path).map_err(|e| failed(format!("open {shown}: {}", reason(&e))))?;
    let file: File = serde_json::from_slice(&text)
        .map_err(|e| failed(format!("decoding seccomp profile failed: {e}")))?;
    profile(file)
        .map(|profile| Seccomp::Profile(Box::new(profile)))
        .map_err(failed)
}

/// As Go words it.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

fn profile(file: File) -> Result<SeccompProfile, String> {
    let mut log = false;
    for flag in &file.flags {
        match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => log = true,
            // What an only thread has anyway, and what is always set.
            "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => {}
            other => return Err(format!("flag {other} is not supported")),
        }
    }
    let rules = file.syscalls.into_iter().map(|calls| {
        Ok(SeccompRule {
            names: calls.names,
            action: action(&calls.action, calls.errno_ret)?,
            args: calls
                .args
                .iter()
                .map(argument)
                .collect::<Result<_, String>>()?,
        })
    });
    Ok(SeccompProfile {
        default_action: action(&file.default_action, file.default_errno_ret)?,
        rules: rules.collect::<Result<_, String>>()?,
        flags: SeccompFlags {
            log,
            spec_allow: true,
            ..SeccompFlags::default()
        },
        // Without a list the native one is meant.
        archs: file
            .architectures
            .iter()
            .filter_map(|arch| match arch.as_str() {
                "SCMP_ARCH_X86" | "SCMP_ARCH_ARM" => Some(SeccompArch::Compat),
                "SCMP_ARCH_X32" => Some(SeccompArch::X32),
                _ => None,
            })
            .collect(),
        unknown_is_enosys: matches!(
            file.default_action.as_str(),
            "SCMP_ACT_ERRNO"
                | "SCMP_ACT_KILL"
                | "SCMP_ACT_KILL_THREAD"
                | "SCMP_ACT_KILL_PROCESS"
                | "SCMP_ACT_TRAP"
        ),
        listener: None,
    })
}

fn action(name: &str, errno: Option<u16>) -> Result<SeccompAction, String> {
    let value = errno.unwrap_or(1);
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(value),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(value),
        "SCMP_ACT_LOG" => SeccompAction::Log,
        other => return Err(format!("action {other} is not supported")),
    })
}

fn argument(wish: &Argument) -> Result<SeccompArg, String> {
    if wish.index > 5 {
        return Err(format!("there is no argument {}", wish.index));
    }
    // For MASKED_EQ, OCI's `value` is the mask and `valueTwo` what is left of it.
    let (compare, value) = match wish.op.as_str() {
        "SCMP_CMP_EQ" => (ArgCompare::Equal, wish.value),
        "SCMP_CMP_NE" => (ArgCompare::NotEqual, wish.value),
        "SCMP_CMP_LT" => (ArgCompare::Less, wish.value),
        "SCMP_CMP_LE" => (ArgCompare::LessOrEqual, wish.value),
        "SCMP_CMP_GT" => (ArgCompare::Greater, wish.value),
        "SCMP_CMP_GE" => (ArgCompare::GreaterOrEqual, wish.value),
        "SCMP_CMP_MASKED_EQ" => (ArgCompare::MaskedEqual { mask: wish.value }, wish.value_two),
        other => return Err(format!("operator {other} is not known")),
    };
    Ok(SeccompArg {
        index: wish.index,
        compare,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_from_below_the_folder_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write(
            "profiles/audit.json",
            r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "archMap": [],
                "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                    {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                     "args": [{"index": 0, "value": 255, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        );
        let Ok(Seccomp::Profile(profile)) = localhost_profile(dir.path(), "profiles/audit.json")
        else {
            panic!("it is read");
        };
        assert_eq!(
            *profile,
            SeccompProfile {
                default_action: SeccompAction::Log,
                rules: vec![
                    SeccompRule {
                        names: vec!["chmod".into()],
                        action: SeccompAction::Errno(13),
                        args: vec![],
                    },
                    SeccompRule {
                        names: vec!["personality".into()],
                        action: SeccompAction::Allow,
                        args: vec![SeccompArg {
                            index: 0,
                            compare: ArgCompare::MaskedEqual { mask: 255 },
                            value: 8,
                        }],
                    },
                ],
                flags: SeccompFlags {
                    spec_allow: true,
                    ..SeccompFlags::default()
                },
                archs: vec![SeccompArch::Compat],
                unknown_is_enosys: false,
                listener: None,
            }
        );
        write("bad.json", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#);
        write("worse.json", "{");
        for (name, why) in [
            ("none.json", "no such file or directory"),
            ("bad.json", "action SCMP_ACT_NOTIFY is not supported"),
            ("worse.json", "decoding seccomp profile failed: "),
            ("../x.json", "it is not below the node's folder"),
            ("/etc/passwd", "it is not below the node's folder"),
            ("", "it is not below the node's folder"),
        ] {
            let error = localhost_profile(dir.path(), name).expect_err("refused");
            assert!(
                error.starts_with("cannot load seccomp profile \"") && error.contains(why),
                "{error}"
            );
        }
    }
}
