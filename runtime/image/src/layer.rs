//! A layer's way into the store: unpacked beside it, verified, and then in its place.

use std::{
    fs::{DirBuilder, File},
    io::{self, BufReader, Read},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use crate::{
    Digest, ImageError, ImageStore,
    archive::{damaged, decompress},
    confine,
    digest::{self, Hashing},
    store::{LayerRecord, create_new, io_error, json, place, write_new},
    tree::Tree,
    unpack::unpack,
};

/// What is known of a layer before it comes.
pub(crate) struct NewLayer<'a> {
    /// For errors.
    pub what: String,
    /// Of the archive as it comes, where a manifest says so.
    pub blob: Option<Digest>,
    /// Of the archive uncompressed.
    pub diff_id: Digest,
    /// With all below it.
    pub id: Digest,
    /// From the lowest to the topmost.
    pub below: &'a [Digest],
}

impl ImageStore {
    /// Unpacks a layer on top of others in a folder within `within`, and puts it into place when its digests are right.
    /// That somebody else was faster is no error.
    pub(crate) fn unpack_layer(
        &self,
        within: &Path,
        layer: &NewLayer<'_>,
        source: &mut (dyn Read + Send),
    ) -> Result<(), ImageError> {
        let what = &layer.what;
        let io = |attempt, path: &Path| io_error(attempt, path);
        let tmp = tempfile::tempdir_in(within).map_err(io("make a folder in", within))?;
        let fs = tmp.path().join("fs");
        DirBuilder::new()
            .mode(0o755)
            .create(&fs)
            .map_err(io("make", &fs))?;
        let split = tmp.path().join("split.zst");
        let split_file = create_new(&split).map_err(io("make", &split))?;
        let lower = Tree::open(layer.below.iter().rev().map(|id| self.layer(id).join("fs")))
            .map_err(io("open the layers in", &self.dir))?;

        let mut blob = Hashing::new(source);
        let mut archive = Hashing::new(
            decompress(BufReader::with_capacity(128 << 10, &mut blob)).map_err(damaged(what))?,
        );
        let root = File::open(&fs).map_err(io("open", &fs))?;
        let unpacked = confine::run(&root, &lower, || {
            unpack(&mut archive, &fs, &lower, split_file)
        })
        .map_err(io("confine the unpacking into", &fs))?;
        // A wrong digest is the better explanation of an archive that makes no sense, but a missing end isn't.
        if let Err(error) = &unpacked
            && !matches!(error, ImageError::Damaged { .. } | ImageError::Entry { .. })
        {
            return unpacked.map(|_| ());
        }
        let rest = io::copy(&mut archive, &mut io::sink());
        let (diff_id, _) = archive.finish();
        let rest = rest.and_then(|_| io::copy(&mut blob, &mut io::sink()));
        if let Err(source) = rest {
            let what = what.clone();
            return Err(unpacked
                .err()
                .unwrap_or(ImageError::Damaged { what, source }));
        }
        if let Some(expected) = &layer.blob {
            digest::expect(what, expected, &blob.finish().0)?;
        }
        digest::expect(&format!("{what}, uncompressed,"), &layer.diff_id, &diff_id)?;
        let bytes = unpacked?;

        let record = LayerRecord { diff_id, bytes };
        write_new(&tmp.path().join("layer.json"), &json(&record))?;
        // One call for all of the layer's files, instead of one a file.
        let root = File::open(tmp.path()).map_err(io("open", tmp.path()))?;
        nix::unistd::syncfs(&root).map_err(|errno| io("sync", tmp.path())(errno.into()))?;
        let target = self.layer(&layer.id);
        match place(tmp, &target) {
            // Another process made it meanwhile: its digests were right, too.
            Err(_) if target.exists() => Ok(()),
            placed => placed,
        }
    }
}
