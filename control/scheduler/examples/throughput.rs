//! How fast pods are placed: `decide` alone on 5,000 nodes, for plain pods, pods of one owner, and
//! pods with spread constraints or anti-affinity. Prints one line per kind.
//!
//! `cargo run --release -p kernelet-scheduler --example throughput -- [nodes] [pods]`

use k8s_openapi::api::core::v1::{Node, Pod};
use kernelet_scheduler::{PodInfo, Snapshot, decide};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok());
    let nodes: usize = arguments.next().unwrap_or(5000);
    let pods: usize = arguments.next().unwrap_or(10_000);
    println!("{nodes} nodes, {pods} pods of each kind");
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs",
        "controller": true}]);
    let selector = json!({"matchLabels": {"app": "x"}});
    let cases: [(&str, Value, Value); 4] = [
        ("plain", json!({}), json!({})),
        (
            "replicas of one owner",
            json!({"ownerReferences": owner}),
            json!({}),
        ),
        (
            "spread over zones and hosts",
            json!({}),
            json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
                {"maxSkew": 2, "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector},
            ]}),
        ),
        (
            "preferred anti-affinity",
            json!({}),
            json!({"affinity": {"podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
                    "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                        "labelSelector": selector}}]}}}),
        ),
    ];
    for (name, metadata, spec) in cases {
        let mut snapshot = cluster(nodes);
        let infos: Vec<_> = (0..pods).map(|n| pod(n, &metadata, &spec)).collect();
        let begun = Instant::now();
        for info in infos {
            match decide(&snapshot, &info) {
                Ok(node) => snapshot.place(info, &node.0),
                Err(why) => {
                    println!("{name}: {why}");
                    break;
                }
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let rate = pods as f64 / seconds;
        println!("{name}: {rate:.0} pods/s ({:.0} µs each)", 1e6 / rate);
    }
}

fn cluster(nodes: usize) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for number in 0..nodes {
        let node = json!({
            "metadata": {"name": format!("node-{number}"), "labels": {
                "kubernetes.io/hostname": format!("node-{number}"),
                "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            }},
            "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}},
        });
        let node: Node = serde_json::from_value(node).expect("a node");
        snapshot.set_node(&node);
    }
    snapshot
}

fn pod(number: usize, metadata: &Value, spec: &Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "default",
            "uid": format!("uid-{number}"), "labels": {"app": "x"}},
        "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
    });
    for (part, over) in [("metadata", metadata), ("spec", spec)] {
        for (key, value) in over.as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(&pod))
}
