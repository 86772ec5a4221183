//! Cluster IPs and node ports: given once, kept, and freed.

mod common;

use std::collections::HashSet;

use common::{Api, TestServer};
use kernelet_store::Range;
use serde_json::{Value, json};

const PATH: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

async fn create(api: &Api, name: &str, spec: Value) -> Value {
    api.post(PATH, &service(name, spec)).await.ok()
}

async fn claims(server: &TestServer) -> usize {
    server
        .store
        .range(Range::prefix("/registry/kernelet/"))
        .await
        .unwrap()
        .kvs
        .len()
}

#[tokio::test]
async fn the_kubernetes_service_has_the_first_address_and_the_advertised_endpoint() {
    let server = TestServer::start().await;
    let api = server.admin();
    assert_eq!(
        api.get(&format!("{PATH}/kubernetes")).await.ok()["spec"]["clusterIP"],
        "10.96.0.1"
    );
    let endpoints = api
        .get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await
        .ok();
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.10");
    let slice = api
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await
        .ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.10"]));
    server.stop().await;
}

#[tokio::test]
async fn every_answer_about_endpoints_warns_that_they_are_deprecated() {
    let server = TestServer::start().await;
    let api = server.admin();
    let list = "/api/v1/namespaces/default/endpoints";
    let own = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "own"}});
    let answers = [
        api.post(list, &own).await,
        api.get(list).await,
        api.get(&format!("{list}/own")).await,
        api.patch(
            &format!("{list}/own"),
            "merge",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await,
        api.delete(&format!("{list}/own")).await,
    ];
    for answer in answers {
        assert!(answer.status.is_success(), "{answer:?}");
        let warnings: Vec<&str> = answer
            .headers
            .get_all("warning")
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(
            warnings,
            [
                "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
            ]
        );
    }
    let slices = api
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")
        .await;
    assert!(!slices.headers.contains_key("warning"), "{slices:?}");
    server.stop().await;
}

#[tokio::test]
async fn addresses_are_given_kept_and_freed_with_the_service() {
    let server = TestServer::start().await;
    let api = server.admin();
    let before = claims(&server).await;
    let made = create(&api, "a", json!({"type": "NodePort"})).await;
    let (ip, port) = (
        made["spec"]["clusterIP"].clone(),
        made["spec"]["ports"][0]["nodePort"].clone(),
    );
    assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(
        (
            made["spec"]["ipFamilies"].clone(),
            made["spec"]["ipFamilyPolicy"].clone()
        ),
        (json!(["IPv4"]), json!("SingleStack"))
    );
    assert_eq!(claims(&server).await, before + 2);
    let path = format!("{PATH}/a");
    // An update that leaves them out keeps them.
    let mut again = service(
        "a",
        json!({"type": "NodePort", "sessionAffinity": "ClientIP"}),
    );
    again["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let kept = api.put(&path, &again).await.ok();
    assert_eq!(
        (
            &kept["spec"]["clusterIP"],
            &kept["spec"]["ports"][0]["nodePort"]
        ),
        (&ip, &port)
    );
    // Another can't have them.
    let taken = api
        .post(PATH, &service("b", json!({"clusterIP": ip})))
        .await
        .error();
    assert!(
        taken.starts_with(
            "422 Invalid: Service \"b\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.96."
        ),
        "{taken}"
    );
    assert!(
        taken.ends_with("provided IP is already allocated"),
        "{taken}"
    );
    let taken = api
        .post(
            PATH,
            &service(
                "b",
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
            ),
        )
        .await
        .error();
    assert!(
        taken.ends_with("provided port is already allocated"),
        "{taken}"
    );
    let outside = api
        .post(PATH, &service("b", json!({"clusterIP": "10.97.0.1"})))
        .await
        .error();
    assert!(
        outside.contains("The range of valid IPs is 10.96.0.0/16"),
        "{outside}"
    );
    let outside = api
        .post(
            PATH,
            &service(
                "b",
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            ),
        )
        .await
        .error();
    assert!(
        outside.contains("The range of valid ports is 30000-32767"),
        "{outside}"
    );
    // The type changed, the node port goes, the address stays.
    let plain = api
        .patch(&path, "merge", &json!({"spec": {"type": "ClusterIP"}}))
        .await
        .ok();
    assert_eq!(
        (
            plain["spec"]["ports"][0].get("nodePort"),
            &plain["spec"]["clusterIP"]
        ),
        (None, &ip)
    );
    assert_eq!(claims(&server).await, before + 1);
    assert_eq!(
        api.patch(
            &path,
            "merge",
            &json!({"spec": {"clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"]}})
        )
        .await
        .status,
        422
    );
    api.delete(&path).await.ok();
    assert_eq!(claims(&server).await, before);
    create(&api, "b", json!({"clusterIP": ip})).await;
    server.stop().await;
}

#[tokio::test]
async fn headless_and_external_services_take_nothing() {
    let server = TestServer::start().await;
    let api = server.admin();
    let before = claims(&server).await;
    let headless = create(&api, "h", json!({"clusterIP": "None"})).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = create(
        &api,
        "e",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    )
    .await;
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert_eq!(claims(&server).await, before);
    server.stop().await;
}

#[tokio::test]
async fn many_at_once_never_get_the_same_and_a_full_range_says_so() {
    let server = TestServer::with(kernelet_api::Registry::builtin().clone(), |config| {
        config.service_cidrs = vec!["10.96.0.0/26".parse().unwrap()];
        config.node_ports = 30000..=30039;
    })
    .await;
    let api = server.admin();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let api = api.clone();
            tokio::spawn(async move {
                create(&api, &format!("s{n}"), json!({"type": "NodePort"})).await
            })
        })
        .collect();
    let (mut ips, mut ports) = (HashSet::new(), HashSet::new());
    for task in tasks {
        let service = task.await.unwrap();
        assert!(ips.insert(service["spec"]["clusterIP"].to_string()));
        assert!(ports.insert(service["spec"]["ports"][0]["nodePort"].to_string()));
    }
    let full = api
        .post(PATH, &service("x", json!({"type": "NodePort"})))
        .await
        .error();
    assert!(
        full.contains("failed to allocate a nodePort: range is full"),
        "{full}"
    );
    for n in 0..21 {
        create(&api, &format!("c{n}"), json!({})).await;
    }
    let full = api.post(PATH, &service("x", json!({}))).await.error();
    assert!(
        full.contains("failed to allocate a serviceIP: range 10.96.0.0/26 is full"),
        "{full}"
    );
    server.stop().await;
}
