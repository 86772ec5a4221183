//! Secrets are sealed in the store, by default, and only there.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::Registry;
use kernelet_server::{Encryption, Server, ServerConfig, UserInfo};
use kernelet_store::{Range, Store};
use serde_json::{Value, json};

use crate::common::{Api, TestServer};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:";

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"k": value}})
}

fn keys(path: &Path) -> Arc<Encryption> {
    Arc::new(Encryption::load_or_create(path).unwrap())
}

async fn start(encryption: Option<Arc<Encryption>>) -> TestServer {
    TestServer::with(Registry::builtin().clone(), |config| {
        config.encryption = encryption;
    })
    .await
}

/// What the files of the store hold.
fn on_disk(server: &TestServer) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(server.dir.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            bytes.extend(std::fs::read(path).unwrap());
        }
    }
    bytes
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

async fn stored(store: &Store, name: &str) -> Vec<u8> {
    let key = format!("/registry/secrets/default/{name}");
    let found = store.range(Range::key(key)).await.unwrap();
    found.kvs[0].value.to_vec()
}

fn value(object: &Value) -> String {
    let text = object["data"]["k"].as_str().unwrap();
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

/// Another server in front of the same store.
async fn second(
    server: &TestServer,
    encryption: Option<Arc<Encryption>>,
) -> Result<Server, kernelet_server::StartError> {
    let serving = crate::common::identity(&server.ca, "kube-apiserver", None);
    let config = ServerConfig {
        advertise: [192, 0, 2, 10].into(),
        port: server.address.port(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ports: 30000..=32767,
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_keys: kernelet_pki::ServiceAccountKeys::load_or_create(server.dir.path())
            .unwrap(),
        tls: Arc::new(kernelet_pki::server_config(&serving, server.ca.cert_pem()).unwrap()),
        kubelet_client: server.https(None),
        cluster_ca_pem: server.ca.cert_pem().to_owned(),
        encryption,
        audit: None,
        pod_security: Default::default(),
    };
    Server::start(config, server.store.clone()).await
}

#[tokio::test]
async fn the_store_never_holds_a_secret_in_the_plain() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&dir.path().join("keys"));
    let server = start(Some(keys.clone())).await;
    let api = server.admin();
    let mut events = api.watch(&format!("{SECRETS}?watch=1")).await;
    api.post(SECRETS, &secret("a", "the-first-plain-value"))
        .await
        .ok();
    let patch = json!({"stringData": {"k": "the-second-plain-value"}});
    api.patch(&format!("{SECRETS}/a"), "merge", &patch)
        .await
        .ok();
    assert_eq!(
        value(&events.next().await.unwrap()["object"]),
        "the-first-plain-value"
    );
    assert_eq!(
        value(&events.next().await.unwrap()["object"]),
        "the-second-plain-value"
    );
    let read = api.get(&format!("{SECRETS}/a")).await.ok();
    assert_eq!(value(&read), "the-second-plain-value");
    // Of a page at an older revision, past the cache, too.
    let version = read["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{SECRETS}?resourceVersion={version}&resourceVersionMatch=Exact&limit=5");
    let listed = api.get(&exact).await.ok();
    assert_eq!(value(&listed["items"][0]), "the-second-plain-value");

    let raw = stored(&server.store, "a").await;
    assert!(raw.starts_with(PREFIX));
    let disk = on_disk(&server);
    assert!(holds(&disk, PREFIX));
    for plain in ["the-first-plain-value", "the-second-plain-value"] {
        assert!(!holds(&disk, plain.as_bytes()), "{plain}");
        assert!(!holds(&disk, STANDARD.encode(plain).as_bytes()), "{plain}");
    }
    // A ConfigMap is no secret.
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "said-openly"}});
    api.post("/api/v1/namespaces/default/configmaps", &config)
        .await
        .ok();
    assert!(holds(&on_disk(&server), b"said-openly"));

    let again = second(&server, Some(keys)).await.unwrap();
    let api = Api::new(again.service(UserInfo::admin()));
    let read = api.get(&format!("{SECRETS}/a")).await.ok();
    assert_eq!(value(&read), "the-second-plain-value");
    server.stop().await;
}

#[tokio::test]
async fn what_was_plain_or_sealed_with_an_old_key_is_sealed_anew_at_the_next_start() {
    let server = start(None).await;
    server
        .admin()
        .post(SECRETS, &secret("a", "once-plain"))
        .await
        .ok();
    assert!(stored(&server.store, "a").await.starts_with(b"{"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let first = second(&server, Some(keys(&path))).await.unwrap();
    sealed_with(&server.store, &name_of_first(&path)).await;
    let api = Api::new(first.service(UserInfo::admin()));
    assert_eq!(
        value(&api.get(&format!("{SECRETS}/a")).await.ok()),
        "once-plain"
    );
    // Rotation: a new key before the old one.
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, Encryption::new_line().unwrap() + &old).unwrap();
    let rotated = second(&server, Some(keys(&path))).await.unwrap();
    sealed_with(&server.store, &name_of_first(&path)).await;
    let api = Api::new(rotated.service(UserInfo::admin()));
    assert_eq!(
        value(&api.get(&format!("{SECRETS}/a")).await.ok()),
        "once-plain"
    );
    server.stop().await;
}

#[tokio::test]
async fn more_than_secrets_may_be_sealed_and_is_read_when_it_no_longer_is() {
    const PATH: &str = "/api/v1/namespaces/default/configmaps";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let wanted = [
        "configmaps".to_owned(),
        "leases.coordination.k8s.io".to_owned(),
    ];
    let more = Encryption::load_or_create(&path).unwrap();
    let server = start(Some(Arc::new(more.with_resources(&wanted).unwrap()))).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "said-quietly"}});
    let made = server.admin().post(PATH, &config).await.ok();
    assert_eq!(made["data"]["k"], "said-quietly");
    assert!(!holds(&on_disk(&server), b"said-quietly"));
    // A server that seals Secrets alone reads it, and leaves what is written plain.
    let fewer = second(&server, Some(keys(&path))).await.unwrap();
    let api = Api::new(fewer.service(UserInfo::admin()));
    let read = api.get(&format!("{PATH}/c")).await.ok();
    assert_eq!(read["data"]["k"], "said-quietly");
    let patch = json!({"data": {"k": "said-openly"}});
    api.patch(&format!("{PATH}/c"), "merge", &patch).await.ok();
    assert!(holds(&on_disk(&server), b"said-openly"));
    for unknown in [
        "secret",
        "configmaps.apps",
        "selfsubjectreviews.authentication.k8s.io",
    ] {
        let keys = Encryption::load_or_create(&path).unwrap();
        let error = keys.with_resources(&[unknown.to_owned()]).unwrap_err();
        assert!(error.to_string().contains(unknown), "{error}");
    }
    server.stop().await;
}

fn name_of_first(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

async fn sealed_with(store: &Store, key: &str) {
    let prefix = [PREFIX, key.as_bytes(), b":"].concat();
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !stored(store, "a").await.starts_with(&prefix) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it was never sealed anew");
}

#[tokio::test]
async fn a_server_without_the_key_says_which_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let server = start(Some(keys(&path))).await;
    server.admin().post(SECRETS, &secret("a", "x")).await.ok();
    let lost = name_of_first(&path);
    let other = keys(&dir.path().join("other"));
    let Err(error) = second(&server, Some(other)).await else {
        panic!("it started without the key");
    };
    let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(
        told.contains("/registry/secrets/default/a") && told.contains(&lost),
        "{told}"
    );
    server.stop().await;
}
