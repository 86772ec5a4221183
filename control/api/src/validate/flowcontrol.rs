//! FlowSchemas and PriorityLevelConfigurations.

use super::{
    names,
    node::{Errors, Node},
};
use crate::{
    FieldError, Value,
    flowcontrol::{EXEMPT, mandatory_spec},
};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const HIGHEST_PRECEDENCE: i64 = 10_000;
const MOST_QUEUES: i64 = 10_000_000;
/// So many bits of a flow's hash choose its queues.
const HASH_BITS: i64 = 60;

pub fn flow_schema(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let (name, spec) = (root.get("metadata").get("name").text(), root.get("spec"));
    let precedence = spec.get("matchingPrecedence");
    let number = precedence.int().unwrap_or(0);
    let wrong = |detail: &str| FieldError::invalid(&precedence.path, number, detail);
    if number <= 0 {
        errors.push(wrong("must be a positive value"));
    }
    if number > HIGHEST_PRECEDENCE {
        errors.push(wrong(&format!(
            "must not be greater than {HIGHEST_PRECEDENCE}"
        )));
    }
    if number == 1 && name != EXEMPT {
        errors.push(wrong(
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ));
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.get("type").text(), "ByNamespace" | "ByUser") {
        errors.push(FieldError::not_supported(
            &method.get("type").path,
            method.value.clone(),
            &["ByNamespace", "ByUser"],
        ));
    }
    let level = spec.get("priorityLevelConfiguration").get("name");
    if level.text().is_empty() {
        errors.push(level.required("must reference a priority level"));
    } else {
        errors.messages(&level, names::dns_subdomain(level.text()));
    }
    for rule in spec.get("rules").each() {
        policy_rule(&rule, &mut errors);
    }
    if let Some(fixed) = mandatory_spec("flowschemas", name)
        && spec.value != fixed
    {
        errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
    conditions(&root, &mut errors);
    errors.into_vec()
}

pub fn flow_schema_update(new: &Value, _: &Value) -> Vec<FieldError> {
    flow_schema(new)
}

/// Of both kinds.
pub fn status(new: &Value, _: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    conditions(&Node::root(new), &mut errors);
    errors.into_vec()
}

fn conditions(root: &Node<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = vec![];
    for condition in root.get("status").get("conditions").each() {
        let ty = condition.get("type");
        if seen.contains(&ty.text()) {
            errors.push(ty.duplicate());
        }
        seen.push(ty.text());
        errors.require(&ty);
    }
}

fn policy_rule(rule: &Node<'_>, errors: &mut Errors) {
    let subjects = rule.get("subjects");
    if subjects.len() == 0 {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.each() {
        self::subject(&subject, errors);
    }
    let (resources, paths) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.len() == 0 && paths.len() == 0 {
        errors.push(
            rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"),
        );
    }
    for resource in resources.each() {
        resource_rule(&resource, errors);
    }
    for path in paths.each() {
        path_rule(&path, errors);
    }
}

fn subject(subject: &Node<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = subject.get("kind");
    let Some((_, field)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        errors.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let own = subject.get(field);
    if !own.is_set() {
        errors.push(own.required(format!(
            "{field} is required when subject kind is '{}'",
            kind.text()
        )));
    } else {
        let name = own.get("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if *field == "serviceAccount" && name.text() != "*" {
            errors.messages(&name, names::dns_subdomain(name.text()));
        }
        if *field == "serviceAccount" {
            let namespace = own.get("namespace");
            if namespace.text().is_empty() {
                errors.push(namespace.required("must specify namespace for service account"));
            } else {
                errors.messages(&namespace, names::dns_label(namespace.text()));
            }
        }
    }
    for (name, other) in KINDS {
        if other != *field && subject.get(other).is_set() {
            errors.push(subject.get(other).forbidden(format!(
                "{other} is forbidden when subject kind is not '{name}'"
            )));
        }
    }
}

fn texts<'a>(node: &Node<'a>) -> Vec<&'a str> {
    node.each().map(|text| text.text()).collect()
}

fn verbs(rule: &Node<'_>, errors: &mut Errors) {
    let verbs = rule.get("verbs");
    let all = texts(&verbs);
    if all.is_empty() {
        errors.push(verbs.required("verbs must contain at least one value"));
    } else if all.contains(&"*") {
        if all.len() > 1 {
            errors.push(verbs.invalid("if '*' is present, must not specify other verbs"));
        }
    } else if all.iter().any(|verb| !VERBS.contains(verb)) {
        errors.push(verbs.not_supported(&VERBS));
    }
}

/// `*` stands alone; an empty list is an error with `missing`.
fn alone(list: &Node<'_>, what: &str, missing: &str, errors: &mut Errors) {
    let all = texts(list);
    if all.is_empty() {
        errors.push(list.required(missing));
    } else if all.len() > 1 && all.contains(&"*") {
        errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn resource_rule(rule: &Node<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    alone(
        &rule.get("apiGroups"),
        "api groups",
        "resource rules must supply at least one api group",
        errors,
    );
    alone(
        &rule.get("resources"),
        "resources",
        "resource rules must supply at least one resource",
        errors,
    );
    let namespaces = rule.get("namespaces");
    let all = texts(&namespaces);
    if all.is_empty() && !rule.get("clusterScope").is_true() {
        errors.push(namespaces.required(
            "resource rules that are not cluster scoped must supply at least one namespace",
        ));
    } else if all.contains(&"*") {
        if all.len() > 1 {
            errors.push(namespaces.invalid("if '*' is present, must not specify other namespaces"));
        }
    } else {
        for namespace in namespaces.each() {
            let messages = names::dns_label(namespace.text())
                .into_iter()
                .map(|message| {
                    format!("each member of this list must be '*' or a DNS-1123 label; {message}")
                });
            errors.messages(&namespace, messages.collect());
        }
    }
}

fn path_rule(rule: &Node<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    let paths = rule.get("nonResourceURLs");
    alone(
        &paths,
        "non-resource URLs",
        "nonResourceURLs must contain at least one value",
        errors,
    );
    if texts(&paths).contains(&"*") {
        return;
    }
    for path in paths.each() {
        if let Some(message) = path_error(path.text()) {
            errors.push(path.invalid(message));
        }
    }
}

fn path_error(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

pub fn priority_level(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let (name, spec) = (root.get("metadata").get("name").text(), root.get("spec"));
    let (ty, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name == EXEMPT) != (ty.text() == "Exempt") {
        errors.push(ty.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match ty.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            if exempt.is_set() {
                shares(&exempt, &mut errors);
                lendable(&exempt, &mut errors);
            }
        }
        "Limited" => {
            if exempt.is_set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                self::limited(&limited, &mut errors);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => errors.push(ty.not_supported(&["Exempt", "Limited"])),
    }
    if let Some(fixed) = mandatory_spec("prioritylevelconfigurations", name) {
        if name == EXEMPT {
            // Its shares may be changed, and nothing else.
            let mut have = spec.value.clone();
            have["exempt"] = fixed["exempt"].clone();
            if have != *fixed {
                errors.push(spec.invalid(format!(
                    "spec of '{name}' except the 'spec.exempt' field must equal the fixed value"
                )));
            }
        } else if spec.value != fixed {
            errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
        }
    }
    conditions(&root, &mut errors);
    errors.into_vec()
}

pub fn priority_level_update(new: &Value, _: &Value) -> Vec<FieldError> {
    priority_level(new)
}

fn shares(node: &Node<'_>, errors: &mut Errors) {
    let shares = node.get("nominalConcurrencyShares");
    if shares.int().is_some_and(|n| n < 0) {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
}

fn lendable(node: &Node<'_>, errors: &mut Errors) {
    let percent = node.get("lendablePercent");
    if percent.int().is_some_and(|n| !(0..=100).contains(&n)) {
        errors.push(percent.invalid("must be between 0 and 100, inclusive"));
    }
}

fn limited(limited: &Node<'_>, errors: &mut Errors) {
    shares(limited, errors);
    let response = limited.get("limitResponse");
    let (ty, queuing) = (response.get("type"), response.get("queuing"));
    match ty.text() {
        "Reject" if queuing.is_set() => errors
            .push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited")),
        "Reject" => {}
        "Queue" if queuing.is_set() => self::queuing(&queuing, errors),
        "Queue" => errors
            .push(queuing.required("must not be empty if limited.limitResponse.type is Limited")),
        _ => errors.push(ty.not_supported(&["Queue", "Reject"])),
    }
    lendable(limited, errors);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int().is_some_and(|n| n < 0) {
        errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
}

fn queuing(queuing: &Node<'_>, errors: &mut Errors) {
    let (length, queues, hand) = (
        queuing.get("queueLengthLimit"),
        queuing.get("queues"),
        queuing.get("handSize"),
    );
    let number = |node: &Node<'_>| node.int().unwrap_or(0);
    for node in [&length, &queues] {
        if number(node) <= 0 {
            errors.push(node.invalid("must be positive"));
        }
    }
    if number(&queues) > MOST_QUEUES {
        errors.push(queues.invalid(format!("must not be greater than {MOST_QUEUES}")));
    }
    let (deck, cards) = (number(&queues), number(&hand));
    if cards <= 0 {
        errors.push(hand.invalid("must be positive"));
    } else if cards > deck {
        errors.push(hand.invalid(format!("should not be greater than queues ({deck})")));
    } else {
        let entropy = ((deck as f64).log2() * cards as f64).ceil() as i64;
        if entropy > HASH_BITS {
            errors.push(hand.invalid(format!(
                "required entropy bits of deckSize {deck} and handSize {cards} should not be greater than {HASH_BITS}"
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registry, flowcontrol::built_in, meta};
    use serde_json::json;

    fn check(errors: Vec<FieldError>, expect: &[&str]) {
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn what_is_built_in_is_valid_and_defaulted() {
        for built_in in built_in() {
            let resource = Registry::builtin()
                .by_resource(crate::flowcontrol::GROUP, built_in.plural)
                .unwrap();
            let mut object = built_in.object.clone();
            resource.default(&mut object);
            assert_eq!(object, built_in.object, "it changes nothing");
            check(resource.validate_create(&object), &[]);
        }
    }

    #[test]
    fn a_mandatory_object_stays_as_it_is() {
        for name in [EXEMPT, "catch-all"] {
            for built_in in built_in().iter().filter(|b| meta::name(&b.object) == name) {
                let mut object = built_in.object.clone();
                let errors = if built_in.plural == "flowschemas" {
                    object["spec"]["rules"][0]["resourceRules"][0]["verbs"] = json!(["get"]);
                    flow_schema(&object)
                } else if name == EXEMPT {
                    object["spec"]["exempt"]["nominalConcurrencyShares"] = 7.into();
                    check(priority_level(&object), &[]);
                    continue;
                } else {
                    object["spec"]["limited"]["nominalConcurrencyShares"] = 7.into();
                    priority_level(&object)
                };
                assert_eq!(errors.len(), 1);
                assert_eq!(errors[0].path, "spec");
                assert_eq!(
                    errors[0].detail,
                    format!("spec of '{name}' must equal the fixed value")
                );
            }
        }
    }

    #[test]
    fn a_schema_is_checked_as_upstream_does() {
        let schema = |spec: Value| flow_schema(&json!({"metadata": {"name": "x"}, "spec": spec}));
        check(
            schema(
                json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "A"}, "rules": [{}]}),
            ),
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        );
        check(
            schema(json!({
                "matchingPrecedence": 10001, "priorityLevelConfiguration": {"name": "a"},
                "rules": [{
                    "subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "Robot"}],
                    "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["*"], "resources": [], "namespaces": ["A b"]}],
                    "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["a", "/a//b", "/a*"]}],
                }],
            })),
            &[
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"A b\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a//b\": must not contain double slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ],
        );
    }

    #[test]
    fn a_level_is_checked_as_upstream_does() {
        let level = |spec: Value| priority_level(&json!({"metadata": {"name": "x"}, "spec": spec}));
        check(
            level(json!({"type": "Exempt"})),
            &[
                "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
            ],
        );
        check(
            level(json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": -1, "lendablePercent": 101,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 11, "queueLengthLimit": 0}},
            }})),
            &[
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: 0: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 11: required entropy bits of deckSize 64 and handSize 11 should not be greater than 60",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ],
        );
    }
}
