//! The Pod Security Standards: what the levels `baseline` and `restricted` forbid, version by version.
//!
//! Each check is a function of a pod (or of a template); a table says from which version on it stands, and which
//! other one it replaces. Source: the Pod Security Standards of the Kubernetes documentation.

mod baseline;
mod host;
mod policy;
mod restricted;
mod table;

use crate::Value;

pub use policy::{Level, LevelVersion, Policy, Version, policy_of_defaults};
pub use table::evaluate;

/// A pod, or the template of one.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub annotations: Option<&'a serde_json::Map<String, Value>>,
    pub spec: &'a Value,
}

/// What a check forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Short: `hostPort`.
    pub reason: String,
    /// What is wrong in this pod: `container "c" uses hostPort 80`.
    pub detail: String,
}

impl<'a> Subject<'a> {
    /// `metadata` and `spec` of a pod or a template.
    pub fn of(object: &'a Value) -> Subject<'a> {
        static NULL: Value = Value::Null;
        Subject {
            annotations: crate::meta::annotations(object),
            spec: object.get("spec").unwrap_or(&NULL),
        }
    }

    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .filter_map(move |field| spec.get(field)?.as_array())
            .flatten()
    }

    /// Names of the containers that are `bad`.
    fn bad(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| bad(container))
            .map(name)
            .collect()
    }

    fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.spec.pointer(pointer).filter(|value| !value.is_null())
    }

    /// In a user namespace of its own.
    fn has_own_users(&self) -> bool {
        self.at("/hostUsers").and_then(Value::as_bool) == Some(false)
    }

    fn is_windows(&self) -> bool {
        self.at("/os/name").is_some_and(|name| name == "windows")
    }
}

/// `reason (detail), reason (detail)`
pub fn details(findings: &[Finding]) -> String {
    let parts: Vec<String> = findings
        .iter()
        .map(|finding| match finding.detail.is_empty() {
            true => finding.reason.clone(),
            false => format!("{} ({})", finding.reason, finding.detail),
        })
        .collect();
    parts.join(", ")
}

/// `reason, reason`
pub fn reasons(findings: &[Finding]) -> String {
    let parts: Vec<&str> = findings.iter().map(|f| f.reason.as_str()).collect();
    parts.join(", ")
}

fn finding(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding {
        reason: reason.into(),
        detail: detail.into(),
    })
}

fn name(container: &Value) -> &str {
    container
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn flag(value: &Value, pointer: &str) -> Option<bool> {
    value.pointer(pointer).and_then(Value::as_bool)
}

/// `"a", "b"`
fn quoted<'s>(items: impl IntoIterator<Item = &'s str>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| format!("\"{item}\""))
        .collect();
    items.join(", ")
}

fn plural<'w>(one: &'w str, many: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    let what = plural("container", "containers", names.len());
    format!("{what} {}", quoted(names.iter().copied()))
}

/// `pod and containers "a", "b"`: whoever sets what they must not.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let mut who = Vec::new();
    if pod {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(containers(names));
    }
    (!who.is_empty()).then(|| who.join(" and "))
}

#[cfg(test)]
mod tests;
