//! What a node's state means: conditions of a node that fell silent, and the taints that follow
//! from conditions. Pure.

use crate::common::time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that only a living node can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Condition, the value that taints, the taint.
const TAINTING: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let status = node.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_)
}

/// True, False or Unknown; a node that never said anything counts as Unknown.
pub(crate) fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| &condition.status)
}

/// The conditions that must change because the node is silent; none when they already say so.
pub(crate) fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    VOUCHED
        .iter()
        .filter_map(|type_| {
            let (reason, message, heartbeat) = match condition(node, type_) {
                Some(known) if known.status == "Unknown" => return None,
                Some(known) => (
                    "NodeStatusUnknown",
                    "Kubelet stopped posting node status.",
                    known.last_heartbeat_time.clone(),
                ),
                None => (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                    node.metadata.creation_timestamp.clone(),
                ),
            };
            Some(NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: heartbeat,
                last_transition_time: time(now),
            })
        })
        .collect()
}

/// Whether pods may be driven off nodes that are not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    Allowed,
    /// No node is ready: then it is more likely us, and there is nowhere to go.
    Suspended,
}

/// The node's taints as they should be; `None` when they are so already.
pub(crate) fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let known = spec
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = TAINTING
        .iter()
        .filter(|(type_, value, _)| {
            let status = condition(node, type_).map(|condition| condition.status.as_str());
            // A node that hasn't said that it is ready is not.
            status.unwrap_or(if *type_ == "Ready" { "False" } else { "" }) == *value
        })
        .map(|(.., taint)| (*taint, NO_SCHEDULE))
        .collect();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    if eviction == Eviction::Allowed && condition(node, "Ready").is_some() {
        match readiness(node) {
            "True" => {}
            "False" => wanted.push((NOT_READY, NO_EXECUTE)),
            _ => wanted.push((UNREACHABLE, NO_EXECUTE)),
        }
    }
    let ours = |taint: &Taint| {
        let no_execute = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        let by_condition = TAINTING.iter().any(|(.., key)| *key == taint.key);
        match taint.effect.as_str() {
            NO_EXECUTE => no_execute,
            NO_SCHEDULE => by_condition || taint.key == UNSCHEDULABLE,
            _ => false,
        }
    };
    let mut next: Vec<Taint> = known
        .iter()
        .filter(|taint| {
            !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !next
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            next.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                // Evictions count from here.
                time_added: time(now),
            });
        }
    }
    (next != known).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(ready: Option<&str>, spec: Value) -> Node {
        let conditions = match ready {
            Some(status) => json!([{"type": "Ready", "status": status,
                "lastHeartbeatTime": "2025-01-01T00:00:00Z"}]),
            None => json!([]),
        };
        let node = json!({
            "metadata": {"name": "a", "creationTimestamp": "2024-12-31T00:00:00Z"},
            "spec": spec, "status": {"conditions": conditions},
        });
        serde_json::from_value(node).expect("a node")
    }

    fn now() -> Timestamp {
        "2025-01-01T00:01:00Z".parse().expect("a time")
    }

    fn keys(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        let text = |taint: Taint| {
            let key = taint
                .key
                .trim_start_matches("node.kubernetes.io/")
                .to_owned();
            format!("{key}:{}", taint.effect)
        };
        taints.map(|taints| taints.into_iter().map(text).collect())
    }

    #[test]
    fn a_silent_node_is_unknown_in_upstreams_words() {
        let conditions = silenced(&node(Some("True"), json!({})), now());
        assert_eq!(conditions.len(), 4);
        let ready = &conditions[0];
        assert_eq!(
            ready.message.as_deref(),
            Some("Kubelet stopped posting node status.")
        );
        assert_eq!(ready.reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(
            ready.last_heartbeat_time.as_ref().map(|t| t.0.to_string()),
            Some("2025-01-01T00:00:00Z".to_owned())
        );
        let memory = &conditions[1];
        assert_eq!(
            memory.message.as_deref(),
            Some("Kubelet never posted node status.")
        );
    }

    #[test]
    fn taints_follow_conditions() {
        use Eviction::{Allowed, Suspended};
        let cordoned = json!({"unschedulable": true});
        for (node, eviction, expected) in [
            (node(Some("True"), json!({})), Allowed, None),
            (
                node(Some("False"), json!({})),
                Allowed,
                Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            (
                node(Some("Unknown"), json!({})),
                Allowed,
                Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (
                node(Some("Unknown"), json!({})),
                Suspended,
                Some(vec!["unreachable:NoSchedule"]),
            ),
            (
                node(None, json!({})),
                Allowed,
                Some(vec!["not-ready:NoSchedule"]),
            ),
            (
                node(Some("True"), cordoned),
                Allowed,
                Some(vec!["unschedulable:NoSchedule"]),
            ),
        ] {
            let expected = expected.map(|keys| keys.into_iter().map(str::to_owned).collect());
            assert_eq!(keys(taints(&node, eviction, now())), expected);
        }
    }

    #[test]
    fn others_taints_stay_and_times_are_kept() {
        let tainted = json!({"taints": [
            {"key": "mine", "effect": "NoExecute"},
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:30Z"},
            {"key": UNREACHABLE, "effect": "NoSchedule"},
        ]});
        assert_eq!(
            taints(
                &node(Some("Unknown"), tainted.clone()),
                Eviction::Allowed,
                now()
            ),
            None
        );
        let recovered = taints(&node(Some("True"), tainted), Eviction::Allowed, now());
        assert_eq!(keys(recovered), Some(vec!["mine:NoExecute".to_owned()]));
    }
}
