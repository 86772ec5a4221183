//! What an ordinary user's container does without: groups that the user can't make, mounts that the user can't copy.

use anyhow::{Context, Result, anyhow};
use kernelet_container::{Joined, Sources, open_sources};
use kernelet_spec::{ContainerPlan, NamespaceOf, Rootfs};
use kernelet_sys::fd;
use nix::{errno::Errno, fcntl::OFlag};

/// What the kernel says to who may not, or has no such group.
pub fn denied(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT
    )
}

/// The plan's sources, and the namespaces that few join. Where this process may not copy mounts, the container's own
/// opens them.
pub fn sources(plan: &ContainerPlan) -> Result<(Sources, Joined)> {
    let path = |wish: &NamespaceOf| match wish {
        NamespaceOf::Path(path) => fd::open(path, OFlag::O_RDONLY, 0).map(Some),
        _ => Ok(None),
    };
    let of = &plan.namespaces;
    let mut joined = Joined {
        user: path(&of.user)?,
        mount: path(&of.mount)?,
        time: path(&of.time)?,
        sources_in_child: false,
    };
    match open_sources(plan) {
        Err(e) if e.errno == Some(Errno::EPERM) => {}
        other => return Ok((other.map_err(|e| anyhow!(e.line()))?, joined)),
    }
    joined.sources_in_child = true;
    let Rootfs::Path(root) = &plan.rootfs else {
        return Err(anyhow!(
            "a root made of layers needs rights over this mount namespace"
        ));
    };
    let root = fd::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).context("open the root")?;
    let mounts = std::collections::BTreeMap::new();
    Ok((Sources { root, mounts }, joined))
}

/// What must hold of an ordinary user's container: all that root may do, it may only in a user namespace.
pub fn check(plan: &ContainerPlan) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if plan.namespaces.user == NamespaceOf::Host {
        return Err(anyhow!("rootless container requires user namespaces"));
    }
    if !plan.net_devices.is_empty() {
        return Err(anyhow!(
            "network devices are not supported for rootless containers"
        ));
    }
    Ok(())
}
