//! A process's rarer attributes: checked against the host before anything is made, set while the process has its
//! rights, and for labels handed to the kernel just before it executes its program.

use std::os::fd::{BorrowedFd, OwnedFd};

use kernelet_spec::ProcessAttributes;
use kernelet_sys::{attributes as sys, mount};
use nix::errno::Errno;

use crate::{CreateError, ErrorKind, error::During};

/// What the host doesn't have can't be asked for. Costs nothing unless something is.
pub(crate) fn check_host(wish: &ProcessAttributes) -> Result<(), CreateError> {
    let refuse = |what: &str| Err(CreateError::new(ErrorKind::Invalid, what));
    if wish.apparmor_profile.is_some() && !sys::has_apparmor() {
        return refuse(
            "process.apparmorProfile: unable to apply apparmor profile: apparmor: config provided but apparmor not supported",
        );
    }
    if wish.selinux_label.is_some() && !sys::has_selinux() {
        return refuse(
            "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported",
        );
    }
    Ok(())
}

/// The files that take the labels, opened where the process's own procfs can be trusted.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    apparmor: Option<(OwnedFd, String)>,
    selinux: Option<(OwnedFd, String)>,
}

impl Labels {
    pub(crate) fn wanted(wish: &ProcessAttributes) -> bool {
        wish.apparmor_profile.is_some() || wish.selinux_label.is_some()
    }

    pub(crate) fn open(
        wish: &ProcessAttributes,
        proc: BorrowedFd<'_>,
    ) -> Result<Self, CreateError> {
        let mut labels = Labels::default();
        if let Some(profile) = &wish.apparmor_profile {
            let file = sys::open_exec_attribute(proc, Some("apparmor"))?;
            labels.apparmor = Some((file, format!("exec {profile}")));
        }
        if let Some(label) = &wish.selinux_label {
            labels.selinux = Some((sys::open_exec_attribute(proc, None)?, label.clone()));
        }
        Ok(labels)
    }

    /// With a procfs of its own, for exec.
    pub(crate) fn open_alone(wish: &ProcessAttributes) -> Result<Self, CreateError> {
        use std::os::fd::AsFd;
        match Self::wanted(wish) {
            true => Self::open(wish, mount::private_proc()?.as_fd()),
            false => Ok(Labels::default()),
        }
    }

    /// The next execution takes them. Before no-new-privileges, which may forbid the change.
    pub(crate) fn apply(self) -> Result<(), CreateError> {
        if let Some((file, value)) = self.apparmor {
            sys::write_exec_attribute(file, &value, "unable to apply apparmor profile")?;
        }
        if let Some((file, value)) = self.selinux {
            sys::write_exec_attribute(file, &value, "can't set process label")?;
        }
        Ok(())
    }
}

/// Sets what needs rights that the process gives up later.
pub(crate) fn apply(wish: &ProcessAttributes, has_cpuset: bool) -> Result<(), CreateError> {
    if let Some(scheduler) = &wish.scheduler {
        match sys::set_scheduler(scheduler) {
            Err(e) if e.errno == Errno::EPERM && has_cpuset => {
                let what = "process scheduler can't be used together with AllowedCPUs";
                return Err(CreateError::new(ErrorKind::Invalid, what));
            }
            other => other.during(|| "process.scheduler".into())?,
        }
    }
    if let Some(priority) = wish.io_priority {
        sys::set_io_priority(priority).during(|| "process.ioPriority".into())?;
    }
    if let Some(domain) = wish.personality {
        sys::set_personality(domain).during(|| "linux.personality".into())?;
    }
    if let Some(policy) = &wish.memory_policy {
        sys::set_memory_policy(policy).during(|| "linux.memoryPolicy".into())?;
    }
    Ok(())
}
