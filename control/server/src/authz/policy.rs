//! The roles and bindings that every cluster has: upstream's bootstrap policy, as far as its kinds are served.
//!
//! Written at every start where they are missing; rules that an administrator added to them stay, rules that were
//! removed come back (as upstream's reconciliation does), unless `rbac.authorization.kubernetes.io/autoupdate` is
//! `"false"`.

use kernelet_api::Value;
use serde_json::{Map, json};

use super::rules::Rule;

/// A ClusterRole as a table row.
struct Row {
    name: &'static str,
    /// `system:aggregate-to-admin` carries the label that aggregates it to `admin`.
    aggregates_to: &'static str,
    /// `verbs | groups | resources`, or `verbs | path, path` for non-resource rules; names after a fourth bar.
    rules: &'static [&'static str],
}

const fn row(name: &'static str, rules: &'static [&'static str]) -> Row {
    Row {
        name,
        aggregates_to: "",
        rules,
    }
}

/// What every node may do; the Node authorizer applies it, and it is published as the `system:node` role.
const NODE: &[&str] = &[
    "create | authentication.k8s.io | tokenreviews",
    "create | authorization.k8s.io | localsubjectaccessreviews,subjectaccessreviews",
    "get,list,watch | core | services",
    "create,get,list,watch | core | nodes",
    "patch,update | core | nodes/status",
    "patch,update | core | nodes",
    "create,patch,update | core | events",
    "create,patch,update | events.k8s.io | events",
    "get,list,watch | core | pods",
    "create,delete | core | pods",
    "patch,update | core | pods/status",
    "create | core | pods/eviction",
    "get,list,watch | core | configmaps,secrets",
    "get | core | persistentvolumeclaims,persistentvolumes",
    "get | core | endpoints",
    "create,get,list,watch | certificates.k8s.io | certificatesigningrequests",
    "create,delete,get,patch,update | coordination.k8s.io | leases",
    "create | core | serviceaccounts/token",
    "get,list,watch | node.k8s.io | runtimeclasses",
];

const ROWS: &[Row] = &[
    row("cluster-admin", &["* | * | *", "* | /*"]),
    row(
        "system:discovery",
        &[
            "get | /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/",
        ],
    ),
    row(
        "system:public-info-viewer",
        &["get | /healthz,/livez,/readyz,/version,/version/"],
    ),
    row(
        "system:monitoring",
        &["get | /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*"],
    ),
    row(
        "system:basic-user",
        &[
            "create | authorization.k8s.io | selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create | authentication.k8s.io | selfsubjectreviews",
        ],
    ),
    row("system:node", NODE),
    row(
        // What routes Services on a node: upstream's rules for kube-proxy, and what pod addresses and DNS need.
        "system:node-proxier",
        &[
            "get,list,watch | core | endpoints,services",
            "get,list,watch | core | nodes",
            "get,list,watch | discovery.k8s.io | endpointslices",
            "get,list,watch | core | namespaces,pods",
            "create,patch,update | core,events.k8s.io | events",
        ],
    ),
    row(
        "system:auth-delegator",
        &[
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
        ],
    ),
    row(
        "system:kubelet-api-admin",
        &[
            "get,list,watch | core | nodes",
            "proxy | core | nodes",
            "* | core | nodes/log,nodes/metrics,nodes/proxy,nodes/stats,nodes/configz,nodes/healthz,nodes/pods",
        ],
    ),
    row(
        "system:node-bootstrapper",
        &["create,get,list,watch | certificates.k8s.io | certificatesigningrequests"],
    ),
    row(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create | certificates.k8s.io | certificatesigningrequests/nodeclient"],
    ),
    row(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create | certificates.k8s.io | certificatesigningrequests/selfnodeclient"],
    ),
    row(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    row(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/kubelet-serving"],
    ),
    row(
        "system:service-account-issuer-discovery",
        &["get | /.well-known/openid-configuration,/openid/v1/jwks"],
    ),
    row(
        "system:kube-scheduler",
        &[
            "create,patch,update | core,events.k8s.io | events",
            "create | coordination.k8s.io | leases",
            "get,list,watch | coordination.k8s.io | leases",
            "get,update | coordination.k8s.io | leases | kube-scheduler",
            "get,list,watch | core | nodes",
            "delete,get,list,watch | core | pods",
            "create | core | bindings,pods/binding",
            "patch,update | core | pods/status",
            "get,list,watch | core | replicationcontrollers,services",
            "get,list,watch | apps,extensions | replicasets",
            "get,list,watch | apps | statefulsets",
            "get,list,watch | policy | poddisruptionbudgets",
            "get,list,watch | core | persistentvolumeclaims,persistentvolumes,namespaces",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
        ],
    ),
    row(
        // Upstream gives each controller a ServiceAccount and a role of its own; here one identity runs them all.
        "system:kube-controller-manager",
        &[
            "get,list,watch | * | *",
            "create,patch,update | core,events.k8s.io | events",
            "create,get,list,patch,update,watch | coordination.k8s.io | leases",
            // Garbage collection and emptying of namespaces reach every kind.
            "delete,deletecollection,patch,update | * | *",
            "create | core | serviceaccounts,serviceaccounts/token,secrets,configmaps,endpoints,pods,namespaces",
            "create | discovery.k8s.io | endpointslices",
            "create | discovery.k8s.io | endpointslices/restricted",
            "create | apps | replicasets,controllerrevisions",
            "create | core | pods/eviction",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
            "approve,sign | certificates.k8s.io | signers",
            "get | /*",
        ],
    ),
    Row {
        name: "system:aggregate-to-admin",
        aggregates_to: "admin",
        rules: &[
            "create | authorization.k8s.io | localsubjectaccessreviews",
            "create,delete,deletecollection,get,list,patch,update,watch | rbac.authorization.k8s.io | rolebindings,roles",
        ],
    },
    Row {
        name: "system:aggregate-to-edit",
        aggregates_to: "edit",
        rules: &[
            "get,list,watch | core | pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate | core | serviceaccounts",
            "create,delete,deletecollection,patch,update | core | pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create | core | pods/eviction",
            "create,delete,deletecollection,patch,update | core | configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create | core | serviceaccounts/token",
            "create,delete,deletecollection,patch,update | apps | daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "create,delete,deletecollection,patch,update | autoscaling | horizontalpodautoscalers",
            "create,delete,deletecollection,patch,update | batch | cronjobs,jobs",
            "create,delete,deletecollection,patch,update | policy | poddisruptionbudgets",
            "create,delete,deletecollection,patch,update | networking.k8s.io | ingresses,networkpolicies",
            "create,delete,deletecollection,get,list,patch,update,watch | coordination.k8s.io | leases",
        ],
    },
    Row {
        name: "system:aggregate-to-view",
        aggregates_to: "view",
        rules: &[
            "get,list,watch | core | configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "get,list,watch | core | bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "get,list,watch | core | namespaces",
            "get,list,watch | discovery.k8s.io | endpointslices",
            "get,list,watch | apps | controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "get,list,watch | autoscaling | horizontalpodautoscalers,horizontalpodautoscalers/status",
            "get,list,watch | batch | cronjobs,cronjobs/status,jobs,jobs/status",
            "get,list,watch | policy | poddisruptionbudgets,poddisruptionbudgets/status",
            "get,list,watch | networking.k8s.io | ingresses,ingresses/status,networkpolicies",
        ],
    },
];

/// Roles that are unions of others: name, and the labels of what they aggregate.
const AGGREGATED: &[(&str, &[&str])] = &[
    ("admin", &["admin"]),
    ("edit", &["edit"]),
    ("view", &["view"]),
];

/// `binding: role: subject kind: subject name`.
const BINDINGS: &[(&str, &str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "Group", "system:masters"),
    (
        "system:monitoring",
        "system:monitoring",
        "Group",
        "system:monitoring",
    ),
    (
        "system:discovery",
        "system:discovery",
        "Group",
        "system:authenticated",
    ),
    (
        "system:basic-user",
        "system:basic-user",
        "Group",
        "system:authenticated",
    ),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        "Group",
        "system:authenticated",
    ),
    (
        "system:node-proxier",
        "system:node-proxier",
        "User",
        "system:kube-proxy",
    ),
    (
        "system:kube-scheduler",
        "system:kube-scheduler",
        "User",
        "system:kube-scheduler",
    ),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        "User",
        "system:kube-controller-manager",
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "Group",
        "system:serviceaccounts",
    ),
    // Not upstream's, but of those who install it (kubeadm's `kubeadm:kubelet-bootstrap` and its two `autoapprove`s):
    // a join token makes a node's first certificate, and with that the node makes the next.
    (
        "kernelet:node-bootstrap",
        "system:node-bootstrapper",
        "Group",
        "system:bootstrappers",
    ),
    (
        "kernelet:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "Group",
        "system:bootstrappers",
    ),
    (
        "kernelet:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "Group",
        "system:nodes",
    ),
];

const LABEL: &str = "kubernetes.io/bootstrapping";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            if item == "core" {
                String::new()
            } else {
                item.to_owned()
            }
        })
        .collect()
}

fn parse(rule: &str) -> Rule {
    let mut parts = rule.split(" | ");
    let mut next = || parts.next().map(list).unwrap_or_default();
    let (verbs, second, third, names) = (next(), next(), next(), next());
    if third.is_empty() {
        return Rule {
            verbs,
            non_resource_urls: second,
            ..Rule::default()
        };
    }
    Rule {
        verbs,
        api_groups: second,
        resources: third,
        resource_names: names,
        ..Rule::default()
    }
}

/// The rules of the `system:node` role.
pub fn node_rules() -> Vec<Rule> {
    NODE.iter().map(|rule| parse(rule)).collect()
}

/// A rule as an API object has it.
pub fn rule_to_value(rule: &Rule) -> Value {
    let mut map = Map::new();
    for (key, values) in [
        ("verbs", &rule.verbs),
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ] {
        if !values.is_empty() {
            map.insert(key.to_owned(), json!(values));
        }
    }
    Value::Object(map)
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {LABEL: "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    })
}

/// The ClusterRoles, as objects.
pub fn cluster_roles() -> Vec<Value> {
    let mut roles: Vec<Value> = Vec::new();
    for row in ROWS {
        let rules: Vec<Value> = row
            .rules
            .iter()
            .map(|rule| rule_to_value(&parse(rule)))
            .collect();
        let mut metadata = metadata(row.name);
        if !row.aggregates_to.is_empty() {
            metadata["labels"][format!(
                "rbac.authorization.k8s.io/aggregate-to-{}",
                row.aggregates_to
            )] = "true".into();
        }
        roles.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules,
        }));
    }
    for (name, parts) in AGGREGATED {
        let selectors: Vec<Value> = parts
            .iter()
            .map(|part| json!({"matchLabels": {format!("rbac.authorization.k8s.io/aggregate-to-{part}"): "true"}}))
            .collect();
        let mut metadata = metadata(name);
        // Who may edit may view, and who administers may edit: the roles aggregate upwards through these labels.
        if let Some(upper) = match *name {
            "edit" => Some("admin"),
            "view" => Some("edit"),
            _ => None,
        } {
            metadata["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{upper}")] =
                "true".into();
        }
        roles.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata,
            "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": [],
        }));
    }
    roles
}

/// The ClusterRoleBindings, as objects.
pub fn cluster_role_bindings() -> Vec<Value> {
    BINDINGS
        .iter()
        .map(|(name, role, kind, subject)| {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}],
            })
        })
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

    #[test]
    fn every_binding_has_its_role() {
        let roles: Vec<String> = cluster_roles()
            .iter()
            .map(|r| r["metadata"]["name"].as_str().unwrap().into())
            .collect();
        for (binding, role, ..) in BINDINGS {
            assert!(roles.iter().any(|name| name == role), "{binding} → {role}");
        }
    }

    #[test]
    fn every_rule_has_verbs_and_an_object() {
        for row in ROWS {
            for text in row.rules {
                let rule = parse(text);
                assert!(!rule.verbs.is_empty(), "{text}");
                assert_eq!(
                    rule.non_resource_urls.is_empty(),
                    !rule.resources.is_empty(),
                    "{text}"
                );
            }
        }
    }
}
