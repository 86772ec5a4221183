//! Paths inside a root that isn't trusted: walked by the kernel with `openat2`, used as descriptors.
//!
//! A symlink, absolute or with `..`, never leads out of the root; no magic link (`/proc/self/fd/N`) is
//! followed; what was checked is what is used, because it is the same descriptor.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use crate::error::{Result, SysError};

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Whether symlinks inside the root are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// Walked, as if the root were `/`.
    Inside,
    /// An error (ELOOP).
    Refused,
}

/// Opens a path as if `root` were `/`.
pub fn open_in(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: u32,
    symlinks: Symlinks,
) -> Result<OwnedFd> {
    open_in_raw(root, path, flags, mode, symlinks)
        .map_err(|e| SysError::new(format!("open {} in the root", path.display()), e))
}

fn open_in_raw(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: u32,
    symlinks: Symlinks,
) -> std::result::Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let bytes = if relative.as_os_str().is_empty() {
        b"."
    } else {
        relative.as_os_str().as_bytes()
    };
    let c_path = CString::new(bytes).map_err(|_| Errno::EINVAL)?;
    #[cfg_attr(not(feature = "weakened"), expect(unused_mut))]
    let mut how = OpenHow {
        flags: (flags | OFlag::O_CLOEXEC).bits() as u32 as u64,
        mode: mode.into(),
        resolve: RESOLVE_IN_ROOT
            | RESOLVE_NO_MAGICLINKS
            | if symlinks == Symlinks::Refused {
                RESOLVE_NO_SYMLINKS
            } else {
                0
            },
    };
    #[cfg(feature = "weakened")]
    {
        use kernelet_spec::weakened::{Defence, is_out};
        if is_out(Defence::InRoot) {
            how.resolve = 0;
        } else if is_out(Defence::Symlinks) {
            how.resolve &= !RESOLVE_NO_SYMLINKS;
        }
    }
    // EAGAIN: something was renamed while the kernel walked, and it can't exclude an escape.
    for _ in 0..128 {
        // SAFETY: a C string and a structure of the stated size, both valid over the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                c_path.as_ptr(),
                std::ptr::from_ref(&how),
                size_of::<OpenHow>(),
            )
        };
        if fd >= 0 {
            // SAFETY: new and only ours.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        match Errno::last() {
            Errno::EAGAIN | Errno::EINTR => {}
            e => return Err(e),
        }
    }
    Err(Errno::EAGAIN)
}

/// A folder in the root as a descriptor, made (0755) with its parents where it is missing.
pub fn folder(root: BorrowedFd<'_>, path: &Path, symlinks: Symlinks) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_raw(root, path, flags, 0, symlinks) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => {
            return Err(SysError::new(
                format!("open {} in the root", path.display()),
                e,
            ));
        }
    }
    // Step by step from the root, each prefix resolved in the root again, so that a symlink on the way
    // means what it will mean to the container.
    let mut so_far = std::path::PathBuf::from("/");
    let mut dir = open_in(root, &so_far, flags, 0, symlinks)?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            if component == Component::ParentDir {
                return Err(SysError::new(
                    format!("make {}: it contains ..", path.display()),
                    Errno::EINVAL,
                ));
            }
            continue;
        };
        so_far.push(name);
        dir = match open_in_raw(root, &so_far, flags, 0, symlinks) {
            Ok(next) => next,
            Err(Errno::ENOENT) => {
                match nix::sys::stat::mkdirat(&dir, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => {
                        return Err(SysError::new(
                            format!("make {} in the root", so_far.display()),
                            e,
                        ));
                    }
                }
                // A dangling symlink is here, too: it exists, and leads nowhere. That is its end.
                open_in(root, &so_far, flags, 0, symlinks)?
            }
            Err(e) => {
                return Err(SysError::new(
                    format!("open {} in the root", so_far.display()),
                    e,
                ));
            }
        };
    }
    Ok(dir)
}

/// A place for a file to be mounted on: what is there already, or a new empty file.
pub fn file_place(root: BorrowedFd<'_>, path: &Path, symlinks: Symlinks) -> Result<OwnedFd> {
    match open_in_raw(root, path, OFlag::O_PATH, 0, symlinks) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => {
            return Err(SysError::new(
                format!("open {} in the root", path.display()),
                e,
            ));
        }
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SysError::new(
            format!("make the file {}", path.display()),
            Errno::EINVAL,
        ));
    };
    let dir = folder(root, parent, symlinks)?;
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    nix::fcntl::openat(dir.as_fd(), name, flags, Mode::from_bits_truncate(0o644))
        .map_err(|e| SysError::new(format!("make the file {} in the root", path.display()), e))?;
    open_in(root, path, OFlag::O_PATH, 0, symlinks)
}

/// Whether the descriptor is a folder's.
pub fn is_folder(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat =
        nix::sys::stat::fstat(fd).map_err(|e| SysError::new("look at a mount's source", e))?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Reads a small regular file in the root; anything else (a FIFO would block, a device do worse) and
/// anything larger than `limit` is an error. `None`: it isn't there.
pub fn read_small(root: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = match open_in_raw(root, path, flags, 0, Symlinks::Inside) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(e) => {
            return Err(SysError::new(
                format!("open {} in the root", path.display()),
                e,
            ));
        }
    };
    let stat =
        nix::sys::stat::fstat(&fd).map_err(|e| SysError::new("look at a file in the root", e))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_size as u64 > limit {
        let what = format!(
            "read {} in the root: not a regular file of at most {limit} bytes",
            path.display()
        );
        return Err(SysError::new(what, Errno::EINVAL));
    }
    let mut content = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::from(fd), limit),
        &mut content,
    )
    .map_err(|e| SysError::io(format!("read {} in the root", path.display()), &e))?;
    Ok(Some(content))
}
