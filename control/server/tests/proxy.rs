//! `pods/proxy`, `services/proxy`, `nodes/proxy`, over TLS as clients send them, to a backend on this machine's own
//! address (a loopback address is refused, as it must be).

mod common;

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use common::TestServer;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kernelet_server::UserInfo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const POD: &str = "/api/v1/namespaces/default/pods/web/proxy";
const SERVICE: &str = "/api/v1/namespaces/default/services";
const SOON: Duration = Duration::from_secs(20);

/// This machine's address towards the world; nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

type Body = BoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// What the backend answers, by path.
async fn backend(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = match path.as_str() {
        "/echo/" | "/" => {
            let mut lines = vec![format!("{} {}", request.method(), request.uri())];
            for (name, value) in request.headers() {
                lines.push(format!("{name}: {}", value.to_str().unwrap()));
            }
            lines.sort();
            Response::builder()
                .header("x-backend", "1")
                .header("access-control-allow-origin", "*")
                .body(full(lines.join("\n")))
        }
        "/count" => {
            // Read piece by piece, told piece by piece.
            let mut count = 0;
            while let Some(frame) = request.body_mut().frame().await {
                count += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
            Response::builder().body(full(count.to_string()))
        }
        "/mirror" => {
            let pieces = request.into_body().into_data_stream();
            let frames = pieces.filter_map(|piece| async { Some(Ok(Frame::data(piece.ok()?))) });
            let (sender, receiver) = futures::channel::mpsc::unbounded();
            tokio::spawn(frames.map(Ok).forward(sender));
            Response::builder().body(BodyExt::boxed(StreamBody::new(receiver)))
        }
        "/away" => Response::builder()
            .status(302)
            .header("location", "/echo/?a=1")
            .body(full("")),
        "/page" => Response::builder()
            .header("content-type", "text/html; charset=utf-8")
            .body(full(r#"<a href="/x">x</a>"#)),
        "/session" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 5];
                stream.read_exact(&mut word).await.unwrap();
                word.reverse();
                stream.write_all(&word).await.unwrap();
            });
            let query = request.uri().query().unwrap_or_default().to_owned();
            Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "shout")
                .header("x-query", query)
                .body(full(""))
        }
        "/no-session" => Response::builder().status(409).body(full("busy")),
        _ => Response::builder().status(404).body(full("nothing here")),
    };
    Ok(answer.unwrap())
}

async fn listen(ip: IpAddr) -> u16 {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service_fn(backend))
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    port
}

/// A pod `web` at `ip`, whose port is `port`, and a Service of two ports before it.
async fn furnish(server: &TestServer, ip: &str, port: u16) {
    let api = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await;
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": port}]}]},
    });
    api.post(pods, &pod).await.ok();
    let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}});
    api.patch(&format!("{pods}/web/status"), "merge", &status)
        .await
        .ok();
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]},
    });
    api.post(SERVICE, &service).await.ok();
    let bare = json!({"metadata": {"name": "bare"}, "spec": {"ports": [{"port": 80}]}});
    api.post(SERVICE, &bare).await.ok();
    let of = |name: &str, pod: &str| {
        json!({
            "metadata": {"name": name},
            "subsets": [{
                "addresses": [{"ip": ip, "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}}],
                "ports": [{"name": "http", "port": port}, {"name": "other", "port": 1}],
            }],
        })
    };
    let endpoints = "/api/v1/namespaces/default/endpoints";
    api.post(endpoints, &of("web", "web")).await.ok();
    // Somebody's own: the address isn't that of the pod which is named.
    api.post(endpoints, &of("forged", "ghost")).await.ok();
}

async fn connect(server: &TestServer) -> TlsStream<TcpStream> {
    let mut tls = (*server.https(Some(("admin", Some("system:masters"))))).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::IpAddress(server.address.ip().into());
    TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap()
}

struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Told {
    fn message(&self) -> String {
        let status: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body));
        format!(
            "{} {}: {}",
            self.status.as_u16(),
            status["reason"].as_str().unwrap_or_default(),
            status["message"].as_str().unwrap()
        )
    }
}

async fn send<B>(server: &TestServer, request: Request<B>) -> Response<Incoming>
where
    B: http_body::Body<Data = Bytes, Error: Into<kernelet_server::BoxError>> + Send + 'static,
{
    let stream = TokioIo::new(connect(server).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    timeout(SOON, sender.send_request(request))
        .await
        .unwrap()
        .unwrap()
}

async fn told(response: Response<Incoming>) -> Told {
    let (parts, body) = response.into_parts();
    let body = timeout(SOON, body.collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    Told {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

async fn ask(server: &TestServer, method: Method, path: &str) -> Told {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api.test")
        .header("authorization", "Bearer nobody")
        .header("x-mine", "yes")
        .body(Full::<Bytes>::default())
        .unwrap();
    told(send(server, request).await).await
}

/// A server with the pod and the Services, and the backend's address; `None`, with a loud word, on a machine without one.
async fn start() -> Option<(TestServer, IpAddr, u16)> {
    let Some(ip) = own_address() else {
        eprintln!("SKIP: this machine has no address but loopback ones");
        return None;
    };
    let server = TestServer::start().await;
    let port = listen(ip).await;
    furnish(&server, &ip.to_string(), port).await;
    Some((server, ip, port))
}

#[tokio::test]
async fn a_request_reaches_the_pod_and_the_answer_comes_back() {
    let Some((server, _, port)) = start().await else {
        return;
    };
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let method: Method = method.parse().unwrap();
        let told = ask(&server, method.clone(), &format!("{POD}/echo/?q=a%20b&q=c")).await;
        assert_eq!(
            (told.status.as_u16(), &told.headers["x-backend"]),
            (200, &"1".parse().unwrap())
        );
        assert!(!told.headers.contains_key("access-control-allow-origin"));
        let lines: Vec<&str> = told.body.lines().collect();
        for line in [
            format!("{method} /echo/?q=a%20b&q=c").as_str(),
            "host: api.test",
            "x-forwarded-for: 127.0.0.1",
            &format!("x-forwarded-uri: {POD}/echo/"),
            "x-mine: yes",
        ] {
            assert!(lines.contains(&line), "{line}: {lines:?}");
        }
        assert!(!told.body.contains("authorization"), "{}", told.body);
    }
    let head = ask(&server, Method::HEAD, &format!("{POD}/echo/")).await;
    assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));
    let missing = ask(&server, Method::GET, &format!("{POD}/nowhere")).await;
    assert_eq!(
        (missing.status.as_u16(), missing.body.as_str()),
        (404, "nothing here")
    );
    // By port and scheme, and through the Service by port's name and number.
    for name in [
        format!("pods/web:{port}"),
        format!("pods/http:web:{port}"),
        "services/web:http".to_owned(),
        "services/web:80".to_owned(),
        "services/http:web:80".to_owned(),
    ] {
        let told = ask(
            &server,
            Method::GET,
            &format!("/api/v1/namespaces/default/{name}/proxy/"),
        )
        .await;
        assert_eq!(told.status, 200, "{name}: {}", told.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn links_and_redirections_stay_behind_the_proxy() {
    let Some((server, ..)) = start().await else {
        return;
    };
    let root = ask(&server, Method::GET, &format!("{POD}?a=b")).await;
    assert_eq!(root.status, 301);
    assert_eq!(root.headers["location"], format!("{POD}/?a=b"));
    let away = ask(&server, Method::GET, &format!("{POD}/away")).await;
    assert_eq!(away.status, 302);
    assert_eq!(away.headers["location"], format!("{POD}/echo/?a=1"));
    let page = ask(&server, Method::GET, &format!("{POD}/page")).await;
    assert_eq!(page.body, format!("<a href=\"{POD}/x\">x</a>"));
    server.stop().await;
}

#[tokio::test]
async fn bodies_pass_piece_by_piece_whatever_their_size() {
    let Some((server, ..)) = start().await else {
        return;
    };
    // More than a request of the API may carry, and without a length.
    const PIECE: usize = 1 << 20;
    let pieces = futures::stream::iter(
        (0..64).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; PIECE])))),
    );
    let request = Request::post(format!("{POD}/count"))
        .header("host", "api.test")
        .body(StreamBody::new(pieces))
        .unwrap();
    assert_eq!(
        told(send(&server, request).await).await.body,
        (64 * PIECE).to_string()
    );
    // A conversation: each piece comes back before the next is sent.
    let (mut sender, receiver) =
        futures::channel::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let request = Request::post(format!("{POD}/mirror"))
        .header("host", "api.test")
        .body(StreamBody::new(receiver))
        .unwrap();
    let response = send(&server, request).await;
    let mut answers = response.into_body();
    for word in ["one", "two", "three"] {
        sender.try_send(Ok(Frame::data(Bytes::from(word)))).unwrap();
        let frame = timeout(SOON, answers.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(sender);
    assert!(timeout(SOON, answers.frame()).await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn other_protocols_are_spliced() {
    let Some((server, ..)) = start().await else {
        return;
    };
    let request = |path: &str| {
        Request::get(format!("{POD}{path}"))
            .header("host", "api.test")
            .header("connection", "Upgrade")
            .header("upgrade", "shout")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let mut response = send(&server, request("/session?a=b")).await;
    assert_eq!(
        (response.status(), &response.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"shout".parse().unwrap())
    );
    assert_eq!(response.headers()["x-query"], "a=b");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut word = Vec::new();
    timeout(SOON, stream.read_to_end(&mut word))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(word, b"olleh");
    let refused = told(send(&server, request("/no-session")).await).await;
    assert_eq!(
        (refused.status.as_u16(), refused.body.as_str()),
        (409, "busy")
    );
    let ignored = told(send(&server, request("/echo/")).await).await;
    assert_eq!(
        ignored.message(),
        "500 : invalid upgrade response: status code 200"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_in_upstreams_words() {
    let Some((server, ip, _)) = start().await else {
        return;
    };
    let closed = {
        let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let namespaced = |rest: &str| format!("/api/v1/namespaces/default/{rest}");
    for (path, expect) in [
        (
            namespaced("pods/ghost/proxy/"),
            "404 NotFound: pods \"ghost\" not found".to_owned(),
        ),
        (
            namespaced("pods/ftp:web:80/proxy/"),
            "400 BadRequest: invalid pod request \"ftp:web:80\"".to_owned(),
        ),
        (
            namespaced(&format!("pods/web:{closed}/proxy/")),
            format!(
                "503 ServiceUnavailable: error trying to reach service: dial tcp {ip}:{closed}: connect: connection refused"
            ),
        ),
        (
            namespaced("services/web:82/proxy/"),
            "503 ServiceUnavailable: no service port 82 found for service \"web\"".to_owned(),
        ),
        (
            namespaced("services/web/proxy/"),
            "503 ServiceUnavailable: no endpoints available for service \"web\"".to_owned(),
        ),
        (
            namespaced("services/bare:80/proxy/"),
            "404 NotFound: endpoints \"bare\" not found".to_owned(),
        ),
        (
            namespaced("services/forged:http/proxy/"),
            "503 ServiceUnavailable: no endpoints available for service \"forged:http\"".to_owned(),
        ),
        (
            "/api/v1/nodes/ghost/proxy/".to_owned(),
            "404 NotFound: nodes \"ghost\" not found".to_owned(),
        ),
        (
            namespaced("pods/web/proxy/?dryRun=All"),
            "400 BadRequest: dryRun is not supported".to_owned(),
        ),
    ] {
        assert_eq!(
            ask(&server, Method::GET, &path).await.message(),
            expect,
            "{path}"
        );
    }
    // The same names in another group, and what has no proxy.
    for path in [
        "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web/proxy/",
        "/api/v1/namespaces/default/configmaps/web/proxy/",
        "/api/v1/pods/web/proxy/",
    ] {
        let told = ask(&server, Method::GET, path).await;
        assert_eq!(told.status, 404, "{path}: {}", told.body);
    }
    // A node that says its pod has the server's own loopback.
    for loopback in ["127.0.0.1", "169.254.169.254", "::1"] {
        let status = json!({"status": {"podIP": loopback, "podIPs": [{"ip": loopback}]}});
        let path = "/api/v1/namespaces/default/pods/web/status";
        server.admin().patch(path, "merge", &status).await.ok();
        let told = ask(&server, Method::GET, &format!("{POD}/")).await;
        assert_eq!(
            told.message(),
            "400 BadRequest: address not allowed",
            "{loopback}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn who_may_proxy_is_asked_by_method() {
    let Some((server, ..)) = start().await else {
        return;
    };
    let api = server.admin();
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    api.post(&format!("{rbac}/clusterroles"), &role).await.ok();
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    api.post(&format!("{rbac}/clusterrolebindings"), &binding)
        .await
        .ok();
    let eve = server.api(UserInfo::new("eve".to_owned(), Vec::<String>::new()));
    assert_eq!(eve.get(&format!("{POD}/page")).await.status, 200);
    let posted = eve.raw(Method::POST, &format!("{POD}/page"), &[], "").await;
    assert_eq!(
        posted.error(),
        "403 Forbidden: pods \"web\" is forbidden: User \"eve\" cannot create resource \"pods/proxy\" in API group \"\" in the namespace \"default\""
    );
    server.stop().await;
}
