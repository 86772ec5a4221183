//! Our own executable, out of containers' reach (CVE-2019-5736).
//!
//! A container whose program is `/proc/self/exe` runs the runtime's file, and can then open it for
//! writing. So this process first executes itself again from a read-only mount of its file that is in
//! no namespace: who gets hold of it there gets EROFS.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use kernelet_spec::{MountFlags, Propagation};
use kernelet_sys::{fd, mount, process};
use nix::{fcntl::OFlag, sys::statvfs::FsFlags};

/// Returns when this process already runs from such a mount.
pub fn reexecute() -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::OwnProgram) {
        return Ok(());
    }
    let exe = fd::open(std::path::Path::new("/proc/self/exe"), OFlag::O_PATH, 0)
        .context("open this program")?;
    let there = nix::sys::statvfs::fstatvfs(&exe).context("look at this program's mount")?;
    if there.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        // Nothing that follows can make a container; commands that only print something still work.
        return Ok(());
    }
    let copy = mount::copy_tree(exe.as_fd(), false).context("mount this program read-only")?;
    let flags = MountFlags {
        read_only: true,
        ..MountFlags::default()
    };
    mount::set_attributes(copy.as_fd(), flags, Propagation::Private)
        .context("mount this program read-only")?;
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
