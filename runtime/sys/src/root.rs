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
    path::Path,
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use crate::error::{Result, SysError};

mod make;

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

/// A folder in the root as a descriptor, made (0755) with its parents where it is missing, also where a
/// symlink leads to a place that isn't there yet.
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
    made(root, path, make::End::Folder, symlinks)?;
    open_in(root, path, flags, 0, symlinks)
}

fn made(root: BorrowedFd<'_>, path: &Path, end: make::End, symlinks: Symlinks) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::InRoot) {
        return make::by_path(root, path, end)
            .map_err(|e| SysError::io(format!("make {}", path.display()), &e));
    }
    make::make(root, path, end, symlinks)
        .map_err(|e| SysError::new(format!("make {} in the root", path.display()), e))
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
    made(root, path, make::End::File, symlinks)?;
    open_in(root, path, OFlag::O_PATH, 0, symlinks)
}

/// The place itself, where a symlink is not followed at its end: a file is made if nothing is there.
pub fn place_itself(root: BorrowedFd<'_>, path: &Path, symlinks: Symlinks) -> Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let what = format!("use {} as a place", path.display());
        return Err(SysError::new(what, Errno::EINVAL));
    };
    let dir = folder(root, parent, symlinks)?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || nix::fcntl::openat(dir.as_fd(), name, flags, Mode::empty());
    let fd = match open() {
        Err(Errno::ENOENT) => {
            made(root, path, make::End::File, Symlinks::Refused)?;
            open()
        }
        other => other,
    };
    fd.map_err(|e| SysError::new(format!("open {} in the root", path.display()), e))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (std::path::PathBuf, OwnedFd) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("kernelet-root-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let fd = crate::fd::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).unwrap();
        (path, fd)
    }

    #[test]
    fn a_dangling_symlink_leads_to_a_place_inside() {
        let (path, fd) = root();
        let link =
            |target: &str, at: &str| std::os::unix::fs::symlink(target, path.join(at)).unwrap();
        std::fs::create_dir(path.join("etc")).unwrap();
        link("/tmp/foo/bar", "jump");
        link("/jump/baz/hosts", "etc/hosts");
        let file = file_place(fd.as_fd(), Path::new("/etc/hosts"), Symlinks::Inside).unwrap();
        assert!(!is_folder(file.as_fd()).unwrap());
        assert!(path.join("tmp/foo/bar/baz/hosts").is_file());
        // Above the root is the root.
        link("../../../../../../up", "out");
        folder(fd.as_fd(), Path::new("/out/x"), Symlinks::Inside).unwrap();
        assert!(path.join("up/x").is_dir());
        let refused = folder(fd.as_fd(), Path::new("/jump"), Symlinks::Refused).unwrap_err();
        assert_eq!(refused.errno, Errno::ELOOP);
        link("b", "a");
        link("a", "b");
        let looped = folder(fd.as_fd(), Path::new("/a/c"), Symlinks::Inside).unwrap_err();
        assert_eq!(looped.errno, Errno::ELOOP);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_symlink_can_be_the_place_itself() {
        let (path, fd) = root();
        std::os::unix::fs::symlink("/nowhere", path.join("link")).unwrap();
        let link = place_itself(fd.as_fd(), Path::new("/link"), Symlinks::Inside).unwrap();
        let mode = nix::sys::stat::fstat(&link).unwrap().st_mode;
        assert_eq!(mode & libc::S_IFMT, libc::S_IFLNK);
        place_itself(fd.as_fd(), Path::new("/new/file"), Symlinks::Inside).unwrap();
        assert!(path.join("new/file").is_file() && !path.join("nowhere").exists());
        std::fs::remove_dir_all(path).unwrap();
    }
}
