//! An image as an OCI layout again: the same configuration and the same layers, byte for byte, uncompressed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{BufWriter, Write as _},
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::Path,
};

use serde_json::json;

use crate::{
    Digest, ImageError, ImageStore,
    digest::{self, Hashing},
    split,
    store::{io_error, sync_dir, write_new},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl ImageStore {
    /// Writes an image as an OCI layout into the new folder `to`.
    pub fn save(&self, name: &str, to: &Path) -> Result<(), ImageError> {
        let image = self.get(name)?;
        let blobs = to.join("blobs/sha256");
        DirBuilder::new()
            .mode(0o755)
            .create(to)
            .map_err(io_error("make", to))?;
        fs::create_dir_all(&blobs).map_err(io_error("make", &blobs))?;
        let mut layers = Vec::new();
        for chain in &self.record(image.id)?.chain {
            let diff_id = self.layer_record(chain)?.diff_id;
            let size = self.save_layer(chain, &diff_id, &blobs)?;
            layers.push(descriptor(LAYER, &diff_id, size));
        }
        let config = self.config(image.id)?;
        write_new(&blobs.join(image.id.0.hex()), &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &image.id.0, config.len() as u64),
            "layers": layers,
        })
        .to_string();
        let digest = digest::of(manifest.as_bytes());
        write_new(&blobs.join(digest.hex()), manifest.as_bytes())?;
        let mut manifests = Vec::new();
        for reference in &image.references {
            let mut named = descriptor(MANIFEST, &digest, manifest.len() as u64);
            named["annotations"] = json!({
                "io.containerd.image.name": reference.to_string(),
                "org.opencontainers.image.ref.name": reference.to_string(),
            });
            manifests.push(named);
        }
        if manifests.is_empty() {
            manifests.push(descriptor(MANIFEST, &digest, manifest.len() as u64));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        write_new(
            &to.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"})
                .to_string()
                .as_bytes(),
        )?;
        // Last: a layout without it is none.
        write_new(&to.join("index.json"), index.to_string().as_bytes())?;
        sync_dir(to)
    }

    fn save_layer(
        &self,
        chain: &Digest,
        diff_id: &Digest,
        blobs: &Path,
    ) -> Result<u64, ImageError> {
        let path = blobs.join(diff_id.hex());
        let layer = self.layer(chain);
        let io = |attempt| io_error(attempt, &layer);
        // The same layer twice in one image.
        if let Ok(metadata) = fs::metadata(&path) {
            return Ok(metadata.len());
        }
        let records = File::open(layer.join("split.zst")).map_err(io("open the records of"))?;
        let root = File::open(layer.join("fs")).map_err(io("open"))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("make", &path))?;
        let mut out = Hashing::new(BufWriter::with_capacity(128 << 10, &file));
        split::assemble(records, root.as_fd(), &mut out).map_err(io("write the archive of"))?;
        out.flush().map_err(io_error("write", &path))?;
        let (found, size) = out.finish();
        file.sync_all().map_err(io_error("sync", &path))?;
        // Whoever changed a file of the store changed the image.
        digest::expect("the layer in the store", diff_id, &found)?;
        Ok(size)
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}
