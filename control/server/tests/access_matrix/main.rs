//! Who may do what, over TLS, held against a table: `rbac.txt` (upstream's default policy) and `node.txt` (nodes).

#[path = "../common/mod.rs"]
mod common;

mod client;
mod node;

use client::{Client, Identity};
use common::TestServer;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

pub struct Row<'t> {
    pub verb: &'t str,
    pub path: &'t str,
    pub marks: Vec<&'t str>,
}

/// The columns' names and the rows.
pub fn table(text: &str) -> (Vec<&str>, Vec<Row<'_>>) {
    let mut lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let columns = lines.next().unwrap().split_whitespace().skip(1).collect();
    let rows = lines.map(|line| {
        let (request, marks) = line.split_once(" | ").unwrap();
        let (verb, path) = request.trim().split_once(' ').unwrap();
        let marks = marks.split_whitespace().collect();
        Row { verb, path, marks }
    });
    (columns, rows.collect())
}

/// What an answer's code says about the access.
pub fn mark(code: u16) -> &'static str {
    match code {
        401 => "!",
        403 => "-",
        _ => "+",
    }
}

fn role_binding(name: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    })
}

/// The Secret of the bootstrap token `abcdef.0123456789abcdef`.
pub fn bootstrap_token() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
        },
    })
}

async fn prepare(server: &TestServer) {
    let admin = server.admin();
    let namespace =
        |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    admin
        .post("/api/v1/namespaces", &namespace("dev"))
        .await
        .ok();
    for role in ["view", "edit", "admin"] {
        let path = format!("{RBAC}/namespaces/dev/rolebindings");
        admin.post(&path, &role_binding(role)).await.ok();
    }
    let mut root = role_binding("root");
    root["kind"] = "ClusterRoleBinding".into();
    root["roleRef"]["name"] = "cluster-admin".into();
    admin
        .post(&format!("{RBAC}/clusterrolebindings"), &root)
        .await
        .ok();
    for (namespace, name) in [
        ("dev", "builder"),
        ("kube-system", "job-controller"),
        ("kube-system", "token-cleaner"),
    ] {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        admin.post(&path, &account).await.ok();
    }
    admin
        .post("/api/v1/namespaces/kube-system/secrets", &bootstrap_token())
        .await
        .ok();
}

async fn token(server: &TestServer, namespace: &str, name: &str) -> Identity {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = server.admin().post(&path, &request).await.ok();
    Identity::Token(answer["status"]["token"].as_str().unwrap().to_owned())
}

async fn identity(server: &TestServer, column: &str) -> Identity {
    let named = |name: &str| Identity::Certificate(name.to_owned(), None);
    let grouped =
        |name: &str, group: &str| Identity::Certificate(name.to_owned(), Some(group.to_owned()));
    match column {
        "stranger" => Identity::Nobody,
        "masters" => grouped("m", "system:masters"),
        "monitoring" => grouped("x", "system:monitoring"),
        "scheduler" => named("system:kube-scheduler"),
        "controllers" => named("system:kube-controller-manager"),
        "proxy" => named("system:kube-proxy"),
        "account" => token(server, "dev", "builder").await,
        "jobs" => token(server, "kube-system", "job-controller").await,
        "cleaner" => token(server, "kube-system", "token-cleaner").await,
        "joining" => Identity::Token("abcdef.0123456789abcdef".to_owned()),
        user => named(user),
    }
}

#[tokio::test]
async fn everybody_may_what_upstreams_default_policy_says_and_no_more() {
    let server = TestServer::start().await;
    prepare(&server).await;
    let (columns, rows) = table(include_str!("rbac.txt"));
    let mut wrong = Vec::new();
    for (column, name) in columns.iter().enumerate() {
        let who = identity(&server, name).await;
        let mut client = Client::connect(&server, &who).await;
        for row in &rows {
            let (code, body) = client.ask(row.verb, row.path, "").await;
            if mark(code) != row.marks[column] {
                let expected = row.marks[column];
                wrong.push(format!(
                    "{name}: {} {}: {code}, not {expected}: {body}",
                    row.verb, row.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows.len() * columns.len() > 1000);
    server.stop().await;
}

#[tokio::test]
async fn nodes_may_what_their_own_pods_need_and_no_more() {
    let server = TestServer::start().await;
    node::prepare(&server).await;
    let who = Identity::Certificate("system:node:a".to_owned(), Some("system:nodes".to_owned()));
    let mut client = Client::connect(&server, &who).await;
    let mut wrong = Vec::new();
    let rows = node::rows(&server).await;
    for row in &rows {
        let (code, body) = client.ask(&row.verb, &row.path, &row.body).await;
        let refused = matches!(code, 401 | 403);
        let right = match &row.why {
            None => !refused,
            Some(why) => refused && body.contains(why.as_str()),
        };
        if !right {
            wrong.push(format!(
                "{} {}: {code} {body}, not {:?}",
                row.verb, row.path, row.why
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows.len() > 60);
    server.stop().await;
}
