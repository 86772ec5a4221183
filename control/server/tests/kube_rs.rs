//! kube-rs, in process and over TLS: the client that our own components use.

mod common;

use std::time::Duration;

use common::TestServer;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kernelet_server::UserInfo;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::json;

async fn exercise(client: Client) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let object: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"x": "1"}})).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(made.data.unwrap()["x"], "1");
    let revision = made.metadata.resource_version.unwrap();
    let mut events = api
        .watch(&WatchParams::default().timeout(20), &revision)
        .await
        .unwrap()
        .boxed();
    let patch = Patch::Merge(json!({"data": {"x": "2"}}));
    api.patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let Some(WatchEvent::Modified(changed)) = events.try_next().await.unwrap() else {
        panic!("no change")
    };
    assert_eq!(changed.data.unwrap()["x"], "2");
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"y": "1"}});
    api.patch("b", &PatchParams::apply("test"), &Patch::Apply(apply))
        .await
        .unwrap();
    let names: Vec<String> = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(api.get_metadata("a").await.unwrap().name_any(), "a");
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    api.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    let error = Api::<Pod>::default_namespaced(client.clone())
        .get("none")
        .await
        .unwrap_err();
    assert!(
        matches!(error, kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound")
    );
    // A reflector in each of its two ways of starting.
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (store, writer) = reflector::store();
        let stream = watcher(Api::<Namespace>::all(client.clone()), config)
            .default_backoff()
            .reflect(writer)
            .applied_objects();
        let task = tokio::spawn(stream.for_each(|_| async {}));
        tokio::time::timeout(Duration::from_secs(10), store.wait_until_ready())
            .await
            .unwrap()
            .unwrap();
        let mut names: Vec<String> = store
            .state()
            .iter()
            .map(|namespace| namespace.name_any())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["default", "kube-node-lease", "kube-public", "kube-system"]
        );
        task.abort();
    }
}

#[tokio::test]
async fn in_process() {
    let server = TestServer::start().await;
    exercise(Client::new(
        server.server.service(UserInfo::admin()),
        "default",
    ))
    .await;
    server.stop().await;
}

#[tokio::test]
async fn over_tls() {
    let server = TestServer::start().await;
    let config =
        Kubeconfig::read_from(server.kubeconfig("kubernetes-admin", Some("system:masters")))
            .unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    exercise(Client::try_from(config).unwrap()).await;
    server.stop().await;
}
