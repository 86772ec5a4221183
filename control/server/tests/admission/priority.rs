use super::{NS, pod, start};
use serde_json::{Value, json};

fn class(name: &str, value: i64, more: Value) -> Value {
    let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
    for (key, value) in more.as_object().unwrap() {
        class[key] = value.clone();
    }
    class
}

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

#[tokio::test]
async fn a_pods_class_makes_its_priority() {
    let (server, api) = start().await;
    let pods = format!("{NS}/pods");
    api.post(
        CLASSES,
        &class("high", 1000, json!({"preemptionPolicy": "Never"})),
    )
    .await
    .ok();
    let mut high = pod("high", json!({}));
    high["spec"]["priorityClassName"] = "high".into();
    let made = api.post(&pods, &high).await.ok();
    assert_eq!(made["spec"]["priority"], 1000);
    assert_eq!(made["spec"]["preemptionPolicy"], "Never");
    let mut wrong = pod("wrong", json!({}));
    wrong["spec"]["priorityClassName"] = "gone".into();
    assert_eq!(
        api.post(&pods, &wrong).await.error(),
        "403 Forbidden: pods \"wrong\" is forbidden: no PriorityClass with name gone was found"
    );
    wrong["spec"]["priorityClassName"] = "high".into();
    wrong["spec"]["priority"] = 5.into();
    assert_eq!(
        api.post(&pods, &wrong).await.error(),
        "403 Forbidden: pods \"wrong\" is forbidden: the integer value of priority (5) must not be provided in pod spec; \
         priority admission controller computed 1000 from the given PriorityClass name"
    );
    let mut policy = pod("policy", json!({}));
    policy["spec"]["preemptionPolicy"] = "Never".into();
    assert_eq!(
        api.post(&pods, &policy).await.error(),
        "403 Forbidden: pods \"policy\" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; \
         priority admission controller computed PreemptLowerPriority from the given PriorityClass name"
    );
    let mut generated = pod("", json!({}));
    generated["metadata"] = json!({"generateName": "web-"});
    generated["spec"]["priorityClassName"] = "gone".into();
    assert_eq!(
        api.post(&pods, &generated).await.error(),
        "403 Forbidden: pods \"web-\" is forbidden: no PriorityClass with name gone was found"
    );
    server.stop().await;
}

#[tokio::test]
async fn one_class_may_be_everybodys_and_the_systems_stay() {
    let (server, api) = start().await;
    api.post(CLASSES, &class("usual", 7, json!({"globalDefault": true})))
        .await
        .ok();
    let made = api
        .post(&format!("{NS}/pods"), &pod("a", json!({})))
        .await
        .ok();
    assert_eq!(made["spec"]["priorityClassName"], "usual");
    assert_eq!(made["spec"]["priority"], 7);
    assert_eq!(
        api.post(CLASSES, &class("other", 8, json!({"globalDefault": true})))
            .await
            .error(),
        "403 Forbidden: priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. Only one default can exist"
    );
    assert_eq!(
        api.delete(&format!("{CLASSES}/system-node-critical"))
            .await
            .error(),
        "403 Forbidden: priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot be deleted"
    );
    let reserved = api.post(CLASSES, &class("system-mine", 8, json!({}))).await;
    assert_eq!(
        reserved.error(),
        "422 Invalid: PriorityClass.scheduling.k8s.io \"system-mine\" is invalid: metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"
    );
    assert_eq!(
        api.post(CLASSES, &class("top", 2_000_000_000, json!({})))
            .await
            .error(),
        "422 Invalid: PriorityClass.scheduling.k8s.io \"top\" is invalid: value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
    );
    let changed = json!({"value": 9});
    assert_eq!(
        api.patch(&format!("{CLASSES}/usual"), "merge", &changed)
            .await
            .error(),
        "422 Invalid: PriorityClass.scheduling.k8s.io \"usual\" is invalid: value: Forbidden: may not be changed in an update."
    );
    server.stop().await;
}
