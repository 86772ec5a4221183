//! Priority and fairness, as clients meet it.

#[path = "../common/mod.rs"]
mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Api, TestServer};
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kernelet_server::UserInfo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::TlsConnector;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const LONG: Duration = Duration::from_secs(60);

/// A level of three seats with a few short queues, for the group `testers`.
async fn tiny_level(admin: &Api) -> (String, String) {
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "tiny"},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 16, "handSize": 2, "queueLengthLimit": 10}},
        }},
    });
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "tiny"},
        "spec": {
            "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "tiny"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "testers"}}],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
                }],
            }],
        },
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "testers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "testers"}],
    });
    admin
        .post(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            &binding,
        )
        .await
        .ok();
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let level = admin
        .post(&format!("{GROUP}/prioritylevelconfigurations"), &level)
        .await
        .ok();
    let schema = admin
        .post(&format!("{GROUP}/flowschemas"), &schema)
        .await
        .ok();
    (uid(schema), uid(level))
}

/// Asks until the answer's headers name that schema and level.
async fn until_in_force(api: &Api, uids: &(String, String)) {
    let asked = async {
        loop {
            let answer = api.get("/api/v1/namespaces/default/configmaps/none").await;
            let header = |name: &str| {
                answer
                    .headers
                    .get(name)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned)
            };
            let found = (
                header("x-kubernetes-pf-flowschema-uid").unwrap(),
                header("x-kubernetes-pf-prioritylevel-uid").unwrap(),
            );
            if found == *uids {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    time::timeout(LONG, asked).await.expect("it takes force");
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// An HTTP/2 connection over TLS, as that user.
async fn connect(server: &TestServer, user: &str, group: &str) -> SendRequest<Body> {
    let mut tls = (*server.https(Some((user, Some(group))))).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::IpAddress(server.address.ip().into());
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// A body that is sent once `release` says so.
fn withheld(text: String, mut release: watch::Receiver<bool>) -> Body {
    StreamBody::new(futures::stream::once(async move {
        let _ = release.wait_for(|released| *released).await;
        Ok(Frame::data(Bytes::from(text)))
    }))
    .boxed_unsync()
}

/// The value of a metric's line, or 0 where it isn't told.
async fn metric(admin: &Api, line: &str) -> u64 {
    let page = admin.get("/metrics").await;
    String::from_utf8_lossy(&page.body)
        .lines()
        .find_map(|text| text.strip_prefix(line)?.trim().parse().ok())
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_noisy_client_harms_nobody_but_itself() {
    const NOISE: usize = 200;
    let server = TestServer::start().await;
    let admin = server.admin();
    let uids = tiny_level(&admin).await;
    let tester = server.api(UserInfo::new("tester", ["testers"]));
    until_in_force(&tester, &uids).await;

    let (release, released) = watch::channel(false);
    let noisy = connect(&server, "noisy", "testers").await;
    let noise = (0..NOISE).map(|number| {
        let (mut noisy, released) = (noisy.clone(), released.clone());
        tokio::spawn(async move {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("noise-{number}")},
            });
            let request = Request::post("https://localhost/api/v1/namespaces/default/configmaps")
                .header("content-type", "application/json")
                .body(withheld(map.to_string(), released))
                .unwrap();
            noisy.ready().await.unwrap();
            let response = noisy.send_request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if parts.status == StatusCode::TOO_MANY_REQUESTS {
                assert_eq!(parts.headers["retry-after"], "1");
                assert_eq!(&body[..], b"Too many requests, please try again later.\n");
            }
            parts.status
        })
    });
    let noise: Vec<_> = noise.collect();
    // Its seats are taken and its queues are full.
    let refused = r#"apiserver_flowcontrol_rejected_requests_total{priority_level="tiny",flow_schema="tiny",reason="queue-full"}"#;
    let full = async {
        while metric(&admin, refused).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(LONG, full).await.expect("the noise is heard");

    let mut quiet = connect(&server, "quiet", "testers").await;
    quiet.ready().await.unwrap();
    let answers = (0..10).map(|_| {
        let request = Request::get("https://localhost/api/v1/namespaces/default/configmaps")
            .body(Full::default().boxed_unsync())
            .unwrap();
        quiet.send_request(request)
    });
    for answer in join_all(answers).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    // They were served before those that had come first.
    let waiting = r#"apiserver_flowcontrol_current_inqueue_requests{priority_level="tiny",flow_schema="tiny"}"#;
    assert!(metric(&admin, waiting).await > 0, "the noise waits");

    release.send_replace(true);
    let mut counts = (0, 0);
    for status in join_all(noise).await {
        match status.unwrap() {
            StatusCode::CREATED => counts.0 += 1,
            StatusCode::TOO_MANY_REQUESTS => counts.1 += 1,
            other => panic!("{other}"),
        }
    }
    assert!(counts.0 >= 23 && counts.1 >= NOISE / 2, "{counts:?}");
    assert_eq!(metric(&admin, waiting).await, 0);
    let running = r#"apiserver_flowcontrol_current_executing_requests{priority_level="tiny",flow_schema="tiny"}"#;
    assert_eq!(metric(&admin, running).await, 0, "all seats are given back");
    server.stop().await;
}

#[tokio::test]
async fn upstreams_objects_are_there_and_come_back() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let table = admin
        .raw(
            http::Method::GET,
            &format!("{GROUP}/flowschemas"),
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            "",
        )
        .await
        .ok();
    let rows: Vec<String> = table["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let cells = row["cells"].as_array().unwrap();
            let text = |i: usize| {
                cells[i]
                    .as_str()
                    .map_or(cells[i].to_string(), str::to_owned)
            };
            format!(
                "{} {} {} {} {}",
                text(0),
                text(1),
                text(2),
                text(3),
                text(5)
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "exempt exempt 1 <none> False",
            "probes exempt 2 <none> False",
            "system-leader-election leader-election 100 ByUser False",
            "system-node-high node-high 400 ByUser False",
            "system-nodes system 500 ByUser False",
            "kube-controller-manager workload-high 800 ByNamespace False",
            "kube-scheduler workload-high 800 ByNamespace False",
            "kube-system-service-accounts workload-high 900 ByNamespace False",
            "service-accounts workload-low 9000 ByUser False",
            "global-default global-default 9900 ByUser False",
            "catch-all catch-all 10000 ByUser False",
        ]
    );
    let levels = admin
        .get(&format!("{GROUP}/prioritylevelconfigurations"))
        .await
        .ok();
    let names: Vec<&str> = levels["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|level| level["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "catch-all",
            "exempt",
            "global-default",
            "leader-election",
            "node-high",
            "system",
            "workload-high",
            "workload-low"
        ]
    );
    let path = format!("{GROUP}/flowschemas/catch-all");
    let before = admin.get(&path).await.ok();
    admin.delete(&path).await.ok();
    let back = async {
        loop {
            let now = admin.get(&path).await;
            if now.status == StatusCode::OK
                && now.json()["metadata"]["uid"] != before["metadata"]["uid"]
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    time::timeout(LONG, back).await.expect("it is made again");
    server.stop().await;
}

#[tokio::test]
async fn a_schema_without_its_level_says_so_and_matches_nothing() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let uids = tiny_level(&admin).await;
    let tester = server.api(UserInfo::new("tester", ["testers"]));
    until_in_force(&tester, &uids).await;
    admin
        .delete(&format!("{GROUP}/prioritylevelconfigurations/tiny"))
        .await
        .ok();
    let told = async {
        loop {
            let schema = admin.get(&format!("{GROUP}/flowschemas/tiny")).await.ok();
            let condition = schema["status"]["conditions"][0].clone();
            if condition["status"] == "True" {
                return condition;
            }
            tokio::task::yield_now().await;
        }
    };
    let condition = time::timeout(LONG, told).await.expect("it is told");
    assert_eq!(condition["type"], "Dangling");
    assert_eq!(condition["reason"], "NotFound");
    assert_eq!(
        condition["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"tiny\" but there is no such object"
    );
    let global = admin
        .get(&format!("{GROUP}/flowschemas/global-default"))
        .await
        .ok();
    let answer = tester.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(
        answer.headers["x-kubernetes-pf-flowschema-uid"],
        global["metadata"]["uid"].as_str().unwrap()
    );
    server.stop().await;
}
