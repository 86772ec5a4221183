//! Part of an object: what an index needs of it, without a tree of the rest.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::Value;

/// In a path: each item of a list.
const ITEMS: &str = "*";

/// Which parts of an object are read; all else is only checked to be JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// By the field's name; an empty outline stands for the whole value.
    fields: BTreeMap<String, Outline>,
}

impl Outline {
    /// Of dotted paths (`metadata.labels`, `spec.containers.*.name`: `*` is each item of a list). A path's value is read
    /// whole, whatever it is.
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p str>) -> Outline {
        let mut outline = Outline::default();
        let mut paths: Vec<Vec<&str>> = paths.into_iter().map(|p| p.split('.').collect()).collect();
        // The shorter first: what is read whole takes in what lies below it.
        paths.sort();
        for path in paths {
            outline.add(&path);
        }
        outline
    }

    fn add(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        match self.fields.get_mut(*first) {
            Some(known) if known.fields.is_empty() => {}
            Some(known) if rest.is_empty() => known.fields.clear(),
            Some(known) => known.add(rest),
            None => {
                let mut new = Outline::default();
                new.add(rest);
                self.fields.insert((*first).to_owned(), new);
            }
        }
    }

    /// The outlined parts of a JSON object, in their places; fields that are absent stay so.
    pub fn read(&self, json: &[u8]) -> Result<Value, serde_json::Error> {
        // Strings that are passed over are not looked into.
        let text = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
        let mut source = serde_json::Deserializer::from_str(text);
        let value = self.deserialize(&mut source)?;
        source.end()?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for &Outline {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        if self.fields.is_empty() {
            serde::Deserialize::deserialize(source)
        } else {
            source.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for &Outline {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = serde_json::Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.fields.get(&*key) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(outline) => {
                    let value = map.next_value_seed(outline)?;
                    found.insert(key.into_owned(), value);
                }
            }
        }
        Ok(Value::Object(found))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if let Some(outline) = self.fields.get(ITEMS) {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element_seed(outline)? {
                items.push(item);
            }
            return Ok(Value::Array(items));
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    // Where the outline expects an object, anything else has none of its fields.

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_outlined_is_read() {
        let outline = Outline::of(["metadata.labels", "spec.nodeName", "status", "status.phase"]);
        let object = json!({
            "kind": "Pod",
            "metadata": {"labels": {"a": "b"}, "name": "x", "managedFields": [{"manager": "m"}]},
            "spec": {"containers": [{"name": "c"}], "nodeName": "n"},
            "status": {"phase": "Running", "podIPs": [{"ip": "1"}]},
        });
        let read = outline.read(object.to_string().as_bytes()).unwrap();
        assert_eq!(
            read,
            json!({
                "metadata": {"labels": {"a": "b"}},
                "spec": {"nodeName": "n"},
                "status": {"phase": "Running", "podIPs": [{"ip": "1"}]},
            })
        );
    }

    #[test]
    fn each_item_of_a_list_is_outlined() {
        let outline = Outline::of(["spec.containers.*.name", "status.*"]);
        let object = json!({
            "spec": {"containers": [{"name": "c", "image": "i"}, {"image": "j"}, 3]},
            "status": [{"a": 1}, [2]],
        });
        let read = outline.read(object.to_string().as_bytes()).unwrap();
        assert_eq!(
            read,
            json!({
                "spec": {"containers": [{"name": "c"}, {}, null]},
                "status": [{"a": 1}, [2]],
            })
        );
    }

    #[test]
    fn other_types_have_no_fields_and_broken_json_is_an_error() {
        let outline = Outline::of(["a.b"]);
        for text in [
            r#"{"a":[{"b":1}]}"#,
            r#"{"a":"b"}"#,
            r#"{"a":1.5}"#,
            r#"{"a":null}"#,
            r#"{"a":true}"#,
        ] {
            assert_eq!(outline.read(text.as_bytes()).unwrap(), json!({"a": null}));
        }
        for text in [&b"{\"x\":[1,}"[..], b"{\"x\":\"\xff\"}", b"{} {}", b""] {
            assert!(outline.read(text).is_err());
        }
    }
}
