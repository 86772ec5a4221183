//! FieldsV1: a set as a JSON object. `{"f:spec": {".": {}, "f:replicas": {}}}`; an empty object is a member.

use serde_json::{Map, Value};

use super::{PathElement, Set, set::Node};

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FieldsError {
    #[error("a set of fields must be an object")]
    NotAnObject,
    #[error("cannot read the path element {0:?}")]
    Element(String),
}

impl Set {
    /// Reads FieldsV1. Elements of unknown kinds are dropped, as their meaning is.
    pub fn from_fields(fields: &Value) -> Result<Set, FieldsError> {
        Ok(read(fields)?.below)
    }

    /// Writes FieldsV1.
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            if !node.member && node.below.is_empty() {
                continue;
            }
            let mut below = node.below.to_fields();
            if node.member
                && let Value::Object(inner) = &mut below
                && !inner.is_empty()
            {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(write_element(element), below);
        }
        Value::Object(map)
    }
}

fn read(fields: &Value) -> Result<Node, FieldsError> {
    let map = fields.as_object().ok_or(FieldsError::NotAnObject)?;
    let mut node = Node::default();
    for (key, value) in map {
        if key == "." {
            node.member = true;
        } else if let Some(element) = read_element(key)? {
            let child = read(value)?;
            if child.member || !child.below.is_empty() {
                node.below.nodes.insert(element, child);
            }
        }
    }
    node.member |= node.below.nodes.is_empty();
    Ok(node)
}

fn read_element(text: &str) -> Result<Option<PathElement>, FieldsError> {
    let bad = || FieldsError::Element(text.to_owned());
    let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
    Ok(Some(match kind {
        "f" => PathElement::field(rest),
        "v" => PathElement::Value(serde_json::from_str(rest).map_err(|_| bad())?),
        "i" => PathElement::Index(rest.parse().map_err(|_| bad())?),
        "k" => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|_| bad())?;
            PathElement::key(fields.into_iter().collect())
        }
        _ if kind.len() == 1 => return Ok(None),
        _ => return Err(bad()),
    }))
}

fn write_element(element: &PathElement) -> String {
    match element {
        PathElement::Field(name) => format!("f:{name}"),
        PathElement::Value(value) => format!("v:{value}"),
        PathElement::Index(index) => format!("i:{index}"),
        PathElement::Key(fields) => {
            let map: Map<String, Value> = fields.iter().cloned().collect();
            format!("k:{}", Value::Object(map))
        }
    }
}
