//! What a DaemonSet does on its nodes, case by case.

use super::{
    backoff::FailedPods,
    nodes::{Placement, Verdict},
    plan::{Steps, View},
    pod::{HASH, pod_for, target, tolerations},
    revision::{self, History},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Node, Pod},
};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};

const NOW: &str = "2025-01-01T00:10:00Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

fn set(change: impl FnOnce(&mut Value)) -> DaemonSet {
    let mut set = json!({
        "metadata": {"name": "ds", "namespace": "default", "uid": "ds-uid", "generation": 3,
            "annotations": {"deprecated.daemonset.template.generation": "2"}},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}},
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        },
    });
    change(&mut set);
    serde_json::from_value(set).expect("a DaemonSet")
}

fn rolling(unavailable: Value, surge: Value) -> DaemonSet {
    set(|set| {
        set["spec"]["updateStrategy"]["rollingUpdate"] =
            json!({"maxUnavailable": unavailable, "maxSurge": surge});
    })
}

fn node(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"number": "7"}}, "spec": {}});
    change(&mut node);
    Arc::new(serde_json::from_value(node).expect("a node"))
}

fn plain(names: &[&str]) -> Vec<Arc<Node>> {
    names.iter().map(|name| node(name, |_| {})).collect()
}

/// A ready pod of the revision `hash` on a node; its name is `node-hash`.
fn pod(node: &str, hash: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let name = format!("{node}-{hash}");
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name,
            "labels": {"app": "x", HASH: hash}, "creationTimestamp": "2025-01-01T00:00:00Z"},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:01:00Z"}]},
    });
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn unready(pod: &mut Value) {
    pod["status"]["conditions"][0]["status"] = "False".into();
}

fn leaving(pod: &mut Value) {
    pod["metadata"]["deletionTimestamp"] = NOW.into();
}

/// `+node` for a creation, `-pod` for a deletion.
fn shown(steps: &Steps) -> Vec<String> {
    let created = steps.create.iter().map(|node| format!("+{node}"));
    let names = steps.delete.iter().map(|pod| pod.metadata.name.clone());
    let deleted = names.map(|name| format!("-{}", name.unwrap_or_default()));
    created.chain(deleted).collect()
}

fn manage(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Vec<String> {
    let view = View::new(set, "new", nodes, pods, now());
    shown(&view.manage(&mut FailedPods::default()))
}

fn update(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Vec<String> {
    shown(&View::new(set, "new", nodes, pods, now()).rolling_update())
}

#[test]
fn a_node_takes_a_pod_by_name_labels_affinity_and_taints() {
    let taint = |key: &'static str, effect: &'static str| {
        node("a", move |node| {
            node["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
        })
    };
    let term = |kind: &'static str,
                key: &'static str,
                operator: &'static str,
                value: &'static str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{kind: [{"key": key, "operator": operator, "values": [value]}]}]}}}})
    };
    let empty_term = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}});
    let a = || node("a", |_| {});
    let rows: Vec<(Value, Arc<Node>, Verdict)> = vec![
        (json!({}), a(), Verdict::Run),
        (json!({"nodeName": "a"}), a(), Verdict::Run),
        (json!({"nodeName": "b"}), a(), Verdict::Leave),
        (json!({"nodeSelector": {"number": "7"}}), a(), Verdict::Run),
        (
            json!({"nodeSelector": {"number": "8"}}),
            a(),
            Verdict::Leave,
        ),
        (
            term("matchExpressions", "number", "Gt", "6"),
            a(),
            Verdict::Run,
        ),
        (
            term("matchExpressions", "number", "Lt", "7"),
            a(),
            Verdict::Leave,
        ),
        (
            term("matchExpressions", "other", "NotIn", "x"),
            a(),
            Verdict::Run,
        ),
        (
            term("matchFields", "metadata.name", "In", "a"),
            a(),
            Verdict::Run,
        ),
        (
            term("matchFields", "metadata.name", "In", "b"),
            a(),
            Verdict::Leave,
        ),
        (empty_term, a(), Verdict::Leave),
        (json!({}), taint("x", "NoSchedule"), Verdict::Stay),
        (json!({}), taint("x", "NoExecute"), Verdict::Leave),
        (json!({}), taint("x", "PreferNoSchedule"), Verdict::Run),
        (
            json!({"tolerations": [{"key": "x", "operator": "Exists"}]}),
            taint("x", "NoExecute"),
            Verdict::Run,
        ),
        (
            json!({}),
            taint("node.kubernetes.io/unschedulable", "NoSchedule"),
            Verdict::Run,
        ),
        (
            json!({}),
            taint("node.kubernetes.io/not-ready", "NoExecute"),
            Verdict::Run,
        ),
        (
            json!({}),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            Verdict::Stay,
        ),
        (
            json!({"hostNetwork": true}),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            Verdict::Run,
        ),
    ];
    for (spec, node, expected) in rows {
        let set = set(|set| {
            for (key, value) in spec.as_object().expect("fields") {
                set["spec"]["template"]["spec"][key] = value.clone();
            }
        });
        assert_eq!(Placement::of(&set).ask(&node), expected, "{spec} {node:?}");
    }
}

#[test]
fn a_pod_is_for_one_node_and_tolerates_what_troubles_it() {
    let set = set(|set| {
        set["spec"]["template"]["spec"]["tolerations"] = json!([
            {"key": "own", "operator": "Exists"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 5},
        ]);
        set["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "number", "operator": "Exists"}]}]}}});
    });
    let pod = pod_for(&set, "a", "abc");
    assert_eq!(target(&pod), Some("a"));
    let labels = pod.metadata.labels.as_ref().expect("labels");
    assert_eq!(labels[HASH], "abc");
    assert_eq!(labels["pod-template-generation"], "2");
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("ds-"));
    let spec = pod.spec.expect("a spec");
    let tolerated: Vec<_> = tolerations(&spec)
        .iter()
        .map(|t| t.key.clone().unwrap_or_default())
        .collect();
    assert_eq!(
        tolerated,
        [
            "own",
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "node.kubernetes.io/disk-pressure",
            "node.kubernetes.io/memory-pressure",
            "node.kubernetes.io/pid-pressure",
            "node.kubernetes.io/unschedulable",
        ]
    );
    let tolerations = spec.tolerations.expect("tolerations");
    assert_eq!(tolerations[1].toleration_seconds, None, "for ever");
}

#[test]
fn each_node_gets_one_pod_and_keeps_the_oldest() {
    let nodes = plain(&["a", "b"]);
    assert_eq!(manage(&set(|_| {}), &nodes, &[]), ["+a", "+b"]);
    let young = pod("a", "young", |pod| {
        pod["metadata"]["creationTimestamp"] = "2025-01-01T00:05:00Z".into();
    });
    let pods = [young, pod("a", "new", |_| {}), pod("b", "new", |_| {})];
    assert_eq!(manage(&set(|_| {}), &nodes, &pods), ["-a-young"]);
    let gone = [pod("a", "new", leaving), pod("b", "new", |_| {})];
    assert_eq!(
        manage(&set(|_| {}), &nodes, &gone),
        [""; 0],
        "who is leaving is waited for"
    );
    let ended = [
        pod("a", "new", |pod| {
            leaving(pod);
            pod["status"]["phase"] = "Failed".into();
        }),
        pod("b", "new", |_| {}),
    ];
    assert_eq!(manage(&set(|_| {}), &nodes, &ended), ["+a"]);
}

#[test]
fn pods_leave_nodes_that_they_are_not_for() {
    let tainted = |effect: &'static str| {
        vec![node("a", move |node| {
            node["spec"]["taints"] = json!([{"key": "x", "effect": effect}]);
        })]
    };
    let pods = [pod("a", "new", |_| {})];
    assert_eq!(
        manage(&set(|_| {}), &tainted("NoExecute"), &pods),
        ["-a-new"]
    );
    assert_eq!(manage(&set(|_| {}), &tainted("NoSchedule"), &pods), [""; 0]);
    let lost = pod("gone", "new", |pod| {
        pod["spec"] =
            serde_json::to_value(pod_for(&set(|_| {}), "gone", "new").spec).expect("json");
    });
    assert_eq!(manage(&set(|_| {}), &[], &[lost]), ["-gone-new"]);
    assert_eq!(
        manage(&set(|_| {}), &[], &pods),
        [""; 0],
        "what ran on a node that is gone is collected elsewhere"
    );
}

#[test]
fn a_failed_pod_is_replaced_ever_more_slowly() {
    let failed = [pod("a", "new", |pod| {
        pod["status"]["phase"] = "Failed".into()
    })];
    let (set, nodes) = (set(|_| {}), plain(&["a"]));
    let mut backoff = FailedPods::default();
    let mut at = |seconds: i64| {
        let now = Timestamp::from_second(now().as_second() + seconds).expect("a time");
        let steps = View::new(&set, "new", &nodes, &failed, now).manage(&mut backoff);
        assert_eq!(steps.events.len(), steps.delete.len());
        (steps.delete.len(), steps.recheck.map(|left| left.as_secs()))
    };
    assert_eq!(at(0), (1, None));
    assert_eq!(at(0), (0, Some(1)));
    assert_eq!(at(1), (1, None));
    assert_eq!(at(2), (0, Some(1)));
    assert_eq!(at(3), (1, None));
    assert_eq!(at(4), (0, Some(3)));
    assert_eq!(at(3 * 3600), (1, None), "it is forgotten after a while");
    assert_eq!(at(3 * 3600 + 1), (1, None));
    let steps = View::new(&set, "new", &nodes, &failed, now()).manage(&mut FailedPods::default());
    assert_eq!(
        steps.events[0].2,
        "Found failed daemon pod default/a-new on node a, will try to kill it"
    );
}

#[test]
fn an_update_takes_as_many_as_may_be_missing() {
    let nodes = plain(&["a", "b", "c", "d"]);
    let old: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|node| pod(node, "old", |_| {}))
        .collect();
    let with = |set: &DaemonSet, change: &dyn Fn(&mut Vec<Arc<Pod>>)| {
        let mut pods = old.clone();
        change(&mut pods);
        update(set, &nodes, &pods)
    };
    let one = rolling(json!(1), json!(0));
    let half = rolling(json!("50%"), json!(0));
    assert_eq!(with(&one, &|_| {}), ["-a-old"]);
    assert_eq!(with(&half, &|_| {}), ["-a-old", "-b-old"]);
    // A node without a pod counts as missing.
    assert_eq!(with(&one, &|pods| drop(pods.remove(0))), [""; 0]);
    assert_eq!(with(&half, &|pods| drop(pods.remove(0))), ["-b-old"]);
    // So does one whose new pod isn't ready, and one whose old pod is leaving.
    let coming = |pods: &mut Vec<Arc<Pod>>| pods[0] = pod("a", "new", unready);
    assert_eq!(with(&one, &coming), [""; 0]);
    assert_eq!(
        with(&one, &|pods| pods[0] = pod("a", "old", leaving)),
        [""; 0]
    );
    assert_eq!(
        with(&one, &|pods| pods[0] = pod("a", "new", |_| {})),
        ["-b-old"]
    );
    // An old pod that serves nobody may always go.
    assert_eq!(
        with(&one, &|pods| pods[2] = pod("c", "old", unready)),
        ["-c-old"]
    );
    let by_hand = set(|set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    assert_eq!(with(&by_hand, &|_| {}), [""; 0]);
}

#[test]
fn with_surge_new_pods_come_first() {
    let nodes = plain(&["a", "b"]);
    let surge = rolling(json!(0), json!(1));
    let old = [pod("a", "old", |_| {}), pod("b", "old", |_| {})];
    assert_eq!(manage(&surge, &nodes, &old), [""; 0]);
    assert_eq!(update(&surge, &nodes, &old), ["+a"]);
    let mut coming = old.to_vec();
    coming.push(pod("a", "new", unready));
    assert_eq!(manage(&surge, &nodes, &coming), [""; 0]);
    assert_eq!(update(&surge, &nodes, &coming), [""; 0]);
    let mut there = old.to_vec();
    there.push(pod("a", "new", |_| {}));
    assert_eq!(manage(&surge, &nodes, &there), ["-a-old"]);
    let after = [old[1].clone(), there[2].clone()];
    assert_eq!(update(&surge, &nodes, &after), ["+b"]);
    // An old pod that isn't ready needs no room, and makes none.
    let broken = [pod("a", "old", unready), pod("b", "old", |_| {})];
    assert_eq!(update(&surge, &nodes, &broken), ["+a", "+b"]);
    let both_broken = [pod("a", "old", unready), pod("a", "new", unready)];
    assert_eq!(manage(&surge, &plain(&["a"]), &both_broken), ["-a-old"]);
}

#[test]
fn the_status_counts_nodes() {
    let set = set(|set| {
        set["spec"]["minReadySeconds"] = 600.into();
        set["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0, "observedGeneration": 2});
    });
    let mut nodes = plain(&["a", "b", "c"]);
    nodes.push(node("d", |node| {
        node["spec"]["taints"] = json!([{"key": "x", "effect": "NoSchedule"}]);
    }));
    let pods = [
        pod("a", "new", |_| {}),
        pod("b", "old", unready),
        pod("d", "new", |_| {}),
    ];
    let view = View::new(&set, "new", &nodes, &pods, now());
    let status = view.status(set.metadata.generation);
    let counted = (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_misscheduled,
        status.number_ready,
        status.updated_number_scheduled,
        status.number_available,
        status.number_unavailable,
    );
    // Ready for nine minutes of the ten that make a pod available.
    assert_eq!(counted, (3, 2, 1, 1, Some(1), Some(0), Some(3)));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(view.recheck(), Some(Duration::from_secs(60)));
    assert_eq!(view.status(None).observed_generation, Some(2));
}

#[test]
fn revisions_are_numbered_and_forgotten_in_order() {
    let revision = |image: &str, number| {
        let set = set(|set| {
            set["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": image}]);
        });
        (set.clone(), Arc::new(revision::new(&set, number)))
    };
    let (_, one) = revision("one", 1);
    let (set, two) = revision("two", 2);
    let (_, three) = revision("three", 3);
    assert_ne!(one.metadata.name, two.metadata.name);
    let patch = &two.data.as_ref().expect("data").0;
    assert_eq!(patch["spec"]["template"]["$patch"], "replace");
    let hash = |r: &ControllerRevision| revision::hash_of(r).to_owned();
    assert_eq!(
        two.metadata.name.as_deref(),
        Some(format!("ds-{}", hash(&two)).as_str())
    );
    let history = History::of(&set, vec![three.clone(), one.clone(), two.clone()]);
    assert_eq!(history.current, std::slice::from_ref(&two));
    assert_eq!(history.number(), 4, "a rollback makes it the newest");
    let (nobody, first) = (HashSet::new(), hash(&one));
    let names = |limit, alive: &HashSet<&str>| {
        let gone = history.to_forget(limit, alive);
        gone.iter().map(|r| r.revision).collect::<Vec<_>>()
    };
    assert_eq!(names(10, &nobody), [0; 0]);
    assert_eq!(names(1, &nobody), [1]);
    assert_eq!(names(0, &nobody), [1, 3]);
    assert_eq!(names(1, &HashSet::from([first.as_str()])), [3]);
    // The same template, after a collision, has another name.
    let mut collided = set.clone();
    collided.status.get_or_insert_default().collision_count = Some(1);
    assert_ne!(revision::new(&collided, 1).metadata.name, two.metadata.name);
    assert!(revision::is_current(&collided, &two));
}
