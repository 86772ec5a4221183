//! The scheduler against a real server in this process.

use k8s_openapi::api::{
    core::v1::{Event, Node, Pod, ServiceAccount},
    scheduling::v1::PriorityClass,
};
use kernelet_pki::{Ca, IdentitySpec, Lifetimes, ServiceAccountKeys, Usage};
use kernelet_server::{Server, ServerConfig, UserInfo};
use kernelet_store::{Options, Store};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    admin: Client,
    _server: Server,
    pods: Api<Pod>,
    nodes: Api<Node>,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path().join("store"))).unwrap();
        let ca = Ca::create(Lifetimes::default()).unwrap();
        let identity = ca
            .issue(&IdentitySpec {
                common_name: "kube-apiserver".to_owned(),
                organization: None,
                dns_names: Vec::new(),
                ips: Vec::new(),
                usage: Usage::Both,
            })
            .unwrap();
        let tls = kernelet_pki::server_config(&identity, ca.cert_pem()).unwrap();
        let kubelet = kernelet_pki::client_config(ca.cert_pem(), Some(&identity)).unwrap();
        let config = ServerConfig {
            advertise: [192, 0, 2, 10].into(),
            port: 6443,
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            service_account_keys: ServiceAccountKeys::load_or_create(dir.path()).unwrap(),
            tls: Arc::new(tls),
            kubelet_client: Arc::new(kubelet),
            cluster_ca_pem: ca.cert_pem().to_owned(),
            encryption: None,
            audit: None,
            pod_security: Default::default(),
        };
        let server = Server::start(config, store).await.unwrap();
        let client = |user| kernelet_client::from_service(server.service(user));
        let shutdown = CancellationToken::new();
        tokio::spawn(kernelet_scheduler::run(
            client(UserInfo::scheduler()),
            shutdown.clone(),
        ));
        let admin = client(UserInfo::admin());
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        accounts
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
        Self {
            pods: Api::namespaced(admin.clone(), "default"),
            nodes: Api::all(admin.clone()),
            admin,
            _server: server,
            _stop: shutdown.drop_guard(),
            _dir: dir,
        }
    }

    async fn node(&self, name: &str, cpu: &str) {
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        self.nodes
            .create(&PostParams::default(), &node)
            .await
            .unwrap();
        let status = json!({"status": {
            "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
        let params = PatchParams::default();
        self.nodes
            .patch_status(name, &params, &Patch::Merge(&status))
            .await
            .unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        let pod = serde_json::from_value(pod).unwrap();
        self.pods
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    async fn bound(&self, name: &str) -> String {
        wait_for(&format!("pod {name} to be bound"), || async {
            self.pods.get(name).await.ok()?.spec?.node_name
        })
        .await
    }

    async fn condition(&self, name: &str) -> (String, String, String) {
        wait_for(&format!("the condition of pod {name}"), || async {
            let status = self.pods.get(name).await.ok()?.status?;
            let scheduled = status
                .conditions?
                .into_iter()
                .find(|c| c.type_ == "PodScheduled")?;
            Some((scheduled.status, scheduled.reason?, scheduled.message?))
        })
        .await
    }

    async fn event(&self, reason: &str, pod: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), "default");
        wait_for(&format!("event {reason} of pod {pod}"), || async {
            let events = events.list(&ListParams::default()).await.ok()?.items;
            events.into_iter().find(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.name.as_deref() == Some(pod)
            })
        })
        .await
    }
}

#[track_caller]
fn wait_for<T, F, Fut>(what: &str, mut look: F) -> impl Future<Output = T>
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_to_a_node_with_room_and_an_event_says_so() {
    let cluster = Cluster::start().await;
    cluster.node("small", "1").await;
    cluster.node("large", "8").await;
    cluster.pod("web", "4", json!({})).await;
    assert_eq!(cluster.bound("web").await, "large");
    let pod = cluster.pods.get("web").await.unwrap();
    let conditions = pod.status.unwrap().conditions.unwrap();
    let scheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled")
        .unwrap();
    assert_eq!(scheduled.status, "True");
    let event = cluster.event("Scheduled", "web").await;
    assert_eq!(
        event.message.as_deref(),
        Some("Successfully assigned default/web to large")
    );
    assert_eq!(
        event.source.unwrap().component.as_deref(),
        Some("default-scheduler")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_where_room_appears() {
    let cluster = Cluster::start().await;
    cluster.pod("web", "2", json!({})).await;
    let (status, reason, message) = cluster.condition("web").await;
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "Unschedulable")
    );
    assert_eq!(message, "no nodes available to schedule pods");
    cluster.node("a", "1").await;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
        available: 1 Preemption is not helpful for scheduling.";
    wait_for("the new reason", || async {
        (cluster.condition("web").await.2 == expected).then_some(())
    })
    .await;
    let event = cluster.event("FailedScheduling", "web").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let more = json!({"status": {"allocatable": {"cpu": "4"}}});
    let params = PatchParams::default();
    cluster
        .nodes
        .patch_status("a", &params, &Patch::Merge(&more))
        .await
        .unwrap();
    assert_eq!(cluster.bound("web").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pods_room_is_given_to_the_next() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.pod("first", "2", json!({})).await;
    cluster.bound("first").await;
    cluster.pod("second", "2", json!({})).await;
    let (_, _, message) = cluster.condition("second").await;
    assert!(
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{message}"
    );
    let now = DeleteParams::default().grace_period(0);
    cluster.pods.delete("first", &now).await.unwrap();
    cluster.bound("second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once_are_bound_without_overcommitting() {
    let cluster = Cluster::start().await;
    for node in ["a", "b", "c"] {
        cluster.node(node, "10").await;
    }
    for number in 0..40 {
        cluster.pod(&format!("p{number}"), "1", json!({})).await;
    }
    let bound = wait_for("thirty pods to be bound", || async {
        let pods = cluster.pods.list(&ListParams::default()).await.ok()?.items;
        let nodes: Vec<_> = pods
            .into_iter()
            .filter_map(|pod| pod.spec?.node_name)
            .collect();
        (nodes.len() >= 30).then_some(nodes)
    })
    .await;
    assert_eq!(bound.len(), 30);
    for node in ["a", "b", "c"] {
        assert_eq!(
            bound.iter().filter(|name| *name == node).count(),
            10,
            "{node}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_other_schedulers_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster
        .pod("other", "1", json!({"schedulerName": "mine"}))
        .await;
    // Made later and bound: so the scheduler has seen the one above and passed it over.
    cluster.pod("plain", "1", json!({})).await;
    cluster.bound("plain").await;
    let other = cluster.pods.get("other").await.unwrap();
    assert_eq!(other.spec.unwrap().node_name, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_important_pod_takes_the_room_of_an_unimportant_one() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    let classes: Api<PriorityClass> = Api::all(cluster.admin.clone());
    let class = serde_json::from_value(json!({"metadata": {"name": "high"}, "value": 1000}));
    classes
        .create(&PostParams::default(), &class.unwrap())
        .await
        .unwrap();
    let quick = json!({"terminationGracePeriodSeconds": 0});
    cluster.pod("low", "2", quick).await;
    cluster.bound("low").await;
    cluster
        .pod("high", "2", json!({"priorityClassName": "high"}))
        .await;
    let event = cluster.event("Preempted", "low").await;
    assert!(event.message.unwrap().ends_with("on node a"));
    // There is no kubelet here: the room is free once the victim is really gone.
    let now = DeleteParams::default().grace_period(0);
    let _ = cluster.pods.delete("low", &now).await;
    assert_eq!(cluster.bound("high").await, "a");
}
