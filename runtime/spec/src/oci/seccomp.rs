//! OCI's seccomp section.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};

use super::{Result, refuse};
use crate::{
    ArgCompare, SeccompAction, SeccompArch, SeccompArg, SeccompFlags, SeccompListener,
    SeccompProfile, SeccompRule,
};

const ENOSYS: u32 = 38;

pub(super) fn profile(wish: &LinuxSeccomp) -> Result<SeccompProfile> {
    let default_action = action(
        "linux.seccomp.defaultAction",
        wish.default_action(),
        wish.default_errno_ret(),
    )?;
    if default_action == SeccompAction::Notify {
        return refuse(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be used as default action",
        );
    }
    let mut rules = Vec::new();
    for (index, call) in wish.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&field, call.action(), call.errno_ret())?;
        if call.names().is_empty() {
            return refuse(field, "names no syscall");
        }
        // The child tells its parent of the notification descriptor by write, after the filter is there.
        if action == SeccompAction::Notify && call.names().iter().any(|name| name == "write") {
            return refuse(
                field,
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            );
        }
        let args: Vec<SeccompArg> = call
            .args()
            .iter()
            .flatten()
            .map(|arg| argument(&field, arg))
            .collect::<Result<_>>()?;
        let rule = |args| SeccompRule {
            names: call.names().clone(),
            action,
            args,
        };
        // Two tests of one argument can't be meant to hold both: then each is a rule of its own.
        let twice = (0..6).any(|i| args.iter().filter(|arg| arg.index == i).count() > 1);
        if twice {
            rules.extend(args.into_iter().map(|arg| rule(vec![arg])));
        } else {
            rules.push(rule(args));
        }
    }
    let mut profile = SeccompProfile {
        default_action,
        rules,
        flags: flags(wish),
        archs: archs(wish.architectures().as_deref().unwrap_or_default()),
        // Not for a default that lets calls pass, nor for one that says ENOSYS by itself.
        unknown_is_enosys: !matches!(
            default_action,
            SeccompAction::Allow | SeccompAction::Log | SeccompAction::Trace(_)
        ) && wish.default_errno_ret() != Some(ENOSYS),
        listener: None,
    };
    let path = wish
        .listener_path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty());
    if profile.notifies() {
        let Some(path) = path else {
            return refuse(
                "linux.seccomp.listenerPath",
                "must be set with SCMP_ACT_NOTIFY",
            );
        };
        profile.listener = Some(SeccompListener {
            path,
            metadata: wish.listener_metadata().clone().unwrap_or_default(),
        });
    } else if profile.flags.wait_killable {
        return refuse(
            "linux.seccomp.flags",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a call with SCMP_ACT_NOTIFY",
        );
    }
    Ok(profile)
}

/// Without a list the kernel's mitigation of speculative store bypass is left to the program, as other
/// runtimes do; with one it is as the list says. TSYNC is what an only thread has anyway.
fn flags(wish: &LinuxSeccomp) -> SeccompFlags {
    let Some(list) = wish.flags() else {
        return SeccompFlags {
            spec_allow: true,
            ..SeccompFlags::default()
        };
    };
    let has = |flag| list.contains(&flag);
    SeccompFlags {
        log: has(LinuxSeccompFilterFlag::SeccompFilterFlagLog),
        spec_allow: has(LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow),
        wait_killable: has(LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv),
    }
}

/// Those that this machine's kernel could execute; the native one is always filtered, and the list of a
/// profile for every machine names many others.
fn archs(list: &[Arch]) -> Vec<SeccompArch> {
    let mut out = Vec::new();
    if list
        .iter()
        .any(|arch| matches!(arch, Arch::ScmpArchX86 | Arch::ScmpArchArm))
    {
        out.push(SeccompArch::Compat);
    }
    if list.contains(&Arch::ScmpArchX32) {
        out.push(SeccompArch::X32);
    }
    out
}

fn argument(field: &str, arg: &LinuxSeccompArg) -> Result<SeccompArg> {
    let index = match u8::try_from(arg.index()) {
        Ok(index @ 0..=5) => index,
        _ => return refuse(field, format!("there is no argument {}", arg.index())),
    };
    // For MASKED_EQ, OCI's `value` is the mask and `valueTwo` what is left of it.
    let (compare, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (ArgCompare::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpNe => (ArgCompare::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ArgCompare::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ArgCompare::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ArgCompare::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ArgCompare::GreaterOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            ArgCompare::MaskedEqual { mask: arg.value() },
            arg.value_two().unwrap_or(0),
        ),
    };
    Ok(SeccompArg {
        index,
        compare,
        value,
    })
}

fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction> {
    let value = |default: u16| match errno {
        None => Ok(default),
        Some(n) => u16::try_from(n).or_else(|_| refuse(field, format!("errno {n} is too large"))),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(value(1)?),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            SeccompAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(value(1)?),
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActNotify => SeccompAction::Notify,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(wish: Value) -> std::result::Result<SeccompProfile, String> {
        let wish: LinuxSeccomp = serde_json::from_value(wish).map_err(|e| e.to_string())?;
        profile(&wish).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_architectures_and_actions_are_read() {
        let plain = check(json!({"defaultAction": "SCMP_ACT_ALLOW"})).unwrap();
        assert!(plain.flags.spec_allow && !plain.unknown_is_enosys && plain.archs.is_empty());
        let full = check(
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 6, "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 7}]}),
        );
        let full = full.unwrap();
        assert_eq!(full.default_action, SeccompAction::Errno(6));
        assert!(full.flags.log && !full.flags.spec_allow && full.unknown_is_enosys);
        assert_eq!(full.archs, [SeccompArch::Compat, SeccompArch::X32]);
        assert_eq!(full.rules[0].action, SeccompAction::Trace(7));
    }

    #[test]
    fn several_tests_of_one_argument_are_alternatives() {
        let rules = |args: Value| {
            check(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": args}]})).unwrap().rules
        };
        let eq =
            |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        assert_eq!(rules(json!([eq(0, 1), eq(1, 2)])).len(), 1);
        let split = rules(json!([eq(0, 1), eq(0, 2), eq(1, 3)]));
        assert_eq!(split.len(), 3);
        assert!(split.iter().all(|rule| rule.args.len() == 1));
    }

    #[test]
    fn a_listener_is_there_when_it_is_needed_and_only_then() {
        let notify = |extra: Value| {
            let mut wish = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
            for (key, value) in extra.as_object().unwrap() {
                wish[key] = value.clone();
            }
            check(wish)
        };
        let profile = notify(json!({"listenerPath": "/s", "listenerMetadata": "m", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})).unwrap();
        assert_eq!(
            profile.listener,
            Some(SeccompListener {
                path: "/s".into(),
                metadata: "m".into()
            })
        );
        assert!(profile.flags.wait_killable);
        for (wish, message) in [
            (notify(json!({})), "linux.seccomp.listenerPath"),
            (
                notify(json!({"listenerPath": ""})),
                "linux.seccomp.listenerPath",
            ),
            (
                check(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
                "cannot be used as default action",
            ),
            (
                notify(json!({"syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]})),
                "cannot be used for the write syscall",
            ),
            (
                check(
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
                ),
                "linux.seccomp.flags",
            ),
            (
                check(
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}),
                ),
                "SCMP_ARCH_VAX",
            ),
            (
                check(
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO"}]}),
                ),
                "names no syscall",
            ),
            (
                check(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000})),
                "errno 70000 is too large",
            ),
        ] {
            let error = wish.unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let ignored =
            check(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s"})).unwrap();
        assert_eq!(ignored.listener, None);
    }
}
