//! The audit log tells of requests, and never of secrets.

use std::{path::PathBuf, time::Duration};

use http::Method;
use kernelet_api::Registry;
use kernelet_server::{AuditConfig, AuditFile, AuditPolicy, PodSecurityConfig, UserInfo};
use serde_json::{Value, json};

use crate::common::TestServer;

struct Audited {
    server: TestServer,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

async fn start(policy: AuditPolicy) -> Audited {
    start_with(policy, PodSecurityConfig::default()).await
}

async fn start_with(policy: AuditPolicy, pod_security: PodSecurityConfig) -> Audited {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let file = AuditFile::new(path.clone());
    let server = TestServer::with(Registry::builtin().clone(), |config| {
        config.audit = Some(AuditConfig { policy, file });
        config.pod_security = pod_security;
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

#[tokio::test]
async fn what_pod_security_finds_is_annotated_and_whom_it_exempts() {
    let config = PodSecurityConfig::parse(
        "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n\
         defaults: {audit: restricted}\n\
         exemptions: {usernames: [ann], namespaces: [tools], runtimeClasses: []}\n",
        std::path::Path::new("."),
    )
    .unwrap();
    let audited = start_with(AuditPolicy::standard(), config).await;
    let admin = audited.server.admin();
    let annotation = |event: &Value, key: &str| {
        let key = format!("pod-security.kubernetes.io/{key}");
        event["annotations"][key].as_str().map(str::to_owned)
    };
    for (name, labels) in [
        ("plain", json!({})),
        (
            "strict",
            json!({"pod-security.kubernetes.io/enforce": "baseline"}),
        ),
        (
            "tools",
            json!({"pod-security.kubernetes.io/enforce": "restricted"}),
        ),
    ] {
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let made = admin.post("/api/v1/namespaces", &space).await;
        let warned = made
            .headers
            .get("warning")
            .map(|text| text.to_str().unwrap().to_owned());
        let expected = (name == "tools").then(|| {
            "299 - \"namespace \\\"tools\\\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored\"".to_owned()
        });
        assert_eq!(warned, expected, "{name}");
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
        admin.post(&path, &account).await.ok();
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "hostNetwork": true, "containers": [{"name": "c", "image": "x"}]}});
    let ann = audited.server.api(UserInfo::new("ann", ["system:masters"]));
    let said =
        "would violate PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), ";
    for (id, api, space, code, enforced, violations, exempt) in [
        (
            "plain",
            &admin,
            "plain",
            201,
            Some("privileged:latest"),
            true,
            None,
        ),
        (
            "strict",
            &admin,
            "strict",
            403,
            Some("baseline:latest"),
            true,
            None,
        ),
        ("user", &ann, "strict", 201, None, false, Some("user")),
        (
            "space",
            &admin,
            "tools",
            201,
            None,
            false,
            Some("namespace"),
        ),
    ] {
        let path = format!("/api/v1/namespaces/{space}/pods");
        let headers = [JSON, ("audit-id", id)];
        let answer = api
            .raw(Method::POST, &path, &headers, pod.to_string())
            .await;
        assert_eq!(answer.status.as_u16(), code, "{id}");
        let event = audited.events(id, 1).await.remove(0);
        assert_eq!(
            annotation(&event, "enforce-policy").as_deref(),
            enforced,
            "{id}"
        );
        let told = annotation(&event, "audit-violations");
        assert_eq!(
            told.is_some_and(|told| told.starts_with(said)),
            violations,
            "{id}"
        );
        assert_eq!(annotation(&event, "exempt").as_deref(), exempt, "{id}");
        assert!(event["annotations"]["authorization.k8s.io/decision"] == "allow");
    }
    audited.server.stop().await;
}
