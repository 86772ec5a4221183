use super::{Api, NS, pod, start};
use serde_json::{Value, json};

/// A quota whose status says what its controller would say of an empty namespace.
async fn quota(api: &Api, name: &str, spec: Value) {
    let path = format!("{NS}/resourcequotas");
    let object = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    let mut made = api.post(&path, &object).await.ok();
    let used: Value = spec["hard"]
        .as_object()
        .unwrap()
        .keys()
        .map(|key| (key.clone(), Value::from("0")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    made["status"] = json!({"hard": spec["hard"], "used": used});
    api.put(&format!("{path}/{name}/status"), &made).await.ok();
}

async fn used(api: &Api, name: &str) -> Value {
    let quota = api.get(&format!("{NS}/resourcequotas/{name}")).await.ok();
    quota["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_is_charged_with_what_is_stored() {
    let (server, api) = start().await;
    quota(&api, "q", json!({"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "1", "services.nodeports": "1"}})).await;
    let pods = format!("{NS}/pods");
    let small = |name| pod(name, json!({"resources": {"requests": {"cpu": "400m"}}}));
    assert_eq!(
        api.post(&pods, &pod("bare", json!({}))).await.error(),
        "403 Forbidden: pods \"bare\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    api.post(&format!("{pods}?dryRun=All"), &small("dry"))
        .await
        .ok();
    api.post(&pods, &small("a")).await.ok();
    assert_eq!(
        used(&api, "q").await,
        json!({"pods": "1", "requests.cpu": "400m", "count/configmaps": "0", "services.nodeports": "0"})
    );
    // The same name costs nothing when it is refused.
    assert_eq!(api.post(&pods, &small("a")).await.status, 409);
    let big = pod("big", json!({"resources": {"requests": {"cpu": "700m"}}}));
    assert_eq!(
        api.post(&pods, &big).await.error(),
        "403 Forbidden: pods \"big\" is forbidden: exceeded quota: q, requested: requests.cpu=700m, used: requests.cpu=400m, limited: requests.cpu=1"
    );
    api.post(&pods, &small("b")).await.ok();
    assert_eq!(
        api.post(
            &pods,
            &pod("c", json!({"resources": {"requests": {"cpu": "1m"}}}))
        )
        .await
        .error(),
        "403 Forbidden: pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    );
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    api.post(&format!("{NS}/configmaps"), &map("one"))
        .await
        .ok();
    assert_eq!(
        api.post(&format!("{NS}/configmaps"), &map("two"))
            .await
            .error(),
        "403 Forbidden: configmaps \"two\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"
    );
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
        {"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
    api.post(&format!("{NS}/services"), &service).await.ok();
    assert_eq!(
        api.patch(
            &format!("{NS}/services/s"),
            "merge",
            &json!({"spec": {"type": "NodePort"}})
        )
        .await
        .error(),
        "403 Forbidden: services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1"
    );
    server.stop().await;
}

#[tokio::test]
async fn parallel_creations_never_share_room() {
    let (server, api) = start().await;
    quota(&api, "q", json!({"hard": {"pods": "20"}})).await;
    quota(&api, "wide", json!({"hard": {"pods": "40"}})).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let api = api.clone();
        tasks.spawn(async move {
            let answer = api
                .post(&format!("{NS}/pods"), &pod(&format!("p{n}"), json!({})))
                .await;
            answer.status.as_u16()
        });
    }
    let codes: Vec<u16> = tasks.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 20);
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 30);
    let listed = api.get(&format!("{NS}/pods")).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 20);
    assert_eq!(used(&api, "q").await, json!({"pods": "20"}));
    assert_eq!(used(&api, "wide").await, json!({"pods": "20"}));
    server.stop().await;
}

#[tokio::test]
async fn a_quota_that_nobody_counted_lets_nothing_in_and_its_table_tells_its_use() {
    let (server, api) = start().await;
    quota(
        &api,
        "q",
        json!({"hard": {"pods": "1", "limits.cpu": "2", "requests.memory": "1Gi"}}),
    )
    .await;
    let path = format!("{NS}/resourcequotas/q");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.raw(http::Method::GET, &path, &accept, "").await.ok();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Request", "Limit", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells[1], "pods: 0/1, requests.memory: 0/1Gi");
    assert_eq!(cells[2], "limits.cpu: 0/2");
    let unknown = json!({"status": {"hard": {"pods": "1"}, "used": null}});
    api.patch(&format!("{path}/status"), "merge", &unknown)
        .await
        .ok();
    let full = pod(
        "a",
        json!({"resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}),
    );
    assert_eq!(
        api.post(&format!("{NS}/pods"), &full).await.error(),
        "403 Forbidden: pods \"a\" is forbidden: status unknown for quota: q, resources: limits.cpu,pods,requests.memory"
    );
    server.stop().await;
}
