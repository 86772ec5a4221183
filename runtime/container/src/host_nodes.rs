//! Device nodes where none may be made: in a user namespace that isn't the host's first one, mknod(2) is refused,
//! and what stands in is the host's own node, mounted at the place.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use kernelet_sys::{
    SysError, fd, mount,
    root::{self, Symlinks},
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{CreateError, error::During};

/// Mounts the host's node at the same path of the root. What the host doesn't have is an error that names it.
pub(crate) fn bind(in_root: BorrowedFd<'_>, path: &Path) -> Result<(), CreateError> {
    let device = fd::open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)
        .during(|| format!("the device {}", path.display()))?;
    let stat = nix::sys::stat::fstat(&device).map_err(|e| SysError::new("look at a device", e))?;
    if !matches!(
        stat.st_mode & libc::S_IFMT,
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO
    ) {
        let what = format!("mount {}: it is no device", path.display());
        return Err(SysError::new(what, Errno::ENODEV).into());
    }
    let place = root::file_place(in_root, path, Symlinks::Refused)?;
    let copy = mount::copy_tree(device.as_fd(), false)?;
    Ok(mount::attach(copy.as_fd(), place.as_fd())?)
}
