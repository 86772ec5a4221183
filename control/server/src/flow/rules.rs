//! What a FlowSchema matches, compiled from the object so that a request is judged without an allocation.

use kernelet_api::Value;

use crate::{
    request::{RequestInfo, ResourceInfo},
    user::UserInfo,
};

/// A request as the rules see it.
pub struct Asked<'a> {
    pub user: &'a UserInfo,
    pub info: &'a RequestInfo,
}

/// A FlowSchema's spec, without its level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Vec<Rule>,
    by: Distinguisher,
}

/// What tells a schema's flows apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Distinguisher {
    /// All requests are one flow.
    #[default]
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Clone, Debug, PartialEq)]
struct ResourceRule {
    verbs: Set,
    groups: Set,
    /// Resource and subresource.
    resources: Option<Vec<(String, String)>>,
    namespaces: Set,
    cluster: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct PathRule {
    verbs: Set,
    paths: Vec<String>,
}

/// Texts, or all of them.
#[derive(Clone, Debug, PartialEq)]
enum Set {
    All,
    Of(Vec<String>),
}

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    list(value, field)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

impl Set {
    fn parse(value: &Value, field: &str) -> Set {
        let all = texts(value, field);
        // Validation lets `*` stand alone only.
        if all == ["*"] { Set::All } else { Set::Of(all) }
    }

    fn has(&self, text: &str) -> bool {
        match self {
            Set::All => true,
            Set::Of(all) => all.iter().any(|one| one == text),
        }
    }
}

impl Rules {
    /// Of a FlowSchema's spec.
    pub fn parse(spec: &Value) -> Rules {
        let by = match text(spec, "/distinguisherMethod/type").as_str() {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::None,
        };
        Rules {
            rules: list(spec, "rules").map(Rule::parse).collect(),
            by,
        }
    }

    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(asked))
    }

    /// Which of the schema's flows a request belongs to.
    pub fn distinguisher<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.by {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => info
                .resource
                .as_ref()
                .map_or("", |resource| &resource.namespace),
        }
    }
}

impl Rule {
    fn parse(rule: &Value) -> Rule {
        Rule {
            subjects: list(rule, "subjects").filter_map(Subject::parse).collect(),
            resources: list(rule, "resourceRules")
                .map(ResourceRule::parse)
                .collect(),
            paths: list(rule, "nonResourceRules")
                .map(|rule| PathRule {
                    verbs: Set::parse(rule, "verbs"),
                    paths: texts(rule, "nonResourceURLs"),
                })
                .collect(),
        }
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        if !self.subjects.iter().any(|s| s.matches(asked.user)) {
            return false;
        }
        let verb = asked.info.verb;
        match &asked.info.resource {
            Some(resource) => self.resources.iter().any(|r| r.matches(verb, resource)),
            None => self.paths.iter().any(|p| p.matches(verb, &asked.info.path)),
        }
    }
}

impl Subject {
    fn parse(subject: &Value) -> Option<Subject> {
        Some(match text(subject, "/kind").as_str() {
            "User" => Subject::User(text(subject, "/user/name")),
            "Group" => Subject::Group(text(subject, "/group/name")),
            "ServiceAccount" => Subject::Account {
                namespace: text(subject, "/serviceAccount/namespace"),
                name: text(subject, "/serviceAccount/name"),
            },
            _ => return None,
        })
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::Account { namespace, name } => user
                .as_service_account()
                .is_some_and(|(ns, account)| ns == namespace && (name == "*" || name == account)),
        }
    }
}

impl ResourceRule {
    fn parse(rule: &Value) -> ResourceRule {
        let resources = texts(rule, "resources");
        let split = |text: &String| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text.clone(), String::new()),
        };
        ResourceRule {
            verbs: Set::parse(rule, "verbs"),
            groups: Set::parse(rule, "apiGroups"),
            resources: (resources != ["*"]).then(|| resources.iter().map(split).collect()),
            namespaces: Set::parse(rule, "namespaces"),
            cluster: rule.get("clusterScope").and_then(Value::as_bool) == Some(true),
        }
    }

    fn matches(&self, verb: &str, asked: &ResourceInfo) -> bool {
        self.verbs.has(verb)
            && self.resources.as_ref().is_none_or(|resources| {
                resources.iter().any(|(resource, subresource)| {
                    *resource == asked.gvr.resource && *subresource == asked.subresource
                })
            })
            && self.groups.has(&asked.gvr.group)
            && if asked.namespace.is_empty() {
                self.cluster
            } else {
                self.namespaces.has(&asked.namespace)
            }
    }
}

impl PathRule {
    fn matches(&self, verb: &str, path: &str) -> bool {
        self.verbs.has(verb)
            && self.paths.iter().any(|rule| {
                // `/healthz` matches what lies below it, too; so does `/healthz/*`.
                let prefix = rule.trim_end_matches('*').trim_end_matches('/');
                rule == "*"
                    || rule == path
                    || path
                        .strip_prefix(prefix)
                        .is_some_and(|rest| rest.starts_with('/'))
            })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use kernelet_api::flowcontrol::built_in;

    use super::*;
    use crate::query::Query;

    /// `identity request` → the built-in schema that takes it, and its flow.
    fn check(user: &UserInfo, request: &str, expect: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let method: Method = method.parse().unwrap();
        let info = RequestInfo::parse(&method, path, &Query::parse(query).unwrap()).unwrap();
        let asked = Asked { user, info: &info };
        let mut schemas: Vec<_> = built_in()
            .iter()
            .filter(|b| b.plural == "flowschemas")
            .map(|b| {
                let precedence = b.object["spec"]["matchingPrecedence"].as_i64().unwrap();
                (
                    precedence,
                    b.object["metadata"]["name"].as_str().unwrap(),
                    &b.object["spec"],
                )
            })
            .collect();
        schemas.sort_by_key(|(precedence, name, _)| (*precedence, *name));
        let (_, name, spec) = schemas
            .into_iter()
            .find(|(_, _, spec)| Rules::parse(spec).matches(&asked))
            .expect("something catches all");
        let flow = Rules::parse(spec).distinguisher(user, &info).to_owned();
        assert_eq!(format!("{name} {flow}"), expect, "{} {request}", user.name);
    }

    #[test]
    fn everybody_comes_to_upstreams_schema() {
        let node = UserInfo::node("n1");
        let account = UserInfo::service_account("dev", "robot", "");
        let system = UserInfo::service_account("kube-system", "robot", "");
        let someone = UserInfo::new("someone", ["friends"]);
        let lease = "PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        for (user, request, expect) in [
            (&UserInfo::admin(), "GET /api/v1/pods", "exempt "),
            (&UserInfo::apiserver(), "GET /api/v1/pods", "exempt "),
            (&someone, "GET /livez", "probes "),
            (&someone, "GET /livez/ping", "probes "),
            (&someone, "GET /livezz", "global-default someone"),
            (&someone, "GET /api/v1/pods", "global-default someone"),
            (
                &account,
                "GET /api/v1/pods",
                "service-accounts system:serviceaccount:dev:robot",
            ),
            (
                &system,
                "GET /api/v1/namespaces/a/pods",
                "kube-system-service-accounts a",
            ),
            (
                &system,
                lease,
                "system-leader-election system:serviceaccount:kube-system:robot",
            ),
            (
                &UserInfo::scheduler(),
                lease,
                "system-leader-election system:kube-scheduler",
            ),
            (
                &UserInfo::scheduler(),
                "POST /api/v1/namespaces/a/pods/x/binding",
                "kube-scheduler a",
            ),
            (
                &UserInfo::controllers(),
                "GET /api/v1/nodes",
                "kube-controller-manager ",
            ),
            (
                &node,
                "PATCH /api/v1/nodes/n1/status",
                "system-node-high system:node:n1",
            ),
            (
                &node,
                "PATCH /api/v1/namespaces/a/pods/x/status",
                "system-nodes system:node:n1",
            ),
            (&node, "GET /apis", "system-nodes system:node:n1"),
        ] {
            check(user, request, expect);
        }
    }
}
