//! A system call filter as rules. `kernelet-sys` compiles it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompProfile {
    pub default_action: SeccompAction,
    /// Names the kernel (or this build) doesn't know are skipped, as in other runtimes.
    pub rules: Vec<SeccompRule>,
    pub flags: SeccompFlags,
    /// Beside the native architecture: whose programs are filtered by the same rules. A call by another's
    /// table kills.
    pub archs: Vec<SeccompArch>,
    /// A call whose number is above all that the profile names is ENOSYS, so that programs fall back to
    /// one that was known when the profile was written.
    pub unknown_is_enosys: bool,
    /// Who decides on [`SeccompAction::Notify`].
    pub listener: Option<SeccompListener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SeccompFlags {
    /// `SECCOMP_FILTER_FLAG_LOG`.
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no mitigation of speculative store bypass.
    pub spec_allow: bool,
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
    pub wait_killable: bool,
}

/// Architectures other than the native one that this machine's kernel can execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SeccompArch {
    /// 32-bit: i386 beside x86-64, ARM beside AArch64.
    Compat,
    /// x86-64 with 32-bit pointers.
    X32,
}

/// OCI's `listenerPath` and `listenerMetadata`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompListener {
    /// A unix socket, which gets the notification descriptor and the container's state.
    pub path: PathBuf,
    pub metadata: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompRule {
    pub names: Vec<String>,
    pub action: SeccompAction,
    /// All must hold. Empty: always.
    pub args: Vec<SeccompArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SeccompAction {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
    /// Another process decides, through the notification descriptor.
    Notify,
}

impl SeccompProfile {
    /// Whether some call is decided by a listener.
    pub fn notifies(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.action == SeccompAction::Notify)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompArg {
    /// 0 to 5.
    pub index: u8,
    pub compare: ArgCompare,
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ArgCompare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `arg & mask == value`.
    MaskedEqual {
        mask: u64,
    },
}
