//! What stands behind `node.txt`: the cluster that its rows are asked of, and their bodies.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::common::TestServer;

pub struct Row {
    pub verb: String,
    pub path: String,
    pub body: String,
    /// What the refusal says; none where the request is allowed.
    pub why: Option<String>,
}

fn mine() -> Value {
    let key = |name: &str| json!({"name": name, "key": "k"});
    json!({
        "nodeName": "a", "serviceAccountName": "builder",
        "containers": [{
            "name": "c", "image": "x",
            "envFrom": [{"secretRef": {"name": "mine-from"}}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": key("mine-env")}},
                {"name": "B", "valueFrom": {"configMapKeyRef": key("mine-env")}},
            ],
        }],
        "initContainers": [{
            "name": "i", "image": "x", "env": [{"name": "A", "valueFrom": {"secretKeyRef": key("mine-init")}}],
        }],
        "volumes": [
            {"name": "secret", "secret": {"secretName": "mine"}},
            {"name": "config", "configMap": {"name": "mine"}},
            {"name": "projected", "projected": {"sources": [
                {"secret": {"name": "mine-projected"}},
                {"serviceAccountToken": {"path": "t", "audience": "registry"}},
                {"serviceAccountToken": {"path": "u"}},
            ]}},
        ],
    })
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// A mirror pod of node `a`, which has that uid.
fn mirror(name: &str, uid: &str) -> Value {
    let mut pod = pod(
        name,
        json!({"nodeName": "a", "containers": [{"name": "c", "image": "x"}]}),
    );
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    pod["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true}
    ]);
    pod
}

pub async fn prepare(server: &TestServer) {
    let admin = server.admin();
    let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let pods = "/api/v1/namespaces/dev/pods";
    let post = async |path: &str, body: Value| admin.post(path, &body).await.ok();
    post("/api/v1/namespaces", object("Namespace", "dev")).await;
    post("/api/v1/nodes", object("Node", "a")).await;
    post("/api/v1/nodes", object("Node", "b")).await;
    for account in ["builder", "default"] {
        let path = "/api/v1/namespaces/dev/serviceaccounts";
        post(path, object("ServiceAccount", account)).await;
    }
    post(pods, pod("mine", mine())).await;
    let other = json!({
        "nodeName": "b", "serviceAccountName": "builder", "containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "s", "secret": {"secretName": "other"}}],
    });
    post(pods, pod("other", other)).await;
}

fn csr(name: &str) -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("system:node:{name}"));
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:nodes");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "request": STANDARD.encode(pem),
            "usages": ["digital signature", "client auth"],
        },
    })
}

fn token(audiences: Value, bound: Value) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": audiences, "boundObjectRef": bound},
    })
}

async fn bodies(server: &TestServer) -> BTreeMap<&'static str, Value> {
    let admin = server.admin();
    let uid = async |path: &str| {
        let object = admin.get(path).await.ok();
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let node = uid("/api/v1/nodes/a").await;
    let (own, other) = (
        uid("/api/v1/namespaces/dev/pods/mine").await,
        uid("/api/v1/namespaces/dev/pods/other").await,
    );
    let changed = |path: &str, value: Value| {
        let mut pod = mirror("m", &node);
        *pod.pointer_mut(path).unwrap() = value;
        pod
    };
    let owner = |field: &str, value: Value| {
        let mut pod = mirror("m", &node);
        pod["metadata"]["ownerReferences"][0][field] = value;
        pod
    };
    let mut with_secret = mirror("m", &node);
    with_secret["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "other"}}]);
    let to_pod = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}});
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    BTreeMap::from([
        (
            "plain",
            pod(
                "p",
                json!({"nodeName": "a", "containers": [{"name": "c", "image": "x"}]}),
            ),
        ),
        ("mirror", mirror("m", &node)),
        ("mirror-elsewhere", changed("/spec/nodeName", "b".into())),
        (
            "mirror-unowned",
            changed("/metadata/ownerReferences", json!([])),
        ),
        ("mirror-of-deployment", owner("kind", "Deployment".into())),
        ("mirror-uncontrolled", owner("controller", false.into())),
        ("mirror-blocking", owner("blockOwnerDeletion", true.into())),
        ("mirror-of-another-uid", owner("uid", "0".into())),
        ("mirror-with-secret", with_secret),
        ("status", json!({"status": {}})),
        ("status-label", json!({"metadata": {"labels": {"x": "y"}}})),
        (
            "eviction-of-other",
            json!({
                "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "other"},
            }),
        ),
        (
            "node-c",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "c"}}),
        ),
        ("label", label("example.com/x")),
        ("own-label", label("node.kubernetes.io/x")),
        (
            "restricted-label",
            label("node-restriction.kubernetes.io/fast"),
        ),
        ("role-label", label("node-role.kubernetes.io/control-plane")),
        (
            "taint",
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        ),
        (
            "owner",
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "b", "uid": "u"}
            ]}}),
        ),
        ("lease-a", lease("a")),
        ("lease-b", lease("b")),
        ("token", token(json!([]), to_pod("mine", &own))),
        ("token-unbound", token(json!([]), Value::Null)),
        (
            "token-of-secret",
            token(
                json!([]),
                json!({"apiVersion": "v1", "kind": "Secret", "name": "mine"}),
            ),
        ),
        ("token-without-uid", token(json!([]), to_pod("mine", ""))),
        (
            "token-of-another-uid",
            token(json!([]), to_pod("mine", "0")),
        ),
        ("token-of-other", token(json!([]), to_pod("other", &other))),
        (
            "token-for-vault",
            token(json!(["vault"]), to_pod("mine", &own)),
        ),
        (
            "token-for-two",
            token(json!(["registry", "vault"]), to_pod("mine", &own)),
        ),
        (
            "token-for-registry",
            token(json!(["registry"]), to_pod("mine", &own)),
        ),
        ("csr-a", csr("a")),
        ("csr-b", csr("b")),
    ])
}

pub async fn rows(server: &TestServer) -> Vec<Row> {
    let bodies = bodies(server).await;
    include_str!("node.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (request, outcome) = line.split_once(" → ").unwrap();
            let mut words = request.split(' ');
            let (verb, path) = (words.next().unwrap(), words.next().unwrap());
            let body = words.next().map_or_else(String::new, |name| {
                let name = name.strip_prefix('#').unwrap();
                bodies[name].to_string()
            });
            Row {
                verb: verb.to_owned(),
                path: path.to_owned(),
                body,
                why: (outcome != "ok").then(|| outcome.to_owned()),
            }
        })
        .collect()
}
