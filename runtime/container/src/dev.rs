//! `/dev`: a small tmpfs with the nodes OCI promises.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use kernelet_spec::{DeviceKind, DeviceNode, MountFlags};
use kernelet_sys::{SysError, mount, root};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FchmodatFlags, Mode, SFlag, makedev, mknodat},
};

use crate::{CreateError, error::During, host_nodes};

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

/// A folder of the default devices, in no place yet.
pub fn devices(flags: MountFlags) -> Result<OwnedFd, CreateError> {
    filled(flags, None, false)
}

/// The tmpfs, filled before it has a place: nothing of the image is in it or can get in between.
///
/// Where no node may be made (a user namespace), it is without them: they are mounted when it has its place.
pub(crate) fn filled(
    flags: MountFlags,
    label: Option<&str>,
    terminal: bool,
) -> Result<OwnedFd, CreateError> {
    let fs = mount::fs_open("tmpfs")?;
    fs.set("source", "tmpfs")?;
    fs.set("mode", "755")?;
    fs.set("size", "65536k")?;
    if let Some(label) = label {
        fs.set("context", label)
            .during(|| "linux.mountLabel".to_owned())?;
    }
    let dev = fs.mount(MountFlags {
        read_only: false,
        ..flags
    })?;
    for (name, major, minor) in NODES {
        let rdev = makedev(major, minor);
        match node(dev.as_fd(), name, SFlag::S_IFCHR, 0o666, rdev) {
            Err(e) if e.errno == Errno::EPERM => {
                REFUSED.store(true, Ordering::Relaxed);
                break;
            }
            other => other?,
        }
    }
    for (target, name) in LINKS {
        nix::unistd::symlinkat(target, &dev, name)
            .map_err(|e| SysError::new(format!("make the symlink /dev/{name}"), e))?;
    }
    if terminal {
        // The terminal's place: later the folder may be read-only.
        let regular = SFlag::S_IFREG;
        node(dev.as_fd(), "console", regular, 0o600, 0)?;
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

/// Set once the kernel has refused to make a node: in a user namespace, and where the devices cgroup of the
/// runtime itself forbids it.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether the host's own nodes stand in for those that may not be made.
pub(crate) fn needs_binds() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// The usual symlinks, in whatever `/dev` the root has now. What has such a name already stays, but for
/// `ptmx`, which must be the container's own devpts'.
pub(crate) fn add_links(in_root: BorrowedFd<'_>) -> Result<(), CreateError> {
    let dev = root::folder(in_root, Path::new("/dev"), root::Symlinks::Inside)?;
    for (target, name) in LINKS {
        if name == "ptmx" {
            let flags = nix::unistd::UnlinkatFlags::NoRemoveDir;
            match nix::unistd::unlinkat(&dev, name, flags) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(SysError::new("replace /dev/ptmx", e).into()),
            }
        }
        match nix::unistd::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => {
                return Err(SysError::new(format!("make the symlink /dev/{name}"), e).into());
            }
        }
    }
    Ok(())
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
    if needs_binds() && device.kind != DeviceKind::Fifo {
        return host_nodes::bind(in_root, &device.path);
    }
    let parent = device.path.parent().unwrap_or(Path::new("/dev"));
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
    let rdev = makedev(device.major.into(), device.minor.into());
    let new = match node(dir.as_fd(), name, kind, device.mode, rdev) {
        Ok(()) => true,
        // A bundle may list one of the default nodes: what is there already is only taken as such if
        // it is that device.
        Err(e) if e.errno == Errno::EEXIST => false,
        Err(e) if e.errno == Errno::EPERM && device.kind != DeviceKind::Fifo => {
            REFUSED.store(true, Ordering::Relaxed);
            return host_nodes::bind(in_root, &device.path);
        }
        Err(e) => return Err(e.into()),
    };
    if new && (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let there = nix::fcntl::openat(dir.as_fd(), name, flags, Mode::empty())
        .map_err(|e| SysError::new("open it", e))?;
    let stat = nix::sys::stat::fstat(&there).map_err(|e| SysError::new("look at it", e))?;
    let same = stat.st_mode & libc::S_IFMT == kind.bits() && stat.st_rdev == rdev;
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::DeviceNode) {
        return Ok(());
    }
    if !same {
        return Err(SysError::new("something else is there", Errno::EEXIST).into());
    }
    own(there.as_fd(), device)
}

/// Owner and mode, through the descriptor: whatever the name has become, this is the node.
fn own(node: BorrowedFd<'_>, device: &DeviceNode) -> Result<(), CreateError> {
    let (uid, gid) = (Some(device.uid.into()), Some(device.gid.into()));
    nix::unistd::fchownat(node, c"", uid, gid, AtFlags::AT_EMPTY_PATH)
        .map_err(|e| SysError::new("give it its owner", e))?;
    // A descriptor that only names a file can't be given to fchmod(2); its link in procfs can.
    let link = format!("/proc/self/fd/{}", node.as_raw_fd());
    let mode = Mode::from_bits_truncate(device.mode);
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        link.as_str(),
        mode,
        FchmodatFlags::FollowSymlink,
    )
    .map_err(|e| SysError::new("give it its mode", e))?;
    Ok(())
}
