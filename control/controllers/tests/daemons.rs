//! DaemonSets, their revisions, and ReplicationControllers, on a real server.

mod common;

use common::{Cluster, Kubectl, wait_for};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Event, Node, Pod, ReplicationController},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn daemons(change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({
        "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]},
            },
        },
    });
    change(&mut set);
    set
}

/// The pods' nodes and images.
async fn placed(cluster: &Cluster) -> BTreeMap<String, String> {
    let pods = cluster.api::<Pod>().list(&ListParams::default()).await;
    let on = |pod: Pod| {
        let spec = pod.spec?;
        let image = spec.containers[0].image.clone()?;
        Some((spec.node_name?, image))
    };
    pods.unwrap().items.into_iter().filter_map(on).collect()
}

fn on(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(node, image): &(&str, &str)| ((*node).to_owned(), (*image).to_owned());
    pairs.iter().map(owned).collect()
}

async fn become_placed(cluster: &Cluster, expected: &[(&str, &str)]) {
    let expected = on(expected);
    wait_for(&format!("{expected:?}"), || async {
        (placed(cluster).await == expected).then_some(())
    })
    .await;
}

/// The status when it says that all of `nodes` have a new, available pod.
async fn complete(cluster: &Cluster, nodes: i32, generation: i64) -> DaemonSet {
    let api = cluster.api::<DaemonSet>();
    wait_for("the rollout to be complete", || async {
        let set = api.get("d").await.ok()?;
        let status = set.status.clone()?;
        (status.observed_generation? >= generation
            && status.desired_number_scheduled == nodes
            && status.current_number_scheduled == nodes
            && status.number_ready == nodes
            && status.updated_number_scheduled.unwrap_or(0) == nodes
            && status.number_available.unwrap_or(0) == nodes
            && status.number_unavailable.unwrap_or(0) == 0)
            .then_some(set)
    })
    .await
}

async fn change(cluster: &Cluster, patch: Value) {
    cluster
        .api::<DaemonSet>()
        .patch("d", &PatchParams::default(), &Patch::Strategic(&patch))
        .await
        .unwrap();
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn patch_node(cluster: &Cluster, name: &str, patch: Value) {
    let nodes: Api<Node> = Api::all(cluster.admin.clone());
    nodes
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_that_fits_has_a_pod_as_nodes_come_change_and_go() {
    let cluster = Cluster::start().await;
    cluster.kubelet("none");
    cluster.node("a").await;
    cluster.node("b").await;
    let made = cluster.create::<DaemonSet>(daemons(|_| {})).await;
    assert_eq!(
        made.annotations()["deprecated.daemonset.template.generation"],
        "1"
    );
    become_placed(&cluster, &[("a", "one"), ("b", "one")]).await;
    complete(&cluster, 2, 1).await;
    let pods = cluster.api::<Pod>();
    let pod = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!(pod.labels()["pod-template-generation"], "1");
    assert!(pod.labels().contains_key("controller-revision-hash"));
    cluster.node("c").await;
    become_placed(&cluster, &[("a", "one"), ("b", "one"), ("c", "one")]).await;
    // A cordoned node keeps its pod and would get another.
    patch_node(&cluster, "a", json!({"spec": {"unschedulable": true}})).await;
    let on_a = pods
        .list(&ListParams::default().fields("spec.nodeName=a"))
        .await
        .unwrap();
    let name = on_a.items[0].name_any();
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
    wait_for("another pod", || async {
        let list = pods
            .list(&ListParams::default().fields("spec.nodeName=a"))
            .await
            .ok()?;
        list.items.iter().find(|p| p.name_any() != name).cloned()
    })
    .await;
    // One that it doesn't tolerate drives it away, and lets it back.
    let taint = json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}});
    patch_node(&cluster, "b", taint).await;
    become_placed(&cluster, &[("a", "one"), ("c", "one")]).await;
    complete(&cluster, 2, 1).await;
    patch_node(&cluster, "b", json!({"spec": {"taints": null}})).await;
    become_placed(&cluster, &[("a", "one"), ("b", "one"), ("c", "one")]).await;
    // Fewer nodes are meant.
    patch_node(
        &cluster,
        "c",
        json!({"metadata": {"labels": {"disk": "ssd"}}}),
    )
    .await;
    let only = json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}});
    change(&cluster, only).await;
    become_placed(&cluster, &[("c", "one")]).await;
    complete(&cluster, 1, 2).await;
    let set = cluster.api::<DaemonSet>().get("d").await.unwrap();
    assert_eq!(
        set.annotations()["deprecated.daemonset.template.generation"],
        "2"
    );
    // A node that is gone is not counted; what is left of its pod is collected elsewhere, after a while.
    let nodes: Api<Node> = Api::all(cluster.admin.clone());
    nodes.delete("c", &DeleteParams::default()).await.unwrap();
    complete(&cluster, 0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_rolls_stops_at_broken_pods_and_is_undone() {
    let cluster = Cluster::start().await;
    cluster.kubelet("none");
    for node in ["a", "b", "c"] {
        cluster.node(node).await;
    }
    cluster.create::<DaemonSet>(daemons(|_| {})).await;
    complete(&cluster, 3, 1).await;
    change(&cluster, image("two")).await;
    become_placed(&cluster, &[("a", "two"), ("b", "two"), ("c", "two")]).await;
    complete(&cluster, 3, 2).await;
    change(&cluster, image("broken")).await;
    wait_for("one node to be broken", || async {
        let broken = |all: &BTreeMap<_, String>| all.values().filter(|i| *i == "broken").count();
        let placed = placed(&cluster).await;
        (placed.len() == 3 && broken(&placed) == 1).then_some(())
    })
    .await;
    let api = cluster.api::<DaemonSet>();
    wait_for("the status to tell", || async {
        let status = api.get("d").await.ok()?.status?;
        (status.number_unavailable == Some(1) && status.updated_number_scheduled == Some(1))
            .then_some(())
    })
    .await;
    let revisions = cluster.api::<ControllerRevision>();
    let numbers = || async {
        let all = revisions.list(&ListParams::default()).await.unwrap();
        all.items
            .iter()
            .map(|r| r.revision)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(numbers().await, BTreeSet::from([1, 2, 3]));
    // What `kubectl rollout undo` sends: a revision's own data.
    let all = revisions.list(&ListParams::default()).await.unwrap();
    let second = all.items.iter().find(|r| r.revision == 2).unwrap();
    change(&cluster, second.data.as_ref().unwrap().0.clone()).await;
    become_placed(&cluster, &[("a", "two"), ("b", "two"), ("c", "two")]).await;
    complete(&cluster, 3, 4).await;
    assert_eq!(
        numbers().await,
        BTreeSet::from([1, 3, 4]),
        "the second is the newest again"
    );
    // Old revisions are kept as long as wanted.
    change(&cluster, json!({"spec": {"revisionHistoryLimit": 0}})).await;
    wait_for("the history to be short", || async {
        (numbers().await == BTreeSet::from([4])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surge_starts_the_new_pod_first_and_by_hand_nothing_moves() {
    let cluster = Cluster::start().await;
    cluster.kubelet("none");
    cluster.node("a").await;
    cluster.node("b").await;
    let surge =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let set = daemons(|set| set["spec"]["updateStrategy"] = surge);
    cluster.create::<DaemonSet>(set).await;
    complete(&cluster, 2, 1).await;
    change(&cluster, image("broken")).await;
    let pods = cluster.api::<Pod>();
    let images = || async {
        let all = pods.list(&ListParams::default()).await.unwrap();
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone();
        let mut images: Vec<_> = all.items.iter().filter_map(image).collect();
        images.sort();
        images
    };
    wait_for("a third pod", || async {
        (images().await == ["broken", "one", "one"]).then_some(())
    })
    .await;
    change(&cluster, image("two")).await;
    wait_for("the update", || async {
        (images().await == ["two", "two"]).then_some(())
    })
    .await;
    complete(&cluster, 2, 3).await;
    let by_hand = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    change(&cluster, by_hand).await;
    change(&cluster, image("three")).await;
    let api = cluster.api::<DaemonSet>();
    wait_for("the change to be seen", || async {
        let status = api.get("d").await.ok()?.status?;
        (status.observed_generation >= Some(5) && status.updated_number_scheduled.unwrap_or(0) == 0)
            .then_some(())
    })
    .await;
    assert_eq!(images().await, ["two", "two"]);
    let first = pods.list(&ListParams::default()).await.unwrap();
    let name = first.items[0].name_any();
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
    wait_for("the deleted one's successor", || async {
        (images().await == ["three", "two"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_daemons_are_replaced_orphans_adopted_and_all_are_collected() {
    let cluster = Cluster::start().await;
    cluster.kubelet("none");
    cluster.node("a").await;
    cluster.create::<DaemonSet>(daemons(|_| {})).await;
    complete(&cluster, 1, 1).await;
    let pods = cluster.api::<Pod>();
    let first = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    pods.patch_status(
        &first.name_any(),
        &PatchParams::default(),
        &Patch::Merge(&failed),
    )
    .await
    .unwrap();
    let second = wait_for("another pod", || async {
        let all = pods.list(&ListParams::default()).await.ok()?;
        let mut others = all.items.into_iter();
        others.find(|pod| pod.uid() != first.uid())
    })
    .await;
    let events = cluster.api::<Event>();
    wait_for("the event", || async {
        let all = events.list(&ListParams::default()).await.ok()?;
        all.items
            .into_iter()
            .find(|event| event.reason.as_deref() == Some("FailedDaemonPod"))
    })
    .await;
    complete(&cluster, 1, 1).await;
    // Left alone, pod and revision are taken over by the next of the kind.
    let api = cluster.api::<DaemonSet>();
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    api.delete("d", &orphan).await.unwrap();
    wait_for("the set to go", || async { api.get("d").await.err() }).await;
    assert_eq!(
        pods.get(&second.name_any()).await.unwrap().uid(),
        second.uid()
    );
    cluster.create::<DaemonSet>(daemons(|_| {})).await;
    let again = complete(&cluster, 1, 1).await;
    let adopted = pods.get(&second.name_any()).await.unwrap();
    assert_eq!(adopted.owner_references()[0].uid, again.uid().unwrap());
    let revisions = cluster.api::<ControllerRevision>();
    let all = revisions.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 1);
    assert_eq!(all.items[0].owner_references()[0].uid, again.uid().unwrap());
    api.delete("d", &DeleteParams::foreground()).await.unwrap();
    wait_for("everything to go", || async {
        let pods = pods.list(&ListParams::default()).await.ok()?;
        let revisions = revisions.list(&ListParams::default()).await.ok()?;
        (pods.items.is_empty() && revisions.items.is_empty() && api.get("d").await.is_err())
            .then_some(())
    })
    .await;
}

fn controller(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "rc"},
        "spec": {"replicas": replicas, "template": {
            "metadata": {"labels": {"app": "rc"}},
            "spec": {"containers": [{"name": "c", "image": "one"}]},
        }},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods_and_leaves_them_unless_told() {
    let cluster = Cluster::start().await;
    cluster.kubelet("a");
    cluster.node("a").await;
    let made = cluster.create::<ReplicationController>(controller(3)).await;
    let selector = made.spec.as_ref().unwrap().selector.clone().unwrap();
    assert_eq!(selector["app"], "rc");
    let api = cluster.api::<ReplicationController>();
    let ready = |count: i32| {
        let api = api.clone();
        async move {
            wait_for(&format!("{count} ready pods"), || async {
                let status = api.get("rc").await.ok()?.status?;
                (status.replicas == count
                    && status.ready_replicas.unwrap_or(0) == count
                    && status.available_replicas.unwrap_or(0) == count
                    && status.fully_labeled_replicas.unwrap_or(0) == count)
                    .then_some(status)
            })
            .await
        }
    };
    assert_eq!(ready(3).await.observed_generation, Some(1));
    let scale = api.get_scale("rc").await.unwrap();
    let status = scale.status.unwrap();
    assert_eq!(
        (status.replicas, status.selector.as_deref()),
        (3, Some("app=rc"))
    );
    let two = json!({"spec": {"replicas": 2}});
    api.patch_scale("rc", &PatchParams::default(), &Patch::Merge(&two))
        .await
        .unwrap();
    ready(2).await;
    // A deletion that says nothing of dependents leaves them, as it always has.
    api.delete("rc", &DeleteParams::default()).await.unwrap();
    wait_for("it to go", || async { api.get("rc").await.err() }).await;
    let pods = cluster.api::<Pod>();
    let left = wait_for("its pods to be nobody's", || async {
        let all = pods.list(&ListParams::default()).await.ok()?;
        let free = all.items.iter().all(|p| p.owner_references().is_empty());
        free.then_some(all.items)
    })
    .await;
    assert_eq!(left.len(), 2);
    cluster.create::<ReplicationController>(controller(2)).await;
    ready(2).await;
    let background = DeleteParams::background();
    api.delete("rc", &background).await.unwrap();
    wait_for("its pods to go", || async {
        let all = pods.list(&ListParams::default()).await.ok()?;
        all.items.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_rolls_daemons_out_and_back_and_dumps_the_cluster() {
    if !Kubectl::is_here() {
        println!(
            "SKIP kubectl_rolls_daemons_out_and_back_and_dumps_the_cluster: no kubectl on the PATH"
        );
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubelet("none");
    cluster.node("a").await;
    cluster.node("b").await;
    cluster.create::<DaemonSet>(daemons(|_| {})).await;
    let kubectl = cluster.kubectl().await;
    let status = "rollout status daemonset/d --timeout=20s";
    let done = "daemon set \"d\" successfully rolled out\n";
    assert!(kubectl.run(status).await.ends_with(done));
    kubectl.run("set image ds/d c=two").await;
    assert!(kubectl.run(status).await.ends_with(done));
    let history = kubectl.run("rollout history ds/d").await;
    let rows = history.lines().filter(|l| l.starts_with(['1', '2']));
    assert_eq!(rows.count(), 2, "{history}");
    let first = kubectl.run("rollout history ds/d --revision=1").await;
    assert!(first.contains("Image:\tone"), "{first}");
    let undone = kubectl.run("rollout undo ds/d").await;
    assert!(undone.contains("rolled back"), "{undone}");
    assert!(kubectl.run(status).await.ends_with(done));
    assert_eq!(placed(&cluster).await, on(&[("a", "one"), ("b", "one")]));
    kubectl.run("rollout restart ds/d").await;
    assert!(kubectl.run(status).await.ends_with(done));
    let drained = kubectl.run("drain a --ignore-daemonsets").await;
    assert!(
        drained.contains("ignoring DaemonSet-managed Pods"),
        "{drained}"
    );
    let dump = kubectl.run("cluster-info dump").await;
    for kind in [
        "\"kind\": \"DaemonSetList\"",
        "\"kind\": \"ReplicationControllerList\"",
    ] {
        assert!(dump.contains(kind), "{kind}");
    }
}
