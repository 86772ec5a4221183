//! A pull's own corner of the store: a folder below `tmp/` that lives as long as the pull, and what it counts on.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use crate::{
    Access, Digest, Image, ImageError, ImageId, ImageStore, Reference, access,
    store::{Record, io_error, json, names, place, read_json, remove, sync_dir, write_new},
};

const PREFIX: &str = "pull-";
/// Locked as long as the pull lives.
const LOCK: &str = "lock";
/// The layers that must not go away meanwhile.
const LAYERS: &str = "layers.json";

/// Goes with its last use; after a crash with the next opening of the store.
#[derive(Debug)]
pub(crate) struct Work {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Work {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file without a name.
    pub fn file(&self) -> Result<File, ImageError> {
        tempfile::tempfile_in(self.path()).map_err(io_error("make a file in", self.path()))
    }
}

impl ImageStore {
    /// A corner for a pull that needs these layers: from here on none of them is removed.
    pub(crate) fn work(&self, layers: &[Digest]) -> Result<Work, ImageError> {
        let tmp = self.dir.join("tmp");
        // So that nobody takes it for a leftover before it is locked.
        let _starting = self.shared_lock("load.lock")?;
        // So that whoever removes layers sees it whole.
        let _short = self.lock("lock")?;
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&tmp)
            .map_err(io_error("make a folder in", &tmp))?;
        let path = dir.path().join(LOCK);
        let lock = File::create(&path).map_err(io_error("make", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        write_new(&dir.path().join(LAYERS), &json(&layers))?;
        Ok(Work { dir, _lock: lock })
    }

    /// The layers that running pulls count on.
    pub(crate) fn reserved(&self) -> Result<BTreeSet<Digest>, ImageError> {
        let tmp = self.dir.join("tmp");
        let mut reserved = BTreeSet::new();
        for name in names(&tmp)? {
            let dir = tmp.join(&name);
            if name.starts_with(PREFIX) && is_live(&dir).map_err(io_error("look into", &dir))? {
                match read_json::<Vec<Digest>>(&dir.join(LAYERS)) {
                    Ok(layers) => reserved.extend(layers),
                    // It ended just now.
                    Err(_) if !dir.exists() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(reserved)
    }

    /// Removes what a crash left, but not what others are at work on; with the long lock held.
    pub(crate) fn sweep(tmp: &Path) -> io::Result<()> {
        for entry in fs::read_dir(tmp)? {
            let entry = entry?;
            let path = entry.path();
            let pull = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if pull && is_live(&path)? {
                continue;
            }
            match remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives an image whose layers are all there its place and its name, in one step for whoever looks.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn commit(
        &self,
        id: ImageId,
        config: &[u8],
        chain: &[Digest],
        reference: &Reference,
        manifest: &Digest,
        digests: &[String],
        credential: Option<&str>,
    ) -> Result<Image, ImageError> {
        let _lock = self.lock("lock")?;
        for layer in chain {
            if !self.layer(layer).exists() {
                return Err(ImageError::Missing(format!("the layer {layer}")));
            }
        }
        let mut record = Record {
            manifest: Some(*manifest),
            chain: chain.to_vec(),
            digests: digests.to_vec(),
            access: Access::new(),
        };
        record.digests.dedup();
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let target = self.image_dir(id);
        if target.exists() {
            // Known from elsewhere, too.
            let known = self.record(id)?;
            record.access = known.access;
            // What was everybody's before stays so.
            if !record.access.is_empty() {
                access::grant(&mut record.access, &repository, credential);
            }
            for digest in known.digests {
                if !record.digests.contains(&digest) {
                    record.digests.push(digest);
                }
            }
            self.write_json(&target.join("record.json"), &record)?;
        } else {
            access::grant(&mut record.access, &repository, credential);
            let tmp = self.tmp_dir()?;
            write_new(&tmp.path().join("config.json"), config)?;
            write_new(&tmp.path().join("record.json"), &json(&record))?;
            sync_dir(tmp.path())?;
            place(tmp, &target)?;
        }
        let mut references = self.references()?;
        let name = reference.to_string();
        if references.get(&name) != Some(&id) {
            references.insert(name, id);
            self.write_references(&references)?;
        }
        self.image(id, &references)
    }

    /// Free bytes where the images are.
    pub fn available(&self) -> Result<u64, ImageError> {
        let disk = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|errno| io_error("look at the disk of", &self.dir)(errno.into()))?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }
}

/// Whether a pull's folder has its pull.
fn is_live(dir: &Path) -> io::Result<bool> {
    let lock = match File::open(dir.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
