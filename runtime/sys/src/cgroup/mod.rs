//! cgroups of both versions, and of hosts that have both (hybrid).
//!
//! [`Layout`] is what the host has, found once. A [`Group`] is one path that exists in every
//! hierarchy of it. Limits are wanted in one vocabulary ([`kernelet_spec::Resources`]); the version's
//! differences end here. On a hybrid host the group also exists in the v2 tree, which has no
//! controllers there but `cgroup.kill`, `cgroup.freeze` and `cgroup.events`.
//!
//! Nothing here writes another process's pid into a group: a process joins by itself, before exec,
//! through the descriptors of a [`Join`].

mod detail;
mod devices;
mod group;
mod layout;
mod limits;
mod stats;

pub use detail::{Detail, Io};
pub use group::{Group, Join};
pub use layout::{DetectError, Hierarchy, Layout, Mode};
pub use limits::shares_to_weight;
pub use stats::Stats;

use std::{io, path::Path};

use nix::errno::Errno;

use crate::SysError;

/// Errors of plain file calls below a cgroup mount, in our vocabulary.
pub(crate) fn file_error(what: &str, path: &Path, error: &io::Error) -> SysError {
    SysError::io(format!("{what} {}", path.display()), error)
}

pub(crate) fn read(path: &Path) -> Result<String, SysError> {
    std::fs::read_to_string(path).map_err(|e| file_error("read", path, &e))
}

/// One write call, as the kernel's files want it; the value is part of the error.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), SysError> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| file_error(&format!("write {:?} to", value.trim_end()), path, &e))
}

pub(crate) fn missing(controller: &str, wanted: &str) -> SysError {
    SysError::new(
        format!("set {wanted}: this host has no cgroup controller {controller:?}"),
        Errno::EOPNOTSUPP,
    )
}
