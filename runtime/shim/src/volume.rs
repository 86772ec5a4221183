//! The pod's tmpfs volumes and its `/dev/shm`: mounts in the shim's own namespace, which end with it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_container::CreateError;
use kernelet_spec::MountFlags;
use kernelet_sys::{SysError, fd, mount, process};
use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use crate::protocol::VolumePlan;

/// A folder of the small root that every shim's namespace is copied from.
const BASE: &str = "/volumes";
/// Another.
const DEV: &str = "/dev";

#[derive(Debug, Default)]
pub(crate) struct Volumes {
    base: Option<OwnedFd>,
    mounts: BTreeMap<String, OwnedFd>,
    kernel_shown: bool,
}

impl Volumes {
    /// The shim's own tmpfs for places to mount at: the copied root is shared and read-only.
    fn base(&mut self) -> Result<&OwnedFd, SysError> {
        if self.base.is_none() {
            let place = fd::open(Path::new(BASE), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            let base = mount::tmpfs(Some(64 << 10), 0o700, (0, 0), MountFlags::KERNEL)?;
            mount::attach(base.as_fd(), place.as_fd())?;
            self.base = Some(base);
        }
        Ok(self.base.as_ref().expect("set above"))
    }

    /// Makes a volume, or finds it.
    pub(crate) fn create(&mut self, plan: &VolumePlan) -> Result<&OwnedFd, SysError> {
        if !self.mounts.contains_key(&plan.name) {
            if plan.name.is_empty() || plan.name.contains('/') || plan.name.starts_with('.') {
                return Err(SysError::new(
                    format!("make the volume {:?}", plan.name),
                    Errno::EINVAL,
                ));
            }
            let mounted = self.mount(plan)?;
            self.mounts.insert(plan.name.clone(), mounted);
        }
        Ok(&self.mounts[&plan.name])
    }

    /// For containers in a user namespace, where the kernel lets nobody mount procfs or sysfs that the mount namespace
    /// doesn't show already, nor make device nodes: all of them, in this process's mount namespace, which no container
    /// sees.
    pub(crate) fn show_kernel(&mut self) -> Result<(), CreateError> {
        // A sandbox that could not be made is tried again.
        if self.kernel_shown {
            return Ok(());
        }
        let place = fd::open(Path::new(DEV), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        // The nodes' modes are meant as they stand.
        let before = process::set_umask(0);
        let devices = kernelet_container::devices(MountFlags::default());
        process::set_umask(before);
        let devices = devices?;
        mount::attach(devices.as_fd(), place.as_fd())?;
        for name in ["proc", "sysfs"] {
            let place = self.place(&format!(".{name}"))?;
            let mounted = mount::fs_open(name)?.mount(MountFlags::KERNEL)?;
            mount::attach(mounted.as_fd(), place.as_fd())?;
        }
        self.kernel_shown = true;
        Ok(())
    }

    fn place(&mut self, name: &str) -> Result<OwnedFd, SysError> {
        let base = self.base()?;
        match nix::sys::stat::mkdirat(base, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(SysError::new("make a volume's folder", e)),
        }
        fd::open_at(base.as_fd(), name, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)
    }

    fn mount(&mut self, plan: &VolumePlan) -> Result<OwnedFd, SysError> {
        let place = self.place(&plan.name)?;
        let flags = MountFlags {
            no_suid: true,
            no_dev: true,
            ..MountFlags::default()
        };
        let volume = mount::tmpfs(plan.size_bytes, plan.mode, (0, plan.gid), flags)?;
        mount::attach(volume.as_fd(), place.as_fd())?;
        Ok(volume)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.mounts.get(name)
    }

    /// Names of the pod's own volumes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.mounts
            .keys()
            .filter(|name| *name != SHM)
            .cloned()
            .collect()
    }

    pub(crate) fn create_shm(&mut self, bytes: u64) -> Result<(), SysError> {
        let plan = VolumePlan {
            name: SHM.to_owned(),
            size_bytes: Some(bytes),
            mode: 0o1777,
            gid: 0,
        };
        self.create(&plan).map(drop)
    }

    pub(crate) fn shm(&self) -> Option<&OwnedFd> {
        self.get(SHM)
    }
}

/// No volume of a pod can have this name: they are DNS labels.
const SHM: &str = "dev_shm";
