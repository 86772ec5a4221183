//! Filters for system calls: compiled from rules, remembered, installed.

mod compile;
mod table;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use kernelet_spec::{CapSet, Seccomp, SeccompProfile};

pub use compile::{CompileError, Filter, compile};

use crate::error::{Result, SysError};

/// The filter for a plan's wish, compiled once per process and profile. `None`: unconfined.
pub fn filter_for(
    seccomp: &Seccomp,
    capabilities: CapSet,
) -> std::result::Result<Option<Arc<Filter>>, CompileError> {
    static KNOWN: OnceLock<Mutex<HashMap<SeccompProfile, Arc<Filter>>>> = OnceLock::new();
    let profile = match seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => kernelet_spec::default_profile(capabilities),
        Seccomp::Profile(profile) => (**profile).clone(),
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
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    const SECCOMP_FILTER_FLAG_LOG: u64 = 2;
    const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u64 = 4;
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
    let mut flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    if filter.log {
        flags |= SECCOMP_FILTER_FLAG_LOG;
    }
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
    Ok(())
}
