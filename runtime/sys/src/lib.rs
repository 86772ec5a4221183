//! clone3, mounts, cgroups, seccomp, capabilities: the kernel's choke points.
//!
//! One place for each family of system calls; descriptors go in borrowed and come out owned. Nothing
//! here decides anything: what shall be is `kernelet-spec`'s, in which order is `kernelet-container`'s.
//!
//! **Invariant:** a path inside a container's root is only ever walked by [`root`], and used as a
//! descriptor. **Invariant:** no async, no threads of its own.

pub mod attributes;
pub mod capability;
pub mod cgroup;
mod error;
pub mod fd;
pub mod feature;
pub mod mount;
pub mod namespace;
pub mod net_device;
pub mod no_pivot;
pub mod process;
pub mod root;
pub mod seccomp;
pub mod socket;
pub mod terminal;
pub mod user_namespace;
pub mod xattr;

pub use error::{Result, SysError};
