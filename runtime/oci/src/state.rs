//! A container's folder: what was made, so that later commands find it.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::{ContainerId, ContainerPlan};
use kernelet_sys::{cgroup::Layout, fd, process};
use nix::{errno::Errno, fcntl::OFlag};
use serde::{Deserialize, Serialize};

use crate::cli::Global;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

/// state.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    pub id: ContainerId,
    pub pid: i32,
    /// Clock ticks after boot: with the boot it tells the process from one that got its number later.
    pub start_time: u64,
    pub boot_id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Seconds after 1970.
    pub created: u64,
    pub cgroup: String,
    pub annotations: BTreeMap<String, String>,
    pub oci_version: String,
}

/// A container's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    pub fn of(global: &Global, id: &ContainerId) -> Folder {
        Folder {
            path: global.root.join(id.as_str()),
        }
    }

    /// A new one; its name is the reservation of the id.
    pub fn create(global: &Global, id: &ContainerId) -> Result<Folder> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder
            .recursive(true)
            .create(&global.root)
            .with_context(|| format!("make {}", global.root.display()))?;
        let folder = Folder::of(global, id);
        match builder.recursive(false).create(&folder.path) {
            Ok(()) => Ok(folder),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                bail!("container with id exists: {id}")
            }
            Err(e) => Err(e).with_context(|| format!("make {}", folder.path.display())),
        }
    }

    pub fn fifo(&self) -> PathBuf {
        self.path.join("exec.fifo")
    }

    /// Before anything is made, so that a creation that is killed half-way can be undone.
    pub fn save_plan(&self, plan: &ContainerPlan) -> Result<()> {
        write_whole(&self.path.join("plan.json"), &serde_json::to_vec(plan)?)
    }

    /// From here on the container exists.
    pub fn save(&self, saved: &Saved) -> Result<()> {
        write_whole(&self.path.join("state.json"), &serde_json::to_vec(saved)?)
    }

    pub fn load(&self) -> Result<Saved> {
        let path = self.path.join("state.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("understand {}", path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let id = self.path.file_name().unwrap_or_default().to_string_lossy();
                Err(anyhow!("container {id:?} does not exist"))
            }
            Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
        }
    }

    pub fn load_plan(&self) -> Result<ContainerPlan> {
        let path = self.path.join("plan.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Renamed into place: nobody reads half a file.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("write {}", path.display()))
}

impl Saved {
    /// Whether the process is still the one that was made. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        let Ok(proc) = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0) else {
            return false;
        };
        use std::os::fd::AsFd;
        let same = process::start_time(proc.as_fd(), self.pid) == Ok(self.start_time)
            && process::boot_id().is_ok_and(|boot| boot == self.boot_id);
        let zombie = fd::read_at(proc.as_fd(), &format!("{}/stat", self.pid)).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
        });
        same && !zombie
    }

    pub fn status(&self, folder: &Folder, layout: &Layout) -> Status {
        if !self.is_alive() {
            return Status::Stopped;
        }
        if folder.fifo().exists() {
            return Status::Created;
        }
        match layout.group(&self.cgroup).frozen() {
            Ok(true) => Status::Paused,
            _ => Status::Running,
        }
    }

    /// A descriptor of the process, proven to be it. Callers of this program look for these very words when it has
    /// ended, whether its parent has taken note of that already or not (containerd's `checkKillError`).
    pub fn pidfd(&self) -> Result<std::os::fd::OwnedFd> {
        let ended = || anyhow!("container not running: {}", self.id);
        let pidfd = process::pidfd_open(self.pid).map_err(|error| match error.errno {
            Errno::ESRCH => ended(),
            _ => error.into(),
        })?;
        // Opened first, then compared: what was compared can't have been replaced since.
        match self.is_alive() {
            true => Ok(pidfd),
            false => Err(ended()),
        }
    }
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Seconds after 1970 as `2016-10-06T00:17:09Z`.
pub fn rfc3339(seconds: u64) -> String {
    // Years begin in March here, so that the leap day is the last.
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let rest = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn saved(pid: u32) -> Saved {
        let pid = pid as i32;
        let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0).unwrap();
        Saved {
            id: ContainerId::new("c1").unwrap(),
            pid,
            start_time: process::start_time(proc.as_fd(), pid).unwrap(),
            boot_id: process::boot_id().unwrap(),
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            created: 0,
            cgroup: String::new(),
            annotations: BTreeMap::new(),
            oci_version: String::new(),
        }
    }

    #[test]
    fn a_container_that_has_ended_is_not_running_before_and_after_its_parent_notes_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let saved = saved(child.id());
        saved.pidfd().unwrap();
        child.kill().unwrap();
        let ended = |saved: &Saved| saved.pidfd().map(|_| ()).map_err(|e| e.to_string());
        let expected = Err("container not running: c1".to_owned());
        // Ended, and not waited for: it is there, as a zombie.
        let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(saved.pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert_eq!(ended(&saved), expected);
        child.wait().unwrap();
        assert_eq!(ended(&saved), expected);
    }
}
