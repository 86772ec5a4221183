//! One instance of kernelet on a machine: its id, the folders named by it, and the lock that makes it one.
//!
//! The id is a hash of the data folder's real path, so that two instances with two data folders never meet in
//! what is global to a kernel or a machine.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// The file that keeps the cgroups' path of the last start.
const REMEMBERED: &str = "cgroup-root";

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

    /// Takes the instance's lock, or says who holds it. The lock ends with the process, however it ends.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.run_dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Lock { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                bail!(
                    "kernelet already runs on {} (process {}); `kernelet status --data-dir {}` shows it, \
                     another --data-dir starts a second one",
                    self.data_dir.display(),
                    holder.trim(),
                    self.data_dir.display(),
                )
            }
            Err((_, error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
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
