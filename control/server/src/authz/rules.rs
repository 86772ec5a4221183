//! RBAC's rules as types: what a rule allows, and when a set of rules covers another.

use serde::Deserialize;

use super::{Attributes, Target};

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// What a member of `system:masters` may do.
    pub fn everything() -> Rule {
        let all = || vec!["*".to_owned()];
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            non_resource_urls: all(),
            ..Rule::default()
        }
    }

    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !any(&self.verbs, attributes.verb) {
            return false;
        }
        match &attributes.target {
            Target::Path(path) => self
                .non_resource_urls
                .iter()
                .any(|url| url_matches(url, path)),
            Target::Resource {
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                any(&self.api_groups, group)
                    && self
                        .resources
                        .iter()
                        .any(|rule| resource_matches(rule, resource, subresource))
                    && (self.resource_names.is_empty()
                        || self.resource_names.iter().any(|n| n == name))
            }
        }
    }

    /// The rule split so that each part has one verb, group, resource and name: what escalation checks compare.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                parts.push(Rule {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![url.clone()],
                    ..Rule::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(self.resource_names.iter().map(|name| Rule {
                            resource_names: vec![name.clone()],
                            ..part.clone()
                        }));
                    }
                }
            }
        }
        parts
    }

    /// Whether this rule allows everything that `part` (one verb, group, resource, name) does.
    fn covers_part(&self, part: &Rule) -> bool {
        let has = |own: &[String], wanted: &[String]| wanted.iter().all(|w| any(own, w));
        let urls = part.non_resource_urls.iter().all(|url| {
            self.non_resource_urls
                .iter()
                .any(|own| own == url || url_matches(own, url))
        });
        let resources = part.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources
                .iter()
                .any(|own| own == wanted || resource_matches(own, resource, subresource))
        });
        has(&self.verbs, &part.verbs)
            && has(&self.api_groups, &part.api_groups)
            && resources
            && urls
            && (self.resource_names.is_empty()
                || (!part.resource_names.is_empty()
                    && part
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }

    /// As upstream prints a rule in an escalation error: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    fn compact(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{name}:{}", quoted(list)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `wanted` the rules in `held` don't cover, printed; empty if they cover it all.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<String> {
    // Parts that differ only in their verbs are told as one rule.
    let mut missing: Vec<Rule> = Vec::new();
    for part in wanted.iter().flat_map(Rule::parts) {
        if held.iter().any(|rule| rule.covers_part(&part)) {
            continue;
        }
        let same = |rule: &&mut Rule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
        };
        match missing.iter_mut().find(same) {
            Some(rule) => {
                if !rule.verbs.contains(&part.verbs[0]) {
                    rule.verbs.extend(part.verbs);
                }
            }
            None => missing.push(part),
        }
    }
    let mut told: Vec<String> = missing.iter().map(Rule::compact).collect();
    told.sort_unstable();
    told.dedup();
    told
}

/// A list as Go's `%q` prints it: `["get" "list"]`.
pub fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// `*`, `pods`, `pods/log`, `*/log`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((parent, sub)) => {
            !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource)
        }
    }
}

/// `*`, `/healthz`, `/api/*`.
fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn rule(groups: &str, resources: &str, verbs: &str, names: &str) -> Rule {
        let list = |text: &str| {
            text.split(',')
                .filter(|t| *t != "-")
                .map(str::to_owned)
                .collect()
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: vec![],
        }
    }

    fn check(rule: &Rule, verb: &str, group: &str, resource: &str, name: &str, expect: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let user = UserInfo::default();
        let target = Target::Resource {
            group,
            resource,
            subresource,
            namespace: "",
            name,
            field_selector: "",
        };
        let attributes = Attributes {
            user: &user,
            verb,
            target,
        };
        assert_eq!(
            rule.allows(&attributes),
            expect,
            "{verb} {group}/{resource}/{subresource} {name}"
        );
    }

    #[test]
    fn rules_allow_what_they_name() {
        let pods = rule(",apps", "pods,*/scale", "get,list", "-");
        check(&pods, "get", "", "pods", "x", true);
        check(&pods, "get", "", "pods/log", "x", false);
        check(&pods, "get", "apps", "deployments/scale", "x", true);
        check(&pods, "get", "batch", "pods", "x", false);
        check(&pods, "create", "", "pods", "x", false);
        check(&rule("*", "*", "*", "-"), "delete", "q", "r/s", "t", true);
        let named = rule("", "secrets", "get,create", "one");
        check(&named, "get", "", "secrets", "one", true);
        check(&named, "get", "", "secrets", "two", false);
        check(&named, "create", "", "secrets", "", false);
    }

    #[test]
    fn paths_match_by_prefix() {
        assert!(url_matches("/api/*", "/api/v1"));
        assert!(url_matches("/healthz", "/healthz"));
        assert!(!url_matches("/healthz", "/healthz/etcd"));
    }

    #[test]
    fn what_isnt_held_is_told_as_upstream_tells_it() {
        let held = [rule("", "pods", "get", "-")];
        assert!(uncovered(&held, &[rule("", "pods", "get", "a")]).is_empty());
        assert_eq!(
            uncovered(&held, &[rule("", "pods,secrets", "get,list", "-")]),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
            ]
        );
        assert!(
            !uncovered(
                &[rule("", "pods", "get", "a")],
                &[rule("", "pods", "get", "-")]
            )
            .is_empty()
        );
    }
}
