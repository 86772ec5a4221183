//! Label and field selectors: the query-string syntax, the object form, and matching.

use crate::{FieldError, Value, field::Path};
use serde_json::Map;

/// A conjunction of requirements on labels. Empty matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// A selector that can't be parsed; upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl LabelSelector {
    /// Parses the query-string syntax: `a=b,c!=d,e in (f,g),!h`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let _ = text;
        todo!()
    }

    /// From the object form (`matchLabels`, `matchExpressions`). `None` or null selects nothing and answers `None`;
    /// `{}` selects everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Option<Self>, SelectorError> {
        let _ = selector;
        todo!()
    }

    /// From a plain map (`spec.selector` of a Service).
    pub fn from_map(map: &Map<String, Value>) -> Self {
        let _ = map;
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether a `metadata.labels` map satisfies every requirement.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let _ = labels;
        todo!()
    }
}

/// A conjunction of `path=value` and `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub equal: bool,
    pub value: String,
}

impl FieldSelector {
    /// Parses `spec.nodeName=a,status.phase!=Running`, with `\` escaping `\`, `,` and `=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let _ = text;
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a set of fields (as [`crate::Resource::selectable`] gives it) satisfies every term; a field that is not in it counts as absent and never equals.
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|t| match lookup(&t.path) {
            Some(value) => (value == t.value) == t.equal,
            None => false,
        })
    }
}

/// Validates the object form under `path`.
pub fn validate_object(selector: &Value, path: &Path) -> Vec<FieldError> {
    let _ = (selector, path);
    todo!()
}
