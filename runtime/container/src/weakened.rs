//! What the defences of this crate are replaced by, one at a time, in builds for tests of escapes: what other runtimes
//! did before they were hardened. See `kernelet_spec::weakened`.

use std::{os::fd::BorrowedFd, path::Path};

use kernelet_spec::{
    ContainerPlan, NameOrId, UserPlan,
    weakened::{Defence, is_out},
};
use kernelet_sys::{
    SysError,
    root::{self, Symlinks},
};
use nix::fcntl::OFlag;

use crate::CreateError;

/// Whether settings go through the root's `/proc` instead of a private one.
pub(crate) fn root_proc() -> bool {
    is_out(Defence::PrivateProc)
}

/// Writes the sysctls to whatever lies at the root's `/proc/sys`, after all mounts.
pub(crate) fn set_through_the_root(
    plan: &ContainerPlan,
    in_root: BorrowedFd<'_>,
) -> Result<(), CreateError> {
    if !root_proc() || plan.sysctls.is_empty() {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let proc = root::open_in(in_root, Path::new("/proc"), flags, 0, Symlinks::Inside)?;
    for (name, value) in &plan.sysctls {
        crate::set_sysctl(std::os::fd::AsFd::as_fd(&proc), name, value)?;
    }
    Ok(())
}

/// Enters the working directory by its path alone. `false`: not taken out, nothing was done.
pub(crate) fn entered_anywhere(cwd: &Path) -> Result<bool, CreateError> {
    if !is_out(Defence::WorkingDirectory) {
        return Ok(false);
    }
    nix::unistd::chdir(cwd).map_err(|e| SysError::new("enter the working directory", e))?;
    Ok(true)
}

/// Asks the C library for the user, which loads code of the root's for it.
pub(crate) fn look_up_by_libc(plan: &UserPlan) {
    if let (true, NameOrId::Id(id)) = (is_out(Defence::Names), &plan.user) {
        // SAFETY: the answer, which points into a static buffer, isn't used.
        unsafe { libc::getpwuid(*id) };
    }
}
