//! The folder of images.
//!
//! ```text
//! <dir>/layers/<chain>/{fs,split.zst,layer.json}   unpacked layers by chain id
//! <dir>/images/<id>/{config.json,record.json}      images by configuration digest
//! <dir>/references.json                            names
//! <dir>/holds/<id>/<holder>                        who uses what
//! <dir>/tmp/                                       whatever is being made or unmade; anything in it may go
//! <dir>/{load.lock,lock}                           the long lock (loading, pruning) and the short one
//! ```
//! Things come into their place by rename, after they were synced: layers, then the image, then its name. A crash
//! leaves at worst layers without an image, which a prune removes.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Access, Digest, Image, ImageError, ImageId, OpenError, Reference,
    archive::Source,
    digest,
    document::{self, Found, FoundLayer},
    layer::NewLayer,
};

/// The node's images. Cloning gives another handle; several processes may have the same folder open.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) dir: PathBuf,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Images.
    pub images: Vec<ImageId>,
    /// Bytes of files in the layers that went.
    pub bytes: u64,
}

/// An image's own file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub manifest: Option<Digest>,
    /// Chain ids, the lowest layer's first.
    pub chain: Vec<Digest>,
    /// What registries know it as: `registry/repository@digest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Access::is_empty")]
    pub access: Access,
}

/// A layer's own file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub diff_id: Digest,
    pub bytes: u64,
}

/// Names, as text because that is their order for people.
pub(crate) type References = BTreeMap<String, ImageId>;

/// The folder that stands in for the layers of an image without any: overlayfs wants one at least.
const EMPTY: &str = "empty";

impl ImageStore {
    /// Opens the store in `dir`, which is made if need be, and removes what a crash left half done.
    pub fn open(dir: impl Into<PathBuf>) -> Result<ImageStore, OpenError> {
        let dir = dir.into();
        let error = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError {
                attempt,
                path,
                source,
            }
        };
        // 0700: setuid programs and devices of images are nobody else's business.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&dir)
            .map_err(error("make the image folder", &dir))?;
        // Paths of layers are handed on, and must not depend on a working folder.
        let dir = dir
            .canonicalize()
            .map_err(error("resolve the image folder", &dir))?;
        for name in ["layers", "images", "holds", "tmp"] {
            let path = dir.join(name);
            builder
                .create(&path)
                .map_err(error("make the folder", &path))?;
        }
        let empty = dir.join("layers").join(EMPTY).join("fs");
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&empty)
            .map_err(error("make the folder", &empty))?;
        let store = ImageStore { dir };
        // Unless somebody else is at work in it right now.
        let lock = store
            .lock_file("load.lock")
            .map_err(error("open the lock of", &store.dir))?;
        match lock.try_lock() {
            Ok(()) => {
                let tmp = store.dir.join("tmp");
                ImageStore::sweep(&tmp).map_err(error("clean", &tmp))?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(error("lock", &store.dir)(source)),
        }
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Loads every image of a `docker save` archive or an OCI layout (a folder, or an archive of one), compressed
    /// with gzip or zstd or not at all. Blocks; run it where that is allowed.
    pub fn load(&self, path: &Path) -> Result<Vec<Image>, ImageError> {
        let _lock = self.lock("load.lock")?;
        let source = Source::open(path, || self.spool())?;
        self.take(&source)
    }

    /// The same from a stream.
    pub fn load_from(&self, reader: impl Read + Send) -> Result<Vec<Image>, ImageError> {
        let _lock = self.lock("load.lock")?;
        let source = Source::read(reader, || self.spool())?;
        self.take(&source)
    }

    /// A file without a name.
    fn spool(&self) -> io::Result<File> {
        tempfile::tempfile_in(self.dir.join("tmp"))
    }

    fn take(&self, source: &Source) -> Result<Vec<Image>, ImageError> {
        let found = document::images(source)?;
        // All or nothing: names point at the new images only when the last of them is whole.
        for image in &found {
            self.add(source, image)?;
        }
        let _lock = self.lock("lock")?;
        let mut references = self.references()?;
        for image in &found {
            for reference in &image.references {
                references.insert(reference.to_string(), image.id);
            }
        }
        self.write_references(&references)?;
        found
            .iter()
            .map(|image| self.image(image.id, &references))
            .collect()
    }

    fn add(&self, source: &Source, image: &Found) -> Result<(), ImageError> {
        // So that nothing is unpacked for a configuration that can't be used.
        document::config("the configuration", &image.config)?;
        let mut chain = Vec::<Digest>::new();
        for layer in &image.layers {
            let id = digest::chain(chain.last(), &layer.diff_id);
            if !self.layer(&id).exists() {
                self.add_layer(source, layer, id, &chain)?;
            }
            chain.push(id);
        }
        let mut record = Record {
            manifest: image.manifest,
            chain,
            digests: Vec::new(),
            access: Access::new(),
        };
        let target = self.image_dir(image.id);
        let _lock = self.lock("lock")?;
        if target.exists() {
            // The same image again; it may come with a manifest this time. Whoever loads it gives it to everybody.
            let known = self.record(image.id)?;
            record.manifest = record.manifest.or(known.manifest);
            record.digests = known.digests;
            self.write_json(&target.join("record.json"), &record)?;
            return Ok(());
        }
        let tmp = self.tmp_dir()?;
        write_new(&tmp.path().join("config.json"), &image.config)?;
        write_new(&tmp.path().join("record.json"), &json(&record))?;
        sync_dir(tmp.path())?;
        place(tmp, &target)
    }

    fn add_layer(
        &self,
        source: &Source,
        layer: &FoundLayer,
        id: Digest,
        below: &[Digest],
    ) -> Result<(), ImageError> {
        let what = format!("the layer {}", layer.name);
        let mut part = source
            .part(&layer.name)?
            .ok_or_else(|| ImageError::Missing(what.clone()))?;
        if let Some((_, size)) = layer.blob
            && size != part.size
        {
            return Err(ImageError::WrongSize {
                what,
                expected: size,
                found: part.size,
            });
        }
        let layer = NewLayer {
            what,
            blob: layer.blob.map(|(digest, _)| digest),
            diff_id: layer.diff_id,
            id,
            below,
        };
        self.unpack_layer(&self.dir.join("tmp"), &layer, &mut part)
    }

    /// The image of a name (`nginx`, `repo:tag`, `repo@sha256:…`), an id (`sha256:…`) or the beginning of one.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let references = self.references()?;
        let id = self.find(name, &references)?;
        self.image(id, &references)
    }

    fn find(&self, name: &str, references: &References) -> Result<ImageId, ImageError> {
        let not_found = || ImageError::NotFound(name.to_owned());
        if let Ok(id) = name.parse::<Digest>() {
            let id = ImageId(id);
            return if self.image_dir(id).exists() {
                Ok(id)
            } else {
                Err(not_found())
            };
        }
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference {
            match reference.digest() {
                None => {
                    if let Some(id) = references.get(&reference.to_string()) {
                        return Ok(*id);
                    }
                }
                // The tag beside a digest says nothing: the digest decides, among the repository's images.
                Some(digest) => {
                    for (other, id) in references {
                        let other: Reference = other.parse()?;
                        let same = other.registry() == reference.registry()
                            && other.repository() == reference.repository();
                        if same && self.record(*id)?.manifest == Some(*digest) {
                            return Ok(*id);
                        }
                    }
                    let (registry, repository) = (reference.registry(), reference.repository());
                    let known = format!("{registry}/{repository}@{digest}");
                    for id in self.ids()? {
                        if self.record(id)?.digests.contains(&known) {
                            return Ok(id);
                        }
                    }
                    return Err(not_found());
                }
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.len() >= 4
            && prefix
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            let ids = self.ids()?;
            let mut matching = ids.iter().filter(|id| id.0.hex().starts_with(prefix));
            match (matching.next(), matching.next()) {
                (Some(id), None) => return Ok(*id),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(name.to_owned())),
                (None, _) => {}
            }
        }
        match reference {
            Ok(_) => Err(not_found()),
            Err(error) => Err(error.into()),
        }
    }

    /// Every image, by id.
    pub fn ls(&self) -> Result<Vec<Image>, ImageError> {
        let references = self.references()?;
        self.ids()?
            .into_iter()
            .map(|id| self.image(id, &references))
            .collect()
    }

    pub(crate) fn image(&self, id: ImageId, references: &References) -> Result<Image, ImageError> {
        let record = self.record(id)?;
        let config = self.config(id)?;
        let mut size = 0;
        for chain in &record.chain {
            size += self.layer_record(chain)?.bytes;
        }
        let mut layers: Vec<_> = record
            .chain
            .iter()
            .rev()
            .map(|chain| self.layer(chain).join("fs"))
            .collect();
        if layers.is_empty() {
            layers.push(self.dir.join("layers").join(EMPTY).join("fs"));
        }
        Ok(Image {
            id,
            digest: record.manifest,
            references: references
                .iter()
                .filter(|(_, image)| **image == id)
                .map(|(name, _)| name.parse())
                .collect::<Result<_, _>>()?,
            repo_digests: record.digests,
            access: record.access,
            config: document::config(&format!("the configuration {id}"), &config)?,
            layers,
            size,
        })
    }

    /// Gives an image another name.
    pub fn tag(&self, image: ImageId, reference: &Reference) -> Result<(), ImageError> {
        let _lock = self.lock("lock")?;
        if !self.image_dir(image).exists() {
            return Err(ImageError::NotFound(image.to_string()));
        }
        let mut references = self.references()?;
        references.insert(reference.to_string(), image);
        self.write_references(&references)
    }

    /// Takes a name away, and with its last name the image; an id takes all its names. Refused while somebody holds
    /// the image, unless it keeps a name.
    pub fn rm(&self, name: &str) -> Result<(), ImageError> {
        // Both locks, the long one first, as everybody takes them.
        let _long = self.lock("load.lock")?;
        let _short = self.lock("lock")?;
        let mut references = self.references()?;
        let id = self.find(name, &references)?;
        let named = name
            .parse::<Reference>()
            .ok()
            .map(|reference| reference.to_string());
        let only_name = named.filter(|named| references.get(named) == Some(&id));
        match &only_name {
            Some(name) => {
                references.remove(name);
            }
            None => references.retain(|_, image| *image != id),
        }
        if !references.values().any(|image| *image == id) {
            if let Some(holder) = self.holders_of(id)?.into_iter().next() {
                return Err(ImageError::InUse { image: id, holder });
            }
            self.write_references(&references)?;
            self.discard(&self.image_dir(id))?;
            self.discard_layers()?;
            return Ok(());
        }
        self.write_references(&references)
    }

    /// Removes what has no name and no holder.
    pub fn prune(&self) -> Result<Pruned, ImageError> {
        let _long = self.lock("load.lock")?;
        let _short = self.lock("lock")?;
        let references = self.references()?;
        let mut pruned = Pruned::default();
        for id in self.ids()? {
            if !references.values().any(|image| *image == id) && self.holders_of(id)?.is_empty() {
                self.discard(&self.image_dir(id))?;
                pruned.images.push(id);
            }
        }
        pruned.bytes = self.discard_layers()?;
        Ok(pruned)
    }

    /// Removes layers that no image has; answers their bytes.
    fn discard_layers(&self) -> Result<u64, ImageError> {
        let mut used = self.reserved()?;
        for id in self.ids()? {
            used.extend(self.record(id)?.chain);
        }
        let mut bytes = 0;
        for name in names(&self.dir.join("layers"))? {
            let Ok(chain) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            if !used.contains(&chain) {
                bytes += self.layer_record(&chain)?.bytes;
                self.discard(&self.layer(&chain))?;
            }
        }
        Ok(bytes)
    }

    /// Takes a folder out of its place in one step, then removes it at leisure.
    fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let tmp = self.tmp_dir()?;
        fs::rename(path, tmp.path().join("gone")).map_err(io_error("remove", path))?;
        sync_dir(path.parent().expect("it is below the store's folder"))?;
        let tmp = tmp.keep();
        remove(&tmp).map_err(io_error("remove", &tmp))
    }

    /// Keeps an image from being removed, for as long as `holder` (a container's id, say) doesn't release it; this
    /// outlives the process, though not the machine. Holding twice is holding once.
    pub fn hold(&self, image: ImageId, holder: &str) -> Result<(), ImageError> {
        let valid = !holder.is_empty()
            && !holder.starts_with('.')
            && holder
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let dir = self.dir.join("holds").join(image.0.hex());
        let path = dir.join(holder);
        if !valid {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a holder's name");
            return Err(io_error("hold an image by", Path::new(holder))(error));
        }
        let _lock = self.lock("lock")?;
        if !self.image_dir(image).exists() {
            return Err(ImageError::NotFound(image.to_string()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io_error("make", &dir))?;
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        made.map(drop).map_err(io_error("make", &path))
    }

    /// Gives up whatever `holder` holds.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let _lock = self.lock("lock")?;
        // One look for each image, not one for each of its holders.
        let holds = self.dir.join("holds");
        for image in names(&holds)? {
            let path = holds.join(image).join(holder);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Who holds something. After a restart, whoever isn't there any more should be released.
    pub fn holders(&self) -> Result<Vec<(ImageId, String)>, ImageError> {
        let mut holders = Vec::new();
        for name in names(&self.dir.join("holds"))? {
            if let Ok(id) = format!("sha256:{name}").parse() {
                let id = ImageId(id);
                holders.extend(self.holders_of(id)?.into_iter().map(|holder| (id, holder)));
            }
        }
        Ok(holders)
    }

    fn holders_of(&self, id: ImageId) -> Result<Vec<String>, ImageError> {
        names(&self.dir.join("holds").join(id.0.hex()))
    }

    fn ids(&self) -> Result<Vec<ImageId>, ImageError> {
        let names = names(&self.dir.join("images"))?;
        Ok(names
            .iter()
            .filter_map(|name| format!("sha256:{name}").parse().ok())
            .map(ImageId)
            .collect())
    }

    pub(crate) fn image_dir(&self, id: ImageId) -> PathBuf {
        self.dir.join("images").join(id.0.hex())
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.dir.join("layers").join(chain.hex())
    }

    pub(crate) fn layer_record(&self, chain: &Digest) -> Result<LayerRecord, ImageError> {
        read_json(&self.layer(chain).join("layer.json"))
    }

    pub(crate) fn record(&self, id: ImageId) -> Result<Record, ImageError> {
        read_json(&self.image_dir(id).join("record.json"))
    }

    /// The configuration as it came, which its id still names.
    pub(crate) fn config(&self, id: ImageId) -> Result<Vec<u8>, ImageError> {
        let path = self.image_dir(id).join("config.json");
        let config = fs::read(&path).map_err(io_error("read", &path))?;
        digest::expect("the stored configuration", &id.0, &digest::of(&config))?;
        Ok(config)
    }

    pub(crate) fn references(&self) -> Result<References, ImageError> {
        let path = self.dir.join("references.json");
        if !path.exists() {
            return Ok(References::new());
        }
        read_json(&path)
    }

    pub(crate) fn write_references(&self, references: &References) -> Result<(), ImageError> {
        self.write_json(&self.dir.join("references.json"), references)
    }

    /// Replaces a file in one step.
    pub(crate) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let mut tmp = tempfile::NamedTempFile::new_in(self.dir.join("tmp"))
            .map_err(io_error("make a file in", &self.dir))?;
        tmp.write_all(&json(value))
            .map_err(io_error("write", path))?;
        tmp.as_file().sync_all().map_err(io_error("sync", path))?;
        tmp.persist(path)
            .map_err(|error| io_error("replace", path)(error.error))?;
        sync_dir(path.parent().expect("it is below the store's folder"))
    }

    pub(crate) fn tmp_dir(&self) -> Result<tempfile::TempDir, ImageError> {
        let tmp = self.dir.join("tmp");
        tempfile::tempdir_in(&tmp).map_err(io_error("make a folder in", &tmp))
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(name))
    }

    /// Waits until nobody has it for himself.
    pub(crate) fn shared_lock(&self, name: &str) -> Result<File, ImageError> {
        let path = self.dir.join(name);
        let file = self.lock_file(name).map_err(io_error("open", &path))?;
        file.lock_shared().map_err(io_error("lock", &path))?;
        Ok(file)
    }

    /// Waits for a lock, which goes with the answer.
    pub(crate) fn lock(&self, name: &str) -> Result<File, ImageError> {
        let path = self.dir.join(name);
        let file = self.lock_file(name).map_err(io_error("open", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(file)
    }
}

pub(crate) fn io_error(
    attempt: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Io {
        attempt,
        path: path.clone(),
        source,
    }
}

/// The names in a folder, in order; none if there is no folder.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, ImageError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("read", dir))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ImageError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
        what: path.display().to_string(),
        source,
    })
}

pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("our own types have text keys")
}

pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let mut file = create_new(path).map_err(io_error("make", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", path))
}

/// Renames a finished folder into its place.
pub(crate) fn place(tmp: tempfile::TempDir, target: &Path) -> Result<(), ImageError> {
    fs::rename(tmp.path(), target).map_err(io_error("put into place", target))?;
    // It isn't temporary any more.
    let _ = tmp.keep();
    sync_dir(target.parent().expect("it is below the store's folder"))
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}
