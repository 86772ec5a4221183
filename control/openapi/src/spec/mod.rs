//! OpenAPI v2 and v3.
//!
//! Clients read these rarely and the documents are large, so each is made when it is first asked for and kept
//! compressed. The index of v3 names every document's hash, for which all of them are made once.

mod gnostic;
mod paths;
mod protobuf;
mod types;
mod v2;
mod v3;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::{Arc, OnceLock},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use kernelet_api::{Registry, Value, names::GroupVersion};
use serde_json::json;
use sha2::{Digest, Sha256};

/// How a document is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    Json,
    /// gnostic's protobuf.
    Protobuf,
}

/// One document, compressed.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body for clients that accept `Content-Encoding: gzip`.
    pub gzip: Arc<[u8]>,
    /// Of the uncompressed bytes, in hexadecimal; the etag, and in v3 part of the document's URL.
    pub hash: Arc<str>,
}

impl Document {
    fn new(bytes: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder
            .write_all(bytes)
            .expect("writing to memory doesn't fail");
        let gzip = encoder.finish().expect("writing to memory doesn't fail");
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        Self {
            gzip: gzip.into(),
            hash: hash.into(),
        }
    }

    /// The body for all others.
    pub fn plain(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        GzDecoder::new(&*self.gzip)
            .read_to_end(&mut bytes)
            .expect("compressed by ourselves");
        bytes
    }
}

/// The documents of one registry.
pub struct OpenApi {
    registry: Arc<Registry>,
    version: String,
    v3: OnceLock<BTreeMap<String, Document>>,
    v3_protobuf: OnceLock<BTreeMap<String, Document>>,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
}

impl OpenApi {
    /// `version` is what `info.version` says: upstream's version that is served.
    pub fn new(registry: Arc<Registry>, version: &str) -> Self {
        Self {
            registry,
            version: version.to_owned(),
            v3: OnceLock::new(),
            v3_protobuf: OnceLock::new(),
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
        }
    }

    /// `GET /openapi/v3`: each group version with the URL of its document.
    pub fn v3_index(&self) -> Value {
        let paths: serde_json::Map<String, Value> = self
            .v3_documents()
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    /// `GET /openapi/v3/{path}`, where path is `api/v1` or `apis/{group}/{version}`.
    pub fn v3(&self, path: &str, format: Format) -> Option<Document> {
        let documents = match format {
            Format::Json => self.v3_documents(),
            Format::Protobuf => self.v3_protobuf.get_or_init(|| self.make_v3(gnostic::v3)),
        };
        documents.get(path.trim_matches('/')).cloned()
    }

    /// `GET /openapi/v2`.
    pub fn v2(&self, format: Format) -> Document {
        let json = || v2::document(&self.registry, &self.version);
        match format {
            Format::Json => self
                .v2
                .get_or_init(|| Document::new(json().to_string().as_bytes())),
            Format::Protobuf => self
                .v2_protobuf
                .get_or_init(|| Document::new(&gnostic::v2(&json()))),
        }
        .clone()
    }

    fn v3_documents(&self) -> &BTreeMap<String, Document> {
        self.v3
            .get_or_init(|| self.make_v3(|document| document.to_string().into_bytes()))
    }

    fn make_v3(&self, encode: impl Fn(&Value) -> Vec<u8>) -> BTreeMap<String, Document> {
        let mut documents = BTreeMap::new();
        for (group, versions) in self.registry.groups() {
            for version in versions {
                let gv = GroupVersion::new(&group, version);
                let document = v3::document(&self.registry, &gv, &self.version);
                documents.insert(paths::root(&gv), Document::new(&encode(&document)));
            }
        }
        documents
    }
}
