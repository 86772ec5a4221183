use super::{NS, pod, start};
use serde_json::json;

#[tokio::test]
async fn a_limit_range_fills_in_and_refuses() {
    let (server, api) = start().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "default": {"memory": "64Mi"}, "defaultRequest": {"cpu": "100m"}}]}});
    let stored = api.post(&format!("{NS}/limitranges"), &range).await.ok();
    assert_eq!(
        stored["spec"]["limits"][0]["default"],
        json!({"cpu": "1", "memory": "64Mi"})
    );
    let made = api
        .post(&format!("{NS}/pods"), &pod("a", json!({})))
        .await
        .ok();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let greedy = pod("b", json!({"resources": {"limits": {"cpu": "2"}}}));
    assert_eq!(
        api.post(&format!("{NS}/pods"), &greedy).await.error(),
        "403 Forbidden: pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    let wrong = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "wrong"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}});
    let error = api.post(&format!("{NS}/limitranges"), &wrong).await.error();
    assert!(
        error.contains("min value 2 is greater than max value 1"),
        "{error}"
    );
    server.stop().await;
}
