//! The audit log tells of requests, and never of secrets.

use std::{path::PathBuf, time::Duration};

use http::Method;
use kernelet_api::Registry;
use kernelet_server::{AuditConfig, AuditFile, AuditPolicy, UserInfo};
use serde_json::{Value, json};

use crate::common::TestServer;

struct Audited {
    server: TestServer,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

async fn start(policy: AuditPolicy) -> Audited {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let file = AuditFile::new(path.clone());
    let server = TestServer::with(Registry::builtin().clone(), |config| {
        config.audit = Some(AuditConfig { policy, file });
    })
    .await;
    Audited {
        server,
        path,
        _dir: dir,
    }
}

impl Audited {
    /// The events of a request, once there are so many.
    async fn events(&self, id: &str, count: usize) -> Vec<Value> {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let text = std::fs::read_to_string(&self.path).unwrap_or_default();
                let events: Vec<Value> = text
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .filter(|event: &Value| event["auditID"] == id)
                    .collect();
                if events.len() >= count {
                    return events;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("no events of {id}"))
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn an_event_tells_who_asked_for_what_and_how_it_went() {
    let audited = start(AuditPolicy::standard()).await;
    let bob = audited.server.api(UserInfo::new("bob", ["dev"]));
    let path = "/api/v1/namespaces/default/pods/x?pretty=1";
    let headers = [("audit-id", "one"), ("user-agent", "test/1")];
    let answer = bob.raw(Method::GET, path, &headers, "").await;
    assert_eq!(answer.headers["audit-id"], "one");
    let event = audited.events("one", 1).await.remove(0);
    assert_eq!(event["kind"], "Event");
    assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(event["level"], "Metadata");
    assert_eq!(event["stage"], "ResponseComplete");
    assert_eq!(event["requestURI"], path);
    assert_eq!(event["verb"], "get");
    assert_eq!(
        event["user"],
        json!({"username": "bob", "groups": ["dev", "system:authenticated"]})
    );
    assert_eq!(event["userAgent"], "test/1");
    assert_eq!(
        event["objectRef"],
        json!({"resource": "pods", "namespace": "default", "name": "x", "apiVersion": "v1"})
    );
    assert_eq!(event["responseStatus"]["code"], 403);
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    assert_eq!(
        event["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        let at: jiff::Timestamp = event[time].as_str().unwrap().parse().unwrap();
        assert!(at <= jiff::Timestamp::now());
    }
    assert!(event.get("requestObject").is_none());

    let headers = [("audit-id", "two"), ("impersonate-user", "eve")];
    let admin = audited.server.admin();
    admin.raw(Method::GET, "/api/v1/nodes", &headers, "").await;
    let event = audited.events("two", 1).await.remove(0);
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(event["impersonatedUser"]["username"], "eve");
    audited.server.stop().await;
}

#[tokio::test]
async fn a_watch_is_told_of_when_it_begins_and_when_it_ends() {
    let audited = start(AuditPolicy::standard()).await;
    let admin = audited.server.admin();
    let request = http::Request::get("/api/v1/pods?watch=1")
        .header("audit-id", "watch")
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .unwrap();
    let service = audited.server.server.service(UserInfo::admin());
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    let begun = audited.events("watch", 1).await;
    assert_eq!(begun[0]["stage"], "ResponseStarted");
    drop(response);
    let ended = audited.events("watch", 2).await;
    assert_eq!(ended[1]["stage"], "ResponseComplete");
    drop(admin);
    audited.server.stop().await;
}

#[tokio::test]
async fn a_policy_may_ask_for_bodies_but_never_gets_secrets() {
    let policy = AuditPolicy::parse(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules:\n\
         - {level: None, verbs: [list]}\n- {level: RequestResponse}\n",
    )
    .unwrap();
    let audited = start(policy).await;
    let admin = audited.server.admin();
    let body = |kind: &str, field: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, field: {"k": "hush-hush"}});
    let config = body("ConfigMap", "data").to_string();
    let path = "/api/v1/namespaces/default/configmaps";
    admin
        .raw(Method::POST, path, &[JSON, ("audit-id", "config")], config)
        .await
        .ok();
    let events = audited.events("config", 2).await;
    assert_eq!(events[0]["stage"], "RequestReceived");
    assert!(events[0].get("responseStatus").is_none());
    let event = &events[1];
    assert_eq!(event["requestObject"]["data"]["k"], "hush-hush");
    assert_eq!(event["responseObject"]["metadata"]["namespace"], "default");
    assert!(
        event["responseObject"]["metadata"]
            .get("managedFields")
            .is_none()
    );
    assert_eq!(event["responseStatus"]["code"], 201);

    let secret = body("Secret", "stringData").to_string();
    let path = "/api/v1/namespaces/default/secrets";
    admin
        .raw(Method::POST, path, &[JSON, ("audit-id", "secret")], secret)
        .await
        .ok();
    admin
        .raw(
            Method::GET,
            &format!("{path}/x"),
            &[("audit-id", "read")],
            "",
        )
        .await
        .ok();
    for (id, count) in [("secret", 2), ("read", 2)] {
        for event in audited.events(id, count).await {
            assert_eq!(event["level"], "Metadata");
            assert!(event.get("requestObject").is_none() && event.get("responseObject").is_none());
        }
    }
    admin
        .raw(Method::GET, "/api/v1/pods", &[("audit-id", "left-out")], "")
        .await
        .ok();
    admin
        .raw(Method::GET, "/version", &[("audit-id", "last")], "")
        .await
        .ok();
    audited.events("last", 2).await;
    let text = std::fs::read_to_string(&audited.path).unwrap();
    assert!(
        !text.contains("left-out"),
        "what the policy leaves out was logged"
    );
    audited.server.stop().await;
}
