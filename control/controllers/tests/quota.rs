//! Quotas are counted, charged and given back.

mod common;

use common::{Cluster, wait_for};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, ResourceQuota},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn used(api: &Api<ResourceQuota>) -> Option<BTreeMap<String, String>> {
    let used = api.get("q").await.ok()?.status?.used?;
    Some(used.into_iter().map(|(name, q)| (name, q.0)).collect())
}

async fn becomes(api: &Api<ResourceQuota>, expect: Value) {
    let expect: BTreeMap<String, String> = serde_json::from_value(expect).unwrap();
    wait_for(&format!("{expect:?}"), || async {
        used(api).await.filter(|used| *used == expect)
    })
    .await;
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "x", "resources": {"requests": {"cpu": "100m"}}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_follows_what_is_there() {
    let cluster = Cluster::start().await;
    let quotas = cluster.api::<ResourceQuota>();
    let pods = cluster.api::<Pod>();
    wait_for("the account", || async {
        cluster
            .api::<k8s_openapi::api::core::v1::ServiceAccount>()
            .get("default")
            .await
            .ok()
    })
    .await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "early"}}))
        .await;
    cluster.create::<Pod>(pod("early")).await;
    let hard = json!({"pods": "3", "requests.cpu": "1", "count/pods": "10", "configmaps": "5", "persistentvolumeclaims": "1"});
    cluster
        .create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}))
        .await;
    // kube-root-ca.crt is a ConfigMap too.
    let count = |pods: &str, cpu: &str, all: &str, maps: &str| json!({"pods": pods, "requests.cpu": cpu, "count/pods": all, "configmaps": maps, "persistentvolumeclaims": "0"});
    becomes(&quotas, count("1", "100m", "1", "2")).await;
    let status = quotas.get("q").await.unwrap().status.unwrap();
    assert_eq!(serde_json::to_value(status.hard).unwrap(), hard);

    cluster.create::<Pod>(pod("a")).await;
    cluster.create::<Pod>(pod("b")).await;
    becomes(&quotas, count("3", "300m", "3", "2")).await;
    let more = serde_json::from_value(pod("c")).unwrap();
    let refused = pods
        .create(&PostParams::default(), &more)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"),
        "{refused}"
    );

    // A pod that ended gives back what it computed with, and a deleted one everything.
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Strategic(&ended))
        .await
        .unwrap();
    becomes(&quotas, count("2", "200m", "3", "2")).await;
    let now = DeleteParams::default().grace_period(0);
    pods.delete("b", &now).await.unwrap();
    becomes(&quotas, count("1", "100m", "2", "2")).await;
    let maps = cluster.api::<ConfigMap>();
    maps.delete("early", &now).await.unwrap();
    becomes(&quotas, count("1", "100m", "2", "1")).await;

    // Another limit is taken over.
    let other = json!({"spec": {"hard": {"pods": "7", "configmaps": null}}});
    quotas
        .patch("q", &PatchParams::default(), &Patch::Merge(&other))
        .await
        .unwrap();
    wait_for("the new limit", || async {
        let status = quotas.get("q").await.ok()?.status?;
        (status.hard?["pods"].0 == "7" && !status.used?.contains_key("configmaps")).then_some(())
    })
    .await;
}

/// Counting while pods come and go never lets more in than there is room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_charges_do_not_lose_each_other() {
    let cluster = Cluster::start().await;
    let quotas = cluster.api::<ResourceQuota>();
    let pods = cluster.api::<Pod>();
    cluster
        .create::<ResourceQuota>(
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}}),
        )
        .await;
    becomes(&quotas, json!({"pods": "0"})).await;
    wait_for("the account", || async {
        let api = cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        api.get("default").await.ok()
    })
    .await;
    let now = DeleteParams::default().grace_period(0);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let (pods, now) = (pods.clone(), now.clone());
        tasks.spawn(async move {
            let name = format!("p{n}");
            let pod = serde_json::from_value(pod(&name)).unwrap();
            let made = pods.create(&PostParams::default(), &pod).await.is_ok();
            if made && n % 2 == 0 {
                pods.delete(&name, &now).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let left = pods.list(&Default::default()).await.unwrap().items.len();
    assert!(left <= 10, "{left} pods under a quota of 10");
    becomes(&quotas, json!({"pods": left.to_string()})).await;
}

/// What makes pods tells why it can't, and goes on when there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_grows_into_its_quota() {
    let cluster = Cluster::start().await;
    let quotas = cluster.api::<ResourceQuota>();
    let pods = cluster.api::<Pod>();
    cluster
        .create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "count/deployments.apps": "1"}}}))
        .await;
    becomes(&quotas, json!({"pods": "0", "count/deployments.apps": "0"})).await;
    let deployment = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
    };
    cluster.create::<Deployment>(deployment("web")).await;
    let second = serde_json::from_value(deployment("other")).unwrap();
    let deployments = cluster.api::<Deployment>();
    let refused = deployments
        .create(&PostParams::default(), &second)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1"),
        "{refused}"
    );
    let failure = wait_for("the refusal to be told", || async {
        let status = deployments.get("web").await.ok()?.status?;
        let conditions = status.conditions.unwrap_or_default();
        let failure = conditions
            .into_iter()
            .find(|c| c.type_ == "ReplicaFailure")?;
        failure.message
    })
    .await;
    assert!(
        failure.contains(
            "is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
        ),
        "{failure}"
    );
    let more = json!({"spec": {"hard": {"pods": "2"}}});
    quotas
        .patch("q", &PatchParams::default(), &Patch::Merge(&more))
        .await
        .unwrap();
    wait_for("the second pod", || async {
        let list = pods.list(&Default::default()).await.ok()?;
        (list.items.len() == 2).then_some(())
    })
    .await;
    becomes(&quotas, json!({"pods": "2", "count/deployments.apps": "1"})).await;
}
