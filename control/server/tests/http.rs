//! HTTP over TLS as strangers and clients speak it: identities, media types, limits, malformed requests.

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::TestServer;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const ADMIN: Option<(&str, Option<&str>)> = Some(("kubernetes-admin", Some("system:masters")));

async fn connect(
    server: &TestServer,
    mut tls: rustls::ClientConfig,
    alpn: &str,
) -> TlsStream<TcpStream> {
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::IpAddress(server.address.ip().into());
    TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap()
}

/// One HTTP/1.1 request on a connection of its own.
async fn request(
    server: &TestServer,
    who: Option<(&str, Option<&str>)>,
    request: Request<Full<Bytes>>,
) -> (StatusCode, http::HeaderMap, Bytes) {
    let stream = connect(server, (*server.https(who)).clone(), "http/1.1").await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let task = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    drop(sender);
    task.abort();
    (parts.status, parts.headers, body)
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).header("host", "localhost");
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn who_shows_nothing_gets_401_everywhere() {
    let server = TestServer::start().await;
    for path in [
        "/",
        "/api",
        "/healthz",
        "/version",
        "/metrics",
        "/openapi/v2",
        "/api/v1/pods",
        "/nowhere",
    ] {
        let (status, _, body) = request(&server, None, get(path, &[])).await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap()["reason"],
            "Unauthorized"
        );
    }
    for token in [
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "Basic YTpi",
        "bearer eyJhbGciOiJub25lIn0.e30.",
    ] {
        let (status, ..) = request(&server, None, get("/api", &[("authorization", token)])).await;
        assert_eq!(status, 401, "{token}");
    }
    server.stop().await;
}

#[tokio::test]
async fn certificates_and_tokens_prove_who_one_is() {
    let server = TestServer::start().await;
    let whoami = || {
        Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("host", "localhost")
            .header("content-type", "application/json")
    };
    let body = Bytes::from(
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string(),
    );
    let (status, _, answer) = request(
        &server,
        Some(("eve", Some("dev"))),
        whoami().body(Full::new(body.clone())).unwrap(),
    )
    .await;
    assert_eq!(status, 201);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let who = &answer["status"]["userInfo"];
    assert_eq!(who["username"], "eve");
    assert_eq!(who["groups"], json!(["dev", "system:authenticated"]));
    // Which certificate it was.
    let credential = &who["extra"]["authentication.kubernetes.io/credential-id"][0];
    let digest = credential.as_str().unwrap().strip_prefix("X509SHA256=");
    assert_eq!(digest.unwrap().len(), 64);
    let admin = server.admin();
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    admin
        .post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await
        .ok();
    let wanted =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = admin
        .post(
            "/api/v1/namespaces/default/serviceaccounts/robot/token",
            &wanted,
        )
        .await
        .ok();
    let token = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let asked = whoami()
        .header("authorization", &token)
        .body(Full::new(body))
        .unwrap();
    let (_, _, answer) = request(&server, None, asked).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        answer["status"]["userInfo"]["username"],
        "system:serviceaccount:default:robot"
    );
    // A certificate of another authority isn't one.
    let other = kernelet_pki::Ca::create(kernelet_pki::Lifetimes::default()).unwrap();
    let forged = common::identity(&other, "kubernetes-admin", Some("system:masters"));
    let mut tls = kernelet_pki::client_config(server.ca.cert_pem(), Some(&forged)).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::IpAddress(server.address.ip().into());
    let refused = match TlsConnector::from(Arc::new(tls)).connect(name, tcp).await {
        Err(_) => true,
        // With TLS 1.3 the client learns of the refusal when it reads.
        Ok(mut stream) => {
            let _ = stream
                .write_all(b"GET /api HTTP/1.1\r\nhost: x\r\n\r\n")
                .await;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.is_err() || !bytes.starts_with(b"HTTP/1.1 200")
        }
    };
    assert!(refused);
    server.stop().await;
}

#[tokio::test]
async fn answers_come_in_the_format_asked_for() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default";
    let json = admin.get(path).await.ok();
    for (accept, content_type) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/yaml", "application/yaml"),
        (
            "application/vnd.kubernetes.protobuf",
            "application/vnd.kubernetes.protobuf",
        ),
        (
            "application/vnd.kubernetes.protobuf,application/json",
            "application/vnd.kubernetes.protobuf",
        ),
        ("text/html,application/json;q=0.5", "application/json"),
    ] {
        let answer = admin
            .raw(http::Method::GET, path, &[("accept", accept)], "")
            .await;
        assert_eq!(answer.headers["content-type"], content_type, "{accept}");
        let schema = kernelet_api::Schema::builtin();
        let format = match content_type {
            "application/json" => kernelet_api::codec::Format::Json,
            "application/yaml" => kernelet_api::codec::Format::Yaml,
            _ => kernelet_api::codec::Format::Protobuf,
        };
        let decoded =
            kernelet_api::codec::decode_any(schema, format, &answer.body, Default::default())
                .unwrap();
        assert_eq!(
            decoded.value["metadata"]["uid"], json["metadata"]["uid"],
            "{accept}"
        );
    }
    assert_eq!(
        admin
            .raw(http::Method::GET, path, &[("accept", "text/html")], "")
            .await
            .error(),
        "406 NotAcceptable: only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    // A list in protobuf, and a body in protobuf.
    let list = admin
        .raw(
            http::Method::GET,
            "/api/v1/namespaces",
            &[("accept", "application/vnd.kubernetes.protobuf")],
            "",
        )
        .await;
    let schema = kernelet_api::Schema::builtin();
    let decoded = kernelet_api::codec::decode_any(
        schema,
        kernelet_api::codec::Format::Protobuf,
        &list.body,
        Default::default(),
    )
    .unwrap();
    assert_eq!(decoded.value["items"].as_array().unwrap().len(), 4);
    let cm = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"a": "b"}});
    let body = kernelet_api::codec::encode_protobuf(schema, &cm).unwrap();
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    admin
        .raw(
            http::Method::POST,
            "/api/v1/namespaces/default/configmaps",
            &headers,
            body,
        )
        .await
        .ok();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: c}\n";
    let headers = [("content-type", "application/yaml")];
    admin
        .raw(
            http::Method::POST,
            "/api/v1/namespaces/default/configmaps",
            &headers,
            yaml,
        )
        .await
        .ok();
    // Tables and metadata.
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = admin
        .raw(
            http::Method::GET,
            "/api/v1/namespaces/default/configmaps",
            &headers,
            "",
        )
        .await
        .ok();
    assert_eq!(
        (
            table["kind"].as_str(),
            table["rows"].as_array().unwrap().len()
        ),
        (Some("Table"), 2)
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let headers = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let partial = admin
        .raw(
            http::Method::GET,
            "/api/v1/namespaces/default/configmaps",
            &headers,
            "",
        )
        .await
        .ok();
    assert_eq!(
        (partial["kind"].as_str(), partial["items"][0].get("data")),
        (Some("PartialObjectMetadataList"), None)
    );
    server.stop().await;
}

#[tokio::test]
async fn json_ends_with_a_line_feed_unless_it_is_pretty() {
    let server = TestServer::start().await;
    let api = server.admin();
    const DEFAULT: &str = "/api/v1/namespaces/default";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for (path, accept, ends) in [
        (DEFAULT, "application/json", "}\n"),
        ("/api/v1/namespaces", "application/json", "]}\n"),
        ("/api/v1/namespaces", table, "]}\n"),
        (DEFAULT, table, "}\n"),
        ("/api/v1/namespaces/none", "application/json", "}\n"),
        ("/apis/apps/v1", "application/json", "}\n"),
        ("/apis", aggregated, "}\n"),
        (
            "/api/v1/namespaces/default?pretty=1",
            "application/json",
            "\n}",
        ),
        ("/version", "application/json", "\n}"),
        ("/", "application/json", "\n}"),
    ] {
        let answer = api.raw(Method::GET, path, &[("accept", accept)], "").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.ends_with(ends), "{path} as {accept}: {text:?}");
        assert!(!text.ends_with("\n\n"), "{path}");
        answer.json();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_large_list_is_compressed_for_whoever_takes_it() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for n in 0..5 {
        let cm = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}")}, "data": {"a": "x".repeat(40_000)}});
        admin
            .post("/api/v1/namespaces/default/configmaps", &cm)
            .await
            .ok();
    }
    let path = "/api/v1/namespaces/default/configmaps";
    let packed = admin
        .raw(http::Method::GET, path, &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.body.len() < 20_000);
    let plain = admin.get(path).await;
    assert_eq!(plain.headers.get("content-encoding"), None);
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut flate2::read::GzDecoder::new(&packed.body[..]),
        &mut text,
    )
    .unwrap();
    assert_eq!(text.as_bytes(), &plain.body[..]);
    let small = admin
        .raw(
            http::Method::GET,
            "/api/v1/namespaces",
            &[("accept-encoding", "gzip")],
            "",
        )
        .await;
    assert_eq!(small.headers.get("content-encoding"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_protobuf_watch_is_framed_by_length() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces?watch=true&timeoutSeconds=1";
    let answer = admin
        .raw(
            http::Method::GET,
            path,
            &[("accept", "application/vnd.kubernetes.protobuf;stream=watch")],
            "",
        )
        .await;
    assert_eq!(
        answer.headers["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let (mut rest, mut frames) = (&answer.body[..], 0);
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        assert_eq!(&rest[4..11], b"\x0a\x05ADDED");
        rest = &rest[4 + length..];
        frames += 1;
    }
    assert_eq!(frames, 4);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_costs_no_memory_and_stops_nobody() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/configmaps";
    let cm = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}});
    admin.post(path, &cm).await.ok();
    let mut idle = connect(&server, (*server.https(ADMIN)).clone(), "http/1.1").await;
    idle.write_all(format!("GET {path}?watch=true HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let before = resident();
    for n in 100..160 {
        let patch = json!({"data": {"a": n.to_string().repeat(100_000)}});
        admin
            .patch(&format!("{path}/big"), "merge", &patch)
            .await
            .ok();
    }
    // 18 MB went by; the cache keeps the last few.
    let grown = resident().saturating_sub(before);
    assert!(grown < 14 << 20, "{grown} bytes more");
    drop(idle);
    server.stop().await;
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn shutdown_ends_watches_and_finishes_requests() {
    let server = TestServer::start().await;
    let mut idle = connect(&server, (*server.https(ADMIN)).clone(), "http/1.1").await;
    idle.write_all(b"GET /api/v1/namespaces?watch=true HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    idle.read_exact(&mut byte).await.unwrap();
    let began = std::time::Instant::now();
    server.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.ends_with(b"0\r\n\r\n"), "the stream's end is told");
}

/// Frames of a debug build are several times as large as a release's: the deepest nesting that the parsers allow (64
/// levels of YAML, 128 of JSON) needs more than a test thread's 2 MiB there.
#[test]
fn nesting_however_deep_crashes_nothing() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(nest_deeply());
    };
    std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

async fn nest_deeply() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/configmaps";
    let cm = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    admin.post(path, &cm).await.ok();
    let lists = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
    for deep in [lists, objects] {
        for (method, path, content_type, body) in [
            (
                http::Method::POST,
                path.to_owned(),
                "application/json",
                format!("{{\"metadata\":{{\"name\":\"b\"}},\"deep\":{deep}}}"),
            ),
            (
                http::Method::POST,
                path.to_owned(),
                "application/yaml",
                format!("metadata: {{name: c}}\ndeep: {deep}\n"),
            ),
            (
                http::Method::PATCH,
                format!("{path}/a"),
                "application/merge-patch+json",
                format!("{{\"deep\":{deep}}}"),
            ),
            (
                http::Method::PATCH,
                format!("{path}/a"),
                "application/strategic-merge-patch+json",
                format!("{{\"deep\":{deep}}}"),
            ),
            (
                http::Method::PATCH,
                format!("{path}/a"),
                "application/json-patch+json",
                format!("[{{\"op\":\"add\",\"path\":\"/deep\",\"value\":{deep}}}]"),
            ),
            (
                http::Method::PATCH,
                format!("{path}/a?fieldManager=m"),
                "application/apply-patch+yaml",
                format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndeep: {deep}\n"),
            ),
            (
                http::Method::DELETE,
                format!("{path}/a?dryRun=All"),
                "application/json",
                format!("{{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"deep\":{deep}}}"),
            ),
        ] {
            let answer = admin
                .raw(method, &path, &[("content-type", content_type)], body)
                .await;
            assert!(
                answer.status.as_u16() < 500,
                "{content_type}: {}",
                answer.status
            );
        }
    }
    assert_eq!(admin.get("/readyz").await.status, 200);
    server.stop().await;
}
