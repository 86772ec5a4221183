//! clone3, mounts, cgroups, seccomp, capabilities: the kernel's choke points.

pub mod cgroup;
mod error;

pub use error::SysError;
