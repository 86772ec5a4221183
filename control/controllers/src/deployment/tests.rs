//! What a deployment does about its ReplicaSets, case by case; reasons and messages are upstream's.

use super::{
    plan::{Action, Plan, plan},
    revision::{REVISION, new_set},
    scale::{DESIRED, MAX, Strategy, share, size, strategy},
    status::find,
};
use crate::common::whole_seconds;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(super) fn deployment(replicas: i32, strategy: Value, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1,
            "annotations": {"team": "a"}},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    }))
    .expect("a deployment")
}

pub(super) fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

pub(super) fn now() -> Timestamp {
    "2025-01-01T00:00:00Z".parse().expect("a time")
}

fn set_of(deployment: &Deployment, replicas: i32, revision: i64, available: i32) -> ReplicaSet {
    let mut set = new_set(deployment, replicas, revision);
    let created = now() + SignedDuration::from_secs(revision);
    set.metadata.creation_timestamp = Some(Time(created));
    set.metadata.uid = set.metadata.name.clone();
    set.metadata.generation = Some(1);
    set.status = Some(ReplicaSetStatus {
        replicas,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: Some(1),
        ..ReplicaSetStatus::default()
    });
    set
}

fn plan_of(deployment: &Deployment, sets: &[ReplicaSet]) -> Plan {
    let sets: Vec<_> = sets.iter().cloned().map(Arc::new).collect();
    plan(deployment, &sets, &|_| false, now())
}

/// Resizes of a plan as (name, from, to).
fn resizes(plan: &Plan) -> Vec<(String, i32, i32)> {
    let resize = |action: &Action| match action {
        Action::Create(set) => Some((set.metadata.name.clone()?, 0, size(set))),
        Action::Update { set, from } => Some((set.metadata.name.clone()?, *from, size(set))),
        _ => None,
    };
    let all = plan.actions.iter().filter_map(resize);
    all.filter(|(_, from, to)| from != to).collect()
}

fn name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().expect("sets are named")
}

fn reason<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = find(status, type_)?;
    Some((&condition.status, condition.reason.as_deref()?))
}

#[test]
fn surge_rounds_up_unavailable_down_and_something_always_moves() {
    for (replicas, surge, unavailable, expected) in [
        (10, json!("25%"), json!("25%"), (3, 2)),
        (1, json!("25%"), json!("25%"), (1, 0)),
        (3, json!(0), json!("25%"), (0, 1)),
        (3, json!(0), json!(2), (0, 2)),
        (0, json!("25%"), json!("25%"), (0, 1)),
    ] {
        let deployment = deployment(replicas, rolling(surge, unavailable), "i");
        let (surge, unavailable) = expected;
        assert_eq!(
            strategy(&deployment),
            Strategy::Rolling { surge, unavailable }
        );
    }
    assert_eq!(share(&IntOrString::String("33%".to_owned()), 10, true), 4);
}

#[test]
fn the_first_rollout_makes_a_set_with_hash_labels_and_annotations() {
    let deployment = deployment(3, rolling(json!(1), json!(0)), "i");
    let plan = plan_of(&deployment, &[]);
    let Some(Action::Create(set)) = plan.actions.iter().find(|a| matches!(a, Action::Create(_)))
    else {
        panic!("no set is created: {:?}", plan.actions);
    };
    let hash = &set.metadata.labels.as_ref().expect("labels")["pod-template-hash"];
    assert_eq!(name(set), format!("web-{hash}"));
    let spec = set.spec.as_ref().expect("a spec");
    assert_eq!(spec.replicas, Some(3));
    assert_eq!(
        &spec.selector.match_labels.as_ref().expect("labels")["pod-template-hash"],
        hash
    );
    let annotations = set.metadata.annotations.as_ref().expect("annotations");
    for (key, value) in [(REVISION, "1"), (DESIRED, "3"), (MAX, "4"), ("team", "a")] {
        assert_eq!(annotations[key], value, "{key}");
    }
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let (status, message) = (&plan.status, find(&plan.status, "Progressing"));
    assert_eq!(
        reason(status, "Progressing"),
        Some(("True", "NewReplicaSetCreated"))
    );
    let expected = format!("Created new replica set \"{}\"", name(set));
    assert_eq!(
        message.and_then(|c| c.message.as_deref()),
        Some(expected.as_str())
    );
    assert_eq!(
        reason(status, "Available"),
        Some(("False", "MinimumReplicasUnavailable"))
    );
    // The same template gives the same name: a second try meets the first one's set.
    assert_eq!(name(set), name(&new_set(&deployment, 1, 5)));
}

#[test]
fn a_rolling_update_goes_up_by_surge_then_down_by_what_is_available() {
    let first = deployment(3, rolling(json!(1), json!(0)), "one");
    let old = set_of(&first, 3, 1, 3);
    let second = deployment(3, rolling(json!(1), json!(0)), "two");
    let plan = plan_of(&second, std::slice::from_ref(&old));
    let new_name = name(&new_set(&second, 0, 2));
    assert_eq!(resizes(&plan), [(new_name, 0, 1)]);
    let waiting = set_of(&second, 1, 2, 0);
    assert_eq!(resizes(&plan_of(&second, &[old.clone(), waiting])), []);
    let ready = set_of(&second, 1, 2, 1);
    let plan = plan_of(&second, &[old.clone(), ready]);
    assert_eq!(resizes(&plan), [(name(&old), 3, 2)]);
}

#[test]
fn a_set_that_still_sheds_pods_keeps_its_room() {
    let first = deployment(3, rolling(json!(1), json!(0)), "one");
    let mut old = set_of(&first, 2, 1, 3);
    old.status.as_mut().expect("set").replicas = 3;
    let second = deployment(3, rolling(json!(1), json!(0)), "two");
    let new = set_of(&second, 1, 2, 1);
    assert_eq!(resizes(&plan_of(&second, &[old, new])), []);
}

#[test]
fn unhealthy_pods_of_old_sets_go_first() {
    let strategy = || rolling(json!(1), json!(1));
    let healthy = set_of(&deployment(3, strategy(), "one"), 2, 1, 2);
    let broken = set_of(&deployment(3, strategy(), "two"), 1, 2, 0);
    let third = deployment(3, strategy(), "three");
    let new = set_of(&third, 1, 3, 0);
    let plan = plan_of(&third, &[healthy, broken.clone(), new]);
    assert_eq!(resizes(&plan), [(name(&broken), 1, 0)]);
}

#[test]
fn a_rollback_makes_the_old_set_current_with_a_new_revision() {
    let strategy = || rolling(json!(1), json!(0));
    let one = deployment(1, strategy(), "one");
    let sets = [
        set_of(&one, 0, 1, 0),
        set_of(&deployment(1, strategy(), "two"), 1, 2, 1),
    ];
    let plan = plan_of(&one, &sets);
    assert_eq!(resizes(&plan), [(name(&sets[0]), 0, 1)]);
    let Some(Action::Update { set, .. }) = plan
        .actions
        .iter()
        .find(|a| matches!(a, Action::Update { set, .. } if name(set) == name(&sets[0])))
    else {
        panic!("the old set is not updated");
    };
    let annotations = set.metadata.annotations.as_ref().expect("annotations");
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
    assert_eq!(plan.revision.as_deref(), Some("3"));
}

#[test]
fn recreate_waits_for_every_old_pod() {
    let strategy = || json!({"type": "Recreate"});
    let old = set_of(&deployment(2, strategy(), "one"), 2, 1, 2);
    let second = deployment(2, strategy(), "two");
    assert_eq!(
        resizes(&plan_of(&second, std::slice::from_ref(&old))),
        [(name(&old), 2, 0)]
    );
    let emptied = set_of(&deployment(2, strategy(), "one"), 0, 1, 0);
    let sets = [Arc::new(emptied)];
    let still = plan(&second, &sets, &|uid| uid == name(&sets[0]), now());
    assert_eq!(resizes(&still), []);
    let gone = plan(&second, &sets, &|_| false, now());
    assert_eq!(resizes(&gone), [(name(&new_set(&second, 0, 2)), 0, 2)]);
}

#[test]
fn a_change_of_size_amid_a_rollout_is_shared_in_proportion() {
    let strategy = || rolling(json!(2), json!(2));
    let ten = |image| deployment(10, strategy(), image);
    let old = set_of(&ten("one"), 8, 1, 8);
    let new = set_of(&ten("two"), 4, 2, 4);
    let twenty = deployment(20, strategy(), "two");
    let plan = plan_of(&twenty, &[old.clone(), new.clone()]);
    let mut resizes = resizes(&plan);
    resizes.sort_by_key(|(_, from, _)| *from);
    // 12 pods of at most 12 grow to at most 22, by two thirds and one third.
    assert_eq!(resizes, [(name(&new), 4, 7), (name(&old), 8, 15)]);
}

#[test]
fn a_plain_change_of_size_keeps_the_set() {
    let set = set_of(&deployment(3, rolling(json!(1), json!(0)), "i"), 3, 1, 3);
    for to in [0, 5] {
        let deployment = deployment(to, rolling(json!(1), json!(0)), "i");
        let plan = plan_of(&deployment, std::slice::from_ref(&set));
        assert_eq!(resizes(&plan), [(name(&set), 3, to)]);
    }
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let set = set_of(&deployment(3, rolling(json!(1), json!(0)), "one"), 3, 1, 3);
    let mut paused = deployment(5, rolling(json!(1), json!(0)), "two");
    paused.spec.as_mut().expect("a spec").paused = Some(true);
    let plan = plan_of(&paused, std::slice::from_ref(&set));
    assert_eq!(resizes(&plan), [(name(&set), 3, 5)]);
    assert_eq!(
        reason(&plan.status, "Progressing"),
        Some(("Unknown", "DeploymentPaused"))
    );
    let mut resumed = deployment(3, rolling(json!(1), json!(0)), "one");
    resumed.status = Some(plan.status);
    let plan = plan_of(&resumed, &[set]);
    // Complete again at once, so resuming is overwritten by the outcome.
    assert_eq!(
        reason(&plan.status, "Progressing"),
        Some(("True", "NewReplicaSetAvailable"))
    );
}

#[test]
fn a_finished_rollout_says_so_and_forgets_old_revisions() {
    let of = |image| deployment(1, rolling(json!(1), json!(0)), image);
    let sets = [
        set_of(&of("one"), 0, 1, 0),
        set_of(&of("two"), 0, 2, 0),
        set_of(&of("three"), 1, 3, 1),
    ];
    let plan = plan_of(&of("three"), &sets);
    assert!(
        plan.actions
            .iter()
            .any(|a| matches!(a, Action::Delete(n) if *n == name(&sets[0])))
    );
    assert_eq!(
        reason(&plan.status, "Progressing"),
        Some(("True", "NewReplicaSetAvailable"))
    );
    assert_eq!(
        reason(&plan.status, "Available"),
        Some(("True", "MinimumReplicasAvailable"))
    );
    let message = find(&plan.status, "Progressing").and_then(|c| c.message.clone());
    let expected = format!(
        "ReplicaSet \"{}\" has successfully progressed.",
        name(&sets[2])
    );
    assert_eq!(message, Some(expected));
    assert_eq!(plan.recheck, None);
}

#[test]
fn without_progress_the_deadline_passes_once() {
    let mut deployment = deployment(1, rolling(json!(1), json!(0)), "i");
    let set = set_of(&deployment, 1, 1, 0);
    let begun = plan_of(&deployment, std::slice::from_ref(&set));
    deployment.status = Some(begun.status);
    let at = |seconds: i64| {
        let sets = [Arc::new(set.clone())];
        let now = whole_seconds(now() + SignedDuration::from_secs(seconds));
        plan(&deployment, &sets, &|_| false, now)
    };
    let early = at(100);
    assert_eq!(early.recheck, Some(Duration::from_secs(501)));
    assert_eq!(
        reason(&early.status, "Progressing").map(|r| r.0),
        Some("True")
    );
    let late = at(601);
    assert_eq!(
        reason(&late.status, "Progressing"),
        Some(("False", "ProgressDeadlineExceeded"))
    );
    assert_eq!(late.recheck, None);
}
