//! Evictions under PodDisruptionBudgets.

use super::{Api, NS, pod, start};
use serde_json::{Value, json};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod that runs, and is ready or not.
async fn running(api: &Api, name: &str, ready: &str) {
    let mut new = pod(name, json!({}));
    new["metadata"]["labels"] = json!({"app": "a"});
    api.post(&format!("{NS}/pods"), &new).await.ok();
    let status =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    api.patch(&format!("{NS}/pods/{name}/status"), "merge", &status)
        .await
        .ok();
}

async fn budget(api: &Api, name: &str, status: Value) {
    let new = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    api.post(BUDGETS, &new).await.ok();
    api.patch(
        &format!("{BUDGETS}/{name}/status"),
        "merge",
        &json!({"status": status}),
    )
    .await
    .ok();
}

async fn evict(api: &Api, name: &str, options: Value) -> super::Answer {
    let mut eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    if !options.is_null() {
        eviction["deleteOptions"] = options;
    }
    api.post(&format!("{NS}/pods/{name}/eviction"), &eviction)
        .await
}

fn allows(disruptions: i64) -> Value {
    json!({"observedGeneration": 1, "disruptionsAllowed": disruptions, "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2})
}

#[tokio::test]
async fn a_budget_allows_counts_and_refuses() {
    let (server, api) = start().await;
    for name in ["a", "b"] {
        running(&api, name, "True").await;
    }
    budget(&api, "pdb", allows(1)).await;
    let dry = evict(&api, "a", json!({"dryRun": ["All"]})).await;
    assert_eq!(dry.status, 201);
    let answer = evict(&api, "a", Value::Null).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].clone()),
        (201, json!("Success"))
    );
    let gone = api.get(&format!("{NS}/pods/a")).await;
    if gone.status == 200 {
        let condition = gone.json()["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "DisruptionTarget")
            .cloned()
            .unwrap();
        assert_eq!(condition["reason"], "EvictionByEvictionAPI");
        assert_eq!(condition["message"], "Eviction API: evicting");
    }
    let after = api.get(&format!("{BUDGETS}/pdb")).await.ok();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["a"].is_string(), "{after}");
    assert_eq!(
        after["status"]["conditions"][0]["reason"],
        "InsufficientPods"
    );
    let refused = evict(&api, "b", Value::Null).await;
    assert_eq!(
        refused.error(),
        "429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "DisruptionBudget", "message": "The disruption budget pdb needs 2 healthy pods and has 2 currently"}])
    );
    // What is told of a budget that its controller hasn't seen, and of two budgets.
    api.patch(
        &format!("{BUDGETS}/pdb"),
        "merge",
        &json!({"spec": {"minAvailable": 2}}),
    )
    .await
    .ok();
    let unseen = evict(&api, "b", Value::Null).await;
    assert_eq!(unseen.headers["retry-after"], "10");
    assert_eq!(
        unseen.json()["details"]["causes"][0]["message"],
        "The disruption budget pdb is still being processed by the server."
    );
    budget(&api, "other", allows(1)).await;
    assert_eq!(
        evict(&api, "b", Value::Null).await.error(),
        "500 : This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_serve_goes_without_asking() {
    let (server, api) = start().await;
    budget(&api, "pdb", allows(0)).await;
    let mut pending = pod("pending", json!({}));
    pending["metadata"]["labels"] = json!({"app": "a"});
    api.post(&format!("{NS}/pods"), &pending).await.ok();
    assert_eq!(evict(&api, "pending", Value::Null).await.status, 201);
    running(&api, "unready", "False").await;
    assert_eq!(evict(&api, "unready", Value::Null).await.status, 201);
    running(&api, "ready", "True").await;
    assert_eq!(evict(&api, "ready", Value::Null).await.status, 429);
    let wrong = evict(&api, "ready", json!({"preconditions": {"uid": "x"}})).await;
    assert!([409, 429].contains(&wrong.status.as_u16()));
    running(&api, "ended", "False").await;
    api.patch(
        &format!("{NS}/pods/ended/status"),
        "merge",
        &json!({"status": {"phase": "Succeeded"}}),
    )
    .await
    .ok();
    let conflict = evict(&api, "ended", json!({"preconditions": {"uid": "x"}})).await;
    assert_eq!(conflict.status, 409);
    assert_eq!(evict(&api, "ended", Value::Null).await.status, 201);
    let nameless =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "other"}});
    assert_eq!(
        api.post(&format!("{NS}/pods/ready/eviction"), &nameless)
            .await
            .error(),
        "400 BadRequest: name in URL does not match name in Eviction object"
    );
    assert_eq!(evict(&api, "nobody", Value::Null).await.status, 404);
    server.stop().await;
}
