//! Doors for `tests/fuzz` to what strangers send us: documents, and layers. Compiled with the feature `fuzz` alone.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Digest, ImageError,
    archive::{Member, Source, decompress},
    digest, document,
    tree::Tree,
    unpack,
};

/// What the bytes stand for in an image whose other parts are right.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Index,
    Manifest,
    Config,
    Docker,
    /// The whole archive.
    Archive,
}

/// Reads an image of which one part is this; how many images were found.
pub fn documents(part: Part, bytes: &[u8]) -> Result<usize, ImageError> {
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    let blob = |bytes: &[u8]| {
        let digest: Digest = digest::of(bytes);
        (format!("blobs/sha256/{}", digest.hex()), digest)
    };
    let descriptor = |kind: &str, bytes: &[u8]| {
        let (_, digest) = blob(bytes);
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": digest.to_string(), "size": bytes.len(),
        })
    };
    let layout = |manifest: &[u8]| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor("manifest", manifest)]});
        ("index.json".to_owned(), index.to_string().into_bytes())
    };
    match part {
        Part::Index => parts.push(("index.json".into(), bytes.to_vec())),
        Part::Docker => parts.push(("manifest.json".into(), bytes.to_vec())),
        Part::Manifest => {
            parts.push(layout(bytes));
            parts.push((blob(bytes).0, bytes.to_vec()));
        }
        Part::Config => {
            let _ = document::config("a configuration", bytes);
            let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor("config", bytes), "layers": []});
            let manifest = manifest.to_string().into_bytes();
            parts.push(layout(&manifest));
            parts.push((blob(&manifest).0, manifest));
            parts.push((blob(bytes).0, bytes.to_vec()));
        }
        Part::Archive => {
            let source = Source::read(bytes, tempfile::tempfile)?;
            return document::images(&source).map(|found| found.len());
        }
    }
    let file = tempfile::tempfile().expect("a temporary file");
    let mut members = HashMap::<PathBuf, Member>::new();
    let mut offset = 0;
    for (name, content) in parts {
        file.write_all_at(&content, offset).expect("a small file");
        let size = content.len() as u64;
        members.insert(name.into(), Member::At { offset, size });
        offset += size;
    }
    let source = Source::Archive {
        file: Arc::new(file),
        members,
    };
    document::images(&source).map(|found| found.len())
}

/// Unpacks a layer (as it is, gzip or zstd) into `target` above the unpacked layers `lower`.
pub fn layer(bytes: &[u8], target: &Path, lower: &[&Path]) -> Result<u64, ImageError> {
    let mut archive =
        decompress(BufReader::new(bytes)).map_err(crate::archive::damaged("a layer"))?;
    let lower = Tree::open(lower).map_err(crate::archive::damaged("the layers below"))?;
    let mut split: File = tempfile::tempfile().expect("a temporary file");
    split.flush().expect("an empty file");
    unpack::unpack(&mut archive, target, &lower, split)
}
