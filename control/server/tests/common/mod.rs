//! A server on a free port with a folder of its own, and the clients that tests drive it with.
#![allow(dead_code)] // each test binary uses a part of it

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use kernelet_api::Registry;
use kernelet_pki::{
    Ca, Identity, IdentitySpec, KubeConfig, Lifetimes, Login, ServiceAccountKeys, Usage,
    client_config, server_config,
};
use kernelet_server::{InProcess, Server, ServerConfig, UserInfo};
use kernelet_store::{Options, Store};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub struct TestServer {
    pub server: Server,
    pub store: Store,
    pub address: SocketAddr,
    pub ca: Ca,
    pub dir: tempfile::TempDir,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl TestServer {
    pub async fn start() -> TestServer {
        TestServer::with(Registry::builtin().clone(), |_| {}).await
    }

    /// With a registry of the test's own, and a configuration that it may change.
    pub async fn with(
        registry: Arc<Registry>,
        change: impl FnOnce(&mut ServerConfig),
    ) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path().join("store"))).unwrap();
        let ca = Ca::create(Lifetimes::default()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = identity(&ca, "kube-apiserver", None);
        let kubelet = identity(&ca, "kube-apiserver-kubelet-client", Some("system:masters"));
        let mut config = ServerConfig {
            advertise: [192, 0, 2, 10].into(),
            port: address.port(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            service_account_keys: ServiceAccountKeys::load_or_create(dir.path()).unwrap(),
            tls: Arc::new(server_config(&serving, ca.cert_pem()).unwrap()),
            kubelet_client: Arc::new(client_config(ca.cert_pem(), Some(&kubelet)).unwrap()),
            cluster_ca_pem: ca.cert_pem().to_owned(),
            encryption: None,
            audit: None,
            pod_security: Default::default(),
        };
        change(&mut config);
        let server = Server::start_with(config, store.clone(), registry)
            .await
            .unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { server.serve(listener, shutdown).await }
        });
        TestServer {
            server,
            store,
            address,
            ca,
            dir,
            shutdown,
            serving,
        }
    }

    pub fn admin(&self) -> Api {
        self.api(UserInfo::admin())
    }

    pub fn api(&self, user: UserInfo) -> Api {
        Api::new(self.server.service(user))
    }

    /// A kubeconfig of that identity, with a certificate.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> PathBuf {
        let path = self
            .dir
            .path()
            .join(format!("{}.kubeconfig", user.replace(':', "_")));
        KubeConfig {
            cluster: "test".to_owned(),
            server: format!("https://{}", self.address),
            ca_pem: self.ca.cert_pem().to_owned(),
            user: user.to_owned(),
            login: Login::Certificate(identity(&self.ca, user, group)),
        }
        .write(&path)
        .unwrap();
        path
    }

    /// An HTTPS client; with a certificate of that identity, if any.
    pub fn https(&self, user: Option<(&str, Option<&str>)>) -> Arc<rustls::ClientConfig> {
        let identity = user.map(|(name, group)| identity(&self.ca, name, group));
        Arc::new(client_config(self.ca.cert_pem(), identity.as_ref()).unwrap())
    }

    /// kubectl as the administrator; `None`, with a loud word, where there is no kubectl.
    pub fn kubectl(&self) -> Option<Kubectl> {
        let known = Command::new("kubectl")
            .args(["version", "--client"])
            .output();
        if known.is_err() {
            eprintln!("SKIP: kubectl is not on the PATH");
            return None;
        }
        Some(Kubectl {
            config: self.kubeconfig("kubernetes-admin", Some("system:masters")),
            home: self.dir.path().to_owned(),
        })
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.serving)
            .await
            .unwrap()
            .unwrap();
    }
}

pub fn identity(ca: &Ca, name: &str, group: Option<&str>) -> Identity {
    ca.issue(&IdentitySpec {
        common_name: name.to_owned(),
        organization: group.map(str::to_owned),
        dns_names: vec!["localhost".to_owned()],
        ips: vec![Ipv4Addr::LOCALHOST.into()],
        usage: Usage::Both,
    })
    .unwrap()
}

/// The in-process service, for tests.
#[derive(Clone)]
pub struct Api {
    service: InProcess,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The JSON of a success.
    pub fn ok(self) -> Value {
        assert!(
            self.status.is_success(),
            "{}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }

    /// `code reason: message` of a Status.
    pub fn error(&self) -> String {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        let reason = status["reason"].as_str().unwrap_or_default();
        format!(
            "{} {reason}: {}",
            self.status.as_u16(),
            status["message"].as_str().unwrap_or_default()
        )
    }
}

impl Api {
    pub fn new(service: InProcess) -> Api {
        Api { service }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.service.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        self.send(request.body(Full::new(body.into())).unwrap())
            .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.raw(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    /// `kind`: `json`, `merge`, `strategic` or `apply`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let content_type = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            _ => "application/apply-patch+yaml",
        };
        self.raw(
            Method::PATCH,
            path,
            &[("content-type", content_type)],
            body.to_string(),
        )
        .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.raw(Method::DELETE, path, &[], "").await
    }

    /// A stream of watch events.
    pub async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
        let response = self.service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Events {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

pub struct Events {
    body: kernelet_server::ResponseBody,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event, or `None` at the stream's end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("no event came");
            match frame {
                Some(frame) => self
                    .buffer
                    .extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return None,
            }
        }
    }

    /// `TYPE name` of the next event.
    pub async fn told(&mut self) -> String {
        match self.next().await {
            None => "END".to_owned(),
            Some(event) => {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
                format!("{} {name}", event["type"].as_str().unwrap())
            }
        }
    }
}

pub struct Kubectl {
    config: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", &self.config)
            .env("HOME", &self.home)
            .args(args.split_whitespace());
        command
    }

    pub fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, args: &str) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl {args}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Standard error of a command that must fail.
    pub fn fails(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(
            !output.status.success(),
            "kubectl {args} should have failed"
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The same with a manifest in a file for `-f FILE`.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}
