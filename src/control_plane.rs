//! Starts store, server, scheduler and controllers in this process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use kernelet_client::Informers;
use kernelet_controllers::ControllersConfig;
use kernelet_pki::{
    Ca, Identity, IdentitySpec, KubeConfig, Lifetimes, Login, ServiceAccountKeys, Usage,
    client_config, server_config,
};
use kernelet_server::{
    AuditConfig, AuditFile, AuditPolicy, Cidr, Encryption, PodSecurityConfig, Server, ServerConfig,
    UserInfo,
};
use kernelet_store::{OpenError, Options, Store};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{ClusterOptions, Part},
    health::{Health, PartHealth},
    instance::{Instance, StoreUrl, private_dir},
    preflight,
};

/// A control plane that answers.
pub struct ControlPlane {
    pub server: Server,
    pub ca: Ca,
    /// `https://address:port`, as other machines reach it.
    pub url: String,
    pub store: Store,
}

/// The certificates that a cluster begins with.
struct Identities {
    ca: Ca,
    keys: ServiceAccountKeys,
    serving: Identity,
    admin: Identity,
    kubelet_client: Identity,
}

/// Starts everything but the parts in `without`. When it answers, the API is served and the admin's
/// kubeconfig is written.
pub async fn start(
    instance: &Instance,
    cluster: &ClusterOptions,
    node_ip: IpAddr,
    without: &[Part],
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<ControlPlane> {
    // The port first: nothing is made for a server that could not be reached.
    let any = if node_ip.is_ipv6() {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let listener = preflight::listen(SocketAddr::new(any, cluster.api_port), "--api-port")?;
    let service_cidr: Cidr = cluster.service_cidr.parse().context("--service-cidr")?;
    let service_ip = service_cidr
        .nth(1)
        .context("--service-cidr has no room for an address")?;

    let identities = identities(instance, cluster, node_ip, service_ip)?;
    let url = format!("https://{}", SocketAddr::new(node_ip, cluster.api_port));
    KubeConfig {
        cluster: "kernelet".into(),
        server: url.clone(),
        ca_pem: identities.ca.cert_pem().to_owned(),
        user: "kubernetes-admin".into(),
        login: Login::Certificate(identities.admin.clone()),
    }
    .write(&instance.kubeconfig())
    .with_context(|| {
        format!(
            "cannot write the kubeconfig {}",
            instance.kubeconfig().display()
        )
    })?;

    let store = open_store(instance, &cluster.store).await?;
    health.set("store", PartHealth::Healthy);
    let config = ServerConfig {
        advertise: node_ip,
        port: cluster.api_port,
        service_cidrs: vec![service_cidr],
        node_ports: 30000..=32767,
        issuer: format!("https://kubernetes.default.svc.{}", cluster.cluster_domain),
        service_account_keys: identities.keys.clone(),
        tls: Arc::new(server_config(
            &identities.serving,
            identities.ca.cert_pem(),
        )?),
        kubelet_client: Arc::new(client_config(
            identities.ca.cert_pem(),
            Some(&identities.kubelet_client),
        )?),
        cluster_ca_pem: identities.ca.cert_pem().to_owned(),
        encryption: Some(Arc::new(encryption(instance, cluster)?)),
        audit: Some(audit(instance, cluster)?),
        pod_security: pod_security(cluster)?,
    };
    let server = Server::start(config, store.clone())
        .await
        .context("cannot start the API server")?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    health.set("server", PartHealth::Healthy);
    tokio::spawn({
        let (server, shutdown) = (server.clone(), shutdown.clone());
        async move { server.serve(listener, shutdown).await }
    });

    let plane = ControlPlane {
        server,
        ca: identities.ca,
        url,
        store,
    };
    // One list and watch per kind for both, read with the rights of the controllers; each writes as itself.
    let informers = Arc::new(Informers::new(
        plane.client(UserInfo::controllers()),
        shutdown.clone(),
    ));
    if !without.contains(&Part::Scheduler) {
        let (client, informers) = (plane.client(UserInfo::scheduler()), informers.clone());
        let stop = shutdown.clone();
        health.supervise("scheduler", shutdown.clone(), move || {
            let (client, informers, stop) = (client.clone(), informers.clone(), stop.clone());
            async move { kernelet_scheduler::run_shared(client, &informers, stop).await }
        });
    }
    if !without.contains(&Part::Controllers) {
        let client = plane.client(UserInfo::controllers());
        let (ca, cidr) = (plane.ca.clone(), cluster.cluster_cidr.clone());
        let keys = identities.keys;
        let stop = shutdown.clone();
        health.supervise("controllers", shutdown.clone(), move || {
            let (client, informers, stop) = (client.clone(), informers.clone(), stop.clone());
            let mut config = ControllersConfig::new(ca.clone(), vec![cidr.clone()]);
            config.service_account_keys = Some(keys.clone());
            async move { kernelet_controllers::run_shared(client, &informers, config, stop).await }
        });
    }
    Ok(plane)
}

impl ControlPlane {
    /// A client inside this process; it is judged like everybody of that name.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        kernelet_client::from_service(self.server.service(user))
    }

    /// Waits until nothing can be stored any more, and says why.
    pub async fn failed(&self) -> anyhow::Error {
        let reason = self.store.failed().await;
        anyhow::anyhow!(
            "the store has stopped, and only a new start finds out what is on its disk: {reason}"
        )
    }

    /// Ends the store after what is queued.
    pub async fn close(self) {
        self.store.close().await;
    }
}

fn encryption(instance: &Instance, cluster: &ClusterOptions) -> anyhow::Result<Encryption> {
    let keys = Encryption::load_or_create(&instance.pki_dir().join("encryption.keys"))?;
    keys.with_resources(&cluster.encrypt_resources)
        .context("--encrypt-resources")
}

fn pod_security(cluster: &ClusterOptions) -> anyhow::Result<PodSecurityConfig> {
    let Some(path) = &cluster.admission_control_config_file else {
        return Ok(PodSecurityConfig::default());
    };
    let about = || format!("--admission-control-config-file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", about()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    PodSecurityConfig::parse(&text, folder).with_context(about)
}

fn audit(instance: &Instance, cluster: &ClusterOptions) -> anyhow::Result<AuditConfig> {
    let policy = match &cluster.audit_policy_file {
        None => AuditPolicy::standard(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read --audit-policy-file {}", path.display()))?;
            AuditPolicy::parse(&text)
                .with_context(|| format!("--audit-policy-file {}", path.display()))?
        }
    };
    let path = match &cluster.audit_log_path {
        Some(path) => path.clone(),
        None => instance.audit_log(),
    };
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    let mut file = AuditFile::new(path);
    file.max_bytes = cluster.audit_log_maxsize << 20;
    file.max_files = cluster.audit_log_maxbackup;
    Ok(AuditConfig { policy, file })
}

async fn open_store(instance: &Instance, url: &str) -> anyhow::Result<Store> {
    let url = StoreUrl::parse(url)?;
    instance.check_store(&url)?;
    let store = match &url {
        StoreUrl::Embedded => {
            let dir = instance.store_dir();
            Store::open(Options::new(&dir))
                .with_context(|| format!("cannot open the store in {}", dir.display()))?
        }
        StoreUrl::Etcd(url) => Store::connect(url).await.map_err(|error| match error {
            OpenError::Connect { .. } => anyhow::Error::new(error).context(
                "no etcd answers; start it, or name another with --store (left out, the store is embedded)",
            ),
            error => anyhow::Error::new(error).context("--store"),
        })?,
    };
    // Only a store that opened: a mistyped address must not be what the next start is held against.
    instance.remember_store(&url)?;
    Ok(store)
}

fn identities(
    instance: &Instance,
    cluster: &ClusterOptions,
    node_ip: IpAddr,
    service_ip: IpAddr,
) -> anyhow::Result<Identities> {
    let dir = instance.pki_dir();
    private_dir(&dir)?;
    let ca = Ca::load_or_create(&dir, Lifetimes::default())?;
    let client = |name: &str, group: Option<&str>| IdentitySpec {
        common_name: name.into(),
        organization: group.map(str::to_owned),
        dns_names: Vec::new(),
        ips: Vec::new(),
        usage: Usage::Client,
    };
    let mut dns_names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned)
    .into();
    dns_names.push(format!("kubernetes.default.svc.{}", cluster.cluster_domain));
    let serving = IdentitySpec {
        common_name: "kube-apiserver".into(),
        organization: None,
        dns_names,
        ips: vec![
            node_ip,
            service_ip,
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ],
        usage: Usage::Server,
    };
    Ok(Identities {
        keys: ServiceAccountKeys::load_or_create(&dir)?,
        serving: ca.load_or_issue(&dir, "apiserver", &serving)?,
        admin: ca.load_or_issue(
            &dir,
            "admin",
            &client("kubernetes-admin", Some("system:masters")),
        )?,
        kubelet_client: ca.load_or_issue(
            &dir,
            "apiserver-kubelet-client",
            &client("kube-apiserver-kubelet-client", Some("system:masters")),
        )?,
        ca,
    })
}
