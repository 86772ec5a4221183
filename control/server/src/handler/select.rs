//! Label and field selectors, matched against the cache's index.

use kernelet_api::{
    ApiError,
    selector::{FieldSelector, LabelSelector, Operator, Requirement},
};

use crate::{
    cache::{CachedObject, Index},
    query::Query,
    registry::Served,
};

/// What a list or watch keeps.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Empty: every namespace.
    pub namespace: String,
    labels: LabelSelector,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    field: Field,
    equal: bool,
    value: String,
}

#[derive(Clone, Debug)]
enum Field {
    Name,
    Namespace,
    Indexed(usize),
}

/// Upstream's words for a field that can't be selected by: kinds without fields of their own have others.
fn unknown_field(served: &Served, path: &str) -> String {
    let own = served
        .resource
        .selectable_fields
        .iter()
        .any(|field| !field.starts_with("metadata."));
    if own {
        format!("field label not supported: {path}")
    } else {
        format!(
            "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    }
}

impl Filter {
    /// From a request's `labelSelector` and `fieldSelector`.
    pub fn parse(served: &Served, namespace: &str, query: &Query) -> Result<Filter, ApiError> {
        let labels = match query.non_empty("labelSelector") {
            Some(text) => LabelSelector::parse(text)
                .map_err(|error| ApiError::bad_request(error.to_string()))?,
            None => LabelSelector::default(),
        };
        let terms = match query.non_empty("fieldSelector") {
            Some(text) => {
                FieldSelector::parse(text)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?
                    .terms
            }
            None => Vec::new(),
        };
        let fields = terms
            .into_iter()
            .map(|term| {
                let unknown = || ApiError::bad_request(unknown_field(served, &term.path));
                let field = match term.path.as_str() {
                    "metadata.name" => Field::Name,
                    "metadata.namespace" if served.resource.namespaced => Field::Namespace,
                    path => {
                        let stored = served.stored.as_ref().ok_or_else(unknown)?;
                        Field::Indexed(
                            stored
                                .field_index(&served.resource.group, path)
                                .ok_or_else(unknown)?,
                        )
                    }
                };
                Ok(Term {
                    field,
                    equal: term.equal,
                    value: term.value,
                })
            })
            .collect::<Result<_, ApiError>>()?;
        Ok(Filter {
            namespace: namespace.to_owned(),
            labels,
            fields,
        })
    }

    /// Only the object of that name.
    pub fn named(mut self, name: &str) -> Filter {
        self.fields.push(Term {
            field: Field::Name,
            equal: true,
            value: name.to_owned(),
        });
        self
    }

    /// Neither labels nor fields are looked at: a count of what is left is cheap and right.
    pub fn is_plain(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &CachedObject) -> bool {
        (self.namespace.is_empty() || object.namespace() == self.namespace)
            && self.fields.iter().all(|term| {
                let value = match term.field {
                    Field::Name => object.name(),
                    Field::Namespace => object.namespace(),
                    Field::Indexed(index) => {
                        object.index.fields.get(index).map_or("", |value| value)
                    }
                };
                (value == term.value) == term.equal
            })
            && labels_match(&self.labels, &object.index)
    }
}

/// Whether an object's labels satisfy a selector.
pub fn labels_match(selector: &LabelSelector, index: &Index) -> bool {
    selector
        .requirements
        .iter()
        .all(|requirement| satisfies(requirement, index.label(&requirement.key)))
}

fn satisfies(requirement: &Requirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || requirement.values.first().and_then(|text| number(text));
    match requirement.operator {
        Operator::In => value.is_some_and(listed),
        Operator::NotIn => !value.is_some_and(listed),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::GreaterThan => value
            .and_then(number)
            .zip(bound())
            .is_some_and(|(value, bound)| value > bound),
        Operator::LessThan => value
            .and_then(number)
            .zip(bound())
            .is_some_and(|(value, bound)| value < bound),
    }
}
