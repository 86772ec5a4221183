//! A body's apiVersion and kind, read before the rest to find the schema.

use crate::Value;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// apiVersion and kind as they stand; the last one wins when a key is repeated.
#[derive(Default)]
pub(super) struct Head {
    api_version: Option<Value>,
    kind: Option<Value>,
    /// The body is no object: what it is instead.
    instead: Option<&'static str>,
}

const GO_TYPE: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

impl Head {
    /// Both texts, empty where they are missing; or Go's message.
    pub(super) fn texts(self) -> Result<(String, String), String> {
        if let Some(found) = self.instead {
            return Err(format!(
                "json: cannot unmarshal {found} into Go value of type {GO_TYPE}"
            ));
        }
        let text = |value: Option<Value>, field: &str| match value {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                let found = type_name(&other);
                Err(format!(
                    "json: cannot unmarshal {found} into Go struct field .{field} of type string"
                ))
            }
        };
        Ok((
            text(self.api_version, "apiVersion")?,
            text(self.kind, "kind")?,
        ))
    }

    fn instead(found: &'static str) -> Self {
        Self {
            instead: Some(found),
            ..Self::default()
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => head.api_version = Some(map.next_value()?),
                "kind" => head.kind = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(head)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Head, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Head::instead("array"))
    }

    fn visit_unit<E>(self) -> Result<Head, E> {
        Ok(Head::default())
    }

    fn visit_none<E>(self) -> Result<Head, E> {
        Ok(Head::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Head, E> {
        Ok(Head::instead("bool"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Head, E> {
        Ok(Head::instead("number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Head, E> {
        Ok(Head::instead("number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Head, E> {
        Ok(Head::instead("number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Head, E> {
        Ok(Head::instead("string"))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Head, E> {
        Err(E::custom("binary values have no JSON form"))
    }
}
