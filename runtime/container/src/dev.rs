//! `/dev`: a small tmpfs with the nodes OCI promises.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernelet_spec::{DeviceKind, DeviceNode, MountFlags};
use kernelet_sys::{SysError, mount, root};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

use crate::{CreateError, error::During};

const NODES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The tmpfs, filled before it has a place: nothing of the image is in it or can get in between.
pub(crate) fn filled(flags: MountFlags) -> Result<OwnedFd, CreateError> {
    let dev = mount::tmpfs(
        Some(64 << 10),
        0o755,
        (0, 0),
        MountFlags {
            read_only: false,
            ..flags
        },
    )?;
    for (name, major, minor) in NODES {
        node(
            dev.as_fd(),
            name,
            SFlag::S_IFCHR,
            0o666,
            makedev(major, minor),
        )?;
    }
    for (target, name) in LINKS {
        nix::unistd::symlinkat(target, &dev, name)
            .map_err(|e| SysError::new(format!("make the symlink /dev/{name}"), e))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        nix::sys::stat::mkdirat(&dev, name, Mode::from_bits_truncate(0o755))
            .map_err(|e| SysError::new(format!("make /dev/{name}"), e))?;
    }
    Ok(dev)
}

fn node(dir: BorrowedFd<'_>, name: &str, kind: SFlag, mode: u32, dev: u64) -> Result<(), SysError> {
    mknodat(dir, name, kind, Mode::from_bits_truncate(mode), dev)
        .map_err(|e| SysError::new(format!("make the device node {name}"), e))
}

/// Nodes beyond the default ones, in whatever `/dev` the root has now.
pub(crate) fn add_nodes(
    in_root: BorrowedFd<'_>,
    devices: &[DeviceNode],
) -> Result<(), CreateError> {
    for device in devices {
        add_node(in_root, device).during(|| format!("the device {}", device.path.display()))?;
    }
    Ok(())
}

fn add_node(in_root: BorrowedFd<'_>, device: &DeviceNode) -> Result<(), CreateError> {
    let parent = device.path.parent().unwrap_or(std::path::Path::new("/dev"));
    let name = device
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let dir = root::folder(in_root, parent, root::Symlinks::Inside)?;
    let kind = match device.kind {
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Char => SFlag::S_IFCHR,
        DeviceKind::Fifo => SFlag::S_IFIFO,
    };
    match node(
        dir.as_fd(),
        name,
        kind,
        device.mode,
        makedev(device.major.into(), device.minor.into()),
    ) {
        // A bundle may list one of the default nodes: what is there already is only taken as such if
        // it is that device.
        Err(e) if e.errno == nix::errno::Errno::EEXIST => {
            let there = root::open_in(
                in_root,
                &device.path,
                nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW,
                0,
                root::Symlinks::Inside,
            )?;
            let stat = nix::sys::stat::fstat(&there).map_err(|e| SysError::new("look at it", e))?;
            let same = stat.st_mode & libc::S_IFMT == kind.bits()
                && stat.st_rdev == makedev(device.major.into(), device.minor.into());
            #[cfg(feature = "weakened")]
            let same = same
                || kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::DeviceNode);
            if !same {
                return Err(SysError::new("something else is there", e.errno).into());
            }
        }
        other => other?,
    }
    let owner = (Some(device.uid.into()), Some(device.gid.into()));
    if (device.uid, device.gid) != (0, 0) {
        nix::unistd::fchownat(
            &dir,
            name,
            owner.0,
            owner.1,
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(|e| SysError::new("give it its owner", e))?;
    }
    Ok(())
}
