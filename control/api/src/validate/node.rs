//! A place in an object tree that knows its path, and the list that errors are collected in.

use crate::{FieldError, Value, field::Path};
use serde_json::Map;

/// A value with its path. Absent values are null, so that walking on never fails.
#[derive(Clone)]
pub struct Node<'a> {
    pub value: &'a Value,
    pub path: Path,
}

static NULL: Value = Value::Null;

impl<'a> Node<'a> {
    pub fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: Path::root(),
        }
    }

    pub fn at(value: &'a Value, path: Path) -> Self {
        Self { value, path }
    }

    pub fn get(&self, name: &str) -> Node<'a> {
        Node {
            value: self.value.get(name).unwrap_or(&NULL),
            path: self.path.child(name),
        }
    }

    /// The elements of a list.
    pub fn each(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let path = self.path.clone();
        let list = self.value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(move |(i, value)| Node {
            value,
            path: path.index(i),
        })
    }

    /// The entries of a map, with their keys in the path.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + use<'a> {
        let path = self.path.clone();
        let map = self.value.as_object();
        map.into_iter().flatten().map(move |(k, value)| {
            (
                k.as_str(),
                Node {
                    value,
                    path: path.key(k),
                },
            )
        })
    }

    pub fn map(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Empty when absent.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    // Errors about this place.

    pub fn required(&self, detail: impl Into<String>) -> FieldError {
        FieldError::required(&self.path, detail)
    }

    pub fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, self.shown(), detail)
    }

    /// Upstream prints an absent text as `""`.
    fn shown(&self) -> Value {
        if self.value.is_null() {
            "".into()
        } else {
            self.value.clone()
        }
    }

    pub fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path, detail)
    }

    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(&self.path, self.shown())
    }

    pub fn not_found(&self) -> FieldError {
        FieldError::not_found(&self.path, self.shown())
    }

    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(&self.path, self.shown(), supported)
    }
}

/// Errors in the order in which they were found.
#[derive(Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// `Invalid value` with each of the messages.
    pub fn messages(&mut self, node: &Node<'_>, messages: Vec<String>) {
        self.0.extend(messages.into_iter().map(|m| node.invalid(m)));
    }

    pub fn require(&mut self, node: &Node<'_>) -> bool {
        let missing = node.len() == 0 && !node.value.is_number() && !node.value.is_boolean();
        if missing {
            self.push(node.required(""));
        }
        !missing
    }

    /// One of the given texts; empty is `Required`.
    pub fn one_of(&mut self, node: &Node<'_>, supported: &[&str]) {
        if node.text().is_empty() {
            self.push(node.required(""));
        } else if !supported.contains(&node.text()) {
            self.push(node.not_supported(supported));
        }
    }

    pub fn non_negative(&mut self, node: &Node<'_>) {
        if node.int().is_some_and(|n| n < 0) {
            self.push(node.invalid("must be greater than or equal to 0"));
        }
    }

    pub fn port(&mut self, node: &Node<'_>) {
        let port = node.int().unwrap_or(0);
        for message in super::names::port_number(port) {
            self.push(FieldError::invalid(&node.path, port, message));
        }
    }

    /// The value may not change.
    pub fn immutable(&mut self, new: &Node<'_>, old: &Node<'_>) {
        if new.value != old.value {
            self.push(FieldError::invalid(
                &new.path,
                new.value.clone(),
                "field is immutable",
            ));
        }
    }
}
