//! What a ReplicaSet does about its pods, case by case.

use super::{plan::plan, plan::set_failure};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use serde_json::{Value, json};
use std::sync::Arc;

fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "rs", "namespace": "default", "uid": "rs-uid", "generation": 3},
        "spec": {
            "replicas": replicas,
            "minReadySeconds": min_ready,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}},
        },
    }))
    .expect("a ReplicaSet")
}

const NOW: &str = "2025-01-01T00:10:00Z";

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "x"},
            "creationTimestamp": "2025-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
                "uid": "rs-uid", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {"containers": [], "nodeName": "a"},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:01:00Z"}]},
    });
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn now() -> jiff::Timestamp {
    NOW.parse().expect("a time")
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter()
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect()
}

#[test]
fn missing_pods_are_created_and_surplus_ones_deleted() {
    let plan_of = |replicas, pods: &[Arc<Pod>]| plan(&set(replicas, 0), pods, &[], now());
    let one = pod("1", |_| {});
    let short = plan_of(3, std::slice::from_ref(&one));
    assert_eq!((short.create, short.delete.len()), (2, 0));
    let over = plan_of(0, std::slice::from_ref(&one));
    assert_eq!((over.create, over.delete.len()), (0, 1));
    assert_eq!(plan_of(2000, &[]).create, super::BURST);
}

#[test]
fn finished_and_leaving_pods_are_replaced() {
    let failed = pod("1", |pod| pod["status"]["phase"] = "Failed".into());
    let leaving = pod("2", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2025-01-01T00:09:00Z".into();
    });
    let plan = plan(&set(1, 0), &[failed, leaving], &[], now());
    assert_eq!(plan.create, 1);
    assert_eq!(plan.status.replicas, 0);
    assert_eq!(plan.status.terminating_replicas, Some(1));
}

#[test]
fn the_first_to_go_is_the_one_least_missed() {
    let ready_at = |time: &'static str| {
        move |pod: &mut Value| pod["status"]["conditions"][0]["lastTransitionTime"] = time.into()
    };
    // Each row: the pod that goes, the pod that stays.
    let rows: Vec<(&str, Arc<Pod>, Arc<Pod>)> = vec![
        (
            "unassigned",
            pod("z", |pod| pod["spec"]["nodeName"] = Value::Null),
            pod("a", |_| {}),
        ),
        (
            "pending",
            pod("z", |pod| pod["status"]["phase"] = "Pending".into()),
            pod("a", |_| {}),
        ),
        (
            "not ready",
            pod("z", |pod| {
                pod["status"]["conditions"][0]["status"] = "False".into()
            }),
            pod("a", |_| {}),
        ),
        (
            "cheap",
            pod("z", |_| {}),
            pod("a", |pod| {
                pod["metadata"]["annotations"] =
                    json!({"controller.kubernetes.io/pod-deletion-cost": "10"});
            }),
        ),
        (
            "ready later",
            pod("z", ready_at("2025-01-01T00:09:00Z")),
            pod("a", |_| {}),
        ),
        (
            "restarted",
            pod("z", |pod| {
                pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i",
                    "imageID": "", "ready": true, "restartCount": 3}]);
            }),
            pod("a", |_| {}),
        ),
        (
            "younger",
            pod("z", |pod| {
                pod["metadata"]["creationTimestamp"] = "2025-01-01T00:09:30Z".into()
            }),
            pod("a", |_| {}),
        ),
    ];
    for (why, goes, stays) in rows {
        for pods in [[goes.clone(), stays.clone()], [stays, goes]] {
            let plan = plan(&set(1, 0), &pods, &[], now());
            assert_eq!(names(&plan.delete), ["z"], "{why}");
        }
    }
}

#[test]
fn crowded_nodes_lose_pods_first_counting_the_owners_other_sets() {
    let on = |name, node: &'static str| pod(name, move |pod| pod["spec"]["nodeName"] = node.into());
    let pods = [on("1", "a"), on("2", "b")];
    let other = [on("3", "b")];
    assert_eq!(names(&plan(&set(1, 0), &pods, &other, now()).delete), ["2"]);
}

#[test]
fn a_matching_orphan_is_adopted_and_a_relabelled_pod_released() {
    let orphan = pod("1", |pod| pod["metadata"]["ownerReferences"] = json!([]));
    let relabelled = pod("2", |pod| pod["metadata"]["labels"] = json!({"app": "y"}));
    let of_another = pod("3", |pod| {
        pod["metadata"]["ownerReferences"][0]["uid"] = "other".into()
    });
    let plan = plan(&set(2, 0), &[orphan, relabelled, of_another], &[], now());
    assert_eq!(names(&plan.adopt), ["1"]);
    assert_eq!(names(&plan.release), ["2"]);
    assert_eq!(
        plan.create, 1,
        "the adopted one counts, the released one doesn't"
    );
}

#[test]
fn a_set_being_deleted_touches_nothing() {
    let mut set = set(2, 0);
    set.metadata.deletion_timestamp = crate::common::time(now());
    let orphan = pod("1", |pod| pod["metadata"]["ownerReferences"] = json!([]));
    let plan = plan(&set, &[orphan], &[], now());
    assert_eq!(
        (plan.adopt.len(), plan.create, plan.delete.len()),
        (0, 0, 0)
    );
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let ready = pod("1", |_| {});
    let late = plan(&set(1, 600), std::slice::from_ref(&ready), &[], now());
    assert_eq!(late.status.ready_replicas, Some(1));
    assert_eq!(late.status.available_replicas, Some(0));
    assert_eq!(late.recheck, Some(std::time::Duration::from_secs(60)));
    let plan = plan(&set(1, 540), &[ready], &[], now());
    assert_eq!(plan.status.available_replicas, Some(1));
    assert_eq!(plan.status.observed_generation, Some(3));
}

#[test]
fn a_failure_becomes_a_condition_until_it_is_over() {
    let mut status = plan(&set(1, 0), &[], &[], now()).status;
    set_failure(
        &mut status,
        Some(("FailedCreate", "quota".to_owned())),
        now(),
    );
    let condition = &status.conditions.as_ref().expect("set")[0];
    assert_eq!(condition.type_, "ReplicaFailure");
    assert_eq!(condition.message.as_deref(), Some("quota"));
    set_failure(&mut status, None, now());
    assert_eq!(status.conditions, None);
}
