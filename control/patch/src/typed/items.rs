//! How the items of lists are told apart.

use serde_json::Value;

use super::{Keys, ListAtom};
use crate::fields::PathElement;

/// The path element that leads to `item`.
pub(super) fn element_of(list: &ListAtom<'_>, item: &Value) -> Result<PathElement, String> {
    match list.keys {
        Keys::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Keys::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => {
                Err("not supported: associative list with lists as elements".to_owned())
            }
            Value::Null => Err(
                "associative list without keys has an element that's an explicit null".to_owned(),
            ),
            scalar => Ok(PathElement::Value(scalar.clone())),
        },
        Keys::Fields(keys) => {
            let map = match item {
                Value::Object(map) => map,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => {
                    return Err(
                        "associative list with keys may not have non-map elements".to_owned()
                    );
                }
            };
            // A key that is neither set nor has a default is left out: an item that sets it is another item.
            let fields: Vec<(String, Value)> = keys
                .iter()
                .filter_map(|key| {
                    let value = map.get(key).cloned().or_else(|| list.key_default(key))?;
                    Some((key.clone(), value))
                })
                .collect();
            if fields.is_empty() && !keys.is_empty() {
                let quoted: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    quoted.join(" ")
                ));
            }
            Ok(PathElement::key(fields))
        }
    }
}
