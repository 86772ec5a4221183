//! A user namespace that is nothing but two tables of ids, for an idmapped mount.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{IdMapSource, IdMappings};
use nix::fcntl::OFlag;

use crate::{
    error::Result,
    fd, namespace as ns,
    process::{self, Forked},
    user_namespace,
};

/// The namespace behind an idmapped mount: an existing one, or a new one that lives as long as its
/// descriptor.
pub fn id_map_namespace(wish: &IdMapSource) -> Result<OwnedFd> {
    match wish {
        IdMapSource::Namespace(path) => fd::open(path, OFlag::O_RDONLY, 0),
        IdMapSource::Mappings { uids, gids } => new(&IdMappings {
            uids: uids.clone(),
            gids: gids.clone(),
        }),
    }
}

fn new(mappings: &IdMappings) -> Result<OwnedFd> {
    // SAFETY: the child does nothing but wait for a signal: it allocates and locks nothing.
    let child = match unsafe { process::clone3(ns::NEWUSER, None) }? {
        Forked::Child => loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        },
        Forked::Parent(child) => child,
    };
    let proc = Path::new("/proc");
    let namespace = user_namespace::write_mappings(child.pid, mappings).and_then(|()| {
        let proc = fd::open(proc, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        ns::open(proc.as_fd(), &child.pid.to_string(), "user")
    });
    process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
    process::wait(child.pidfd.as_fd())?;
    namespace
}
