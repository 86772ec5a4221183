//! Upstream's protobuf: proto2 messages by field numbers of the schema, in an envelope of four magic bytes and a
//! `runtime.Unknown`.
//!
//! Decoding drops what Go's structs could not tell from absence: clients send every field that is no pointer, empty
//! or not. Unknown field numbers are skipped, as protobuf demands.

use super::scalar;
use crate::{
    Field, Gvk, Schema, Type, TypeId, Value, meta,
    names::GroupVersion,
    schema::{ProtoEntry, ProtoField},
};
use serde_json::Map;

const MAGIC: &[u8] = b"k8s\0";
/// Messages nest no deeper than this; a deeper one is an attack.
const MAX_DEPTH: usize = 100;

/// Bytes that are not a message of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("{0}")]
    Malformed(String),
}

fn malformed(what: impl Into<String>) -> ProtoError {
    ProtoError::Malformed(what.into())
}

// ---- writing ----

pub(super) fn encode(schema: &Schema, value: &Value) -> Option<Vec<u8>> {
    let gvk = meta::gvk(value)?;
    let ty = schema.by_gvk(&gvk).or_else(|| schema.options_type(&gvk))?;
    Some(envelope(
        &gvk.api_version(),
        &gvk.kind,
        &encode_message(schema, ty, value),
    ))
}

pub(super) fn encode_message(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(schema, ty, value, &mut out);
    out
}

pub(super) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(1, api_version.as_bytes(), &mut type_meta);
    put_bytes(2, kind.as_bytes(), &mut type_meta);
    let mut out = Vec::with_capacity(message.len() + type_meta.len() + 20);
    out.extend_from_slice(MAGIC);
    put_bytes(1, &type_meta, &mut out);
    put_bytes(2, message, &mut out);
    // Go writes contentEncoding and contentType even when they are empty.
    put_bytes(3, b"", &mut out);
    put_bytes(4, b"", &mut out);
    out
}

fn message(schema: &Schema, ty: TypeId, value: &Value, out: &mut Vec<u8>) {
    let Some(map) = value.as_object() else { return };
    let def = schema.get(ty);
    let put = |index: usize, out: &mut Vec<u8>| {
        let field = &def.fields[index];
        if let (Some(proto), Some(value)) = (field.proto, map.get(&field.name)) {
            put_field(schema, proto.number, &field.ty, value, out);
        }
    };
    for entry in def.proto_order() {
        match entry {
            ProtoEntry::Field(index) => put(*index, out),
            ProtoEntry::Embedded(number, fields) => {
                let mut inner = Vec::new();
                fields.iter().for_each(|index| put(*index, &mut inner));
                put_bytes(*number, &inner, out);
            }
        }
    }
}

fn put_field(schema: &Schema, number: u32, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match ty {
        Type::List(inner) => {
            for item in value.as_array().into_iter().flatten() {
                put_field(schema, number, inner, item, out);
            }
        }
        Type::Map(inner) => {
            // serde_json may keep insertion order; Go sorts.
            let mut entries: Vec<_> = value.as_object().into_iter().flatten().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, item) in entries {
                let mut entry = Vec::new();
                put_bytes(1, key.as_bytes(), &mut entry);
                put_field(schema, 2, inner, item, &mut entry);
                put_bytes(number, &entry, out);
            }
        }
        Type::String => put_bytes(number, value.as_str().unwrap_or_default().as_bytes(), out),
        Type::Bool => put_varint_field(number, u64::from(value.as_bool().unwrap_or_default()), out),
        Type::Int32 | Type::Int64 => {
            put_varint_field(number, value.as_i64().unwrap_or_default() as u64, out)
        }
        Type::Double => {
            put_varint(u64::from(number << 3 | 1), out);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Type::Bytes => {
            put_bytes(
                number,
                &scalar::decode_base64(value.as_str().unwrap_or_default()).unwrap_or_default(),
                out,
            );
        }
        _ => {
            let mut inner = Vec::new();
            put_message(schema, ty, value, &mut inner);
            put_bytes(number, &inner, out);
        }
    }
}

/// The body of a value whose type is a message on the wire.
fn put_message(schema: &Schema, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match ty {
        Type::Object(id) => message(schema, *id, value, out),
        Type::Time | Type::MicroTime => {
            if let Some((seconds, nanos)) = scalar::parse_time(value.as_str().unwrap_or_default()) {
                put_varint_field(1, seconds as u64, out);
                put_varint_field(2, nanos as u64, out);
            }
        }
        Type::Duration => {
            let nanos =
                scalar::parse_duration(value.as_str().unwrap_or_default()).unwrap_or_default();
            put_varint_field(1, nanos as u64, out);
        }
        Type::IntOrString => {
            let text = value.as_str();
            put_varint_field(1, u64::from(text.is_some()), out);
            put_varint_field(2, value.as_i64().unwrap_or_default() as u64, out);
            put_bytes(3, text.unwrap_or_default().as_bytes(), out);
        }
        Type::Quantity => put_bytes(1, value.as_str().unwrap_or_default().as_bytes(), out),
        Type::RawExtension => match encode(schema, value) {
            Some(bytes) => put_bytes(1, &bytes, out),
            None => put_bytes(1, value.to_string().as_bytes(), out),
        },
        Type::FieldsV1 | Type::Any => put_bytes(1, value.to_string().as_bytes(), out),
        Type::StringList => {
            for item in value.as_array().into_iter().flatten() {
                put_bytes(1, item.as_str().unwrap_or_default().as_bytes(), out);
            }
        }
        Type::String
        | Type::Bool
        | Type::Int32
        | Type::Int64
        | Type::Double
        | Type::Bytes
        | Type::List(_)
        | Type::Map(_) => unreachable!("put_field writes these without a message of their own"),
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint_field(number: u32, value: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3, out);
    put_varint(value, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

// ---- reading ----

/// The envelope's apiVersion and kind, and the message inside.
pub(super) fn open(bytes: &[u8]) -> Result<(String, String, &[u8]), ProtoError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| {
        malformed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Reader(rest) {
        match item? {
            (1, Wire::Bytes(type_meta)) => {
                for item in Reader(type_meta) {
                    match item? {
                        (1, Wire::Bytes(b)) => api_version = text(b)?,
                        (2, Wire::Bytes(b)) => kind = text(b)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

pub(super) fn decode_message(
    schema: &Schema,
    ty: TypeId,
    bytes: &[u8],
) -> Result<Value, ProtoError> {
    object(schema, ty, bytes, 0)
}

/// A whole object in the envelope, of any kind that the schema knows.
fn decode_enveloped(schema: &Schema, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let (api_version, kind, raw) = open(bytes)?;
    let gvk: Gvk = GroupVersion::parse(&api_version)
        .map_err(|e| malformed(e.to_string()))?
        .with_kind(&kind);
    let ty = schema.by_gvk(&gvk).ok_or_else(|| {
        malformed(format!(
            "no kind {kind:?} is registered for version {api_version:?}"
        ))
    })?;
    let mut value = object(schema, ty, raw, depth)?;
    meta::set_gvk(&mut value, &gvk);
    Ok(value)
}

fn object(schema: &Schema, ty: TypeId, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let mut map = Map::new();
    fields(schema, ty, bytes, None, depth, &mut map)?;
    // proto2's empty values of plain Go fields mean absence; pointers keep theirs.
    for field in &schema.get(ty).fields {
        if field.omit_empty
            && !field.pointer
            && map
                .get(&field.name)
                .is_some_and(|v| crate::prune::is_zero(&field.ty, v))
        {
            map.remove(&field.name);
        }
    }
    Ok(Value::Object(map))
}

fn fields(
    schema: &Schema,
    ty: TypeId,
    bytes: &[u8],
    inside: Option<u32>,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(malformed("message nests too deeply"));
    }
    let def = schema.get(ty);
    for item in Reader(bytes) {
        let (number, wire) = item?;
        if let Some(field) = def.by_proto(ProtoField { number, inside }) {
            get_field(schema, field, wire, depth, map)?;
        } else if let (None, Wire::Bytes(inner)) = (inside, wire)
            && def.embeds(number)
        {
            fields(schema, ty, inner, Some(number), depth + 1, map)?;
        }
    }
    Ok(())
}

fn get_field(
    schema: &Schema,
    field: &Field,
    wire: Wire<'_>,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    match &field.ty {
        Type::List(inner) => {
            let list = map
                .entry(field.name.as_str())
                .or_insert_with(|| Value::Array(vec![]));
            let list = list.as_array_mut().expect("the entry above is a list");
            match (&**inner, wire) {
                // Packed numbers.
                (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        let n = varint(&mut packed)?;
                        list.push(single(schema, inner, Wire::Varint(n), depth)?);
                    }
                }
                (inner, wire) => list.push(single(schema, inner, wire, depth)?),
            }
        }
        Type::Map(inner) => {
            let Wire::Bytes(entry) = wire else {
                return Err(wrong_wire(&field.name));
            };
            let (mut key, mut value) = (String::new(), None);
            for item in Reader(entry) {
                match item? {
                    (1, Wire::Bytes(b)) => key = text(b)?,
                    (2, wire) => value = Some(single(schema, inner, wire, depth)?),
                    _ => {}
                }
            }
            let value = match (value, &**inner) {
                (Some(value), _) => value,
                (None, Type::String | Type::Bytes) => "".into(),
                (None, Type::Quantity) => "0".into(),
                (None, Type::Duration) => "0s".into(),
                (None, Type::Time | Type::MicroTime) => Value::Null,
                (None, Type::StringList) => Value::Array(vec![]),
                (None, _) => Value::Object(Map::new()),
            };
            let target = map
                .entry(field.name.as_str())
                .or_insert_with(|| Value::Object(Map::new()));
            target
                .as_object_mut()
                .expect("the entry above is a map")
                .insert(key, value);
        }
        ty => {
            let value = single(schema, ty, wire, depth)?;
            if !value.is_null() {
                map.insert(field.name.clone(), value);
            }
        }
    }
    Ok(())
}

fn wrong_wire(what: &str) -> ProtoError {
    malformed(format!("proto: wrong wireType for field {what}"))
}

fn single(schema: &Schema, ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match (ty, wire) {
        (Type::String, Wire::Bytes(b)) => text(b)?.into(),
        (Type::Bytes, Wire::Bytes(b)) => scalar::encode_base64(b).into(),
        (Type::Bool, Wire::Varint(n)) => (n != 0).into(),
        (Type::Int32, Wire::Varint(n)) => (n as i32).into(),
        (Type::Int64, Wire::Varint(n)) => (n as i64).into(),
        (Type::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Type::Object(id), Wire::Bytes(b)) => object(schema, *id, b, depth + 1)?,
        (Type::Time, Wire::Bytes(b)) => match timestamp(b)? {
            Some((seconds, _)) => scalar::format_time(seconds).into(),
            None => Value::Null,
        },
        (Type::MicroTime, Wire::Bytes(b)) => match timestamp(b)? {
            Some((seconds, nanos)) => scalar::format_micro_time(seconds, nanos).into(),
            None => Value::Null,
        },
        (Type::Duration, Wire::Bytes(b)) => {
            let mut nanos = 0;
            for item in Reader(b) {
                if let (1, Wire::Varint(n)) = item? {
                    nanos = n as i64;
                }
            }
            scalar::format_duration(nanos).into()
        }
        (Type::IntOrString, Wire::Bytes(b)) => int_or_string(b)?,
        (Type::Quantity, Wire::Bytes(b)) => {
            let mut value = "0".to_owned();
            for item in Reader(b) {
                if let (1, Wire::Bytes(b)) = item? {
                    let raw = text(b)?;
                    value = if raw.is_empty() {
                        "0".into()
                    } else {
                        scalar::quantity(&raw).map_err(malformed)?
                    };
                }
            }
            value.into()
        }
        (Type::FieldsV1 | Type::Any, Wire::Bytes(b)) => json_inside(b)?,
        (Type::RawExtension, Wire::Bytes(b)) => raw(schema, b, depth)?,
        (Type::StringList, Wire::Bytes(b)) => {
            let mut list = vec![];
            for item in Reader(b) {
                if let (1, Wire::Bytes(b)) = item? {
                    list.push(text(b)?.into());
                }
            }
            Value::Array(list)
        }
        _ => return Err(wrong_wire("of its type")),
    })
}

fn timestamp(bytes: &[u8]) -> Result<Option<(i64, i32)>, ProtoError> {
    let (mut seconds, mut nanos, mut any) = (0, 0, false);
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Varint(n)) => (seconds, any) = (n as i64, true),
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    if any && jiff::Timestamp::new(seconds, nanos).is_err() {
        return Err(malformed("time out of range"));
    }
    // Go's zero time is year 1.
    Ok((any && seconds != -62_135_596_800).then_some((seconds, nanos)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for item in Reader(bytes) {
        match item? {
            (1, Wire::Varint(n)) => is_text = n != 0,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(b)) => string = text(b)?,
            _ => {}
        }
    }
    Ok(if is_text {
        string.into()
    } else {
        number.into()
    })
}

fn json_inside(bytes: &[u8]) -> Result<Value, ProtoError> {
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(json)) = item? {
            return serde_json::from_slice(json).map_err(|e| malformed(e.to_string()));
        }
    }
    Ok(Value::Null)
}

fn raw(schema: &Schema, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if depth > MAX_DEPTH {
        return Err(malformed("message nests too deeply"));
    }
    for item in Reader(bytes) {
        if let (1, Wire::Bytes(inner)) = item? {
            if inner.starts_with(MAGIC) {
                return decode_enveloped(schema, inner, depth + 1);
            }
            return serde_json::from_slice(inner).map_err(|e| malformed(e.to_string()));
        }
    }
    Ok(Value::Null)
}

fn text(bytes: &[u8]) -> Result<String, ProtoError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("string field contains invalid UTF-8"))
}

#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// Fixed32 and groups, which upstream does not use.
    Other,
}

/// Iterates over (field number, value); ends after the first error.
struct Reader<'a>(&'a [u8]);

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), ProtoError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.0 = &[];
        }
        Some(item)
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Result<(u32, Wire<'a>), ProtoError> {
        let tag = varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| malformed("proto: illegal tag 0"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().expect("took eight bytes"),
            )),
            2 => {
                let len = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(len).map_err(|_| ProtoError::Truncated)?)?)
            }
            5 => {
                self.take(4)?;
                Wire::Other
            }
            other => return Err(malformed(format!("proto: illegal wireType {other}"))),
        };
        Ok((number, wire))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], ProtoError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(ProtoError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ProtoError::Truncated)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("proto: integer overflow"))
}
