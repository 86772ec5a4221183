use super::{account, pod, start, warnings};
use serde_json::json;

const PLAIN: &str = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
    unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
    runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
    seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

#[tokio::test]
async fn a_namespaces_level_is_enforced_and_warned_of() {
    let (server, api) = start().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "safe", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    api.post("/api/v1/namespaces", &space).await.ok();
    account(&api, "safe").await;
    let refused = api
        .post("/api/v1/namespaces/safe/pods", &pod("x", json!({})))
        .await;
    assert_eq!(
        refused.error(),
        format!(
            "403 Forbidden: pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": {PLAIN}"
        )
    );
    assert_eq!(warnings(&refused), [""; 0]);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let made = api
        .post("/apis/apps/v1/namespaces/safe/deployments", &deployment)
        .await;
    assert_eq!(
        warnings(&made),
        [format!(
            "would violate PodSecurity \"restricted:latest\": {PLAIN}"
        )]
    );
    made.ok();
    server.stop().await;
}

#[tokio::test]
async fn raising_a_level_tells_which_pods_it_would_not_let_in() {
    let (server, api) = start().await;
    for name in ["a", "b"] {
        api.post("/api/v1/namespaces/default/pods", &pod(name, json!({})))
            .await
            .ok();
    }
    let host = json!({"ports": [{"containerPort": 80, "hostPort": 80}]});
    api.post("/api/v1/namespaces/default/pods", &pod("host", host))
        .await
        .ok();
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let path = "/api/v1/namespaces/default";
    let baseline = api.patch(path, "merge", &label("baseline")).await;
    assert_eq!(
        warnings(&baseline),
        [
            "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "host: hostPort",
        ]
    );
    let restricted = api.patch(path, "merge", &label("restricted")).await;
    assert_eq!(
        warnings(&restricted),
        [
            "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\"",
            "a (and 1 other pod): allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
            "host: hostPort, allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
        ]
    );
    let bogus = api.patch(path, "merge", &label("bogus")).await;
    assert_eq!(
        bogus.error(),
        "422 Invalid: Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"bogus\": must be one of privileged, baseline, restricted"
    );
    // Labels of a pod that was let in before may change; its image may not.
    let pods = "/api/v1/namespaces/default/pods/a";
    api.patch(pods, "merge", &json!({"metadata": {"labels": {"x": "y"}}}))
        .await
        .ok();
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "other"}]);
    assert_eq!(api.patch(pods, "json", &image).await.status, 403);
    server.stop().await;
}
