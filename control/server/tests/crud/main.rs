//! Create, read, update, patch, delete and watch through the in-process service.

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod watches;

use common::TestServer;
use serde_json::{Value, json};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

fn cm(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

fn version(object: &Value) -> i64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let server = TestServer::start().await;
    let api = server.admin();
    let made = api.post(CMS, &cm("a")).await.ok();
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string()
    );
    let path = format!("{CMS}/a");
    assert_eq!(api.get(&path).await.ok(), made);
    assert_eq!(
        api.post(CMS, &cm("a")).await.error(),
        "409 AlreadyExists: configmaps \"a\" already exists"
    );
    let mut changed = made.clone();
    changed["data"]["b"] = "2".into();
    let put = api.put(&path, &changed).await.ok();
    assert!(version(&put) > version(&made));
    assert!(api.put(&path, &changed).await.error().starts_with("409 Conflict: Operation cannot be fulfilled on configmaps \"a\": the object has been modified"));
    // Without a revision the update is unconditional.
    changed["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    changed["data"]["c"] = "3".into();
    let unconditional = api.put(&path, &changed).await.ok();
    // The same again changes nothing and keeps the revision.
    assert_eq!(
        version(&api.put(&path, &unconditional).await.ok()),
        version(&unconditional)
    );
    let gone = api.delete(&path).await.ok();
    assert_eq!(
        (gone["status"].as_str(), gone["details"]["kind"].as_str()),
        (Some("Success"), Some("configmaps"))
    );
    assert_eq!(
        api.get(&path).await.error(),
        "404 NotFound: configmaps \"a\" not found"
    );
    assert_eq!(api.delete(&path).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    let server = TestServer::start().await;
    let api = server.admin();
    let mut object = cm("");
    object["metadata"] = json!({"generateName": "x-"});
    let made = api.post(CMS, &object).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    assert!(api.post(CMS, &cm("Not_A_Name")).await.error().starts_with(
        "422 Invalid: ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value"
    ));
    assert!(api.put(&format!("{CMS}/other"), &cm("a")).await.error().starts_with("400 BadRequest: the name of the object (a) does not match the name on the URL (other)"));
    let mut elsewhere = cm("a");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    assert!(
        api.post(CMS, &elsewhere)
            .await
            .error()
            .starts_with("400 BadRequest: the namespace of the provided object does not match")
    );
    assert_eq!(
        api.post("/api/v1/namespaces/none/configmaps", &cm("a"))
            .await
            .error(),
        "404 NotFound: namespaces \"none\" not found"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let server = TestServer::start().await;
    let api = server.admin();
    let tried = api.post(&format!("{CMS}?dryRun=All"), &cm("a")).await.ok();
    assert_eq!(tried["metadata"].get("resourceVersion"), None);
    assert_eq!(api.get(&format!("{CMS}/a")).await.status, 404);
    api.post(CMS, &cm("a")).await.ok();
    assert_eq!(
        api.post(&format!("{CMS}?dryRun=All"), &cm("a"))
            .await
            .status,
        409
    );
    let patched = api
        .patch(
            &format!("{CMS}/a?dryRun=All"),
            "merge",
            &json!({"data": {"a": "9"}}),
        )
        .await
        .ok();
    assert_eq!(patched["data"]["a"], "9");
    assert_eq!(api.get(&format!("{CMS}/a")).await.ok()["data"]["a"], "1");
    api.delete(&format!("{CMS}/a?dryRun=All")).await.ok();
    assert_eq!(api.get(&format!("{CMS}/a")).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn every_kind_of_patch_patches() {
    let server = TestServer::start().await;
    let api = server.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    api.post(path, &deployment("w")).await.ok();
    let path = format!("{path}/w");
    let merged = api
        .patch(&path, "merge", &json!({"spec": {"replicas": 2}}))
        .await
        .ok();
    assert_eq!(
        (
            merged["spec"]["replicas"].as_i64(),
            merged["metadata"]["generation"].as_i64()
        ),
        (Some(2), Some(2))
    );
    let json = api
        .patch(
            &path,
            "json",
            &json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]),
        )
        .await
        .ok();
    assert_eq!(json["spec"]["replicas"], 3);
    let container =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "y"}]}}}});
    let strategic = api.patch(&path, "strategic", &container).await.ok();
    assert_eq!(
        strategic["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 99}]);
    assert_eq!(api.patch(&path, "json", &test).await.status, 422);
    assert_eq!(
        api.patch(&path, "merge", &json!({"spec": {"replicas": "x"}}))
            .await
            .status,
        422
    );
    assert_eq!(
        api.patch(&format!("{path}x"), "merge", &json!({}))
            .await
            .status,
        404
    );
    // A patch that changes nothing keeps the revision.
    let same = api
        .patch(&path, "merge", &json!({"spec": {"replicas": 3}}))
        .await
        .ok();
    assert_eq!(version(&same), version(&strategic));
    server.stop().await;
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_conflicts() {
    let server = TestServer::start().await;
    let api = server.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments/w?fieldManager=one";
    let made = api.patch(path, "apply", &deployment("w")).await;
    assert_eq!(made.status, 201);
    let again = api.patch(path, "apply", &deployment("w")).await;
    assert_eq!(again.status, 200);
    assert_eq!(version(&again.json()), version(&made.json()));
    let mut other = deployment("w");
    other["spec"]["replicas"] = 5.into();
    let path = "/apis/apps/v1/namespaces/default/deployments/w?fieldManager=two";
    let conflict = api.patch(path, "apply", &other).await;
    assert_eq!(
        conflict.error(),
        "409 Conflict: Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    assert_eq!(
        conflict.json()["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    let forced = api
        .patch(&format!("{path}&force=true"), "apply", &other)
        .await
        .ok();
    assert_eq!(forced["spec"]["replicas"], 5);
    assert!(
        api.patch(
            "/apis/apps/v1/namespaces/default/deployments/w",
            "apply",
            &other
        )
        .await
        .error()
        .contains("fieldManager: Required value")
    );
    server.stop().await;
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = TestServer::start().await;
    let api = server.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    api.post(path, &deployment("w")).await.ok();
    let patch =
        json!({"spec": {"replicas": 7}, "status": {"replicas": 4, "observedGeneration": 1}});
    let status = api
        .patch(&format!("{path}/w/status"), "merge", &patch)
        .await
        .ok();
    assert_eq!(
        (
            status["spec"]["replicas"].as_i64(),
            status["status"]["replicas"].as_i64()
        ),
        (Some(1), Some(4))
    );
    let main = api
        .patch(
            &format!("{path}/w"),
            "merge",
            &json!({"status": {"replicas": 9}}),
        )
        .await
        .ok();
    assert_eq!(main["status"]["replicas"], 4);
    let scale = api.get(&format!("{path}/w/scale")).await.ok();
    assert_eq!(
        (
            scale["kind"].as_str(),
            scale["spec"]["replicas"].as_i64(),
            scale["status"]["replicas"].as_i64()
        ),
        (Some("Scale"), Some(1), Some(4))
    );
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 6.into();
    assert_eq!(
        api.put(&format!("{path}/w/scale"), &wanted).await.ok()["spec"]["replicas"],
        6
    );
    assert_eq!(
        api.put(&format!("{path}/w/scale"), &wanted).await.status,
        409
    );
    assert_eq!(
        api.get(&format!("{path}/w")).await.ok()["metadata"]["generation"],
        2
    );
    server.stop().await;
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let server = TestServer::start().await;
    let api = server.admin();
    let mut object = cm("a");
    object["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(CMS, &object).await.ok();
    let path = format!("{CMS}/a");
    let deleting = api.delete(&path).await.ok();
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.get(&path).await.status, 200);
    api.patch(&path, "merge", &json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    assert_eq!(api.get(&path).await.status, 404);
    // Foreground deletion waits for the garbage collector's finalizer.
    api.post(CMS, &cm("b")).await.ok();
    let answer = api
        .delete(&format!("{CMS}/b?propagationPolicy=Foreground"))
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.json()["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    server.stop().await;
}

#[tokio::test]
async fn preconditions_hold() {
    let server = TestServer::start().await;
    let api = server.admin();
    let made = api.post(CMS, &cm("a")).await.ok();
    let path = format!("{CMS}/a");
    let delete = |conditions: Value| {
        let body =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions})
                .to_string();
        let (api, path) = (api.clone(), path.clone());
        async move {
            api.raw(
                http::Method::DELETE,
                &path,
                &[("content-type", "application/json")],
                body,
            )
            .await
        }
    };
    let uid = made["metadata"]["uid"].clone();
    assert!(
        delete(json!({"uid": "other"}))
            .await
            .error()
            .contains("the UID in the precondition (other) does not match the UID in record")
    );
    assert!(
        delete(json!({"resourceVersion": "1"}))
            .await
            .error()
            .starts_with("409 Conflict")
    );
    assert_eq!(delete(json!({"uid": uid})).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = TestServer::start().await;
    let api = server.admin();
    for name in ["a", "b", "c"] {
        let mut object = cm(name);
        object["metadata"]["labels"] = json!({"keep": if name == "b" { "yes" } else { "no" }});
        api.post(CMS, &object).await.ok();
    }
    let deleted = api
        .delete(&format!("{CMS}?labelSelector=keep%3Dno"))
        .await
        .ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        api.get(CMS).await.ok()["items"].as_array().unwrap().len(),
        1
    );
    server.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_warned_of_refused_or_ignored() {
    let server = TestServer::start().await;
    let api = server.admin();
    let mut object = cm("a");
    object["spec"] = json!({"x": 1});
    let strict = api
        .post(&format!("{CMS}?fieldValidation=Strict"), &object)
        .await;
    assert!(
        strict
            .error()
            .contains("strict decoding error: unknown field \"spec\""),
        "{}",
        strict.error()
    );
    let warned = api
        .post(&format!("{CMS}?fieldValidation=Warn"), &object)
        .await;
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"spec\\\"\""
    );
    assert_eq!(warned.ok().get("spec"), None);
    object["metadata"]["name"] = "b".into();
    let ignored = api
        .post(&format!("{CMS}?fieldValidation=Ignore"), &object)
        .await;
    assert_eq!(ignored.headers.get("warning"), None);
    server.stop().await;
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let server = TestServer::start().await;
    let api = server.admin();
    api.post(CMS, &cm("a")).await.ok();
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let api = api.clone();
            tokio::spawn(async move {
                api.patch(
                    &format!("{CMS}/a"),
                    "merge",
                    &json!({"data": {format!("k{n}"): "v"}}),
                )
                .await
                .ok();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(
        api.get(&format!("{CMS}/a")).await.ok()["data"]
            .as_object()
            .unwrap()
            .len(),
        21
    );
    server.stop().await;
}

#[tokio::test]
async fn events_are_one_object_in_two_groups() {
    let server = TestServer::start().await;
    let api = server.admin();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "m", "type": "Normal", "count": 3,
        "source": {"component": "kubelet"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z",
    });
    let made = api
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .ok();
    let new = api
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await
        .ok();
    assert_eq!(
        (
            &new["regarding"]["name"],
            &new["note"],
            &new["deprecatedCount"]
        ),
        (&json!("p"), &json!("m"), &json!(3))
    );
    assert_eq!(version(&new), version(&made));
    let by_field = api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp,reason%3DStarted").await.ok();
    assert_eq!(by_field["items"].as_array().unwrap().len(), 1);
    let mut watch = api.watch("/apis/events.k8s.io/v1/events?watch=true").await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["apiVersion"],
        "events.k8s.io/v1"
    );
    server.stop().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let server = TestServer::start().await;
    let made = server.admin().post(CMS, &cm("a")).await.ok();
    let second = kernelet_server::Server::start(config(&server), server.store.clone())
        .await
        .unwrap();
    let api = common::Api::new(second.service(kernelet_server::UserInfo::admin()));
    assert_eq!(api.get(&format!("{CMS}/a")).await.ok(), made);
    // Both see what either writes.
    api.post(CMS, &cm("b")).await.ok();
    assert_eq!(server.admin().get(&format!("{CMS}/b")).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_others_write_to_is_read_all_the_same() {
    let server = TestServer::start().await;
    let api = server.admin();
    for n in 0..3 {
        let put = kernelet_store::Put::new("/foreign", n.to_string());
        let foreign = kernelet_store::Txn::of([kernelet_store::Op::Put(put)]);
        server.store.txn(foreign).await.unwrap();
        let list = api.get(CMS).await.ok();
        assert!(version(&list) >= 1);
        api.post(CMS, &cm(&format!("c{n}"))).await.ok();
        assert_eq!(
            api.get(CMS).await.ok()["items"].as_array().unwrap().len(),
            n + 1
        );
    }
    server.stop().await;
}

/// The configuration of a second server in front of the same store.
fn config(server: &TestServer) -> kernelet_server::ServerConfig {
    let serving = common::identity(&server.ca, "kube-apiserver", None);
    let tls =
        std::sync::Arc::new(kernelet_pki::server_config(&serving, server.ca.cert_pem()).unwrap());
    kernelet_server::ServerConfig {
        advertise: [192, 0, 2, 10].into(),
        port: server.address.port(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ports: 30000..=32767,
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_keys: kernelet_pki::ServiceAccountKeys::load_or_create(server.dir.path())
            .unwrap(),
        tls,
        kubelet_client: server.https(None),
        cluster_ca_pem: server.ca.cert_pem().to_owned(),
        encryption: None,
        audit: None,
        pod_security: Default::default(),
    }
}
