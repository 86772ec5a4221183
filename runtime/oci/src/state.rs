//! A container's folder: what was made, so that later commands find it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::{ContainerId, Namespaces};
use kernelet_sys::{cgroup::Layout, fd, process};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};
use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::{cli::Global, systemd::Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// Where a container's processes are accounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Below the root of each hierarchy; `None`: in the caller's own group.
    pub cgroup: Option<String>,
    /// Who made it, if it wasn't this program.
    pub unit: Option<Unit>,
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
    /// Nanoseconds after 1970.
    pub created_ns: u64,
    pub place: Place,
    /// Whether its first process is pid 1 of its own: with it, all end.
    pub own_pids: bool,
    pub namespaces: Namespaces,
    pub annotations: BTreeMap<String, String>,
    pub oci_version: String,
    /// As they were at `create`: a later change of config.json doesn't count.
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
    /// A failure of startContainer's hooks is written to [`Folder::start_report`].
    pub start_hooks: bool,
    /// The group of Intel's resource control that this container is in.
    pub rdt: Option<PathBuf>,
}

/// OCI's state, as hooks read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciState<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    pid: i32,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// A container's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
}

/// Held while a container is made or removed, so that two commands don't do both at once. The kernel lets go of it when
/// its holder dies.
#[derive(Debug)]
pub struct Lock {
    _folder: Flock<File>,
}

impl Folder {
    pub fn of(global: &Global, id: &ContainerId) -> Folder {
        Folder {
            path: global.root.join(id.as_str()),
        }
    }

    /// A new one; its name is the reservation of the id.
    pub fn create(global: &Global, id: &ContainerId) -> Result<(Folder, Lock)> {
        let folder = Folder::of(global, id);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        let mut made = builder.create(&folder.path);
        if made
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::NotFound)
        {
            builder
                .recursive(true)
                .create(&global.root)
                .with_context(|| format!("mkdir {}", global.root.display()))?;
            made = builder.recursive(false).create(&folder.path);
        }
        match made {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists")
            }
            Err(e) => return Err(e).with_context(|| format!("mkdir {}", folder.path.display())),
        }
        // Whoever deletes it by force between the two steps finds nothing in it, and this creation then has no folder.
        match folder.lock(Duration::ZERO)? {
            Some(lock) => Ok((folder, lock)),
            None => bail!("the container was deleted while it was created"),
        }
    }

    /// Waits for whoever makes or removes this container. `None`: there is none.
    pub fn lock(&self, within: Duration) -> Result<Option<Lock>> {
        let deadline = Instant::now() + within;
        loop {
            let mut file = match File::open(&self.path) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e).with_context(|| format!("open {}", self.path.display())),
            };
            let locked = loop {
                match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(locked) => break locked,
                    Err((back, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => {
                        file = back;
                        // A lock that is waited for without a bound can't be given up.
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err((_, Errno::EAGAIN)) => bail!("another command is working on the container"),
                    Err((_, e)) => return Err(e).context("lock the container's folder"),
                }
            };
            // The one that was waited for may have removed it, and another be made since.
            let same =
                |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
            match fs::metadata(&self.path) {
                Ok(now) if same(&now, &locked.metadata()?) => {
                    return Ok(Some(Lock { _folder: locked }));
                }
                _ => continue,
            }
        }
    }

    pub fn fifo(&self) -> PathBuf {
        self.path.join("exec.fifo")
    }

    pub fn start_report(&self) -> PathBuf {
        self.path.join("start-error")
    }

    /// The folder that the container sees as `/run/notify`.
    pub fn notify(&self) -> PathBuf {
        self.path.join("notify")
    }

    /// Before anything is made, so that a creation that is killed half-way can be undone.
    pub fn save_place(&self, place: &Place) -> Result<()> {
        write_whole(
            &self.path.join("place.json"),
            &serde_json::to_vec(place)?,
            0o600,
        )
    }

    /// `None`: nothing was made yet.
    pub fn load_place(&self) -> Option<Place> {
        let text = fs::read(self.path.join("place.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// From here on the container exists.
    pub fn save(&self, saved: &Saved) -> Result<()> {
        write_whole(
            &self.path.join("state.json"),
            &serde_json::to_vec(saved)?,
            0o600,
        )
    }

    pub fn load(&self) -> Result<Saved> {
        self.try_load()?.context("container does not exist")
    }

    /// `None`: there is none, or it is not made yet.
    pub fn try_load(&self) -> Result<Option<Saved>> {
        let path = self.path.join("state.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("understand {}", path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("open {}", path.display())),
        }
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| {
                format!(
                    "unable to remove container state dir: {}",
                    self.path.display()
                )
            }),
            _ => Ok(()),
        }
    }
}

/// Renamed into place: nobody reads half a file. The temporary one is new: no link that stood there is followed.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    let open = || {
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
    };
    let file = match open() {
        // Left by one that was killed.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&temporary).and_then(|()| open())
        }
        other => other,
    };
    file.and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("write {}", path.display()))
}

impl Saved {
    /// Whether the process is still the one that was made. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        let Ok(proc) = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0) else {
            return false;
        };
        let same = process::start_time(proc.as_fd(), self.pid) == Ok(self.start_time)
            && process::boot_id().is_ok_and(|boot| boot == self.boot_id);
        let zombie = fd::read_at(proc.as_fd(), &format!("{}/stat", self.pid)).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
        });
        same && !zombie
    }

    pub fn is_paused(&self, layout: &Layout) -> bool {
        let group = self.place.cgroup.as_ref().map(|path| layout.group(path));
        group.is_some_and(|group| group.frozen() == Ok(true))
    }

    pub fn status(&self, folder: &Folder, layout: &Layout) -> Status {
        match () {
            () if !self.is_alive() => Status::Stopped,
            () if self.is_paused(layout) => Status::Paused,
            () if folder.fifo().exists() => Status::Created,
            () => Status::Running,
        }
    }

    /// The first process, as long as there is one.
    pub fn pid_in(&self, status: Status) -> i32 {
        if status == Status::Stopped {
            0
        } else {
            self.pid
        }
    }

    /// What hooks read.
    pub fn oci_state(&self, status: &str, pid: i32) -> String {
        let state = OciState {
            oci_version: &self.oci_version,
            id: self.id.as_str(),
            status,
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        serde_json::to_string(&state).expect("a state can be written as JSON")
    }

    /// A descriptor of the process, proven to be it. Callers of this program look for these very words when it has
    /// ended, whether its parent has taken note of that already or not (containerd's `checkKillError`).
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let ended = || anyhow!("container not running");
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

pub fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// `2016-10-06T00:17:09Z`.
pub fn rfc3339_seconds(ns: u64) -> String {
    rfc3339(ns - ns % 1_000_000_000)
}

/// Nanoseconds after 1970 as `2016-10-06T00:17:09.669794202Z`, without zeros at the end.
pub fn rfc3339(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
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
    let fraction = match ns % 1_000_000_000 {
        0 => String::new(),
        fraction => format!(".{fraction:09}").trim_end_matches('0').to_owned(),
    };
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(pid: u32) -> Saved {
        let pid = pid as i32;
        let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0).unwrap();
        Saved {
            id: ContainerId::new("c1").unwrap(),
            pid,
            start_time: process::start_time(proc.as_fd(), pid).unwrap(),
            boot_id: process::boot_id().unwrap(),
            bundle: PathBuf::from("/b"),
            rootfs: PathBuf::new(),
            created_ns: 0,
            place: Place {
                cgroup: None,
                unit: None,
            },
            own_pids: true,
            namespaces: Namespaces::host(),
            annotations: BTreeMap::new(),
            oci_version: "1.2.0".into(),
            poststart: Vec::new(),
            poststop: Vec::new(),
            start_hooks: false,
            rdt: None,
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
        let expected = Err("container not running".to_owned());
        // Ended, and not waited for: it is there, as a zombie.
        let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(saved.pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert_eq!(ended(&saved), expected);
        child.wait().unwrap();
        assert_eq!(ended(&saved), expected);
    }

    #[test]
    fn hooks_read_what_oci_says() {
        let mut saved = saved(std::process::id());
        assert_eq!(
            saved.oci_state("stopped", 0),
            r#"{"ociVersion":"1.2.0","id":"c1","status":"stopped","bundle":"/b"}"#
        );
        saved.annotations.insert("a".into(), "b".into());
        assert_eq!(
            saved.oci_state("created", 7),
            r#"{"ociVersion":"1.2.0","id":"c1","status":"created","pid":7,"bundle":"/b","annotations":{"a":"b"}}"#
        );
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(
            rfc3339(1_475_713_029_669_794_200),
            "2016-10-06T00:17:09.6697942Z"
        );
        assert_eq!(
            rfc3339_seconds(951_782_400_000_000_001),
            "2000-02-29T00:00:00Z"
        );
    }

    #[test]
    fn one_command_at_a_time_works_on_a_container() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder {
            path: dir.path().join("c1"),
        };
        assert!(folder.lock(Duration::ZERO).unwrap().is_none());
        fs::create_dir(&folder.path).unwrap();
        let first = folder.lock(Duration::ZERO).unwrap().unwrap();
        assert!(folder.lock(Duration::from_millis(5)).is_err());
        let other = folder.clone();
        let waiter =
            std::thread::spawn(move || other.lock(Duration::from_secs(10)).unwrap().is_none());
        folder.remove().unwrap();
        drop(first);
        assert!(
            waiter.join().unwrap(),
            "a container that was removed meanwhile is there"
        );
    }
}
