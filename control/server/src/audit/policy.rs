//! How much of which request is logged: upstream's `audit.k8s.io/v1` Policy.

use serde::Deserialize;
use serde_json::Value;

use super::Trail;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    /// Who, what, when and how it went; no bodies.
    Metadata,
    /// And the request's body.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// The first rule that fits a request decides; a request that none fits isn't logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code)] // a policy file may have it, and nothing follows from it
    metadata: Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("the audit policy isn't YAML: {0}")]
    Yaml(String),
    #[error("the audit policy is malformed")]
    Form(#[source] serde_json::Error),
    #[error("{0} is no audit policy: apiVersion audit.k8s.io/v1, kind Policy")]
    Kind(String),
    #[error("the audit policy has no rules")]
    Empty,
}

/// Everything is told of, but for what machines ask every few seconds and that changes nothing.
const DEFAULT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, head]
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/metrics"]
- level: None
  userGroups: ["system:nodes"]
  verbs: [get, update]
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
"#;

impl Policy {
    /// Reads a policy file's text.
    pub fn parse(yaml: &str) -> Result<Policy, PolicyError> {
        let (value, _) =
            kernelet_api::codec::parse_yaml(yaml.as_bytes()).map_err(PolicyError::Yaml)?;
        let policy = Policy::deserialize(value).map_err(PolicyError::Form)?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            let what = format!("{} {}", policy.api_version, policy.kind);
            return Err(PolicyError::Kind(what));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        Ok(policy)
    }

    /// What applies where nobody has given a policy.
    pub fn standard() -> Policy {
        Policy::parse(DEFAULT).expect("the default policy is one, which a test holds")
    }

    /// How much is told of a request, at which stages not, and whether managed fields are left out.
    pub fn judge(&self, trail: &Trail) -> (Level, Vec<Stage>, bool) {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(trail)) else {
            return (Level::None, Vec::new(), false);
        };
        let mut omitted = self.omit_stages.clone();
        omitted.extend(&rule.omit_stages);
        let managed = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        (rule.level, omitted, managed)
    }
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|known| known == item)
}

impl Rule {
    fn fits(&self, trail: &Trail) -> bool {
        let user = trail.user.as_deref();
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        let in_group = |group: &String| user.is_some_and(|user| user.in_group(group));
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(in_group) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, trail.verb()) {
            return false;
        }
        let target = trail.info.as_ref().and_then(|info| info.resource.as_ref());
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let Some(target) = target else {
                return false;
            };
            if !self.namespaces.is_empty() && !has(&self.namespaces, &target.namespace) {
                return false;
            }
            return self.resources.is_empty()
                || self.resources.iter().any(|resources| resources.fit(target));
        }
        if !self.non_resource_urls.is_empty() {
            return target.is_none()
                && self
                    .non_resource_urls
                    .iter()
                    .any(|url| path_fits(url, trail.path()));
        }
        true
    }
}

impl GroupResources {
    fn fit(&self, target: &crate::request::ResourceInfo) -> bool {
        if self.group != target.gvr.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let (resource, subresource) = (target.gvr.resource.as_str(), target.subresource.as_str());
        let named = |wanted: &String| {
            wanted == "*"
                || match wanted.split_once('/') {
                    None => subresource.is_empty() && wanted == resource,
                    Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
                    Some((of, "*")) => of == resource,
                    Some((of, sub)) => of == resource && sub == subresource,
                }
        };
        self.resources.iter().any(named)
            && (self.resource_names.is_empty() || has(&self.resource_names, &target.name))
    }
}

fn path_fits(url: &str, path: &str) -> bool {
    url == "*"
        || url == path
        || url
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;

    use super::*;
    use crate::{query::Query, request::RequestInfo, user::UserInfo};

    fn check(policy: &Policy, user: &UserInfo, request: &str, expect: &str) {
        let (method, path) = request.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let mut trail = Trail::new(None);
        trail.user = Some(Arc::new(user.clone()));
        trail.info = Some(RequestInfo::parse(&method, path, &Query::default()).unwrap());
        assert_eq!(
            policy.judge(&trail).0.name(),
            expect,
            "{} {request}",
            user.name
        );
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(
            r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{resources: [services]}]}
- {level: RequestResponse, resources: [{resources: ["pods"]}]}
- {level: Request, resources: [{resources: ["pods/*"]}, {resources: ["*/scale"], group: apps}]}
- {level: Metadata, namespaces: [kube-system]}
- {level: Metadata, userGroups: [ops], nonResourceURLs: ["/api*"]}
- {level: Request, resources: [{group: batch}, {resources: [configmaps], resourceNames: [one]}]}
"#,
        )
        .unwrap();
        let (bob, op) = (
            UserInfo::new("bob", [] as [&str; 0]),
            UserInfo::new("op", ["ops"]),
        );
        for (request, expect) in [
            ("GET /api/v1/namespaces/a/pods/x", "RequestResponse"),
            ("GET /api/v1/namespaces/a/pods/x/log", "Request"),
            (
                "GET /apis/apps/v1/namespaces/a/deployments/x/scale",
                "Request",
            ),
            ("GET /apis/apps/v1/namespaces/a/deployments/x", "None"),
            ("GET /api/v1/namespaces/kube-system/secrets", "Metadata"),
            ("GET /apis/batch/v1/namespaces/a/jobs", "Request"),
            ("PUT /api/v1/namespaces/a/configmaps/one", "Request"),
            ("PUT /api/v1/namespaces/a/configmaps/two", "None"),
            ("GET /api", "None"),
        ] {
            check(&policy, &bob, request, expect);
        }
        check(&policy, &op, "GET /api", "Metadata");
        let proxy = UserInfo::new("system:kube-proxy", [] as [&str; 0]);
        check(&policy, &proxy, "GET /api/v1/watch/services", "None");
    }

    #[test]
    fn the_default_policy_tells_of_everything_but_the_noise() {
        let policy = Policy::standard();
        let (bob, node) = (UserInfo::new("bob", [] as [&str; 0]), UserInfo::node("a"));
        let lease = "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
        check(&policy, &bob, "GET /api/v1/pods", "Metadata");
        check(&policy, &bob, "GET /livez", "None");
        check(&policy, &bob, lease, "Metadata");
        check(&policy, &node, lease, "None");
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "",
            "apiVersion: v1\nkind: Policy\nrules: [{level: None}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [x]}]",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
    }
}
