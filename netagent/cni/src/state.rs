//! Which attachment has which address: one file a network, replaced by renaming, under a lock.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use kernelet_net_plan::{Cidr, Ipam};
use nix::fcntl::{Flock, FlockArg};

use crate::error::{CniError, Code};

/// The network's state, held by this process alone until it is dropped.
pub struct State {
    pub ipam: Ipam,
    folder: PathBuf,
    _lock: Flock<File>,
}

impl State {
    pub fn open(folder: &Path, ranges: &[Cidr]) -> Result<Self, CniError> {
        let error = |what: &str| {
            let what = format!("{what} in {}", folder.display());
            move |source: io::Error| CniError::io(what, source)
        };
        fs::create_dir_all(folder).map_err(error("make the state folder"))?;
        let file = File::create(folder.join("lock")).map_err(error("open the lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| error("take the lock")(errno.into()))?;
        let mut ipam = match fs::read(folder.join("ipam.json")) {
            Ok(bytes) => serde_json::from_slice::<Ipam>(&bytes).map_err(|source| CniError {
                code: Code::Decode,
                message: format!("decode the addresses in use in {}", folder.display()),
                details: source.to_string(),
            })?,
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ipam::default(),
            Err(source) => return Err(error("read the addresses in use")(source)),
        };
        ipam.set_ranges(ranges);
        Ok(Self {
            ipam,
            folder: folder.into(),
            _lock: lock,
        })
    }

    pub fn save(&self) -> Result<(), CniError> {
        let write = || -> io::Result<()> {
            let bytes = serde_json::to_vec(&self.ipam)?;
            let fresh = self.folder.join("ipam.new");
            fs::write(&fresh, bytes)?;
            fs::rename(&fresh, self.folder.join("ipam.json"))
        };
        write().map_err(|source| {
            CniError::io(
                format!("write the addresses in use in {}", self.folder.display()),
                source,
            )
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The time that addresses' rests are measured in: it goes on over all runs of the plugin, and the
/// state goes with the boot that it counts from.
pub fn now() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("the boot clock can always be read");
    Duration::new(now.tv_sec() as u64, now.tv_nsec() as u32)
}
