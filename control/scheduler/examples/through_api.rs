//! How fast pods are placed through the API: POST → bound as a watcher sees it, with the server and
//! the scheduler in this process and the store on a real disk.
//!
//! `cargo run --release -p kernelet-scheduler --example through_api -- [nodes] [pods] [folder]`

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kernelet_client::Informers;
use kernelet_pki::{Ca, IdentitySpec, Lifetimes, ServiceAccountKeys, Usage};
use kernelet_server::{Server, ServerConfig, UserInfo};
use kernelet_store::{Options, Store};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    error::Error,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| -> usize {
        let given = arguments.next().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (nodes, pods) = (number(5000), number(5000));
    let folder = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(folder)?;
    let store = Store::open(Options::new(dir.path().join("store")))?;
    let ca = Ca::create(Lifetimes::default())?;
    let identity = ca.issue(&IdentitySpec {
        common_name: "kube-apiserver".to_owned(),
        organization: None,
        dns_names: Vec::new(),
        ips: Vec::new(),
        usage: Usage::Both,
    })?;
    let config = ServerConfig {
        advertise: [192, 0, 2, 10].into(),
        port: 6443,
        service_cidrs: vec!["10.96.0.0/16".parse()?],
        node_ports: 30000..=32767,
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_keys: ServiceAccountKeys::load_or_create(dir.path())?,
        tls: Arc::new(kernelet_pki::server_config(&identity, ca.cert_pem())?),
        kubelet_client: Arc::new(kernelet_pki::client_config(ca.cert_pem(), Some(&identity))?),
        cluster_ca_pem: ca.cert_pem().to_owned(),
        encryption: None,
        audit: None,
        pod_security: Default::default(),
    };
    let server = Server::start(config, store).await?;
    let client = |user| kernelet_client::from_service(server.service(user));
    let admin = client(UserInfo::admin());
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
    accounts.create(&PostParams::default(), &account).await?;

    let node_api: Api<Node> = Api::all(admin.clone());
    let begun = Instant::now();
    stream::iter(0..nodes)
        .for_each_concurrent(AT_ONCE, |number| {
            let api = node_api.clone();
            async move {
                let name = format!("node-{number}");
                let node = json!({"metadata": {"name": name, "labels": {
                    "kubernetes.io/hostname": name,
                    "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}}});
                let node = serde_json::from_value(node).expect("a node");
                api.create(&PostParams::default(), &node)
                    .await
                    .expect("created");
                let status = json!({"status": {
                    "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}}});
                let (params, patch) = (PatchParams::default(), Patch::Merge(&status));
                let patched = api.patch_status(&name, &params, &patch).await;
                patched.expect("patched");
            }
        })
        .await;
    println!(
        "{nodes} nodes made in {:.1} s",
        begun.elapsed().as_secs_f64()
    );

    let shutdown = CancellationToken::new();
    let scheduler = tokio::spawn(kernelet_scheduler::run(
        client(UserInfo::scheduler()),
        shutdown.clone(),
    ));
    let watched = Informers::new(admin.clone(), shutdown.clone()).all::<Pod>();
    let (bound, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, wake) = (bound.clone(), done.clone());
    watched.on_change(move |change| {
        let has_node = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        let now = change.new().is_some_and(|pod| has_node(pod));
        let before = change.old().is_some_and(|pod| has_node(pod));
        if now && !before && count.fetch_add(1, Ordering::SeqCst) + 1 == pods {
            wake.notify_one();
        }
    });
    watched.wait_until_synced().await;

    let pod_api: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let begun = Instant::now();
    stream::iter(0..pods)
        .for_each_concurrent(AT_ONCE, |number| {
            let api = pod_api.clone();
            async move {
                let pod = json!({"metadata": {"name": format!("pod-{number}")}, "spec": {
                    "containers": [{"name": "c", "image": "i",
                        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}});
                let pod = serde_json::from_value(pod).expect("a pod");
                api.create(&PostParams::default(), &pod)
                    .await
                    .expect("created");
            }
        })
        .await;
    let posted = begun.elapsed().as_secs_f64();
    done.notified().await;
    let all = begun.elapsed().as_secs_f64();
    println!(
        "{pods} pods posted in {posted:.2} s ({:.0}/s)",
        pods as f64 / posted
    );
    println!("all bound after {all:.2} s ({:.0}/s)", pods as f64 / all);
    shutdown.cancel();
    scheduler.await??;
    Ok(())
}
