//! One revision of one object, as the watch cache holds it: bytes and an extracted index, never a tree.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{BufMut, Bytes, BytesMut};
use kernelet_api::{Value, meta};

/// The stored version of an object with its resourceVersion spliced in, and what selectors look at.
#[derive(Debug)]
pub struct CachedObject {
    /// `namespace/name`, or `name` where the resource is cluster-scoped.
    pub key: Arc<str>,
    /// The revision that wrote it; its resourceVersion.
    pub revision: i64,
    /// The lease it ends with, 0 for none; an update keeps it.
    pub lease: i64,
    pub index: Index,
    json: Bytes,
    /// Where `"resourceVersion":"…",` lies in `json`.
    version_text: Range<usize>,
    encoded: Mutex<Vec<(EncodingKey, Bytes)>>,
}

/// What label and field selectors look at.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values in the order of the resource's selectable fields; absent fields are empty, as upstream has them.
    pub fields: Box<[Box<str>]>,
    pub uid: Box<str>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
}

/// One of the forms in which an object is sent: each is made once per revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingKey {
    /// Index into the resource's versions.
    pub version: u8,
    pub format: Format,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    /// The message alone, as lists hold it.
    Protobuf,
    /// The message in upstream's envelope, as single objects and watch events hold it.
    Enveloped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Full,
    /// `PartialObjectMetadata`
    Metadata,
}

/// Why stored bytes can't be cached.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("the stored value is not JSON")]
    Json(#[from] serde_json::Error),
    #[error("the stored value has no metadata")]
    NoMetadata,
}

impl CachedObject {
    /// From a stored value, which `index` also checks to be JSON.
    pub fn from_stored(
        key: Arc<str>,
        stored: &[u8],
        revision: i64,
        lease: i64,
        index: impl FnOnce(&[u8]) -> Result<Index, serde_json::Error>,
    ) -> Result<CachedObject, ObjectError> {
        let index = index(stored)?;
        let (json, version_text) =
            splice_version(stored, revision).ok_or(ObjectError::NoMetadata)?;
        Ok(CachedObject {
            key,
            revision,
            lease,
            index,
            json,
            version_text,
            encoded: Mutex::default(),
        })
    }

    /// The same object as its deletion (or its leaving a selector) reports it: the last state at a later revision.
    pub fn at_revision(&self, revision: i64) -> CachedObject {
        let stored = self.stored();
        let (json, version_text) =
            splice_version(&stored, revision).expect("it was spliced before");
        CachedObject {
            key: self.key.clone(),
            revision,
            lease: self.lease,
            index: self.index.clone(),
            json,
            version_text,
            encoded: Mutex::default(),
        }
    }

    /// The stored version's JSON with resourceVersion.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The bytes as they stand in the store.
    pub fn stored(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.json.len() - self.version_text.len());
        bytes.put_slice(&self.json[..self.version_text.start]);
        bytes.put_slice(&self.json[self.version_text.end..]);
        bytes.freeze()
    }

    /// Whether the store holds exactly these bytes.
    pub fn stored_equals(&self, bytes: &[u8]) -> bool {
        let (head, tail) = (
            &self.json[..self.version_text.start],
            &self.json[self.version_text.end..],
        );
        bytes.len() == head.len() + tail.len() && bytes.starts_with(head) && bytes.ends_with(tail)
    }

    /// The tree, with resourceVersion.
    pub fn tree(&self) -> Value {
        serde_json::from_slice(&self.json).expect("it was parsed when it was cached")
    }

    pub fn namespace(&self) -> &str {
        self.key
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The bytes of that form, made by `make` the first time.
    pub fn encoded<E>(
        &self,
        key: EncodingKey,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = encoded.iter().find(|(k, _)| *k == key) {
            return Ok(bytes.clone());
        }
        // Made under the lock: of many watchers that want it at once, one encodes and the others wait for it.
        let bytes = make()?;
        encoded.push((key, bytes.clone()));
        Ok(bytes)
    }

    /// What it costs to keep it.
    pub fn weight(&self) -> usize {
        self.json.len() + 256
    }
}

impl Index {
    /// What [`Index::of`] reads, beside the selectable fields.
    pub const SOURCES: [&str; 3] = [
        "metadata.labels",
        "metadata.uid",
        "metadata.deletionTimestamp",
    ];

    /// Of a stored tree, with the values of its selectable fields.
    pub fn of(tree: &Value, fields: impl IntoIterator<Item = String>) -> Index {
        Index {
            labels: Index::labels_of(tree),
            fields: fields.into_iter().map(String::into_boxed_str).collect(),
            uid: meta::uid(tree).into(),
            deleting: !meta::deletion_timestamp(tree).is_empty(),
        }
    }

    fn labels_of(tree: &Value) -> Box<[(Box<str>, Box<str>)]> {
        tree.pointer("/metadata/labels")
            .and_then(Value::as_object)
            .map(|labels| {
                labels
                    .iter()
                    .map(|(key, value)| {
                        (
                            key.as_str().into(),
                            value.as_str().unwrap_or_default().into(),
                        )
                    })
                    .collect()
            })
            .unwrap_or_default()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(k, _)| **k == *key)
            .map(|(_, v)| &**v)
    }
}

/// `stored` with `"resourceVersion":"…",` as the first entry of its metadata, and where that lies.
fn splice_version(stored: &[u8], revision: i64) -> Option<(Bytes, Range<usize>)> {
    let at = metadata_start(stored)?;
    let empty = stored.get(at) == Some(&b'}');
    let text = format!(
        "\"resourceVersion\":\"{revision}\"{}",
        if empty { "" } else { "," }
    );
    let mut bytes = BytesMut::with_capacity(stored.len() + text.len());
    bytes.put_slice(&stored[..at]);
    bytes.put_slice(text.as_bytes());
    bytes.put_slice(&stored[at..]);
    Some((bytes.freeze(), at..at + text.len()))
}

/// The offset just behind the brace that opens the top-level `metadata`, in compact JSON.
fn metadata_start(json: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"metadata\":{";
    let (mut depth, mut at) = (0_usize, 0);
    while at < json.len() {
        match json[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                if depth == 1 && json[at..].starts_with(KEY) {
                    return Some(at + KEY.len());
                }
                at += 1;
                while *json.get(at)? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(stored: &str) -> CachedObject {
        CachedObject::from_stored("a/b".into(), stored.as_bytes(), 7, 0, |json| {
            Ok(Index::of(&serde_json::from_slice(json)?, []))
        })
        .unwrap()
    }

    #[test]
    fn the_version_is_spliced_into_the_top_level_metadata() {
        let stored = r#"{"apiVersion":"v1","data":{"metadata":{"x":1},"q":"\"metadata\":{"},"metadata":{"labels":{"l":"v"},"name":"b"}}"#;
        let object = cached(stored);
        assert_eq!(object.tree()["metadata"]["resourceVersion"], "7");
        assert_eq!(
            object.tree()["data"]["metadata"],
            serde_json::json!({"x": 1})
        );
        assert_eq!(object.stored(), stored.as_bytes());
        assert!(object.stored_equals(stored.as_bytes()));
        assert!(!object.stored_equals(object.json()));
        assert_eq!(object.index.label("l"), Some("v"));
        assert_eq!((object.namespace(), object.name()), ("a", "b"));
        let later = object.at_revision(9);
        assert_eq!(later.tree()["metadata"]["resourceVersion"], "9");
        assert_eq!(later.stored(), stored.as_bytes());
    }

    #[test]
    fn empty_metadata_is_spliced_too() {
        assert_eq!(
            cached(r#"{"metadata":{}}"#).json(),
            r#"{"metadata":{"resourceVersion":"7"}}"#.as_bytes()
        );
    }

    #[test]
    fn an_encoding_is_made_once() {
        let object = cached(r#"{"metadata":{}}"#);
        let key = EncodingKey {
            version: 0,
            format: Format::Protobuf,
            shape: Shape::Full,
        };
        let first = object.encoded(key, || Ok::<_, ()>(Bytes::from_static(b"x")));
        let second = object.encoded(key, || Err(()));
        assert_eq!(first, second);
    }
}
