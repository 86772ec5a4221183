//! Linux capabilities, by name and as sets.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// In the kernel's order: the index is the number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no capability known here")]
pub struct UnknownCapability(pub String);

impl Capability {
    pub const SETGID: Capability = Capability(6);
    pub const SYS_ADMIN: Capability = Capability(21);

    /// Its number in the kernel.
    pub fn number(self) -> u8 {
        self.0
    }

    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }

    pub fn all() -> impl Iterator<Item = Capability> {
        (0..NAMES.len() as u8).map(Capability)
    }
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// With or without `CAP_`, in any case, as Kubernetes and Docker users write it.
    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES
            .iter()
            .position(|name| &name[4..] == bare)
            .map(|index| Capability(index as u8))
            .ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities; the bit is the capability's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapSet(pub u64);

impl CapSet {
    pub const EMPTY: CapSet = CapSet(0);

    /// Everything this build can name. What the kernel doesn't know is left out when it is applied.
    pub fn all() -> CapSet {
        Capability::all().collect()
    }

    /// What containers get unless the pod says otherwise: the set Docker, containerd and CRI-O share.
    pub fn container_default() -> CapSet {
        [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ]
        .iter()
        .map(|name| {
            name.parse::<Capability>()
                .expect("a name of the table above")
        })
        .collect()
    }

    pub fn contains(self, cap: Capability) -> bool {
        self.0 & (1 << cap.0) != 0
    }

    pub fn with(self, cap: Capability) -> CapSet {
        CapSet(self.0 | (1 << cap.0))
    }

    pub fn without(self, cap: Capability) -> CapSet {
        CapSet(self.0 & !(1 << cap.0))
    }

    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |cap| self.contains(*cap))
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        caps.into_iter().fold(CapSet::EMPTY, CapSet::with)
    }
}

/// The five sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: CapSet,
    pub effective: CapSet,
    pub permitted: CapSet,
    pub inheritable: CapSet,
    pub ambient: CapSet,
}

impl CapabilitySets {
    /// A pod's container: inheritable and ambient stay empty (inheritable file capabilities were a
    /// way up, CVE-2022-24769).
    pub fn of_container(set: CapSet) -> Self {
        CapabilitySets {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: CapSet::EMPTY,
            ambient: CapSet::EMPTY,
        }
    }

    /// Kubernetes' `capabilities.add` and `.drop` on top of the default set; `ALL` is understood in
    /// both, and what is added wins over `drop: [ALL]`.
    pub fn from_add_drop<S: AsRef<str>>(add: &[S], drop: &[S]) -> Result<Self, UnknownCapability> {
        let is_all = |s: &S| s.as_ref().eq_ignore_ascii_case("ALL");
        let mut set = CapSet::container_default();
        if add.iter().any(is_all) {
            set = CapSet::all();
        }
        if drop.iter().any(is_all) {
            set = CapSet::EMPTY;
        }
        for name in add.iter().filter(|s| !is_all(s)) {
            set = set.with(name.as_ref().parse()?);
        }
        for name in drop.iter().filter(|s| !is_all(s)) {
            set = set.without(name.as_ref().parse()?);
        }
        Ok(Self::of_container(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in [
            ("CAP_CHOWN", 0),
            ("sys_admin", 21),
            ("MKNOD", 27),
            ("CAP_BPF", 39),
        ] {
            assert_eq!(
                name.parse::<Capability>().map(Capability::number),
                Ok(number)
            );
        }
        assert!("CAP_FLY".parse::<Capability>().is_err());
    }

    #[test]
    fn drop_all_then_add_leaves_just_the_added() {
        let sets = CapabilitySets::from_add_drop(&["NET_BIND_SERVICE"], &["ALL"]).unwrap();
        assert_eq!(
            sets.bounding
                .iter()
                .map(Capability::name)
                .collect::<Vec<_>>(),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(sets.inheritable, CapSet::EMPTY);
        assert_eq!(sets.ambient, CapSet::EMPTY);
    }
}
