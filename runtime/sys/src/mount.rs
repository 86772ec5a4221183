//! Mounts by the new API: a file system or a copy of a tree is a descriptor first, is given its
//! attributes while nobody sees it, and only then gets a place.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use kernelet_spec::MountFlags;
use nix::errno::Errno;

use crate::error::{Result, SysError};

mod attributes;
mod id_map;
mod overlay;

pub use attributes::{
    Locks, make_private, set_attributes, set_attributes_with, set_id_map, set_propagation,
    set_read_only,
};
pub use id_map::id_map_namespace;
pub use overlay::{overlay, overlay_of_mapped};

const FSOPEN_CLOEXEC: u32 = 1;
const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_EMPTY_PATH: u32 = 8;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// A file system's configuration context.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    name: String,
}

impl AsRawFd for FsContext {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Starts a new instance of a file system type.
pub fn fs_open(name: &str) -> Result<FsContext> {
    let c_name = c_string(name)?;
    // SAFETY: a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c_name.as_ptr(), FSOPEN_CLOEXEC) };
    Ok(FsContext {
        fd: own(fd, || format!("open the file system type {name}"))?,
        name: name.to_owned(),
    })
}

/// The file system of a mounted place, to be reconfigured.
pub fn fs_pick(place: BorrowedFd<'_>) -> Result<FsContext> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: an empty C string and integers.
    let fd = unsafe { libc::syscall(libc::SYS_fspick, place.as_raw_fd(), c"".as_ptr(), flags) };
    Ok(FsContext {
        fd: own(fd, || "open a mounted file system".to_owned())?,
        name: "mounted".to_owned(),
    })
}

impl FsContext {
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.config(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    pub fn flag(&self, key: &str) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, Some(key), None)
    }

    fn config(&self, command: u32, key: Option<&str>, value: Option<&str>) -> Result<()> {
        let c_key = key.map(c_string).transpose()?;
        let c_value = value.map(c_string).transpose()?;
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: each pointer is null or a C string that outlives the call.
        let n = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.as_raw_fd(),
                command,
                pointer(&c_key),
                pointer(&c_value),
                0,
            )
        };
        if n < 0 {
            let errno = Errno::last();
            let what = match (key, value) {
                (Some(key), Some(value)) => format!("configure {}: {key}={value}", self.name),
                (Some(key), None) => format!("configure {}: {key}", self.name),
                _ => format!("create a {} file system", self.name),
            };
            return Err(SysError::new(format!("{what}{}", self.messages()), errno));
        }
        Ok(())
    }

    /// What the kernel has to say about it, beyond an error number.
    fn messages(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0_u8; 512];
        while let Ok(n) = nix::unistd::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..n]);
            text.push_str(&format!(
                " ({})",
                line.trim_start_matches(['e', 'w', 'i', ' ']).trim_end()
            ));
        }
        text
    }

    /// Options of the file system itself, as `mount(8)` writes them.
    pub fn options(&self, options: &[(String, Option<String>)]) -> Result<()> {
        for (key, value) in options {
            match value {
                Some(value) => self.set(key, value)?,
                None => self.flag(key)?,
            }
        }
        Ok(())
    }

    fn own_flags(&self, flags: MountFlags) -> Result<()> {
        let own = flags.file_system;
        for (on, name) in [
            (own.sync, "sync"),
            (own.dir_sync, "dirsync"),
            (own.mand, "mand"),
            (own.lazy_time, "lazytime"),
            (own.i_version, "iversion"),
        ] {
            if on {
                self.flag(name)?;
            }
        }
        Ok(())
    }

    /// Other options for a file system that is mounted already.
    pub fn reconfigure(
        self,
        flags: MountFlags,
        options: &[(String, Option<String>)],
    ) -> Result<()> {
        self.own_flags(flags)?;
        self.options(options)?;
        self.flag(if flags.read_only { "ro" } else { "rw" })?;
        self.config(FSCONFIG_CMD_RECONFIGURE, None, None)
    }

    /// A mount of it, not yet anywhere.
    pub fn mount(self, flags: MountFlags) -> Result<OwnedFd> {
        self.own_flags(flags)?;
        self.config(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: integers only.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes::bits(flags),
            )
        };
        own(fd, || {
            format!("mount a {} file system{}", self.name, self.messages())
        })
    }
}

/// A tmpfs; `size` in bytes, `None` for the kernel's default.
pub fn tmpfs(
    size: Option<u64>,
    mode: u32,
    owner: (u32, u32),
    flags: MountFlags,
) -> Result<OwnedFd> {
    let fs = fs_open("tmpfs")?;
    fs.set("source", "tmpfs")?;
    fs.set("mode", &format!("{mode:o}"))?;
    if let Some(size) = size {
        fs.set("size", &size.to_string())?;
    }
    if owner != (0, 0) {
        fs.set("uid", &owner.0.to_string())?;
        fs.set("gid", &owner.1.to_string())?;
    }
    fs.mount(flags)
}

/// A procfs of the calling process's pid namespace that no one else sees: what is read and written
/// through it can't be redirected by anything mounted over `/proc`.
pub fn private_proc() -> Result<OwnedFd> {
    let fs = fs_open("proc")?;
    fs.set("source", "proc")?;
    fs.mount(MountFlags::KERNEL)
}

/// The folder of a process in a procfs: the one at `/proc`, or, where none is (a pod's shim), a private one.
pub fn proc_of(pid: i32) -> Result<OwnedFd> {
    use nix::fcntl::OFlag;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match crate::fd::open(Path::new("/proc"), flags, 0) {
        Err(e) if e.errno == Errno::ENOENT => {
            crate::fd::open_at(private_proc()?.as_fd(), &pid.to_string(), flags, 0)
        }
        proc => crate::fd::open_at(proc?.as_fd(), &pid.to_string(), flags, 0),
    }
}

/// A copy of the mount a descriptor stands in, from that place down; not yet anywhere.
pub fn copy_tree(source: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | OPEN_TREE_CLOEXEC
        | AT_EMPTY_PATH
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string and integers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) };
    own(fd, || "copy a mount".to_owned())
}

/// Puts a mount at a place: a folder's or a file's descriptor in the caller's mount namespace.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: empty C strings and integers.
    let n = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            place.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    if n < 0 {
        return Err(SysError::last("attach a mount"));
    }
    Ok(())
}

/// Makes the mount behind a descriptor this mount namespace's root and drops the old one; ends in `/`.
pub fn pivot(new_root: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(new_root).map_err(|e| SysError::new("enter the new root", e))?;
    // Both arguments "." stack the old root on the new one, so that no folder for it is needed.
    nix::unistd::pivot_root(".", ".").map_err(|e| SysError::new("pivot to the new root", e))?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)
        .map_err(|e| SysError::new("unmount the old root", e))?;
    nix::unistd::chdir("/").map_err(|e| SysError::new("enter /", e))
}

/// A mount namespace with nothing but an empty, read-only root with the folders named: what every
/// shim's is copied from. The host's table of mounts, which may be long, isn't copied for each pod.
pub fn small_namespace(folders: &'static [&'static str]) -> Result<OwnedFd> {
    let make = move || -> Result<OwnedFd> {
        crate::namespace::unshare(crate::namespace::NEWNS)?;
        let here = crate::fd::open(Path::new("/"), nix::fcntl::OFlag::O_PATH, 0)?;
        // Before anything is attached: else it would show on the host.
        make_private(here.as_fd())?;
        let root = tmpfs(Some(64 << 10), 0o755, (0, 0), MountFlags::default())?;
        for folder in folders {
            nix::sys::stat::mkdirat(
                &root,
                *folder,
                nix::sys::stat::Mode::from_bits_truncate(0o700),
            )
            .map_err(|e| SysError::new("make a folder in the small root", e))?;
        }
        set_read_only(root.as_fd())?;
        // Opened now, used after the pivot, when there is no /proc any more.
        let proc = private_proc()?;
        let place = crate::fd::open(
            Path::new("/proc"),
            nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY,
            0,
        )?;
        attach(root.as_fd(), place.as_fd())?;
        pivot(root.as_fd())?;
        crate::namespace::open(proc.as_fd(), "thread-self", "mnt")
    };
    // The thread's namespace and root are its own; it ends here, the descriptor keeps the namespace.
    std::thread::spawn(make)
        .join()
        .expect("the closure has nothing that panics")
}

fn own(fd: i64, what: impl FnOnce() -> String) -> Result<OwnedFd> {
    if fd < 0 {
        let errno = Errno::last();
        return Err(SysError::new(what(), errno));
    }
    // SAFETY: a non-negative answer of these calls is a new descriptor that only we know.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| SysError::new("pass a text with a NUL byte", Errno::EINVAL))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| SysError::new(format!("use {}: not UTF-8", path.display()), Errno::EINVAL))
}
