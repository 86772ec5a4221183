//! Single defences taken out, for tests alone: an attack proves something only if it succeeds without the defence that
//! it is about.
//!
//! **Invariant:** compiled only with the feature `weakened`, which no default turns on. The variable's name is in no
//! shipped program; a test reads them for it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Names what is taken out of a program that was built for it, separated by commas.
pub const VARIABLE: &str = "KERNELET_WEAKENED";

macro_rules! defences {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// One choke point each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defence {
            $($(#[doc = $doc])+ $name,)+
        }

        const ALL: &[(Defence, &str)] = &[$((Defence::$name, $text),)+];
    };
}

defences! {
    /// Paths in a root are resolved with the root as `/`. Without: as any path of the host.
    InRoot = "in-root",
    /// No symlink on the way to what the kernel's file systems and devices are mounted at.
    Symlinks = "symlinks",
    /// A device node that is there already is compared with the one that is wanted.
    DeviceNode = "device-node",
    /// Settings are written through a procfs of our own. Without: through the root's `/proc`, as it then is.
    PrivateProc = "private-proc",
    /// The runtime's descriptors are closed. Without: the program inherits them.
    Descriptors = "descriptors",
    /// The working directory is a folder inside the root.
    WorkingDirectory = "working-directory",
    /// The runtime runs from a file that can't be written to.
    OwnProgram = "own-program",
    /// The process that becomes the container's can't be looked into.
    Dumpable = "dumpable",
    /// Inheritable capabilities are those asked for. Without: all permitted ones.
    Inheritable = "inheritable",
    /// Its cgroup is the root of the container's view.
    CgroupNamespace = "cgroup-namespace",
    /// What shall be read-only is.
    ReadOnly = "read-only",
    /// Masked paths are masked.
    Masks = "masks",
    /// The system call filter is installed.
    Filter = "filter",
    /// `no_new_privs` is set where it is asked for.
    NoNewPrivileges = "no-new-privileges",
    /// Only the devices allowed can be opened.
    DeviceRules = "device-rules",
    /// A plan is checked before anything is made.
    Plan = "plan",
    /// Ids beyond 31 bits are refused.
    Ids = "ids",
    /// Names are looked up in the root's own files, by code of ours. Without: by the C library, which loads what the
    /// root's `nsswitch.conf` names.
    Names = "names",
    /// Layers are unpacked below their folder only.
    Layers = "layers",
    /// A hook gets its own environment alone.
    HookEnvironment = "hook-environment",
}

/// A bit for each defence, and the highest one once the environment was read.
static OUT: AtomicU32 = AtomicU32::new(0);
const READ: u32 = 1 << 31;

/// Whether this one is taken out: by [`take_out`] or by the environment's [`VARIABLE`].
pub fn is_out(defence: Defence) -> bool {
    let bit = 1 << defence as u32;
    let known = OUT.load(Ordering::Relaxed);
    if known & READ != 0 {
        return known & bit != 0;
    }
    let named = std::env::var(VARIABLE).unwrap_or_default();
    let bits = named
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| match ALL.iter().find(|(_, text)| *text == name) {
            Some((defence, _)) => 1 << *defence as u32,
            None => panic!("{VARIABLE}: there is no defence {name:?}"),
        })
        .fold(READ, |all, bit| all | bit);
    OUT.fetch_or(bits, Ordering::Relaxed);
    bits & bit != 0
}

/// Takes defences out of this very process.
pub fn take_out(defences: &[Defence]) {
    let bits = defences
        .iter()
        .fold(READ, |all, one| all | 1 << *one as u32);
    OUT.store(bits, Ordering::Relaxed);
}

/// What [`VARIABLE`] must say for another program to be as this process is.
pub fn names() -> String {
    let names: Vec<&str> = ALL
        .iter()
        .filter(|(defence, _)| is_out(*defence))
        .map(|(_, name)| *name)
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_and_nothing_else_is_out() {
        take_out(&[Defence::InRoot, Defence::Filter]);
        assert!(is_out(Defence::InRoot) && is_out(Defence::Filter));
        assert!(!is_out(Defence::Masks));
        assert_eq!(names(), "in-root,filter");
    }
}
