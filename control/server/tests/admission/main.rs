//! What admission gives, refuses and warns of, over the API.

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod eviction;
mod kubectl;
mod limits;
mod pod_security;
mod priority;
mod quota;
mod warnings;

use common::{Answer, Api, TestServer};
use serde_json::{Value, json};

const NS: &str = "/api/v1/namespaces/default";

/// A server with a ServiceAccount in `default`, as the controllers would make it.
async fn start() -> (TestServer, Api) {
    let server = TestServer::start().await;
    let api = server.admin();
    account(&api, "default").await;
    (server, api)
}

async fn account(api: &Api, namespace: &str) {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    api.post(&path, &account).await.ok();
}

/// A pod of one container `c` with those further fields.
fn pod(name: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "x".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}})
}

/// The texts of the answer's Warning headers.
fn warnings(answer: &Answer) -> Vec<String> {
    answer
        .headers
        .get_all("warning")
        .iter()
        .map(|value| {
            let text = value.to_str().unwrap();
            let text = text.strip_prefix("299 - \"").unwrap();
            text.strip_suffix('"').unwrap().replace("\\\"", "\"")
        })
        .collect()
}
