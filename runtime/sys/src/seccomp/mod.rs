//! Filters for system calls: compiled from rules, remembered, installed.

mod compile;
#[cfg(test)]
mod default_effect;
mod table;

use std::{
    collections::HashMap,
    os::fd::{FromRawFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock},
};

use kernelet_spec::{CapSet, Seccomp, SeccompProfile};

pub use compile::{CompileError, Filter, compile};

use crate::error::{Result, SysError};

/// What a plan's wish comes to; `None`: unconfined.
pub fn profile_of(seccomp: &Seccomp, capabilities: CapSet) -> Option<SeccompProfile> {
    match seccomp {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(kernelet_spec::default_profile(capabilities)),
        Seccomp::Profile(profile) => Some((**profile).clone()),
    }
}

/// The filter for a plan's wish, compiled once per process and profile. `None`: unconfined.
pub fn filter_for(
    seccomp: &Seccomp,
    capabilities: CapSet,
) -> std::result::Result<Option<Arc<Filter>>, CompileError> {
    static KNOWN: OnceLock<Mutex<HashMap<SeccompProfile, Arc<Filter>>>> = OnceLock::new();
    let Some(profile) = profile_of(seccomp, capabilities) else {
        return Ok(None);
    };
    let known = KNOWN.get_or_init(Mutex::default);
    let mut known = known
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(filter) = known.get(&profile) {
        return Ok(Some(filter.clone()));
    }
    let filter = Arc::new(compile(&profile)?);
    // Profiles come from users: without a bound, so many of them would be kept for ever.
    if known.len() >= 64 {
        known.clear();
    }
    known.insert(profile, filter.clone());
    Ok(Some(filter))
}

/// Installs a filter for the calling thread and what it executes. Needs CAP_SYS_ADMIN or
/// no-new-privileges. An empty filter is refused: it would mean "unconfined" by accident.
pub fn install(filter: &Filter) -> Result<()> {
    set(filter, 0).map(drop)
}

/// The same for a filter that [`Filter::listens`]: the answer is the notification descriptor.
pub fn install_listening(filter: &Filter) -> Result<OwnedFd> {
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 8;
    let fd = set(filter, SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with that flag the answer is a new descriptor that only we know.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

impl Filter {
    /// The flags that it is installed with, but for the listener's.
    pub fn flag_bits(&self) -> u64 {
        const SECCOMP_FILTER_FLAG_LOG: u64 = 2;
        const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u64 = 4;
        const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: u64 = 32;
        let flags = [
            (self.flags.log, SECCOMP_FILTER_FLAG_LOG),
            (self.flags.spec_allow, SECCOMP_FILTER_FLAG_SPEC_ALLOW),
            // Kernel 5.19; the kernel takes it with a listener only.
            (
                self.flags.wait_killable && self.listens,
                SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            ),
        ];
        let set = flags.iter().filter(|(on, _)| *on);
        set.fold(0, |all, (_, bit)| all | bit)
    }
}

fn set(filter: &Filter, more: u64) -> Result<i64> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::Filter) {
        return Ok(0);
    }
    if filter.insns.is_empty() {
        return Err(SysError::new(
            "install an empty seccomp filter",
            nix::errno::Errno::EINVAL,
        ));
    }
    let program = libc::sock_fprog {
        len: filter.insns.len() as u16,
        filter: filter.insns.as_ptr().cast_mut().cast(),
    };
    let flags = filter.flag_bits() | more;
    // SAFETY: the program's length and pointer describe the vector, which the kernel only reads.
    let n = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    if n < 0 {
        return Err(SysError::last("install the seccomp filter"));
    }
    Ok(n)
}
