//! Makes what a path in a root lacks, folders and at its end a file, the way its symlinks lead: one that
//! dangles means what it will mean to the container.
//!
//! The names are read here, but each folder is opened by the kernel from the root on, without any symlink;
//! what is made is made in that descriptor. Whoever swaps a folder meanwhile makes this fail.

use std::{
    collections::VecDeque,
    ffi::OsString,
    os::fd::{AsFd, BorrowedFd},
    path::{Component, Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use super::{Symlinks, open_in_raw};

/// What stands at a path's end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Folder,
    File,
}

/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;

pub(super) fn make(
    root: BorrowedFd<'_>,
    path: &Path,
    end: End,
    symlinks: Symlinks,
) -> Result<(), Errno> {
    let mut todo = parts(path);
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = open_in_raw(root, &real, flags, 0, Symlinks::Refused)?;
        match nix::fcntl::readlinkat(&dir, name.as_os_str()) {
            Ok(_) if symlinks == Symlinks::Refused => return Err(Errno::ELOOP),
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = Path::new(&target);
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                let mut inner = parts(target);
                inner.append(&mut todo);
                todo = inner;
                continue;
            }
            // It is there, and no symlink.
            Err(Errno::EINVAL) => {}
            Err(Errno::ENOENT) if todo.is_empty() && end == End::File => {
                let flags = OFlag::O_WRONLY
                    | OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_CLOEXEC;
                let mode = Mode::from_bits_truncate(0o644);
                nix::fcntl::openat(dir.as_fd(), name.as_os_str(), flags, mode)?;
            }
            Err(Errno::ENOENT) => {
                let mode = Mode::from_bits_truncate(0o755);
                match nix::sys::stat::mkdirat(&dir, name.as_os_str(), mode) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        }
        real.push(name);
    }
    Ok(())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// What other runtimes did once: by the path's text, wherever its symlinks lead.
#[cfg(feature = "weakened")]
pub(super) fn by_path(root: BorrowedFd<'_>, path: &Path, end: End) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let path = root.join(path.strip_prefix("/").unwrap_or(path));
    match (end, path.parent()) {
        (End::File, Some(parent)) => {
            std::fs::create_dir_all(parent)?;
            std::fs::File::create(&path).map(drop)
        }
        _ => std::fs::create_dir_all(&path),
    }
}
