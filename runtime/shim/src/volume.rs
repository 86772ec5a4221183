//! The pod's tmpfs volumes and its `/dev/shm`: mounts in the shim's own namespace, which end with it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_spec::MountFlags;
use kernelet_sys::{SysError, fd, mount};
use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use crate::protocol::VolumePlan;

/// A folder of the small root that every shim's namespace is copied from.
const BASE: &str = "/volumes";

#[derive(Debug, Default)]
pub(crate) struct Volumes {
    base: Option<OwnedFd>,
    mounts: BTreeMap<String, OwnedFd>,
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

    fn mount(&mut self, plan: &VolumePlan) -> Result<OwnedFd, SysError> {
        let base = self.base()?;
        match nix::sys::stat::mkdirat(base, plan.name.as_str(), Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(SysError::new("make a volume's folder", e)),
        }
        let place = fd::open_at(
            base.as_fd(),
            &plan.name,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            0,
        )?;
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
