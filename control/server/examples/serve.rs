//! An API server on its own, in a folder given (or a temporary one), for driving it with kubectl.
//!
//! `cargo run -p kernelet-server --example serve -- [port] [folder] [etcd://host:port]` prints the kubeconfig's path.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use kernelet_pki::{
    Ca, IdentitySpec, KubeConfig, Lifetimes, Login, ServiceAccountKeys, Usage, client_config,
    server_config,
};
use kernelet_server::{Server, ServerConfig};
use kernelet_store::{Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(6443), |port| port.parse())?;
    let temporary = tempfile::tempdir()?;
    let dir = args
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let ca = Ca::load_or_create(&dir, Lifetimes::default())?;
    let issue = |name: &str, group: Option<&str>, usage| {
        ca.issue(&IdentitySpec {
            common_name: name.to_owned(),
            organization: group.map(str::to_owned),
            dns_names: vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()],
            ips: vec![Ipv4Addr::LOCALHOST.into()],
            usage,
        })
    };
    let serving = issue("kube-apiserver", None, Usage::Server)?;
    let kubelet = issue(
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
        Usage::Client,
    )?;
    let admin = issue("kubernetes-admin", Some("system:masters"), Usage::Client)?;
    let kubeconfig = dir.join("kubeconfig");
    KubeConfig {
        cluster: "dev".to_owned(),
        server: format!("https://127.0.0.1:{port}"),
        ca_pem: ca.cert_pem().to_owned(),
        user: "kubernetes-admin".to_owned(),
        login: Login::Certificate(admin),
    }
    .write(&kubeconfig)?;
    let config = ServerConfig {
        advertise: Ipv4Addr::LOCALHOST.into(),
        port,
        service_cidrs: vec!["10.96.0.0/16".parse()?],
        node_ports: 30000..=32767,
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_keys: ServiceAccountKeys::load_or_create(&dir)?,
        tls: Arc::new(server_config(&serving, ca.cert_pem())?),
        kubelet_client: Arc::new(client_config(ca.cert_pem(), Some(&kubelet))?),
        cluster_ca_pem: ca.cert_pem().to_owned(),
        encryption: None,
        audit: None,
        pod_security: Default::default(),
    };
    let store = match args.next() {
        Some(url) => Store::connect(&url).await?,
        None => Store::open(Options::new(dir.join("store")))?,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let server = Server::start(config, store.clone()).await?;
    println!("{}", kubeconfig.display());
    let shutdown = CancellationToken::new();
    let signal = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            signal.cancel();
        }
    });
    server.serve(listener, shutdown).await;
    store.close().await;
    Ok(())
}
