//! A system call filter as rules. `kernelet-sys` compiles it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompProfile {
    pub default_action: SeccompAction,
    /// Names the kernel (or this build) doesn't know are skipped, as in other runtimes.
    pub rules: Vec<SeccompRule>,
    /// `SECCOMP_FILTER_FLAG_LOG`.
    pub log: bool,
    /// Whether 32-bit programs are filtered by the same rules; else their first call kills them.
    pub compat: bool,
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
