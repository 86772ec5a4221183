//! OCI's seccomp section.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::{Result, refuse, unsupported};
use crate::{ArgCompare, SeccompAction, SeccompArg, SeccompProfile, SeccompRule};

pub(super) fn profile(wish: &LinuxSeccomp) -> Result<SeccompProfile> {
    unsupported("linux.seccomp.listenerPath", wish.listener_path())?;
    let mut log = false;
    for flag in wish.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => log = true,
            // What an only thread has anyway, and what is always set.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {}
            other => return refuse("linux.seccomp.flags", format!("{other:?} is not supported")),
        }
    }
    let default_action = action(
        "linux.seccomp.defaultAction",
        wish.default_action(),
        wish.default_errno_ret(),
    )?;
    let mut rules = Vec::new();
    for (index, call) in wish.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let args = call.args().iter().flatten().map(|arg| {
            let index = match u8::try_from(arg.index()) {
                Ok(index @ 0..=5) => index,
                _ => return refuse(&field, format!("there is no argument {}", arg.index())),
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
        });
        rules.push(SeccompRule {
            names: call.names().clone(),
            action: action(&field, call.action(), call.errno_ret())?,
            args: args.collect::<Result<_>>()?,
        });
    }
    let archs = wish.architectures();
    // Without a list the native one is meant.
    let compat = archs
        .iter()
        .flatten()
        .any(|arch| matches!(arch, Arch::ScmpArchX86 | Arch::ScmpArchArm));
    Ok(SeccompProfile {
        default_action,
        rules,
        log,
        compat,
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
        LinuxSeccompAction::ScmpActNotify => {
            return refuse(field, "SCMP_ACT_NOTIFY is not supported");
        }
    })
}
