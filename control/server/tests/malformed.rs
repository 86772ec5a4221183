//! Requests that can't be answered with what they ask for: a table, reviewed as a diff.

mod common;

use std::{fmt::Write, path::PathBuf, sync::Arc, time::Duration};

use common::{Api, TestServer};
use http::Method;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/malformed")
        .join(name)
}

/// `code reason: message`, and a line for each cause.
fn told(status: u16, body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body)
            .trim_end()
            .replace('\n', "\\n");
        return format!("  = {status} not a JSON Status: {text}\n");
    };
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let message = masked(&text(&body, "message").replace('\n', "\\n"));
    let mut told = format!("  = {status} {}: {message}\n", text(&body, "reason"));
    assert!(status < 400 || body["code"] == status, "{body}");
    for cause in body
        .pointer("/details/causes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let _ = writeln!(
            told,
            "    {} {}: {}",
            text(cause, "field"),
            text(cause, "reason"),
            text(cause, "message")
        );
    }
    told
}

/// What differs from run to run.
fn masked(message: &str) -> String {
    // The uid or revision that the object really has, in the words of updates and of deletions.
    if let Some((head, value)) = message.split_once(" in object meta: ")
        && !value.is_empty()
    {
        return format!("{head} in object meta: …");
    }
    match message.split_once(" in record (") {
        Some((head, rest)) => {
            let tail = rest.split_once(')').map_or("", |(_, tail)| tail);
            format!("{head} in record (…){tail}")
        }
        None => message.to_owned(),
    }
}

async fn ask(api: &Api, request: &str) -> String {
    let mut parts = request.splitn(3, " | ");
    let (line, header, body) = (
        parts.next().unwrap(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let (method, path) = line.split_once(' ').unwrap();
    let headers: Vec<(&str, &str)> = header.trim().split_once(": ").into_iter().collect();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let answer = time::timeout(
        Duration::from_secs(5),
        api.raw(
            method,
            path,
            &headers,
            body.replace("\\t", "\t").replace("\\n", "\n"),
        ),
    )
    .await
    .unwrap_or_else(|_| panic!("no answer: {request}"));
    told(answer.status.as_u16(), &answer.body)
}

/// Runs every request of a file and holds the answers against it.
async fn check(name: &str, mut ask: impl AsyncFnMut(&str) -> String) {
    let path = file(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut found, mut count) = (String::new(), 0);
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(found, "{line}");
        } else if !line.starts_with(' ') {
            let _ = writeln!(found, "{line}");
            found += &ask(line).await;
            count += 1;
        }
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let mut request = "";
    for (expect, found) in text.lines().zip(found.lines()) {
        if !expect.starts_with(' ') {
            request = expect;
        }
        assert_eq!(found, expect, "{request}");
    }
    assert_eq!(text.lines().count(), found.lines().count());
    eprintln!("{count} requests");
}

#[tokio::test]
async fn the_api_answers_each_with_its_code_reason_and_causes() {
    let server = TestServer::start().await;
    let api = server.admin();
    let there = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "there"}, "data": {"a": "b"}});
    api.post("/api/v1/namespaces/default/configmaps", &there)
        .await
        .ok();
    check("api.txt", async |request| ask(&api, request).await).await;
    // After all of that the server is as it was.
    assert_eq!(
        api.get("/api/v1/namespaces/default/configmaps/there")
            .await
            .ok()["data"]["a"],
        "b"
    );
    server.stop().await;
}

/// What a row of bytes is answered with: the status line, and the Status if there is one.
async fn send(server: &TestServer, row: &str) -> String {
    let mut bytes = row
        .strip_prefix("RAW ")
        .unwrap()
        .replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace("\\0", "\0");
    while let Some(at) = bytes.find("${") {
        let end = at + bytes[at..].find('}').unwrap();
        let (text, count) = bytes[at + 2..end].split_once('*').unwrap();
        let repeated = text.repeat(count.parse().unwrap());
        bytes.replace_range(at..=end, &repeated);
    }
    let mut tls = (*server.https(Some(("kubernetes-admin", Some("system:masters"))))).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::IpAddress(server.address.ip().into());
    let mut stream = TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match time::timeout(Duration::from_millis(700), stream.read(&mut chunk)).await {
            Ok(Ok(n)) if n > 0 => answer.extend_from_slice(&chunk[..n]),
            Ok(_) => break,
            // Kept open: what came is the answer.
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return "  = closed without an answer\n".to_owned();
    };
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    if body.is_empty() || status < 400 {
        return format!("  = {status}\n");
    }
    told(
        status,
        body.split("\r\n\r\nHTTP")
            .next()
            .unwrap()
            .trim_end()
            .as_bytes(),
    )
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_harms_nobody() {
    let server = TestServer::start().await;
    check("raw.txt", async |row| send(&server, row).await).await;
    assert_eq!(server.admin().get("/readyz").await.status, 200);
    server.stop().await;
}
