//! Capabilities of the calling thread.

use kernelet_spec::{CapSet, CapabilitySets};
use nix::errno::Errno;

use crate::error::{Result, SysError};

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const VERSION: u32 = 0x2008_0522;

fn prctl(option: i32, a: u64, b: u64) -> i32 {
    // SAFETY: the capability options take integers only.
    unsafe { libc::prctl(option, a, b, 0, 0) }
}

/// Takes out of the bounding set what isn't wanted. Needs CAP_SETPCAP, so it stands before [`set`].
pub fn limit_bounding(wanted: CapSet) -> Result<()> {
    for number in (0..64_u64).filter(|number| wanted.0 & (1 << number) == 0) {
        if prctl(libc::PR_CAPBSET_DROP, number, 0) < 0 {
            // EINVAL: the kernel's last capability is behind us.
            match Errno::last() {
                Errno::EINVAL => return Ok(()),
                e => {
                    let what = format!("drop capability {number} from the bounding set");
                    return Err(SysError::new(what, e));
                }
            }
        }
    }
    Ok(())
}

/// The permitted set of the calling thread.
pub fn permitted() -> Result<CapSet> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 writes two `Data`, which is what is there.
    let n = unsafe {
        libc::syscall(
            libc::SYS_capget,
            std::ptr::from_mut(&mut header),
            data.as_mut_ptr(),
        )
    };
    if n < 0 {
        return Err(SysError::last("read capabilities"));
    }
    Ok(CapSet(
        u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32,
    ))
}

/// Sets effective, permitted and inheritable. What this process doesn't have it can't give; that is
/// left out, as the host's administrator has decided it.
pub fn set(effective: CapSet, permitted_set: CapSet, inheritable: CapSet) -> Result<()> {
    let have = permitted()?.0;
    #[cfg(feature = "weakened")]
    let inheritable =
        match kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Inheritable) {
            true => permitted_set,
            false => inheritable,
        };
    let (e, p, i) = (
        effective.0 & permitted_set.0 & have,
        permitted_set.0 & have,
        inheritable.0 & have,
    );
    let half = |shift: u32| Data {
        effective: (e >> shift) as u32,
        permitted: (p >> shift) as u32,
        inheritable: (i >> shift) as u32,
    };
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two `Data`.
    let n = unsafe {
        libc::syscall(
            libc::SYS_capset,
            std::ptr::from_mut(&mut header),
            data.as_ptr(),
        )
    };
    if n < 0 {
        return Err(SysError::last("set capabilities"));
    }
    Ok(())
}

/// Clears the ambient set and raises what is wanted of it (within permitted and inheritable).
pub fn set_ambient(sets: &CapabilitySets) -> Result<()> {
    const CLEAR_ALL: u64 = 4;
    const RAISE: u64 = 2;
    if prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0) < 0 {
        return Err(SysError::last("clear ambient capabilities"));
    }
    for cap in sets.ambient.iter() {
        if prctl(libc::PR_CAP_AMBIENT, RAISE, cap.number().into()) < 0 {
            // EPERM: not permitted and inheritable, which the plan itself (or the host) has excluded.
            match Errno::last() {
                Errno::EPERM | Errno::EINVAL => {}
                e => return Err(SysError::new(format!("raise ambient {cap}"), e)),
            }
        }
    }
    Ok(())
}
