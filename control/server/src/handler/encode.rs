//! Cached objects to bytes: each form is made once a revision, and envelopes are spliced round it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kernelet_api::{
    ApiError, Gvk, Schema, Value,
    codec::{self, Format},
    meta,
};
use serde_json::{Map, json};

use crate::{
    cache::{self, CachedObject, EncodingKey, Shape},
    http::negotiate::{Form, MetaVersion, Output},
    registry::Served,
};

/// A resource in the version that a request asks for.
#[derive(Clone)]
pub struct View {
    pub schema: Arc<Schema>,
    pub served: Arc<Served>,
    pub version: String,
}

fn failed(what: impl std::fmt::Display) -> ApiError {
    ApiError::internal(what)
}

impl View {
    pub fn gvk(&self) -> Gvk {
        self.served.gvk(&self.version)
    }

    /// The object as a tree in the requested version.
    pub fn tree(&self, object: &CachedObject) -> Result<Value, ApiError> {
        self.convert(object.tree())
    }

    /// A tree of the stored (or any other) version in the requested one.
    pub fn convert(&self, tree: Value) -> Result<Value, ApiError> {
        self.served
            .resource
            .convert(tree, &self.gvk())
            .map_err(failed)
    }

    fn key(&self, format: cache::Format, shape: Shape) -> EncodingKey {
        let resource = &self.served.resource;
        EncodingKey {
            version: self
                .served
                .stored
                .as_ref()
                .map_or(0, |stored| stored.encoding_version(resource, &self.version)),
            format,
            shape,
        }
    }

    /// The object's JSON.
    pub fn json(&self, object: &CachedObject, form: Form) -> Result<Bytes, ApiError> {
        match form {
            Form::Metadata(version) => {
                let bytes =
                    object.encoded(self.key(cache::Format::Json, Shape::Metadata), || {
                        Ok::<_, ApiError>(
                            codec::encode_json(&partial(&object.tree(), MetaVersion::V1)).into(),
                        )
                    })?;
                Ok(match version {
                    MetaVersion::V1 => bytes,
                    version => codec::encode_json(&partial(&object.tree(), version)).into(),
                })
            }
            Form::Full | Form::Table(_) => {
                let stored = self.served.stored.as_ref().map(|stored| &stored.gvk);
                if stored == Some(&self.gvk()) {
                    return Ok(object.json().clone());
                }
                object.encoded(self.key(cache::Format::Json, Shape::Full), || {
                    Ok(codec::encode_json(&self.tree(object)?).into())
                })
            }
        }
    }

    /// The object's protobuf message, without envelope.
    pub fn message(&self, object: &CachedObject, form: Form) -> Result<Bytes, ApiError> {
        match form {
            Form::Metadata(_) => object
                .encoded(self.key(cache::Format::Protobuf, Shape::Metadata), || {
                    self.metadata_message(&object.tree())
                }),
            Form::Full | Form::Table(_) => {
                object.encoded(self.key(cache::Format::Protobuf, Shape::Full), || {
                    let ty = self.schema.by_gvk(&self.gvk()).ok_or_else(|| {
                        failed(format!("{} has no protobuf form", self.gvk().kind))
                    })?;
                    Ok(codec::encode_message(&self.schema, ty, &self.tree(object)?).into())
                })
            }
        }
    }

    /// PartialObjectMetadata's message: the metadata as field 1.
    fn metadata_message(&self, tree: &Value) -> Result<Bytes, ApiError> {
        let ty = self
            .schema
            .by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .ok_or_else(|| failed("ObjectMeta has no protobuf form"))?;
        let metadata = codec::encode_message(
            &self.schema,
            ty,
            tree.get("metadata").unwrap_or(&Value::Null),
        );
        let mut message = BytesMut::new();
        put_field(&mut message, 1, &metadata);
        Ok(message.freeze())
    }

    /// The object in protobuf's envelope.
    pub fn protobuf(&self, object: &CachedObject, form: Form) -> Result<Bytes, ApiError> {
        let (shape, api_version, kind) = match form {
            Form::Metadata(version) => (
                Shape::Metadata,
                version.api_version().to_owned(),
                "PartialObjectMetadata".to_owned(),
            ),
            Form::Full | Form::Table(_) => (Shape::Full, self.gvk().api_version(), self.gvk().kind),
        };
        let message = self.message(object, form)?;
        let make = || Ok(codec::envelope(&api_version, &kind, &message).into());
        match form {
            // Rare enough not to be kept for each version.
            Form::Metadata(MetaVersion::V1Beta1) => make(),
            _ => object.encoded(self.key(cache::Format::Enveloped, shape), make),
        }
    }

    /// The kind and apiVersion of a list in that form.
    pub fn list_kind(&self, form: Form) -> (String, String) {
        match form {
            Form::Full => (
                self.served.resource.list_kind.clone(),
                self.gvk().api_version(),
            ),
            Form::Metadata(version) => (
                "PartialObjectMetadataList".to_owned(),
                version.api_version().to_owned(),
            ),
            Form::Table(version) => ("Table".to_owned(), version.api_version().to_owned()),
        }
    }

    /// A list's bytes up to its items, in JSON.
    pub fn list_head(&self, form: Form, metadata: &ListMeta) -> String {
        let (kind, api_version) = self.list_kind(form);
        format!(
            "{{\"kind\":{kind:?},\"apiVersion\":{api_version:?},\"metadata\":{},\"items\":[",
            metadata.to_value()
        )
    }

    /// A whole list in protobuf.
    pub fn list_protobuf<'o>(
        &self,
        form: Form,
        metadata: &ListMeta,
        objects: impl Iterator<Item = &'o CachedObject>,
    ) -> Result<Bytes, ApiError> {
        let ty = self
            .schema
            .by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
            .ok_or_else(|| failed("ListMeta has no protobuf form"))?;
        let mut message = BytesMut::new();
        put_field(
            &mut message,
            1,
            &codec::encode_message(&self.schema, ty, &metadata.to_value()),
        );
        for object in objects {
            put_field(&mut message, 2, &self.message(object, form)?);
        }
        let (kind, api_version) = self.list_kind(form);
        Ok(codec::envelope(&api_version, &kind, &message).into())
    }
}

/// A list's metadata.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub resource_version: i64,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert(
            "resourceVersion".to_owned(),
            self.resource_version.to_string().into(),
        );
        if let Some(token) = &self.continue_token {
            map.insert("continue".to_owned(), token.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            map.insert("remainingItemCount".to_owned(), remaining.into());
        }
        Value::Object(map)
    }
}

/// PartialObjectMetadata of a tree.
pub fn partial(tree: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": tree.get("metadata").cloned().unwrap_or_default(),
    })
}

/// What a watcher reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }
}

/// What stands before and behind an object's bytes in a watch event.
pub struct Frame {
    pub head: Bytes,
    pub object: Bytes,
    pub tail: &'static [u8],
}

impl Frame {
    /// Around an object's JSON.
    pub fn json(ty: EventType, object: Bytes) -> Frame {
        Frame {
            head: format!("{{\"type\":\"{}\",\"object\":", ty.as_str()).into(),
            object,
            tail: b"}\n",
        }
    }

    /// Around an object in protobuf's envelope: `WatchEvent{1: type, 2: RawExtension{1: object}}` behind its length in
    /// four bytes, the event itself without an envelope.
    pub fn protobuf(ty: EventType, object: Bytes) -> Frame {
        let mut raw = BytesMut::with_capacity(8);
        put_head(&mut raw, 1, object.len());
        let mut event = BytesMut::with_capacity(32);
        put_field(&mut event, 1, ty.as_str().as_bytes());
        put_head(&mut event, 2, raw.len() + object.len());
        event.put_slice(&raw);
        let mut head = BytesMut::with_capacity(event.len() + 4);
        head.put_u32(u32::try_from(event.len() + object.len()).unwrap_or(u32::MAX));
        head.put_slice(&event);
        Frame {
            head: head.freeze(),
            object,
            tail: b"",
        }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.object.len() + self.tail.len()
    }

    /// All of it in one piece.
    pub fn whole(&self) -> Bytes {
        [&self.head[..], &self.object[..], self.tail]
            .concat()
            .into()
    }
}

/// A tree as a watch event, in that output's format.
pub fn frame_value(schema: &Schema, output: Output, ty: EventType, value: &Value) -> Frame {
    match output.format {
        Format::Protobuf => {
            let object = codec::encode_protobuf(schema, value);
            Frame::protobuf(
                ty,
                object.unwrap_or_else(|| codec::encode_json(value)).into(),
            )
        }
        Format::Json | Format::Yaml => Frame::json(ty, codec::encode_json(value).into()),
    }
}

/// A length-delimited field.
fn put_field(bytes: &mut BytesMut, number: u8, value: &[u8]) {
    put_head(bytes, number, value.len());
    bytes.put_slice(value);
}

/// A length-delimited field's tag and length.
fn put_head(bytes: &mut BytesMut, number: u8, mut length: usize) {
    bytes.put_u8(number << 3 | 2);
    while length >= 0x80 {
        bytes.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.put_u8(length as u8);
}

/// A bookmark's object: the kind and a resourceVersion; `initial_end` marks the end of the initial events.
pub fn bookmark(gvk: &Gvk, form: Form, revision: i64, initial_end: bool) -> Value {
    let mut object = match form {
        Form::Full => json!({"kind": gvk.kind, "apiVersion": gvk.api_version()}),
        Form::Metadata(version) => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version()})
        }
        Form::Table(version) => {
            return json!({
                "kind": "Table", "apiVersion": version.api_version(),
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null, "rows": table_bookmark_rows(gvk, revision, initial_end),
            });
        }
    };
    meta::set(&mut object, "resourceVersion", &revision.to_string());
    if initial_end {
        meta::metadata_mut(&mut object).insert(
            "annotations".to_owned(),
            json!({"k8s.io/initial-events-end": "true"}),
        );
    }
    object
}

fn table_bookmark_rows(gvk: &Gvk, revision: i64, initial_end: bool) -> Value {
    if !initial_end {
        return json!([]);
    }
    json!([{"cells": [], "object": bookmark(gvk, Form::Metadata(MetaVersion::V1), revision, true)}])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protobuf_frame_is_length_event_type_object() {
        let frame = Frame::protobuf(EventType::Added, Bytes::from_static(b"xy"));
        assert_eq!(
            &frame.whole()[..],
            b"\0\0\0\x0d\x0a\x05ADDED\x12\x04\x0a\x02xy"
        );
    }

    #[test]
    fn lengths_are_varints() {
        let mut bytes = BytesMut::new();
        put_field(&mut bytes, 2, &[7; 300]);
        assert_eq!(&bytes[..4], [0x12, 0xac, 0x02, 7]);
    }
}
