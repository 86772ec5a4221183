//! One instance of kernelet on a machine: its id, the folders named by it, and the lock that makes it one.
//!
//! The id is a hash of the data folder's real path, so that two instances with two data folders never meet in
//! what is global to a kernel or a machine.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use sha2::{Digest, Sha256};

/// The file that keeps the cgroups' path of the last start.
const REMEMBERED: &str = "cgroup-root";
/// A killed program holds its lock until its last thread is gone; so long a new one waits for it.
const DYING: Duration = Duration::from_millis(300);
/// The file that keeps where the cluster's objects are.
const REMEMBERED_STORE: &str = "store-url";

/// Where a cluster's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// In the data folder.
    Embedded,
    /// In an etcd cluster that is not ours: `etcd://host:port,…` or `etcds://…?ca=FILE&cert=FILE&key=FILE`.
    Etcd(String),
}

impl StoreUrl {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        match text.split_once("://") {
            None if text == "embedded" => Ok(Self::Embedded),
            Some(("etcd" | "etcds", _)) => Ok(Self::Etcd(text.to_owned())),
            _ => bail!(
                "--store {text}: a store is `embedded`, `etcd://host:port,…`, \
                 or with TLS `etcds://host:port,…?ca=FILE&cert=FILE&key=FILE`"
            ),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Embedded => "embedded",
            Self::Etcd(url) => url,
        }
    }
}

/// Where an instance keeps what.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Eight hexadecimal digits.
    pub id: String,
    /// Survives everything but purge.
    pub data_dir: PathBuf,
    /// Gone after a reboot: sockets, the lock, shims' folders.
    pub run_dir: PathBuf,
    /// The program's log and the containers' logs.
    pub log_dir: PathBuf,
}

impl Instance {
    /// The instance of an existing data folder; `None` when there is none.
    pub fn find(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        match fs::canonicalize(data_dir) {
            Ok(real) => Ok(Some(Self::of(real))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error)
                .with_context(|| format!("cannot open the data folder {}", data_dir.display())),
        }
    }

    /// The instance of `data_dir`, whose folders are made (0700) where they are missing.
    pub fn create(data_dir: &Path) -> anyhow::Result<Self> {
        private_dir(data_dir)?;
        let instance =
            Self::find(data_dir)?.context("the data folder vanished while it was made")?;
        private_dir(&instance.run_dir)?;
        private_dir(&instance.log_dir)?;
        Ok(instance)
    }

    fn of(data_dir: PathBuf) -> Self {
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let id: String = digest
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            run_dir: Path::new("/run/kernelet").join(&id),
            log_dir: Path::new("/var/log/kernelet").join(&id),
            data_dir,
            id,
        }
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    pub fn image_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    pub fn audit_log(&self) -> PathBuf {
        self.log_dir.join("audit.log")
    }

    pub fn log_file(&self) -> PathBuf {
        self.log_dir.join("kernelet.log")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("kernelet.sock")
    }

    /// Where this instance's pods' cgroups live, below each hierarchy's root.
    pub fn cgroups(&self, cgroup_root: &str) -> String {
        format!("{}/{}", cgroup_root.trim_end_matches('/'), self.id)
    }

    /// Writes down what a later `down --purge` has to know of this start.
    pub fn remember(&self, cgroup_root: &str) -> anyhow::Result<()> {
        let path = self.data_dir.join(REMEMBERED);
        kernelet_pki::write_private(&path, cgroup_root.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The `--cgroup-root` of the last start; `None` when there was none.
    pub fn remembered_cgroup_root(&self) -> Option<String> {
        fs::read_to_string(self.data_dir.join(REMEMBERED)).ok()
    }

    /// Writes down where the cluster's objects are.
    pub fn remember_store(&self, url: &StoreUrl) -> anyhow::Result<()> {
        let path = self.data_dir.join(REMEMBERED_STORE);
        kernelet_pki::write_private(&path, url.as_str().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Where they were at the last start; `None` when there was none.
    pub fn remembered_store(&self) -> Option<StoreUrl> {
        let text = fs::read_to_string(self.data_dir.join(REMEMBERED_STORE)).ok()?;
        StoreUrl::parse(&text).ok()
    }

    /// An etcd may move; but a cluster that was in etcd and is suddenly looked for in the data folder (or the
    /// other way round) is empty there, and an empty cluster ends every pod that this node runs.
    pub fn check_store(&self, url: &StoreUrl) -> anyhow::Result<()> {
        match (self.remembered_store(), url) {
            (Some(StoreUrl::Etcd(_)), StoreUrl::Etcd(_)) | (None, _) => Ok(()),
            (Some(was), now) if was == *now => Ok(()),
            (Some(was), now) => bail!(
                "the cluster of {} is kept in the store {}, not in {}; start it with --store {}, \
                 or another one with another --data-dir",
                self.data_dir.display(),
                was.as_str(),
                now.as_str(),
                was.as_str(),
            ),
        }
    }

    /// Takes the instance's lock, or says who holds it. The lock ends with the process, however it ends.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.run_dir.join("lock");
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot open the lock {}", path.display()))
        };
        let mut taken = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
        if let Err((file, nix::errno::Errno::EWOULDBLOCK)) = &mut taken
            && ends_within(&holder(file), DYING)
        {
            taken = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
        }
        match taken {
            Ok(mut file) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Lock { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "kernelet already runs on {} (process {}); `kernelet status --data-dir {}` shows it, \
                 another --data-dir starts a second one",
                self.data_dir.display(),
                holder(&mut file),
                self.data_dir.display(),
            ),
            Err((_, error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

/// The process that the lock names.
fn holder(file: &mut File) -> String {
    let mut holder = String::new();
    // Whoever holds it may have written to it since: what can be read is only for the message.
    let _ = file
        .rewind()
        .and_then(|()| file.read_to_string(&mut holder));
    holder.trim().to_owned()
}

/// Whether that process ends by itself in the time.
fn ends_within(pid: &str, time: Duration) -> bool {
    let Some(process) = pid
        .parse()
        .ok()
        .and_then(|pid| kernelet_sys::process::pidfd_open(pid).ok())
    else {
        // It ended since.
        return true;
    };
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, time).is_ok_and(|ended| ended > 0)
}

/// Held while this process is the instance.
pub struct Lock {
    _file: Flock<File>,
}

/// Makes `path` and its parents; `path` itself with mode 0700.
pub fn private_dir(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot make the folder {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_embedded_or_an_etcd() {
        let etcd = |url: &str| Some(StoreUrl::Etcd(url.into()));
        for (text, expect) in [
            ("embedded", Some(StoreUrl::Embedded)),
            ("etcd://a:2379,b:2379", etcd("etcd://a:2379,b:2379")),
            ("etcds://a:2379?ca=/a", etcd("etcds://a:2379?ca=/a")),
            ("sqlite:///a", None),
            ("http://a:2379", None),
            ("a:2379", None),
        ] {
            assert_eq!(StoreUrl::parse(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn a_cluster_is_looked_for_where_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::find(dir.path()).unwrap().unwrap();
        let (here, there) = (StoreUrl::Embedded, StoreUrl::Etcd("etcd://a:1".into()));
        instance.check_store(&here).unwrap();
        instance.check_store(&there).unwrap();
        instance.remember_store(&there).unwrap();
        assert_eq!(instance.remembered_store(), Some(there.clone()));
        instance.check_store(&there).unwrap();
        instance
            .check_store(&StoreUrl::Etcd("etcd://b:1".into()))
            .unwrap();
        let error = instance.check_store(&here).unwrap_err().to_string();
        assert!(error.contains("--store etcd://a:1"), "{error}");
        instance.remember_store(&here).unwrap();
        assert!(instance.check_store(&there).is_err());
    }

    #[test]
    fn the_id_follows_the_real_path() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("data"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let (a, b) = (
            Instance::find(&real).unwrap().unwrap(),
            Instance::find(&link).unwrap().unwrap(),
        );
        assert_eq!(a.id, b.id);
        assert_eq!(a.id.len(), 8);
        assert_ne!(a.id, Instance::find(dir.path()).unwrap().unwrap().id);
        assert!(
            Instance::find(&dir.path().join("absent"))
                .unwrap()
                .is_none()
        );
    }
}
