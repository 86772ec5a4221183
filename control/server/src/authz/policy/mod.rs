//! The roles and bindings that every cluster has: upstream's bootstrap policy whole, also for kinds that aren't
//! served, since people bind those roles and tools look for them; and what kernelet adds.
//!
//! The policy is text beside this file, in the form that [`parse`] describes. It is written at every start where it
//! is missing; see [`crate::bootstrap`] for what becomes of an administrator's changes.

mod parse;

pub use parse::{AUTOUPDATE, Object, rule_to_value};

use kernelet_api::Value;
use serde::Deserialize;

use super::rules::Rule;

const TEXTS: [&str; 6] = [
    include_str!("cluster_roles.txt"),
    include_str!("controller_roles.txt"),
    include_str!("cluster_bindings.txt"),
    include_str!("controller_bindings.txt"),
    include_str!("namespaced.txt"),
    include_str!("kernelet.txt"),
];

/// Every object of the policy: roles before the bindings that name them.
pub fn objects() -> Vec<Object> {
    let mut objects: Vec<Object> = TEXTS.into_iter().flat_map(parse::objects).collect();
    objects.sort_by_key(|object| object.plural.ends_with("bindings"));
    objects
}

/// The rules of the `system:node` role: the Node authorizer applies them without a binding.
pub fn node_rules() -> Vec<Rule> {
    parse::objects(TEXTS[0])
        .iter()
        .filter(|object| object.value["metadata"]["name"] == "system:node")
        .flat_map(|object| rules_of(&object.value))
        .collect()
}

/// A role's rules.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    role.get("rules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|rule| Rule::deserialize(rule).ok())
        .collect()
}

/// Whether an administrator asked that an object be left alone.
pub fn leave_alone(object: &Value) -> bool {
    object
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(AUTOUPDATE))
        .and_then(Value::as_str)
        == Some("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(object: &Object) -> &str {
        object.value["metadata"]["name"].as_str().unwrap()
    }

    #[test]
    fn every_binding_has_its_role() {
        let objects = objects();
        for binding in objects.iter().filter(|o| o.plural.ends_with("bindings")) {
            let role = &binding.value["roleRef"];
            let plural = match role["kind"].as_str().unwrap() {
                "Role" => "roles",
                _ => "clusterroles",
            };
            assert!(
                objects.iter().any(|object| object.plural == plural
                    && role["name"] == name(object)
                    && (plural == "clusterroles"
                        || object.value["metadata"]["namespace"]
                            == binding.value["metadata"]["namespace"])),
                "{} → {role}",
                name(binding)
            );
        }
    }

    #[test]
    fn every_line_of_the_policy_is_understood() {
        let lines = |indented: bool| {
            TEXTS
                .iter()
                .flat_map(|text| text.lines())
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .filter(|line| line.starts_with("  ") == indented)
                .count()
        };
        let objects = objects();
        assert_eq!(objects.len(), lines(false));
        let mut seen = 0;
        for object in &objects {
            for rule in rules_of(&object.value) {
                assert!(!rule.verbs.is_empty(), "{}", name(object));
                assert_eq!(
                    rule.non_resource_urls.is_empty(),
                    !rule.resources.is_empty(),
                    "{}",
                    name(object)
                );
                seen += 1;
            }
            seen += object.value["subjects"].as_array().map_or(0, Vec::len);
        }
        assert_eq!(seen, lines(true));
    }

    #[test]
    fn no_object_is_there_twice() {
        let mut names: Vec<String> = objects()
            .iter()
            .map(|o| {
                format!(
                    "{} {} {}",
                    o.plural,
                    o.value["metadata"]["namespace"],
                    name(o)
                )
            })
            .collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
