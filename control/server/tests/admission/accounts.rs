//! ServiceAccounts of pods, and namespaces that come and go.

use super::{NS, account, pod, start};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn pods_run_as_an_account_that_is_there() {
    let (server, api) = start().await;
    let pods = format!("{NS}/pods");
    let mut lost = pod("a", json!({}));
    lost["spec"]["serviceAccountName"] = "gone".into();
    assert_eq!(
        api.post(&pods, &lost).await.error(),
        "403 Forbidden: pods \"a\" is forbidden: error looking up service account default/gone: serviceaccount \"gone\" not found"
    );
    lost["metadata"] = json!({"generateName": "web-"});
    assert_eq!(
        api.post(&pods, &lost).await.error(),
        "403 Forbidden: pods \"web-\" is forbidden: error looking up service account default/gone: serviceaccount \"gone\" not found"
    );
    let own = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "own",
        "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "automountServiceAccountToken": false,
        "secrets": [{"name": "mine"}]});
    api.post(&format!("{NS}/serviceaccounts"), &own).await.ok();
    let mut plain = pod("plain", json!({}));
    plain["spec"]["serviceAccountName"] = "own".into();
    let made = api.post(&pods, &plain).await.ok();
    assert_eq!(made["spec"].get("volumes"), None);
    assert_eq!(made["spec"]["serviceAccount"], "own");
    plain["metadata"]["name"] = "token".into();
    plain["spec"]["automountServiceAccountToken"] = true.into();
    let made = api.post(&pods, &plain).await.ok();
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1);
    let mut secret = pod(
        "secret",
        json!({"envFrom": [{"secretRef": {"name": "other"}}]}),
    );
    secret["spec"]["serviceAccountName"] = "own".into();
    assert_eq!(
        api.post(&pods, &secret).await.error(),
        "403 Forbidden: pods \"secret\" is forbidden: container c with envFrom referencing secret.secretName=\"other\" is not allowed because service account own does not reference that secret"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_new_namespaces_account_is_waited_for() {
    let (server, api) = start().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}});
    api.post("/api/v1/namespaces", &space).await.ok();
    let later = {
        let api = api.clone();
        async move {
            // Not a guess at how long something takes: the pod's creation is on its way, or it isn't yet.
            tokio::time::sleep(Duration::from_millis(50)).await;
            account(&api, "new").await;
        }
    };
    let body = pod("a", json!({}));
    let (made, ()) = tokio::join!(api.post("/api/v1/namespaces/new/pods", &body), later);
    assert_eq!(made.ok()["spec"]["serviceAccountName"], "default");
    server.stop().await;
}

#[tokio::test]
async fn three_namespaces_stay_and_nothing_is_made_in_one_that_goes() {
    let (server, api) = start().await;
    for name in ["default", "kube-system", "kube-public"] {
        assert_eq!(
            api.delete(&format!("/api/v1/namespaces/{name}"))
                .await
                .error(),
            format!(
                "403 Forbidden: namespaces \"{name}\" is forbidden: this namespace may not be deleted"
            )
        );
    }
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"}});
    api.post("/api/v1/namespaces", &space).await.ok();
    api.delete("/api/v1/namespaces/going").await.ok();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let refused = api.post("/api/v1/namespaces/going/configmaps", &map).await;
    assert_eq!(
        refused.error(),
        "403 Forbidden: configmaps \"m\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace going is being terminated", "field": "metadata.namespace"}])
    );
    assert_eq!(
        api.post("/api/v1/namespaces/nowhere/configmaps", &map)
            .await
            .error(),
        "404 NotFound: namespaces \"nowhere\" not found"
    );
    server.stop().await;
}
