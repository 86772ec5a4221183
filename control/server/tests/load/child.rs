//! The server in a process of its own, so that its memory can be told from the test's: the test binary, run again.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kernelet_pki::{Identity, client_config};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::common::{TestServer, identity};

const CHILD: &str = "KERNELET_LOAD_CHILD";
/// Long enough for a busy machine; nothing is judged by it.
pub const LONG: Duration = Duration::from_secs(120);

/// What a test is given: the small figure, or with `KERNELET_LOAD=full` the full one.
pub fn count(small: usize, full: usize) -> usize {
    match std::env::var("KERNELET_LOAD").as_deref() {
        Ok("full") => full,
        _ => small,
    }
}

/// Serves until its standard input ends. Only [`Server::start`] runs it.
#[test]
#[ignore = "not a test: the process that the tests talk to"]
fn the_server_itself() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = TestServer::start().await;
        let admin = identity(&server.ca, "kubernetes-admin", Some("system:masters"));
        let told = json!({
            "address": server.address, "ca": server.ca.cert_pem(), "cert": admin.cert_pem, "key": admin.key_pem,
        });
        println!("SERVER {told}");
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap();
    });
    // Open connections are the tests' own; nobody waits for them.
    std::process::exit(0);
}

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    tls: ClientConfig,
}

pub type Sender = http2::SendRequest<Full<Bytes>>;

impl Server {
    pub fn start() -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "child::the_server_itself",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines
            .find_map(|line| Some(line.ok()?.split_once("SERVER ")?.1.to_owned()))
            .expect("the server starts");
        // Its pipe stays open, or it would end by its own next word.
        std::thread::spawn(move || lines.for_each(drop));
        let told: Value = serde_json::from_str(&told).unwrap();
        let text = |field: &str| told[field].as_str().unwrap().to_owned();
        let admin = Identity {
            cert_pem: text("cert"),
            key_pem: text("key"),
        };
        Server {
            child,
            address: text("address").parse().unwrap(),
            tls: client_config(&text("ca"), Some(&admin)).unwrap(),
        }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn tls(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::new(tls))
            .connect(name, self.tcp().await)
            .await
            .unwrap()
    }

    /// An HTTP/2 connection. Small windows: what isn't read stays with the server.
    pub async fn connect(&self) -> Sender {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(self.tls(b"h2").await))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

pub async fn send(sender: &Sender, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let mut sender = sender.clone();
    let answered = async {
        sender.ready().await.unwrap();
        sender.send_request(request).await.unwrap()
    };
    time::timeout(LONG, answered).await.expect("it is answered")
}

/// The body of a success.
pub async fn ok(sender: &Sender, method: Method, path: &str, body: &str) -> Bytes {
    let response = send(sender, request(method, path, body)).await;
    let status = response.status();
    let body = response.into_body().collect();
    let body = time::timeout(LONG, body)
        .await
        .expect("it comes to an end")
        .unwrap()
        .to_bytes();
    assert!(status.is_success(), "{path}: {status} {body:?}");
    body
}

pub fn config_map(name: &str, bytes: usize) -> String {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"data": "x".repeat(bytes)},
    })
    .to_string()
}

/// Others are served: a write and a read on a connection of their own.
pub async fn others_are_served(server: &Server) {
    let sender = server.connect().await;
    let name = format!("served-{}", uuid::Uuid::new_v4());
    let maps = "/api/v1/namespaces/default/configmaps";
    ok(&sender, Method::POST, maps, &config_map(&name, 10)).await;
    ok(&sender, Method::GET, &format!("{maps}/{name}"), "").await;
    assert_eq!(
        send(&sender, request(Method::GET, "/livez", ""))
            .await
            .status(),
        StatusCode::OK
    );
}
