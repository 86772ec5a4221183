//! A node that is a network namespace, pods that are others, and an API server of a few lines.

#![allow(dead_code, clippy::missing_panics_doc)]

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kernelet_attach::{AttachRequest, Attached, PodId, PodNetwork};
use kernelet_netagent::{NetAgent, NetConfig};
use kube::client::Body;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub fn skip(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    !root
}

pub fn sh(script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .output()
        .expect("sh");
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A namespace with a name below `/run/netns`, removed at the end.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(kind: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kla{kind}{}x{number}", std::process::id());
        sh(&format!("ip netns add {name}"));
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::new(File::open(self.path()).expect("the namespace").into())
    }

    /// On a thread of its own, as a process in there would.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = File::open(self.path()).expect("the namespace");
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        })
    }

    pub fn sh(&self, script: &str) -> String {
        sh(&format!(
            "nsenter --net={} sh -euc '{}'",
            self.path().display(),
            script.replace('\'', "'\\''")
        ))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

pub const NODE_IP: &str = "10.77.0.2";
pub const OUTSIDE_IP: &str = "10.77.0.1";

/// A node with an uplink to the outside.
pub struct Machine {
    pub node: Netns,
    pub outside: Netns,
    pub instance_id: String,
    pub dir: tempfile::TempDir,
    pub api: FakeApi,
}

impl Machine {
    pub fn new() -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let (node, outside) = (Netns::new("n"), Netns::new("o"));
        let (n, o) = (&node.name, &outside.name);
        sh(&format!(
            "ip -n {n} link set lo up; ip -n {o} link set lo up
             ip -n {n} link add eth0 type veth peer name eth0 netns {o}
             ip -n {n} address add {NODE_IP}/24 dev eth0; ip -n {o} address add {OUTSIDE_IP}/24 dev eth0
             ip -n {n} link set eth0 up; ip -n {o} link set eth0 up
             ip -n {n} route add default via {OUTSIDE_IP}"
        ));
        let instance_id = format!("{n}t");
        Self {
            node,
            outside,
            instance_id,
            dir: tempfile::tempdir().expect("a folder"),
            api: FakeApi::default(),
        }
    }

    fn config(&self) -> impl FnOnce(kube::Client) -> NetConfig + Send + 'static {
        let (instance_id, run_dir) = (self.instance_id.clone(), self.dir.path().join("run"));
        move |client| NetConfig {
            client,
            node_name: "node-a".into(),
            node_ip: NODE_IP.parse().expect("an address"),
            instance_id,
            pod_cidrs: vec!["10.244.0.0/23".parse().expect("a range")],
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            dns_address: "10.96.0.10".parse().expect("an address"),
            cluster_domain: "cluster.local".into(),
            mtu: None,
            run_dir,
        }
    }

    /// An agent that runs on a thread in the node's namespace until it is dropped.
    pub fn start(&self) -> Agent {
        self.start_with(|_| {})
    }

    pub fn start_with(&self, change: impl FnOnce(&mut NetConfig) + Send + 'static) -> Agent {
        let (config, api) = (self.config(), self.api.clone());
        let (send, receive) = std::sync::mpsc::channel();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let thread = self.node.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut config = config(api.client());
                change(&mut config);
                let agent = NetAgent::start(config, stop.clone()).await;
                send.send((agent, tokio::runtime::Handle::current()))
                    .expect("the test waits");
                stop.cancelled().await;
            });
        });
        let (agent, handle) = receive.recv().expect("the agent's thread");
        let network = agent.unwrap_or_else(|error| panic!("{error:?}"));
        Agent {
            network,
            handle,
            shutdown,
            thread: Some(thread),
        }
    }

    pub fn purge(&self) -> Vec<String> {
        let (id, run) = (self.instance_id.clone(), self.dir.path().join("run"));
        self.node.run(move || kernelet_netagent::purge(&id, &run))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let errors = self.purge();
        if !std::thread::panicking() {
            assert_eq!(errors, Vec::<String>::new());
        }
    }
}

pub struct Agent {
    pub network: Arc<NetAgent>,
    pub handle: tokio::runtime::Handle,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub fn attach(&self, pod: &Pod) -> Attached {
        self.attach_with(pod, Vec::new())
    }

    pub fn attach_with(&self, pod: &Pod, host_ports: Vec<kernelet_attach::HostPort>) -> Attached {
        let request = AttachRequest {
            pod: pod.id.clone(),
            netns: pod.netns.fd(),
            host_ports,
            wanted_ips: Vec::new(),
        };
        let network = self.network.clone();
        let (send, receive) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            let _ = send.send(network.attach(request).await);
        });
        receive
            .recv()
            .expect("an answer")
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub fn detach(&self, pod: &Pod) {
        let (network, id) = (self.network.clone(), pod.id.clone());
        let (send, receive) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            let _ = send.send(network.detach(&id).await);
        });
        receive
            .recv()
            .expect("an answer")
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Ends the agent; everything it did stays.
    pub fn stop(mut self) {
        self.shutdown.cancel();
        self.thread
            .take()
            .expect("it runs")
            .join()
            .expect("its end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pod: a namespace and a name.
pub struct Pod {
    pub id: PodId,
    pub netns: Netns,
}

impl Pod {
    pub fn new(name: &str) -> Self {
        let netns = Netns::new("p");
        let uid = format!("uid-{}", netns.name);
        Self {
            id: PodId {
                uid,
                namespace: "default".into(),
                name: name.into(),
            },
            netns,
        }
    }
}

/// Waits for a level.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) if Instant::now() > deadline => panic!("{what}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Lists and watches of what the test puts in.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    revision: Arc<AtomicU64>,
}

type Answer = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>;

#[derive(Default)]
struct State {
    /// By resource, then namespace/name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    /// Everything that was ever told: revision, resource, event. A watch begins behind its revision.
    events: Vec<(u64, String, Value)>,
}

impl FakeApi {
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(&request)) }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, request: &http::Request<Body>) -> http::Response<Answer> {
        let path = request.uri().path();
        let resource = path.rsplit('/').next().expect("a path").to_owned();
        let (kind, version) = match resource.as_str() {
            "services" => ("Service", "v1"),
            "endpointslices" => ("EndpointSlice", "discovery.k8s.io/v1"),
            "nodes" => ("Node", "v1"),
            "pods" => ("Pod", "v1"),
            "namespaces" => ("Namespace", "v1"),
            other => panic!("the agent asks for {other}"),
        };
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let mut state = self.state.lock().expect("the state");
        if watch {
            let (send, receive) = mpsc::unbounded_channel::<Value>();
            let query = request.uri().query().unwrap_or_default();
            let since: u64 = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("resourceVersion="))
                .and_then(|revision| revision.parse().ok())
                .unwrap_or(0);
            for (revision, told, event) in &state.events {
                if *revision > since && *told == resource {
                    send.send(event.clone()).expect("the receiver is here");
                }
            }
            state.watchers.push((resource, send));
            let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
            let stream = futures::StreamExt::map(stream, |event| {
                let mut line = serde_json::to_vec(&event).expect("JSON");
                line.push(b'\n');
                Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(line)))
            });
            return http::Response::new(Answer::new(http_body_util::StreamBody::new(stream)));
        }
        let items: Vec<Value> = state
            .objects
            .get(&resource)
            .map(|all| all.values().cloned().collect())
            .unwrap_or_default();
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": version,
            "metadata": {"resourceVersion": self.revision.load(Ordering::Relaxed).to_string()},
            "items": items,
        });
        http::Response::builder()
            .header("content-type", "application/json")
            .body(Answer::new(http_body_util::Full::from(
                serde_json::to_vec(&list).expect("JSON"),
            )))
            .expect("a response")
    }

    /// Adds or changes an object.
    pub fn put(&self, resource: &str, mut object: Value) {
        let mut state = self.state.lock().expect("the state");
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let key = key_of(&object);
        let known = state
            .objects
            .entry(resource.into())
            .or_default()
            .insert(key, object.clone())
            .is_some();
        let event = json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object});
        tell(&mut state, revision, resource, &event);
    }

    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock().expect("the state");
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let key = format!("{namespace}/{name}");
        let mut object = state
            .objects
            .get_mut(resource)
            .and_then(|all| all.remove(&key))
            .expect("it was there");
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        tell(
            &mut state,
            revision,
            resource,
            &json!({"type": "DELETED", "object": object}),
        );
    }

    /// A Service with one port, and its EndpointSlice.
    pub fn service(
        &self,
        name: &str,
        ip: &str,
        protocol: &str,
        port: u16,
        backends: &[(IpAddr, u16)],
    ) {
        self.put(
            "services",
            json!({
                "kind": "Service", "apiVersion": "v1",
                "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
                "spec": {"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
                    "ports": [{"name": "p", "port": port, "protocol": protocol}]},
            }),
        );
        self.endpoints(name, protocol, backends);
    }

    pub fn endpoints(&self, name: &str, protocol: &str, backends: &[(IpAddr, u16)]) {
        let endpoints: Vec<Value> = backends
            .iter()
            .map(|(ip, _)| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
            .collect();
        let port = backends.first().map_or(1, |(_, port)| *port);
        self.put(
            "endpointslices",
            json!({
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": {"name": format!("{name}-1"), "namespace": "default", "uid": format!("uid-{name}-1"),
                    "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "p", "port": port, "protocol": protocol}],
                "endpoints": endpoints,
            }),
        );
    }
}

fn key_of(object: &Value) -> String {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    format!("{}/{}", text("namespace"), text("name"))
}

fn tell(state: &mut State, revision: u64, resource: &str, event: &Value) {
    state
        .events
        .push((revision, resource.into(), event.clone()));
    state
        .watchers
        .retain(|(watched, send)| watched != resource || send.send(event.clone()).is_ok());
}
