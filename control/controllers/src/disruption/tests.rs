use super::*;
use serde_json::{Value, json};

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let budget = json!({"metadata": {"name": "b", "generation": 2}, "spec": spec,
        "status": status});
    serde_json::from_value(budget).expect("a budget")
}

fn empty() -> Value {
    json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
}

fn pod(name: &str, ready: &str) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn now() -> Timestamp {
    "2025-01-01T00:01:00Z".parse().expect("a time")
}

#[test]
fn budgets_are_counted_absolutely_or_by_share() {
    for (spec, expected) in [
        (
            json!({"minAvailable": 2}),
            Need {
                expected: 3,
                healthy: 2,
            },
        ),
        (
            json!({"minAvailable": "50%"}),
            Need {
                expected: 5,
                healthy: 3,
            },
        ),
        (
            json!({"maxUnavailable": 1}),
            Need {
                expected: 5,
                healthy: 4,
            },
        ),
        (
            json!({"maxUnavailable": "30%"}),
            Need {
                expected: 5,
                healthy: 3,
            },
        ),
        (
            json!({"maxUnavailable": 9}),
            Need {
                expected: 5,
                healthy: 0,
            },
        ),
    ] {
        let budget = budget(spec.clone(), empty());
        assert_eq!(need(&budget, 3, || Ok(5)), Ok(expected), "{spec}");
    }
}

#[test]
fn what_is_healthy_beyond_the_need_may_go() {
    let budget = budget(json!({"minAvailable": 2}), empty());
    let pods = [
        pod("1", "True"),
        pod("2", "True"),
        pod("3", "True"),
        pod("4", "False"),
    ];
    let need = need(&budget, pods.len(), || Ok(0));
    let now = now();
    let status = status(&budget, &pods, need, now);
    assert_eq!((status.current_healthy, status.desired_healthy), (3, 2));
    assert_eq!((status.expected_pods, status.disruptions_allowed), (4, 1));
    let condition = &status.conditions.expect("a condition")[0];
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "SufficientPods")
    );
}

#[test]
fn granted_evictions_count_until_their_pods_go_or_the_grant_ends() {
    let mut known = empty();
    known["disruptedPods"] = json!({
        "1": "2025-01-01T00:00:30Z", "2": "2024-12-31T00:00:00Z", "gone": "2025-01-01T00:00:30Z",
    });
    let budget = budget(json!({"minAvailable": 1}), known);
    let pods = [pod("1", "True"), pod("2", "True")];
    let status = status(&budget, &pods, need(&budget, 2, || Ok(0)), now());
    let granted: Vec<_> = status.disrupted_pods.expect("one").into_keys().collect();
    assert_eq!(granted, ["1"]);
    assert_eq!((status.current_healthy, status.disruptions_allowed), (1, 0));
}

#[test]
fn what_cannot_be_computed_allows_nothing() {
    let budget = budget(json!({"maxUnavailable": 1}), empty());
    let status = status(
        &budget,
        &[pod("1", "True")],
        Err("no scale".to_owned()),
        now(),
    );
    assert_eq!(status.disruptions_allowed, 0);
    assert_eq!(
        status.conditions.expect("a condition")[0].reason,
        "SyncFailed"
    );
}

#[test]
fn what_cannot_be_computed_keeps_what_was_known() {
    let mut known = empty();
    known["desiredHealthy"] = 3.into();
    known["observedGeneration"] = 1.into();
    let budget = budget(json!({"maxUnavailable": 1}), known);
    let why = "found no controllers for pod \"1\"".to_owned();
    let status = status(&budget, &[pod("1", "True")], Err(why), now());
    assert_eq!(
        (status.desired_healthy, status.observed_generation),
        (3, Some(1))
    );
    let condition = &status.conditions.expect("a condition")[0];
    assert_eq!(condition.message, "found no controllers for pod \"1\"");
}

#[test]
fn selectors_are_shown_as_go_prints_them() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]});
    let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
    assert_eq!(
        shown(&selector),
        "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
    );
}
