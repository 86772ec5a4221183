//! What people do with stock kubectl: rollouts, undoing them, scaling, waiting, deleting.

mod common;

use common::{Cluster, Kubectl};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_are_watched_undone_listed_and_waited_for() {
    if !Kubectl::is_here() {
        println!("SKIP rollouts_are_watched_undone_listed_and_waited_for: no kubectl on the PATH");
        return;
    }
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    let kubectl = cluster.kubectl().await;
    kubectl
        .run("create deployment web --image=one --replicas=3")
        .await;
    let out = kubectl
        .run("rollout status deployment/web --timeout=20s")
        .await;
    assert!(
        out.ends_with("deployment \"web\" successfully rolled out\n"),
        "{out}"
    );
    kubectl.run("set image deployment/web one=two").await;
    kubectl
        .run("rollout status deployment/web --timeout=20s")
        .await;
    kubectl
        .run("annotate deployment/web kubernetes.io/change-cause=why")
        .await;
    let history = kubectl.run("rollout history deployment/web").await;
    let rows: Vec<_> = history
        .lines()
        .filter(|l| l.starts_with(['1', '2']))
        .collect();
    assert_eq!(rows.len(), 2, "{history}");
    let first = kubectl
        .run("rollout history deployment/web --revision=1")
        .await;
    assert!(first.contains("Image:\tone"), "{first}");
    let undone = kubectl.run("rollout undo deployment/web").await;
    assert!(undone.contains("rolled back"), "{undone}");
    kubectl
        .run("rollout status deployment/web --timeout=20s")
        .await;
    let image = "get deployment/web -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl.run(image).await, "one");
    kubectl.run("rollout restart deployment/web").await;
    kubectl
        .run("rollout status deployment/web --timeout=20s")
        .await;
    kubectl.run("rollout pause deployment/web").await;
    kubectl.run("set image deployment/web one=three").await;
    kubectl.run("rollout resume deployment/web").await;
    kubectl
        .run("rollout status deployment/web --timeout=20s")
        .await;
    kubectl.run("scale deployment/web --replicas=5").await;
    kubectl
        .run("wait deployment/web --for=jsonpath={.status.readyReplicas}=5 --timeout=20s")
        .await;
    kubectl
        .run("wait deployment/web --for=condition=Available --timeout=20s")
        .await;
    kubectl
        .run("wait pod --all --for=condition=Ready --timeout=20s")
        .await;
    let described = kubectl.run("describe deployment/web").await;
    for part in [
        "NewReplicaSetAvailable",
        "MinimumReplicasAvailable",
        "ScalingReplicaSet",
        "5 available",
    ] {
        assert!(described.contains(part), "{part} is missing in {described}");
    }
    kubectl
        .run("delete deployment/web --cascade=foreground --timeout=20s")
        .await;
    let left = kubectl.run("get all -o name").await;
    assert_eq!(left.trim(), "service/kubernetes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_made_used_and_deleted() {
    if !Kubectl::is_here() {
        println!("SKIP a_namespace_is_made_used_and_deleted: no kubectl on the PATH");
        return;
    }
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    let kubectl = cluster.kubectl().await;
    kubectl.run("create namespace team").await;
    kubectl
        .run("-n team create deployment web --image=one --replicas=2 --port=80")
        .await;
    kubectl.run("-n team expose deployment web").await;
    kubectl
        .run("-n team rollout status deployment/web --timeout=20s")
        .await;
    kubectl
        .run("-n team wait endpointslice -l kubernetes.io/service-name=web --for=jsonpath={.endpoints[1].conditions.ready}=true --timeout=20s")
        .await;
    let described = kubectl.run("-n team describe service web").await;
    let endpoints = described
        .lines()
        .find(|line| line.starts_with("Endpoints:"));
    let endpoints = endpoints.unwrap_or_default();
    assert_eq!(endpoints.matches(":80").count(), 2, "{described}");
    kubectl
        .run("drain a --ignore-daemonsets --force --timeout=20s")
        .await;
    kubectl.run("uncordon a").await;
    kubectl.run("delete namespace team --timeout=20s").await;
    let left = kubectl.run("get namespaces -o name").await;
    assert!(!left.contains("team"), "{left}");
}
