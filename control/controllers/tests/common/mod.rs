//! A server in this process, the controllers on it, and a kubelet that runs nothing.
#![allow(dead_code)] // each test binary uses a part of it

use k8s_openapi::api::core::v1::{Node, Pod};
use kernelet_client::Informers;
use kernelet_controllers::ControllersConfig;
use kernelet_pki::{Ca, IdentitySpec, KubeConfig, Lifetimes, Login, ServiceAccountKeys, Usage};
use kernelet_server::{Server, ServerConfig, UserInfo};
use kernelet_store::{Options, Store};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub server: Server,
    pub admin: Client,
    pub ca: Ca,
    pub shutdown: CancellationToken,
    _stop: DropGuard,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With the controllers' settings changed.
    pub async fn with(change: impl FnOnce(&mut ControllersConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path().join("store"))).unwrap();
        let ca = Ca::create(Lifetimes::default()).unwrap();
        let identity = ca
            .issue(&IdentitySpec {
                common_name: "kube-apiserver".to_owned(),
                organization: None,
                dns_names: Vec::new(),
                ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
                usage: Usage::Both,
            })
            .unwrap();
        let config = ServerConfig {
            advertise: [192, 0, 2, 10].into(),
            port: 6443,
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            service_account_keys: ServiceAccountKeys::load_or_create(dir.path()).unwrap(),
            tls: Arc::new(kernelet_pki::server_config(&identity, ca.cert_pem()).unwrap()),
            kubelet_client: Arc::new(
                kernelet_pki::client_config(ca.cert_pem(), Some(&identity)).unwrap(),
            ),
            cluster_ca_pem: ca.cert_pem().to_owned(),
            encryption: None,
            audit: None,
            pod_security: Default::default(),
        };
        let server = Server::start(config, store).await.unwrap();
        let shutdown = CancellationToken::new();
        let client = |user| kernelet_client::from_service(server.service(user));
        let keys = ServiceAccountKeys::load_or_create(dir.path()).unwrap();
        let mut config = ControllersConfig::new(ca.clone(), vec!["10.244.0.0/16".to_owned()]);
        config.service_account_keys = Some(keys);
        change(&mut config);
        tokio::spawn(kernelet_controllers::run(
            client(UserInfo::controllers()),
            config,
            shutdown.clone(),
        ));
        Self {
            admin: client(UserInfo::admin()),
            server,
            ca,
            _stop: shutdown.clone().drop_guard(),
            shutdown,
            dir,
        }
    }

    /// Serves on loopback and runs kubectl as the administrator. Fails when kubectl fails.
    pub async fn kubectl(&self) -> Kubectl {
        let any = (std::net::Ipv4Addr::LOCALHOST, 0);
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, shutdown) = (self.server.clone(), self.shutdown.clone());
        tokio::spawn(async move { server.serve(listener, shutdown).await });
        let admin = IdentitySpec {
            common_name: "kubernetes-admin".to_owned(),
            organization: Some("system:masters".to_owned()),
            dns_names: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        };
        let config = self.dir.path().join("kubeconfig");
        KubeConfig {
            cluster: "test".to_owned(),
            server: format!("https://{address}"),
            ca_pem: self.ca.cert_pem().to_owned(),
            user: "kubernetes-admin".to_owned(),
            login: Login::Certificate(self.ca.issue(&admin).unwrap()),
        }
        .write(&config)
        .unwrap();
        Kubectl {
            config,
            home: self.dir.path().to_owned(),
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), "default")
    }

    /// Creates an object of a namespaced kind in `default`.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    /// A node that says it is ready.
    pub async fn node(&self, name: &str) -> Node {
        let api: Api<Node> = Api::all(self.admin.clone());
        let node = json!({"metadata": {"name": name}});
        let node = serde_json::from_value(node).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        self.report(name, "True").await
    }

    /// The node posts its status.
    pub async fn report(&self, name: &str, ready: &str) -> Node {
        let api: Api<Node> = Api::all(self.admin.clone());
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletReady",
                "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        let params = PatchParams::default();
        api.patch_status(name, &params, &Patch::Strategic(&status))
            .await
            .unwrap()
    }

    /// Places every pod on `node`, or on the one that its affinity names, says it is ready (unless its image is
    /// `broken`), and lets deleted ones go at once.
    pub fn kubelet(&self, node: &'static str) {
        let informers = Informers::new(self.admin.clone(), self.shutdown.clone());
        let client = self.admin.clone();
        informers.all::<Pod>().on_change(move |change| {
            if let Some(pod) = change.new() {
                tokio::spawn(tend(client.clone(), pod.clone(), node));
            }
        });
    }
}

/// The stock client.
#[derive(Clone)]
pub struct Kubectl {
    config: std::path::PathBuf,
    home: std::path::PathBuf,
}

impl Kubectl {
    pub fn is_here() -> bool {
        let version = std::process::Command::new("kubectl")
            .args(["version", "--client"])
            .output();
        version.is_ok()
    }

    /// The administrator's kubeconfig.
    pub fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// What it prints, errors included; it must succeed.
    pub async fn run(&self, arguments: &str) -> String {
        let output = tokio::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.config)
            .args(arguments.split_whitespace())
            .env("HOME", &self.home)
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {all}");
        all
    }
}

async fn tend(client: Client, pod: Arc<Pod>, node: &str) {
    let (namespace, name) = (pod.namespace().unwrap(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let spec = pod.spec.as_ref().unwrap();
    // Whatever fails was overtaken by a newer state, which brings this back.
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await;
    } else if spec.node_name.is_none() {
        let value = serde_json::to_value(spec).unwrap();
        let named = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
        let node = value.pointer(named).and_then(Value::as_str).unwrap_or(node);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"kind": "Node", "name": node}});
        let params = PostParams::default();
        let _ = api
            .create_subresource::<Value, Value>("binding", &name, &params, &binding)
            .await;
    } else if pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Pending") {
        let last = name
            .bytes()
            .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        let ip = format!("10.244.0.{last}");
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let broken = spec.containers[0].image.as_deref() == Some("broken");
        let ready = if broken { "False" } else { "True" };
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
        let params = PatchParams::default();
        let _ = api
            .patch_status(&name, &params, &Patch::Strategic(&status))
            .await;
    }
}

/// Asks again until `look` gives something; fails with what was waited for.
#[track_caller]
pub fn wait_for<T, F, Fut>(what: &str, mut look: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{caller}: waited in vain for {what}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
