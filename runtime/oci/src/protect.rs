//! Our own executable, out of containers' reach (CVE-2019-5736).
//!
//! A container whose program is `/proc/self/exe` runs the runtime's file, and can then open it for
//! writing. So this process first executes itself again from a read-only mount of its file that is in
//! no namespace: who gets hold of it there gets EROFS.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use kernelet_spec::{MountFlags, Propagation};
use kernelet_sys::{fd, mount, process};
use nix::{errno::Errno, fcntl::OFlag, sys::statvfs::FsFlags};

/// This program's file where nobody can write to it. Who may not mount gets a copy in memory, sealed: the user's own
/// file could be written to by the root of the user's own containers.
fn unwritable(exe: OwnedFd) -> Result<OwnedFd> {
    let copy = match mount::copy_tree(exe.as_fd(), false) {
        Err(e) if e.errno == Errno::EPERM => {
            let content = std::fs::read("/proc/self/exe").context("read this program")?;
            return fd::sealed_memfd(c"kernelet-oci", &content).context("copy this program");
        }
        other => other.context("mount this program read-only")?,
    };
    let flags = MountFlags {
        read_only: true,
        ..MountFlags::default()
    };
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)
        .context("mount this program read-only")?;
    Ok(copy)
}

/// Returns when this process already runs from such a mount.
pub fn reexecute() -> Result<()> {
    #[cfg(feature = "weakened")]
    {
        // Without read-only mounts it would never find itself on one.
        use kernelet_spec::weakened::{Defence, is_out};
        if is_out(Defence::OwnProgram) || is_out(Defence::ReadOnly) {
            return Ok(());
        }
    }
    let exe = fd::open(std::path::Path::new("/proc/self/exe"), OFlag::O_PATH, 0)
        .context("open this program")?;
    let there = nix::sys::statvfs::fstatvfs(&exe).context("look at this program's mount")?;
    if there.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    if fd::is_sealed(exe.as_fd()) {
        return Ok(());
    }
    let copy = unwritable(exe)?;
    use std::os::unix::ffi::OsStringExt;
    let bytes = |text: std::ffi::OsString| text.into_vec();
    let argv = process::c_strings(&std::env::args_os().map(bytes).collect::<Vec<_>>())?;
    let pairs = std::env::vars_os().map(|(name, value)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        pair
    });
    let env = process::c_strings(&pairs.collect::<Vec<_>>())?;
    Err(process::exec_fd(copy.as_fd(), &argv, &env)).context("execute this program again")
}
