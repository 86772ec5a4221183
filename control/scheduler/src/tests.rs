//! What `decide` answers, case by case; the wording is upstream's.

use crate::{Budget, ClusterEvent, PodInfo, Preemption, Snapshot, decide, preempt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn node(name: &str, over: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, over);
    serde_json::from_value(node).expect("a node")
}

fn pod(name: &str, over: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    });
    merge(&mut pod, over);
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(&pod))
}

fn cluster(nodes: &[Node]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for node in nodes {
        snapshot.set_node(node);
    }
    let default = json!({"metadata": {"name": "default", "labels": {"team": "a"}}});
    let default: Namespace = serde_json::from_value(default).expect("a namespace");
    snapshot.set_namespace(&default);
    snapshot
}

fn needs(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn labelled(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

#[track_caller]
fn goes_to(snapshot: &Snapshot, pod: &PodInfo, expected: &str) {
    match decide(snapshot, pod) {
        Ok(node) => assert_eq!(&*node.0, expected),
        Err(why) => panic!("refused: {why}"),
    }
}

#[track_caller]
fn refused(snapshot: &Snapshot, pod: &PodInfo, expected: &str) {
    match decide(snapshot, pod) {
        Ok(node) => panic!("placed on {node}"),
        Err(why) => assert_eq!(why.to_string(), expected),
    }
}

fn tainted(key: &str, effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": key, "value": "v", "effect": effect}]}})
}

#[test]
fn without_nodes_it_says_so() {
    refused(
        &cluster(&[]),
        &pod("p", json!({})),
        "no nodes available to schedule pods",
    );
}

#[test]
fn every_nodes_reason_is_counted_in_upstreams_words() {
    let nodes = [
        node("a", json!({})),
        node("b", tainted("key", "NoSchedule")),
        node("c", tainted("other", "NoExecute")),
    ];
    refused(
        &cluster(&nodes),
        &pod("p", needs("5")),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). \
         no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn a_full_node_is_not_hopeless_but_has_no_victims() {
    let mut snapshot = cluster(&[node("a", json!({"status": {"allocatable": {"pods": "1"}}}))]);
    snapshot.place(pod("first", needs("3500m")), "a");
    refused(
        &snapshot,
        &pod("p", needs("1")),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    snapshot.remove_pod("first");
    goes_to(&snapshot, &pod("p", needs("1")), "a");
}

#[test]
fn a_pod_that_never_preempts_says_so() {
    let snapshot = cluster(&[node("a", json!({}))]);
    let over = json!({"spec": {"preemptionPolicy": "Never", "nodeSelector": {"disk": "ssd"}}});
    refused(
        &snapshot,
        &pod("p", over),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
         no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn an_extended_resource_is_counted_by_its_name() {
    let gpu = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]}});
    let one = node(
        "a",
        json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
    );
    refused(
        &cluster(&[one]),
        &pod("p", gpu.clone()),
        "0/1 nodes are available: 1 Insufficient example.com/gpu. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let three = node(
        "a",
        json!({"status": {"allocatable": {"example.com/gpu": "3"}}}),
    );
    goes_to(&cluster(&[three]), &pod("p", gpu), "a");
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    let snapshot = cluster(&[node("a", json!({"spec": {"unschedulable": true}}))]);
    refused(
        &snapshot,
        &pod("p", json!({})),
        "0/1 nodes are available: 1 node(s) were unschedulable. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let daemon = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}});
    goes_to(&snapshot, &pod("p", daemon), "a");
}

#[test]
fn tolerations_follow_effect_key_and_value() {
    let snapshot = cluster(&[node("a", tainted("k", "NoSchedule"))]);
    for (toleration, fits) in [
        (json!({"key": "k", "value": "v"}), true),
        (
            json!({"key": "k", "operator": "Equal", "value": "w"}),
            false,
        ),
        (
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
            false,
        ),
        (json!({"key": "other", "operator": "Exists"}), false),
        (json!({"operator": "Exists"}), true),
    ] {
        let over = json!({"spec": {"tolerations": [toleration]}});
        let decision = decide(&snapshot, &pod("p", over));
        assert_eq!(decision.is_ok(), fits, "{toleration}");
    }
}

#[test]
fn a_soft_taint_is_avoided_but_not_forbidden() {
    let soft = node("soft", tainted("k", "PreferNoSchedule"));
    goes_to(
        &cluster(&[soft.clone(), node("b", json!({}))]),
        &pod("p", json!({})),
        "b",
    );
    goes_to(&cluster(&[soft]), &pod("p", json!({})), "soft");
}

fn node_terms(terms: Value) -> Value {
    json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}})
}

#[test]
fn node_affinity_terms_are_alternatives_of_conjunctions() {
    let zone = |name: &str, zone: &str, size: &str| {
        node(name, labelled(json!({"zone": zone, "size": size})))
    };
    let snapshot = cluster(&[zone("a", "x", "1"), zone("b", "y", "5")]);
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (terms, expected) in [
        (json!([expression("zone", "In", json!(["y"]))]), Some("b")),
        (
            json!([expression("zone", "NotIn", json!(["y"]))]),
            Some("a"),
        ),
        (json!([expression("size", "Gt", json!(["3"]))]), Some("b")),
        (json!([expression("size", "Lt", json!(["3"]))]), Some("a")),
        (json!([expression("none", "Exists", json!([]))]), None),
        (json!([{}]), None),
        (
            json!([{}, expression("zone", "In", json!(["x"]))]),
            Some("a"),
        ),
        (
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]),
            Some("b"),
        ),
    ] {
        let decision = decide(&snapshot, &pod("p", node_terms(terms.clone())));
        let decision = decision.ok().map(|node| node.0.to_string());
        assert_eq!(decision.as_deref(), expected, "{terms}");
    }
}

#[test]
fn preferred_node_affinity_ranks() {
    let snapshot = cluster(&[
        node("a", json!({})),
        node("b", labelled(json!({"disk": "ssd"}))),
    ]);
    let over = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}});
    goes_to(&snapshot, &pod("p", over), "b");
}

#[test]
fn host_ports_conflict_by_address_protocol_and_port() {
    let port = |ip: &str, protocol: &str, port: i32| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let mut snapshot = cluster(&[node("a", json!({}))]);
    snapshot.place(pod("first", port("10.0.0.1", "TCP", 80)), "a");
    for (over, fits) in [
        (port("10.0.0.1", "TCP", 80), false),
        (port("", "TCP", 80), false),
        (port("10.0.0.2", "TCP", 80), true),
        (port("10.0.0.1", "UDP", 80), true),
        (port("10.0.0.1", "TCP", 81), true),
    ] {
        assert_eq!(
            decide(&snapshot, &pod("p", over.clone())).is_ok(),
            fits,
            "{over}"
        );
    }
    refused(
        &snapshot,
        &pod("p", port("0.0.0.0", "TCP", 80)),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
}

#[test]
fn the_emptiest_node_is_preferred() {
    let mut snapshot = cluster(&[
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({})),
    ]);
    snapshot.place(pod("1", needs("2")), "a");
    snapshot.place(pod("2", needs("1")), "c");
    goes_to(&snapshot, &pod("p", json!({})), "b");
}

#[test]
fn replicas_of_one_owner_spread_over_nodes() {
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]}});
    let names = ["a", "b", "c", "d"];
    let mut snapshot = cluster(&names.map(|name| node(name, json!({}))));
    // The emptiest node by resources would be "d" each time.
    for (at, name) in ["a", "b", "c"].iter().enumerate() {
        snapshot.place(pod(&format!("other{at}"), needs("200m")), name);
    }
    for at in 0..4 {
        let pod = pod(&format!("p{at}"), owned.clone());
        let node = decide(&snapshot, &pod).expect("all nodes have room");
        snapshot.place(pod, &node.0);
    }
    for name in names {
        let owned_here = (0..4).filter(|at| snapshot.node_of(&format!("p{at}")) == Some(name));
        assert_eq!(owned_here.count(), 1, "on {name}");
    }
}

#[test]
fn replicas_of_one_owner_spread_over_zones_also_when_a_node_moves() {
    let zone =
        |name: &str, zone: &str| node(name, labelled(json!({"topology.kubernetes.io/zone": zone})));
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]}});
    let mut snapshot = cluster(&[zone("a", "x"), zone("b", "x"), zone("c", "y")]);
    snapshot.place(pod("1", owned.clone()), "a");
    goes_to(&snapshot, &pod("p", owned.clone()), "c");
    // Now "a" is in y, and so is its pod: "b" is alone in x.
    snapshot.set_node(&zone("a", "y"));
    goes_to(&snapshot, &pod("p", owned.clone()), "b");
    snapshot.remove_pod("1");
    snapshot.remove_node("a");
    assert!(decide(&snapshot, &pod("p", owned)).is_ok());
}

fn spread(when: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
         "labelSelector": {"matchLabels": {"app": "x"}}}]}})
}

#[test]
fn a_required_spread_keeps_domains_level() {
    let zone = |name: &str, zone: &str| node(name, labelled(json!({"zone": zone})));
    let mut snapshot = cluster(&[zone("a", "x"), zone("b", "y"), node("c", json!({}))]);
    let labels = labelled(json!({"app": "x"}));
    snapshot.place(pod("1", labels.clone()), "a");
    goes_to(&snapshot, &pod("p", spread("DoNotSchedule")), "b");
    snapshot.set_node(&node(
        "b",
        json!({"metadata": {"labels": {"zone": "y"}}, "spec": {"unschedulable": true}}),
    ));
    // Zone y still counts as a domain, so x may not get a second one.
    refused(
        &snapshot,
        &pod("p", spread("DoNotSchedule")),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
         1 node(s) didn't match pod topology spread constraints (missing required label), \
         1 node(s) were unschedulable. \
         no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn a_preferred_spread_ranks_domains() {
    let zone = |name: &str, zone: &str| node(name, labelled(json!({"zone": zone})));
    let mut snapshot = cluster(&[zone("a", "x"), zone("b", "x"), zone("c", "y")]);
    let labels = labelled(json!({"app": "x"}));
    snapshot.place(pod("1", labels.clone()), "a");
    snapshot.place(pod("2", needs("1")), "c");
    goes_to(&snapshot, &pod("p", spread("ScheduleAnyway")), "c");
}

fn pod_terms(kind: &str, term: Value) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"affinity": {
        kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn hosts_of(labels: Value) -> Value {
    json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}})
}

#[test]
fn pod_affinity_follows_and_may_begin_with_itself() {
    let mut snapshot = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let near_db = pod_terms("podAffinity", hosts_of(json!({"app": "db"})));
    refused(
        &snapshot,
        &pod("p", near_db.clone()),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. \
         no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    let near_itself = pod_terms("podAffinity", hosts_of(json!({"app": "x"})));
    assert!(decide(&snapshot, &pod("p", near_itself)).is_ok());
    snapshot.place(pod("db", labelled(json!({"app": "db"}))), "b");
    goes_to(&snapshot, &pod("p", near_db.clone()), "b");
    let mut elsewhere = near_db;
    merge(&mut elsewhere, json!({"metadata": {"namespace": "other"}}));
    assert!(decide(&snapshot, &pod("p", elsewhere)).is_err());
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let alone = pod_terms("podAntiAffinity", hosts_of(json!({"app": "x"})));
    let mut snapshot = cluster(&[node("a", json!({}))]);
    snapshot.place(pod("1", alone.clone()), "a");
    refused(
        &snapshot,
        &pod("p", alone),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    refused(
        &snapshot,
        &pod("p", labelled(json!({"app": "x"}))),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. \
         no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    snapshot.remove_pod("1");
    assert!(decide(&snapshot, &pod("p", labelled(json!({"app": "x"})))).is_ok());
}

#[test]
fn a_term_reaches_other_namespaces_by_their_labels() {
    let mut term = hosts_of(json!({"app": "x"}));
    merge(
        &mut term,
        json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}),
    );
    let mut seeks = pod_terms("podAffinity", term);
    merge(
        &mut seeks,
        json!({"metadata": {"namespace": "other", "labels": {"app": "y"}}}),
    );
    let mut snapshot = cluster(&[node("a", json!({})), node("b", json!({}))]);
    snapshot.place(pod("1", labelled(json!({"app": "x"}))), "b");
    goes_to(&snapshot, &pod("p", seeks), "b");
}

fn important(priority: i32, cpu: &str) -> Value {
    json!({"spec": {"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn victims(snapshot: &mut Snapshot, pod: &PodInfo, budgets: &[Budget]) -> (String, Vec<String>) {
    let before = snapshot.pod_count();
    let plan = preempt(snapshot, pod, budgets).expect("there is somebody to leave");
    assert_eq!(snapshot.pod_count(), before, "trying changes nothing");
    let mut names: Vec<_> = plan
        .victims
        .iter()
        .map(|v| v.key.name.to_string())
        .collect();
    names.sort();
    (plan.node.to_string(), names)
}

#[test]
fn as_few_and_as_unimportant_pods_as_possible_make_room() {
    let mut snapshot = cluster(&[node("a", json!({})), node("b", json!({}))]);
    for (name, priority, cpu, at) in [
        ("a-low", 1, "1", "a"),
        ("a-lower", 0, "1", "a"),
        ("a-high", 5, "2", "a"),
        ("b-mid", 3, "3", "b"),
        ("b-high", 9, "1", "b"),
    ] {
        snapshot.place(pod(name, important(priority, cpu)), at);
    }
    let wants = |priority, cpu| pod("p", important(priority, cpu));
    let made = victims(&mut snapshot, &wants(7, "1"), &[]);
    assert_eq!(made, ("a".to_owned(), vec!["a-lower".to_owned()]));
    let made = victims(&mut snapshot, &wants(7, "2"), &[]);
    assert_eq!(
        made,
        (
            "a".to_owned(),
            vec!["a-low".to_owned(), "a-lower".to_owned()]
        )
    );
    let made = victims(&mut snapshot, &wants(7, "3"), &[]);
    assert_eq!(
        made,
        ("b".to_owned(), vec!["b-mid".to_owned()]),
        "3 is less than 5"
    );
    let mut refusal = |priority| {
        let wants = wants(priority, "4");
        let outcome = preempt(&mut snapshot, &wants, &[]).expect_err("too important pods stay");
        let mut refused = decide(&snapshot, &wants).expect_err("nobody has room");
        refused.preemption = outcome;
        refused.to_string()
    };
    assert_eq!(
        refusal(4),
        "0/2 nodes are available: 2 Insufficient cpu. \
         no new claims to deallocate, preemption: 0/2 nodes are available: 2 Insufficient cpu."
    );
    assert_eq!(
        refusal(1),
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: \
         1 Insufficient cpu, 1 No preemption victims found for incoming pod."
    );
}

#[test]
fn a_budget_that_allows_nothing_is_broken_last() {
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    }))
    .expect("a budget");
    let budgets = [Budget::new(&budget)];
    let mut snapshot = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let mut protected = important(0, "4");
    merge(&mut protected, labelled(json!({"app": "x"})));
    snapshot.place(pod("protected", protected), "a");
    snapshot.place(pod("dearer", important(3, "4")), "b");
    let wants = pod("p", important(7, "1"));
    assert_eq!(victims(&mut snapshot, &wants, &[]).0, "a");
    assert_eq!(victims(&mut snapshot, &wants, &budgets).0, "b");
}

#[test]
fn room_that_was_made_is_kept_from_pods_of_no_higher_priority() {
    let mut snapshot = cluster(&[node("a", json!({}))]);
    snapshot.nominate(pod("first", important(5, "3")), "a");
    assert!(decide(&snapshot, &pod("p", important(5, "2"))).is_err());
    goes_to(&snapshot, &pod("p", important(6, "2")), "a");
    goes_to(&snapshot, &pod("first", important(5, "3")), "a");
    snapshot.forget_nomination("first");
    goes_to(&snapshot, &pod("p", important(5, "2")), "a");
}

#[test]
fn nobody_is_asked_twice_while_victims_are_leaving() {
    let mut snapshot = cluster(&[node("a", json!({}))]);
    let mut leaving = important(0, "4");
    merge(
        &mut leaving,
        json!({"metadata": {"deletionTimestamp": "2025-01-01T00:00:00Z"}}),
    );
    snapshot.place(pod("victim", leaving), "a");
    let wants = pod("p", important(7, "1"));
    snapshot.nominate(wants.clone(), "a");
    let outcome = preempt(&mut snapshot, &wants, &[]).expect_err("it is on its way");
    assert!(matches!(outcome, Preemption::NotEligible(why) if why.contains("terminating pod")));
}

#[test]
fn events_wake_only_pods_they_may_help() {
    let snapshot = cluster(&[node("a", json!({}))]);
    let too_big = decide(&snapshot, &pod("p", needs("5"))).expect_err("too big");
    assert!(too_big.may_be_cured_by(ClusterEvent::PodGone));
    assert!(too_big.may_be_cured_by(ClusterEvent::NodeChanged));
    assert!(!too_big.may_be_cured_by(ClusterEvent::PodPlaced));
    let unlabelled = json!({"spec": {"nodeSelector": {"x": "y"}}});
    let unmatched = decide(&snapshot, &pod("p", unlabelled)).expect_err("no such label");
    assert!(!unmatched.may_be_cured_by(ClusterEvent::PodGone));
}

proptest::proptest! {
    /// The sums that are kept as pods come and go equal those computed from scratch, so no node is
    /// ever given more than it has.
    #[test]
    fn no_node_is_ever_overcommitted(steps in proptest::collection::vec((0_u8..4, 1_u32..2500), 1..120)) {
        let mut snapshot = cluster(&["a", "b", "c"].map(|name| node(name, json!({}))));
        let mut placed: Vec<(String, u32, String)> = Vec::new();
        for (at, (kind, cpu)) in steps.into_iter().enumerate() {
            if kind == 0 && !placed.is_empty() {
                let (uid, ..) = placed.swap_remove(at % placed.len());
                snapshot.remove_pod(&uid);
                continue;
            }
            let uid = format!("p{at}");
            let wanted = pod(&uid, needs(&format!("{cpu}m")));
            let used = |placed: &[(String, u32, String)], name: &str| {
                placed.iter().filter(|(.., node)| node == name).map(|(_, cpu, _)| cpu).sum::<u32>()
            };
            match decide(&snapshot, &wanted) {
                Ok(chosen) => {
                    snapshot.place(wanted, &chosen.0);
                    placed.push((uid, cpu, chosen.to_string()));
                    proptest::prop_assert!(used(&placed, &chosen.0) <= 4000);
                }
                Err(_) => for name in ["a", "b", "c"] {
                    proptest::prop_assert!(used(&placed, name) + cpu > 4000);
                },
            }
        }
    }
}
