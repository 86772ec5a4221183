//! The schema-driven decode: any serde source (JSON, YAML, a tree) to a tree that holds only what the schema knows.
//!
//! Unknown and duplicate fields are collected with their paths and dropped, wrong types are told as Go's decoder tells
//! them: the first one, after the whole body was read. Values with a form of their own (quantities, times, base64) are
//! checked and brought to upstream's canonical text here, as upstream's decoder does.

use super::scalar;
use crate::{Schema, Type, TypeId, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Map;
use std::fmt;

/// Upstream reports no more than this many unknown and duplicate fields.
const MAX_STRICT: usize = 100;

/// What a walk found besides the tree.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// `unknown field "spec.foo"`, `duplicate field "spec.foo"`, in the order of the body.
    pub strict: Vec<String>,
    /// Go's message for the first value of a wrong type.
    pub wrong_type: Option<String>,
}

/// Decodes a value of an object type.
pub(super) fn decode<'de, D: Deserializer<'de>>(
    schema: &Schema,
    ty: TypeId,
    source: D,
) -> Result<(Value, Findings), D::Error> {
    let mut walk = Walk {
        schema,
        path: vec![],
        findings: Findings::default(),
        fatal: None,
    };
    let root = Type::Object(ty);
    let go = &schema.get(ty).go_name;
    let value = Seed {
        walk: &mut walk,
        ty: &root,
        go,
    }
    .deserialize(source)?;
    if walk.fatal.is_some() {
        walk.findings.wrong_type = walk.fatal;
    }
    Ok((value, walk.findings))
}

/// Decodes without a schema; only duplicate keys are told.
pub(super) fn decode_plain<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<(Value, Vec<String>), D::Error> {
    let schema = Schema::default();
    let mut walk = Walk {
        schema: &schema,
        path: vec![],
        findings: Findings::default(),
        fatal: None,
    };
    let value = Seed {
        walk: &mut walk,
        ty: &Type::Any,
        go: "",
    }
    .deserialize(source)?;
    Ok((value, walk.findings.strict))
}

enum Segment<'s> {
    /// A field, with the Go name of the struct it stands in.
    Field(&'s str, &'s str),
    Key(String),
    Index(usize),
}

struct Walk<'s> {
    schema: &'s Schema,
    path: Vec<Segment<'s>>,
    findings: Findings,
    /// An error that ends Go's decoding at once, and is told instead of earlier ones.
    fatal: Option<String>,
}

impl Walk<'_> {
    fn strict(&mut self, what: &str, field: &str) {
        if self.findings.strict.len() >= MAX_STRICT {
            return;
        }
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(name, _) => push_name(&mut path, name),
                Segment::Key(key) => push_name(&mut path, key),
                Segment::Index(i) => path.push_str(&format!("[{i}]")),
            }
        }
        push_name(&mut path, field);
        self.findings.strict.push(format!("{what} field {path:?}"));
    }

    fn wrong_type(&mut self, found: &str, go: &str) {
        if self.findings.wrong_type.is_some() {
            return;
        }
        let mut fields = String::new();
        let mut owner = None;
        for segment in &self.path {
            if let Segment::Field(name, of) = segment {
                push_name(&mut fields, name);
                owner = Some(*of);
            }
        }
        self.findings.wrong_type = Some(match owner {
            Some(of) => {
                let of = of.rsplit('.').next().unwrap_or(of);
                format!(
                    "json: cannot unmarshal {found} into Go struct field {of}.{fields} of type {go}"
                )
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {go}"),
        });
    }

    fn fatal(&mut self, message: String) {
        self.fatal.get_or_insert(message);
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

struct Seed<'w, 's, 't> {
    walk: &'w mut Walk<'s>,
    ty: &'t Type,
    /// How Go prints the type.
    go: &'t str,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl Seed<'_, '_, '_> {
    /// Records the wrong type; the value then counts as absent.
    fn reject(self, found: &str) -> Value {
        match self.ty {
            // These decode themselves upstream, and fail with the error of what they wrap.
            Type::Time | Type::MicroTime | Type::Duration => {
                self.walk.fatal(format!(
                    "json: cannot unmarshal {found} into Go value of type string"
                ));
            }
            Type::IntOrString => {
                self.walk.fatal(format!(
                    "json: cannot unmarshal {found} into Go value of type int32"
                ));
            }
            Type::Quantity => self
                .walk
                .fatal(crate::quantity::ParseError::Format.to_string()),
            _ => self.walk.wrong_type(found, self.go),
        }
        Value::Null
    }

    fn integer(self, value: i128, number: serde_json::Number) -> Value {
        let fits = match self.ty {
            Type::Int32 => i32::try_from(value).is_ok(),
            Type::Int64 => i64::try_from(value).is_ok(),
            Type::IntOrString if i32::try_from(value).is_err() => {
                self.walk.fatal(format!(
                    "json: cannot unmarshal number {value} into Go value of type int32"
                ));
                return Value::Null;
            }
            Type::Double | Type::Any | Type::IntOrString | Type::RawExtension => true,
            Type::Quantity => return self.text(&value.to_string()),
            _ => return self.reject("number"),
        };
        if fits {
            Value::Number(number)
        } else {
            self.reject(&format!("number {value}"))
        }
    }

    fn text(self, text: &str) -> Value {
        let canonical = match self.ty {
            Type::String | Type::Any | Type::IntOrString | Type::RawExtension => {
                Ok(text.to_owned())
            }
            Type::Quantity => scalar::quantity(text),
            // Go's zero time.
            Type::Time | Type::MicroTime if text.is_empty() || text == "0001-01-01T00:00:00Z" => {
                return Value::Null;
            }
            Type::Time => scalar::time(text),
            Type::MicroTime => scalar::micro_time(text),
            Type::Duration => scalar::duration(text),
            Type::Bytes => scalar::base64(text),
            _ => return self.reject("string"),
        };
        match canonical {
            Ok(text) => Value::String(text),
            Err(message) => {
                self.walk.fatal(message);
                Value::Null
            }
        }
    }
}

/// What Go's decoder makes of a null in a list or a map: the element's zero value.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double => 0.into(),
        Type::Quantity => "0".into(),
        Type::Object(_) | Type::Map(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.deserialize(source)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(match self.ty {
            Type::Bool | Type::Any => value.into(),
            _ => self.reject("bool"),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(match self.ty {
            Type::Double | Type::Any => value.into(),
            Type::Quantity => self.text(&value.to_string()),
            Type::Int32 | Type::Int64 => self.reject(&format!("number {value:?}")),
            Type::IntOrString => {
                let message =
                    format!("json: cannot unmarshal number {value:?} into Go value of type int32");
                self.walk.fatal(message);
                Value::Null
            }
            _ => self.reject("number"),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(self.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let (inner, go) = match self.ty {
            Type::List(inner) => (&**inner, self.go.strip_prefix("[]").unwrap_or(self.go)),
            Type::StringList => (&Type::String, "string"),
            Type::Any | Type::RawExtension => (&Type::Any, ""),
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.reject("array"));
            }
        };
        let mut list = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
        loop {
            self.walk.path.push(Segment::Index(list.len()));
            let item = seq.next_element_seed(Seed {
                walk: self.walk,
                ty: inner,
                go,
            });
            self.walk.path.pop();
            match item? {
                Some(Value::Null) => list.push(zero(inner)),
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let schema = self.walk.schema;
        let mut map = Map::new();
        match self.ty {
            Type::Object(id) => {
                let def = schema.get(*id);
                while let Some(name) = access.next_key_seed(Key)? {
                    let Some(field) = def.field(&name) else {
                        if def.preserve_unknown {
                            let value = access.next_value_seed(Seed {
                                walk: self.walk,
                                ty: &Type::Any,
                                go: "",
                            })?;
                            map.insert(name, value);
                        } else {
                            self.walk.strict("unknown", &name);
                            access.next_value::<IgnoredAny>()?;
                        }
                        continue;
                    };
                    if map.contains_key(&name) {
                        self.walk.strict("duplicate", &name);
                    }
                    self.walk
                        .path
                        .push(Segment::Field(&field.name, &def.go_name));
                    let value = access.next_value_seed(Seed {
                        walk: self.walk,
                        ty: &field.ty,
                        go: &field.go_type,
                    });
                    self.walk.path.pop();
                    // Nulls stay until the end, so that a repeated field is noticed.
                    map.insert(name, value?);
                }
                map.retain(|_, v| !v.is_null());
            }
            Type::Map(_) | Type::Any | Type::FieldsV1 | Type::RawExtension => {
                let (inner, go) = match self.ty {
                    Type::Map(inner) => (
                        &**inner,
                        self.go.split_once(']').map_or(self.go, |(_, v)| v),
                    ),
                    _ => (&Type::Any, ""),
                };
                while let Some(key) = access.next_key_seed(Key)? {
                    if map.contains_key(&key) {
                        self.walk.strict("duplicate", &key);
                    }
                    self.walk.path.push(Segment::Key(key.clone()));
                    let value = access.next_value_seed(Seed {
                        walk: self.walk,
                        ty: inner,
                        go,
                    });
                    self.walk.path.pop();
                    let value = value?;
                    map.insert(key, if value.is_null() { zero(inner) } else { value });
                }
            }
            _ => {
                while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(self.reject("object"));
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values have no JSON form"))
    }
}

/// A map's key as text: YAML's may be numbers and booleans.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<String, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        Err(E::custom("a null key has no JSON form"))
    }
}
