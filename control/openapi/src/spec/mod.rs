//! OpenAPI v2 and v3.
//!
//! Clients read these rarely and the documents are large, so each is made when it is first asked for and kept
//! compressed. The index of v3 names every document's hash, for which all of them are made once.

mod connect;
mod descriptions;
mod enums;
mod gnostic;
mod parameters;
mod paths;
mod protobuf;
mod types;
mod v2;
mod v3;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
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
    /// What `write` writes. Nothing larger than its largest piece is ever in memory uncompressed.
    fn made_by(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut packer = Packer {
            encoder,
            digest: Sha256::new(),
        };
        write(&mut packer).expect("writing to memory doesn't fail");
        let gzip = packer
            .encoder
            .finish()
            .expect("writing to memory doesn't fail");
        let hash: String = packer
            .digest
            .finalize()
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

    /// The same document in protobuf.
    fn to_protobuf(&self, encode: fn(&Value) -> Vec<u8>) -> Self {
        let document = serde_json::from_slice(&self.plain()).expect("written by ourselves");
        Self::made_by(|out| out.write_all(&encode(&document)))
    }
}

/// Compresses and hashes what passes through.
struct Packer {
    encoder: GzEncoder<Vec<u8>>,
    digest: Sha256,
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Writes the members of a JSON object one by one.
fn write_members(
    out: &mut dyn Write,
    members: impl IntoIterator<Item = (String, Value)>,
) -> io::Result<()> {
    for (i, (name, value)) in members.into_iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        write!(out, "{comma}{}:{value}", Value::String(name))?;
    }
    Ok(())
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
            Format::Protobuf => self.v3_protobuf.get_or_init(|| {
                let documents = self.v3_documents().iter();
                documents
                    .map(|(path, json)| (path.clone(), json.to_protobuf(gnostic::v3)))
                    .collect()
            }),
        };
        documents.get(path.trim_matches('/')).cloned()
    }

    /// `GET /openapi/v2`.
    pub fn v2(&self, format: Format) -> Document {
        let json = || {
            self.v2.get_or_init(|| {
                Document::made_by(|out| v2::write(&self.registry, &self.version, out))
            })
        };
        match format {
            Format::Json => json().clone(),
            Format::Protobuf => self
                .v2_protobuf
                .get_or_init(|| json().to_protobuf(gnostic::v2))
                .clone(),
        }
    }

    fn v3_documents(&self) -> &BTreeMap<String, Document> {
        self.v3.get_or_init(|| {
            let mut documents = BTreeMap::new();
            for (group, versions) in self.registry.groups() {
                for version in versions {
                    let gv = GroupVersion::new(&group, version);
                    let document =
                        Document::made_by(|out| v3::write(&self.registry, &gv, &self.version, out));
                    documents.insert(paths::root(&gv), document);
                }
            }
            documents
        })
    }
}
