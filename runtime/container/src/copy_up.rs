//! What a folder of the root has, copied into the tmpfs that will cover it (`tmpcopyup`). Everything is
//! opened by name in a folder's descriptor and never through a symlink, so that nothing of the image leads
//! out of it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernelet_sys::{SysError, fd};
use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags},
    sys::time::TimeSpec,
};

/// Deeper is no image's folder, but one that was made to exhaust the stack.
const MAX_DEPTH: u32 = 200;

pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), SysError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    // A descriptor that only names its place can't be read: the same folder once more.
    let from = fd::open_at(from, ".", flags, 0)?;
    let to = fd::open_at(to, ".", flags, 0)?;
    let stat = nix::sys::stat::fstat(&from).map_err(|e| SysError::new("look at the folder", e))?;
    folder(from, to.as_fd(), 0)?;
    nix::unistd::fchown(&to, Some(stat.st_uid.into()), Some(stat.st_gid.into()))
        .map_err(|e| SysError::new("give the folder its owner", e))
}

fn folder(from: OwnedFd, to: BorrowedFd<'_>, depth: u32) -> Result<(), SysError> {
    if depth > MAX_DEPTH {
        return Err(SysError::new("copy folders", nix::errno::Errno::ELOOP));
    }
    let mut dir = Dir::from_fd(from).map_err(|e| SysError::new("list the folder", e))?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(|e| SysError::new("list the folder", e))?;
        let name = entry.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    for name in names {
        let name = name.as_c_str();
        let shown = || name.to_string_lossy().into_owned();
        let stat = nix::sys::stat::fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| SysError::new(format!("look at {}", shown()), e))?;
        entry(dir.as_fd(), to, name, &stat, depth)
            .map_err(|e| SysError::new(format!("copy {}: {}", shown(), e.attempted), e.errno))?;
    }
    Ok(())
}

fn entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    stat: &FileStat,
    depth: u32,
) -> Result<(), SysError> {
    let failed = |what: &'static str| move |e| SysError::new(what, e);
    let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    match kind {
        SFlag::S_IFDIR => {
            nix::sys::stat::mkdirat(to, name, Mode::from_bits_truncate(0o700))
                .map_err(failed("make the folder"))?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = |dir| {
                nix::fcntl::openat(dir, name, flags, Mode::empty())
                    .map_err(failed("open the folder"))
            };
            let inner = open(to)?;
            folder(open(from)?, inner.as_fd(), depth + 1)?;
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let source = nix::fcntl::openat(from, name, flags, Mode::empty())
                .map_err(failed("open the file"))?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let target = nix::fcntl::openat(to, name, flags, Mode::from_bits_truncate(0o600))
                .map_err(failed("make the file"))?;
            io::copy(&mut File::from(source), &mut File::from(target))
                .map_err(|e| SysError::io("copy the content", &e))?;
        }
        SFlag::S_IFLNK => {
            let text = nix::fcntl::readlinkat(from, name).map_err(failed("read the symlink"))?;
            nix::unistd::symlinkat(text.as_os_str(), to, name)
                .map_err(failed("make the symlink"))?;
        }
        SFlag::S_IFSOCK => return Ok(()),
        other => nix::sys::stat::mknodat(to, name, other, mode, stat.st_rdev)
            .map_err(failed("make the node"))?,
    }
    nix::unistd::fchownat(
        to,
        name,
        Some(stat.st_uid.into()),
        Some(stat.st_gid.into()),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(failed("give it its owner"))?;
    if kind != SFlag::S_IFLNK {
        // Last: the owner's change takes setuid away.
        nix::sys::stat::fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)
            .map_err(failed("give it its mode"))?;
    }
    let time = |seconds, nanos| TimeSpec::new(seconds, nanos);
    nix::sys::stat::utimensat(
        to,
        name,
        &time(stat.st_atime, stat.st_atime_nsec),
        &time(stat.st_mtime, stat.st_mtime_nsec),
        UtimensatFlags::NoFollowSymlink,
    )
    .map_err(failed("give it its times"))
}
