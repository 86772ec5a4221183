//! The folder of images.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use crate::{Image, ImageError, ImageId, OpenError, Reference};

/// The node's images. Cloning gives another handle; several processes may have the same folder open.
#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: PathBuf,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images.
    pub images: Vec<ImageId>,
    /// Bytes given back.
    pub bytes: u64,
}

impl ImageStore {
    /// Opens the store in `dir`, which is made if need be, and removes what a crash left half done.
    pub fn open(dir: impl Into<PathBuf>) -> Result<ImageStore, OpenError> {
        let _ = dir.into();
        todo!()
    }

    /// Loads every image of a `docker save` archive or an OCI layout (a folder, or an archive of one), compressed
    /// with gzip or zstd or not at all. Blocks; run it where that is allowed.
    pub fn load(&self, path: &Path) -> Result<Vec<Image>, ImageError> {
        let _ = path;
        todo!()
    }

    /// The same from a stream.
    pub fn load_from(&self, reader: impl Read) -> Result<Vec<Image>, ImageError> {
        let _ = reader;
        todo!()
    }

    /// The image of a name (`nginx`, `repo:tag`, `repo@sha256:…`), an id (`sha256:…`) or the beginning of one.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let _ = name;
        todo!()
    }

    /// Every image.
    pub fn ls(&self) -> Result<Vec<Image>, ImageError> {
        todo!()
    }

    /// Gives an image another name.
    pub fn tag(&self, image: ImageId, reference: &Reference) -> Result<(), ImageError> {
        let _ = (image, reference);
        todo!()
    }

    /// Takes a name away, and with its last name the image; refuses that while somebody holds it.
    pub fn rm(&self, name: &str) -> Result<(), ImageError> {
        let _ = name;
        todo!()
    }

    /// Removes what has no name and no holder.
    pub fn prune(&self) -> Result<Pruned, ImageError> {
        todo!()
    }

    /// Writes an image as an OCI layout into the new folder `to`.
    pub fn save(&self, name: &str, to: &Path) -> Result<(), ImageError> {
        let _ = (name, to);
        todo!()
    }

    /// Keeps an image from being removed, for as long as `holder` (a container's id, say) doesn't release it; this
    /// outlives the process. Holding twice is holding once.
    pub fn hold(&self, image: ImageId, holder: &str) -> Result<(), ImageError> {
        let _ = (image, holder);
        todo!()
    }

    /// Gives up whatever `holder` holds.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let _ = holder;
        todo!()
    }

    /// Who holds something. After a restart, whoever isn't there any more should be released.
    pub fn holders(&self) -> Result<Vec<(ImageId, String)>, ImageError> {
        todo!()
    }
}
