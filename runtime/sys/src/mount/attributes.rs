//! Attributes and propagation of a mount that nobody sees yet, and whose ids its files show.

use std::os::fd::{AsRawFd, BorrowedFd};

use kernelet_spec::{Attributes, MountFlags, Propagation};
use nix::errno::Errno;

use super::AT_EMPTY_PATH;
use crate::error::{Result, SysError};

const AT_RECURSIVE: u32 = 0x8000;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What `flags` set on the mount itself, as the kernel takes it.
pub(super) fn bits(flags: MountFlags) -> u64 {
    #[cfg(feature = "weakened")]
    let flags = match kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::ReadOnly) {
        true => MountFlags {
            read_only: false,
            recursive_read_only: false,
            recursive_set: flags.recursive_set.without(Attributes::READ_ONLY),
            ..flags
        },
        false => flags,
    };
    flags.set().0.into()
}

/// Whether attributes that another user namespace has set may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// They may: who asks owns the mount.
    None,
    /// They are kept where nothing is said, and an error where they are to be cleared.
    Kept,
}

/// Gives a mount flags and propagation. Without [`MountFlags::replace`], flags come on top of those it has:
/// a copy of a read-only mount never becomes writable.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    flags: MountFlags,
    propagation: Propagation,
) -> Result<()> {
    set_attributes_with(mount, flags, propagation, Locks::None)
}

/// The same for a mount into a user namespace of the container's own.
pub fn set_attributes_with(
    mount: BorrowedFd<'_>,
    flags: MountFlags,
    propagation: Propagation,
    locks: Locks,
) -> Result<()> {
    let top = top(mount, flags, locks)?;
    if top.set != 0 || top.clear != 0 {
        mount_setattr(mount, 0, &top)?;
    }
    let mut recursive = flags.recursive_set;
    if flags.recursive_read_only && bits(flags) & u64::from(Attributes::READ_ONLY.0) != 0 {
        recursive = recursive.with(Attributes::READ_ONLY);
    }
    let (first, then) = propagations(propagation);
    let tree = MountAttr {
        set: recursive.0.into(),
        clear: flags.recursive_clear.0.into(),
        propagation: first,
        ..MountAttr::default()
    };
    mount_setattr(mount, AT_RECURSIVE, &tree)?;
    match then {
        None => Ok(()),
        Some((flags, propagation)) => {
            let attr = MountAttr {
                propagation,
                ..MountAttr::default()
            };
            mount_setattr(mount, flags, &attr)
        }
    }
}

fn top(mount: BorrowedFd<'_>, flags: MountFlags, locks: Locks) -> Result<MountAttr> {
    let set = Attributes(bits(flags) as u32);
    let atime = flags.has_atime();
    let mut clear = Attributes::NONE;
    if flags.replace {
        for one in [
            Attributes::READ_ONLY,
            Attributes::NO_SUID,
            Attributes::NO_DEV,
            Attributes::NO_EXEC,
            Attributes::NO_SYM_FOLLOW,
        ] {
            clear = clear.with(one);
        }
        if atime {
            clear = clear.with(Attributes::NO_DIR_ATIME);
        }
        clear = clear.without(set);
    }
    if locks == Locks::Kept && flags.replace {
        let has = current(mount)?;
        // Not the access time: `atime` and the like are the wish for none in particular.
        let refused = Attributes(has.0 & flags.cleared.without(Attributes::ATIME).0)
            .without(Attributes::NO_SYM_FOLLOW);
        let times = Attributes::ATIME.with(Attributes::NO_DIR_ATIME).0;
        if !refused.is_empty() || (atime && has.0 & times != set.0 & times) {
            let what = format!("clear attributes {:#x} that the host has locked", has.0);
            return Err(SysError::new(what, Errno::EPERM));
        }
        clear = Attributes(clear.0 & Attributes::NO_SYM_FOLLOW.0);
    }
    if atime {
        clear = clear.with(Attributes::ATIME);
    }
    Ok(MountAttr {
        set: set.0.into(),
        clear: clear.0.into(),
        ..MountAttr::default()
    })
}

/// What the mount has now.
fn current(mount: BorrowedFd<'_>) -> Result<Attributes> {
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    let stat = nix::sys::statvfs::fstatvfs(mount)
        .map_err(|e| SysError::new("look at a mount's attributes", e))?;
    let has = stat.flags().bits();
    let pairs = [
        (libc::ST_RDONLY, Attributes::READ_ONLY),
        (libc::ST_NOSUID, Attributes::NO_SUID),
        (libc::ST_NODEV, Attributes::NO_DEV),
        (libc::ST_NOEXEC, Attributes::NO_EXEC),
        (libc::ST_NOATIME, Attributes::NO_ATIME),
        (libc::ST_NODIRATIME, Attributes::NO_DIR_ATIME),
        (ST_NOSYMFOLLOW, Attributes::NO_SYM_FOLLOW),
    ];
    let mut out = pairs
        .iter()
        .filter(|(bit, _)| has & bit != 0)
        .fold(Attributes::NONE, |all, (_, one)| all.with(*one));
    if has & (libc::ST_NOATIME | libc::ST_RELATIME) == 0 {
        out = out.with(Attributes::STRICT_ATIME);
    }
    Ok(out)
}

/// For the whole tree, and what is then done once more, with its flags.
fn propagations(wish: Propagation) -> (u64, Option<(u32, u64)>) {
    match wish {
        Propagation::Private => (libc::MS_PRIVATE, None),
        Propagation::HostToContainer => (libc::MS_SLAVE, None),
        Propagation::Bidirectional => (libc::MS_SHARED, None),
        Propagation::Unbindable => (libc::MS_UNBINDABLE, None),
        Propagation::SlaveShared => (libc::MS_SLAVE, Some((AT_RECURSIVE, libc::MS_SHARED))),
        // Slave first, and only then private: a mount that was private before receives nothing any more.
        Propagation::TopSlave => (libc::MS_SLAVE, None),
        Propagation::TopShared => (libc::MS_PRIVATE, Some((0, libc::MS_SHARED))),
        Propagation::TopUnbindable => (libc::MS_PRIVATE, Some((0, libc::MS_UNBINDABLE))),
    }
}

/// Gives one mount (not those below it) a propagation.
pub fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation) -> Result<()> {
    let (first, then) = propagations(propagation);
    for propagation in [Some(first), then.map(|(_, propagation)| propagation)]
        .into_iter()
        .flatten()
    {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        mount_setattr(mount, 0, &attr)?;
    }
    Ok(())
}

/// Makes one mount (not those below it) read-only.
pub fn set_read_only(mount: BorrowedFd<'_>) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::ReadOnly) {
        return Ok(());
    }
    let attr = MountAttr {
        set: Attributes::READ_ONLY.0.into(),
        ..MountAttr::default()
    };
    mount_setattr(mount, 0, &attr)
}

/// Nothing that is mounted here or below from now on shows elsewhere, nor the other way.
pub fn make_private(mount: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount_setattr(mount, AT_RECURSIVE, &attr)
}

/// Files show the ids that a user namespace maps theirs to. Kernel 5.12; a file system that can't says
/// EINVAL.
pub fn set_id_map(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    mount_setattr(mount, flags, &attr).map_err(|e| SysError::new("map a mount's ids", e.errno))
}

fn mount_setattr(mount: BorrowedFd<'_>, flags: u32, attr: &MountAttr) -> Result<()> {
    // SAFETY: an empty C string; the attribute is of the size given and outlives the call.
    let n = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if n < 0 {
        return Err(SysError::last("set a mount's attributes"));
    }
    Ok(())
}
