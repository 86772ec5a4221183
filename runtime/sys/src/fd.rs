//! Descriptors: which stay open, sealed memory files, a private procfs.

use std::{
    ffi::CStr,
    fs::File,
    io::Write,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{fcntl::OFlag, sys::stat::Mode};

use crate::error::{Result, SysError};

/// Marks every descriptor from `first` on close-on-exec, so that none reaches the program executed
/// next.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Descriptors) {
        return Ok(());
    }
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only flags of descriptors change.
    let n = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as u32,
            u32::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    if n < 0 {
        return Err(SysError::last("mark descriptors close-on-exec"));
    }
    Ok(())
}

/// Closes every descriptor above 2 but these.
///
/// # Safety
/// The caller is a freshly forked child that uses none of the closed descriptors again, and lets no
/// owner of one run its destructor.
pub unsafe fn close_all_but(keep: &mut Vec<RawFd>) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Descriptors) {
        return Ok(());
    }
    keep.sort_unstable();
    keep.dedup();
    let mut next = 3_u32;
    for fd in keep.iter().filter(|fd| **fd >= 3) {
        let fd = *fd as u32;
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: by the contract of the only caller, nobody uses these descriptors any more.
    let n = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
    if n < 0 {
        return Err(SysError::last("close descriptors"));
    }
    Ok(())
}

/// A memory file with this content that nobody can change any more, root included: what runs from
/// it can't be overwritten through `/proc/self/exe`.
pub fn sealed_memfd(name: &CStr, content: &[u8]) -> Result<OwnedFd> {
    // MFD_EXEC came with 6.3, where leaving it out may be forbidden by sysctl; older kernels refuse it.
    const MFD_EXEC: u32 = 0x10;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: u32| {
        // SAFETY: `name` is a C string; the call makes a descriptor and touches nothing else.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) };
        // SAFETY: a non-negative answer is a new descriptor that only we know.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    let fd = create(base | MFD_EXEC)
        .or_else(|| create(base))
        .ok_or_else(|| SysError::last("make a memory file"))?;
    let mut file = File::from(fd);
    file.write_all(content)
        .map_err(|e| SysError::io("fill a memory file", &e))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: fcntl with an integer argument on a descriptor we own.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(SysError::last("seal a memory file"));
    }
    Ok(file.into())
}

/// Whether the file is one that [`sealed_memfd`] made; it may be open as a place only.
pub fn is_sealed(file: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // A place doesn't tell its seals, so it is opened again; only what is named like a memory file.
    let is_memory = |name: std::path::PathBuf| name.to_string_lossy().starts_with("/memfd:");
    if !std::fs::read_link(&path).is_ok_and(is_memory) {
        return false;
    }
    let Ok(file) = File::open(path) else {
        return false;
    };
    // SAFETY: fcntl without an argument on a descriptor we own.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_WRITE != 0
}

/// `openat` on a folder's descriptor, close-on-exec.
pub fn open_at(dir: BorrowedFd<'_>, path: &str, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    nix::fcntl::openat(
        dir,
        path,
        flags | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(mode),
    )
    .map_err(|e| SysError::new(format!("open {path}"), e))
}

/// Opens a path of the host, close-on-exec.
pub fn open(path: &std::path::Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    nix::fcntl::open(
        path,
        flags | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(mode),
    )
    .map_err(|e| SysError::new(format!("open {}", path.display()), e))
}

/// Reads a small file below a folder's descriptor.
pub fn read_at(dir: BorrowedFd<'_>, path: &str) -> Result<String> {
    let mut file = File::from(open_at(dir, path, OFlag::O_RDONLY, 0)?);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text)
        .map_err(|e| SysError::io(format!("read {path}"), &e))?;
    Ok(text)
}

/// Writes a small file below a folder's descriptor, in one call.
pub fn write_at(dir: BorrowedFd<'_>, path: &str, value: &str) -> Result<()> {
    let fd = open_at(dir, path, OFlag::O_WRONLY | OFlag::O_NOFOLLOW, 0)?;
    nix::unistd::write(&fd, value.as_bytes())
        .map(drop)
        .map_err(|e| SysError::new(format!("write {value:?} to {path}"), e))
}

/// `/dev/null`, proven to be it: a folder that somebody else filled may have something else there.
pub fn dev_null() -> Result<OwnedFd> {
    let fd = open(
        std::path::Path::new("/dev/null"),
        OFlag::O_RDWR | OFlag::O_NOFOLLOW,
        0,
    )?;
    check_null(fd.as_fd())?;
    Ok(fd)
}

/// Whether a descriptor is the null device, and not something put in its place.
pub fn check_null(fd: BorrowedFd<'_>) -> Result<()> {
    let stat = nix::sys::stat::fstat(fd).map_err(|e| SysError::new("look at /dev/null", e))?;
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::DeviceNode) {
        return Ok(());
    }
    let is_char = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    if !is_char || stat.st_rdev != libc::makedev(1, 3) {
        return Err(SysError::new(
            "use /dev/null: it is not the null device",
            nix::errno::Errno::ENODEV,
        ));
    }
    Ok(())
}
