//! The flow schemas and priority levels that every cluster has, as upstream's release 1.35 ships them.
//!
//! Mandatory ones can't be changed (validation holds them against this table); suggested ones are kept up to date
//! unless somebody changed them. Source: `apiserver/pkg/apis/flowcontrol/bootstrap`.

use std::sync::OnceLock;

use serde_json::json;

use crate::Value;

/// The group of both kinds.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The annotation that says whether a built-in object follows this table.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// The schema and the level that nobody's request waits in.
pub const EXEMPT: &str = "exempt";
/// The schema and the level of what no other schema matches.
pub const CATCH_ALL: &str = "catch-all";

/// Whether an object may differ from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Mandatory,
    Suggested,
}

/// One built-in object.
pub struct BuiltIn {
    /// `flowschemas` or `prioritylevelconfigurations`.
    pub plural: &'static str,
    pub standing: Standing,
    /// The object as it is created.
    pub object: Value,
}

/// All built-in objects, levels before the schemas that name them.
pub fn built_in() -> &'static [BuiltIn] {
    static ALL: OnceLock<Vec<BuiltIn>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = levels();
        all.extend(schemas());
        all
    })
}

/// The spec of a mandatory object of that kind and name.
pub fn mandatory_spec(plural: &str, name: &str) -> Option<&'static Value> {
    built_in()
        .iter()
        .find(|built_in| {
            built_in.standing == Standing::Mandatory
                && built_in.plural == plural
                && crate::meta::name(&built_in.object) == name
        })
        .map(|built_in| &built_in.object["spec"])
}

fn level(standing: Standing, name: &str, spec: Value) -> BuiltIn {
    BuiltIn {
        plural: "prioritylevelconfigurations",
        standing,
        object: json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
            "spec": spec,
        }),
    }
}

fn levels() -> Vec<BuiltIn> {
    let queued = |name, shares: i32, lendable: i32, queues: i32, hand: i32| {
        let spec = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": {
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50},
            },
        }});
        level(Standing::Suggested, name, spec)
    };
    vec![
        level(
            Standing::Mandatory,
            EXEMPT,
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            Standing::Mandatory,
            CATCH_ALL,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

/// A schema's row: name, level, precedence, how flows are told apart, and its one rule.
struct Row {
    standing: Standing,
    name: &'static str,
    level: &'static str,
    precedence: i32,
    by: Option<&'static str>,
    rule: Value,
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

/// Everything that those subjects do.
fn everything(subjects: &[Value]) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
        }],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn schemas() -> Vec<BuiltIn> {
    use Standing::{Mandatory, Suggested};
    let (user_flow, namespace_flow) = (Some("ByUser"), Some("ByNamespace"));
    let (manager, scheduler) = (
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
    );
    let accounts = json!({
        "kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"},
    });
    let nodes = group("system:nodes");
    let everybody = [
        group("system:unauthenticated"),
        group("system:authenticated"),
    ];
    let leases = |verbs: &[&str]| {
        json!({
            "verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"],
        })
    };
    let row = |standing, name, level, precedence, by, rule| Row {
        standing,
        name,
        level,
        precedence,
        by,
        rule,
    };
    let rows = [
        row(
            Mandatory,
            EXEMPT,
            EXEMPT,
            1,
            None,
            everything(&[group("system:masters")]),
        ),
        row(
            Mandatory,
            CATCH_ALL,
            CATCH_ALL,
            10000,
            user_flow,
            everything(&everybody),
        ),
        row(
            Suggested,
            "system-nodes",
            "system",
            500,
            user_flow,
            everything(std::slice::from_ref(&nodes)),
        ),
        row(
            Suggested,
            "system-node-high",
            "node-high",
            400,
            user_flow,
            json!({"subjects": [&nodes], "resourceRules": [
                {
                    "verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "namespaces": ["*"],
                    "clusterScope": true,
                },
                leases(&["*"]),
            ]}),
        ),
        row(
            Suggested,
            "probes",
            EXEMPT,
            2,
            None,
            json!({"subjects": &everybody, "nonResourceRules": [
                {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]},
            ]}),
        ),
        row(
            Suggested,
            "system-leader-election",
            "leader-election",
            100,
            user_flow,
            json!({
                "subjects": [&manager, &scheduler, &accounts],
                "resourceRules": [leases(&["get", "create", "update"])],
            }),
        ),
        row(
            Suggested,
            "kube-controller-manager",
            "workload-high",
            800,
            namespace_flow,
            everything(&[manager]),
        ),
        row(
            Suggested,
            "kube-scheduler",
            "workload-high",
            800,
            namespace_flow,
            everything(&[scheduler]),
        ),
        row(
            Suggested,
            "kube-system-service-accounts",
            "workload-high",
            900,
            namespace_flow,
            everything(&[accounts]),
        ),
        row(
            Suggested,
            "service-accounts",
            "workload-low",
            9000,
            user_flow,
            everything(&[group("system:serviceaccounts")]),
        ),
        row(
            Suggested,
            "global-default",
            "global-default",
            9900,
            user_flow,
            everything(&everybody),
        ),
    ];
    rows.into_iter()
        .map(|row| {
            let mut spec = json!({
                "priorityLevelConfiguration": {"name": row.level},
                "matchingPrecedence": row.precedence,
                "rules": [row.rule],
            });
            if let Some(by) = row.by {
                spec["distinguisherMethod"] = json!({"type": by});
            }
            BuiltIn {
                plural: "flowschemas",
                standing: row.standing,
                object: json!({
                    "apiVersion": format!("{GROUP}/v1"),
                    "kind": "FlowSchema",
                    "metadata": {"name": row.name, "annotations": {AUTO_UPDATE: "true"}},
                    "spec": spec,
                }),
            }
        })
        .collect()
}
