//! What is wrong with a value's form, in upstream's words.

use std::fmt;

use serde_json::Value;

/// Every mismatch between a value and its type: `.spec.replicas: expected numeric (int or float), got string`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypedError(pub Vec<Mismatch>);

/// One mismatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub path: String,
    pub text: String,
}

impl TypedError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(vec![Mismatch {
            path: String::new(),
            text: text.into(),
        }])
    }

    pub(crate) fn below(mut self, prefix: impl fmt::Display) -> Self {
        let prefix = prefix.to_string();
        for mismatch in &mut self.0 {
            mismatch.path.insert_str(0, &prefix);
        }
        self
    }
}

impl fmt::Display for TypedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|one| write!(f, "\n  {one}"))
            }
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.path, self.text)
        }
    }
}

impl std::error::Error for TypedError {}

/// A value as Go's `%v` prints it.
pub(super) fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => {
            format!(
                "[{}]",
                list.iter().map(go_value).collect::<Vec<_>>().join(" ")
            )
        }
        Value::Object(map) => {
            let entries: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_value(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// A value's type as Go's `%T` prints it.
pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
