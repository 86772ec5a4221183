//! Label selectors and node selector terms, parsed once and matched often.

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// An operator that doesn't exist, or values that can't be: matches nothing.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Requirement {
    key: String,
    operator: Operator,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: &Option<Vec<String>>) -> Self {
        let values = values.clone().unwrap_or_default();
        let number = || values.first().and_then(|value| value.parse().ok());
        let operator = match operator {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => number().map_or(Operator::Never, Operator::Gt),
            "Lt" => number().map_or(Operator::Never, Operator::Lt),
            _ => Operator::Never,
        };
        Self {
            key: key.to_owned(),
            operator,
        }
    }

    fn matches(&self, value: Option<&String>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(than) => number().is_some_and(|number| number > *than),
            Operator::Lt(than) => number().is_some_and(|number| number < *than),
            Operator::Never => false,
        }
    }
}

/// A label selector. No requirements match everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// An absent selector matches nothing, an empty one everything.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else {
            return Self(vec![Requirement {
                key: String::new(),
                operator: Operator::Never,
            }]);
        };
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<_> = labels
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.clone()]),
            })
            .collect();
        requirements.extend(
            selector
                .match_expressions
                .iter()
                .flatten()
                .map(|e| Requirement::new(&e.key, &e.operator, &e.values)),
        );
        Self(requirements)
    }

    /// Also demands (or, negated, refuses) the pod's own values of the given label keys.
    pub fn with_own(mut self, keys: &Option<Vec<String>>, labels: &Labels, same: bool) -> Self {
        for key in keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                let values = vec![value.clone()];
                let requirement = Requirement {
                    key: key.clone(),
                    operator: if same {
                        Operator::In(values)
                    } else {
                        Operator::NotIn(values)
                    },
                };
                if !self.0.contains(&requirement) {
                    self.0.push(requirement);
                }
            }
        }
        self
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| r.matches(labels.get(&r.key)))
    }
}

/// One term of a node selector: labels and fields, all of which must match.
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let parse = |list: &Option<Vec<NodeSelectorRequirement>>| {
            list.iter()
                .flatten()
                .map(|r| Requirement::new(&r.key, &r.operator, &r.values))
                .collect()
        };
        Self {
            labels: parse(&term.match_expressions),
            fields: parse(&term.match_fields),
        }
    }

    /// An empty term matches no node.
    pub fn matches(&self, name: &String, labels: &Labels) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|r| r.matches(labels.get(&r.key)))
            && self
                .fields
                .iter()
                .all(|r| r.key == "metadata.name" && r.matches(Some(name)))
    }
}
