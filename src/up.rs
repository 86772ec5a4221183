//! `up`, `server`, `scheduler` and `controllers`: starts the parts, says what it did, and waits for the end.

use std::{
    net::IpAddr,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kernelet_server::UserInfo;
use kernelet_store::Store;
use kube::{Api, runtime::wait::await_condition};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{ControllersOptions, Global, PartOptions, ServerOptions, UpOptions},
    control_plane::{self, ControlPlane},
    control_socket::{self, Stopped},
    detach::Report,
    health::{Health, PartHealth},
    instance::Instance,
    node, preflight,
    status::StatusReport,
};

/// How long the node may take to become Ready before `up` gives up saying that it will.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long the store may take to answer before `status` calls it unhealthy.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub fn run(global: &Global, options: &UpOptions) -> anyhow::Result<ExitCode> {
    let mut report = Report::open()?;
    let outcome = (|| {
        preflight::node()?;
        log(global)?;
        let instance = Instance::create(&global.data_dir)?;
        let _lock = instance.lock()?;
        node::check_cgroup_root(&instance, &options.node.cgroup_root)?;
        instance.remember(&options.node.cgroup_root)?;
        // Every path is absolute from here on, and no mount is kept busy by where this was started.
        std::env::set_current_dir("/").context("cannot change to /")?;
        runtime()?.block_on(up(&instance, options, &mut report))
    })();
    if let Err(error) = &outcome {
        report.failed(error);
    }
    outcome
}

async fn up(
    instance: &Instance,
    options: &UpOptions,
    report: &mut Report,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    let node_ip = address(options.node.node_ip)?;
    let node_name = node::name(&options.node)?;
    stop_on_signals(&shutdown)?;

    let plane =
        control_plane::start(instance, &options.cluster, node_ip, &[], &health, &shutdown).await?;
    let node = node::start(
        instance, options, &node_name, node_ip, &plane, &health, &shutdown,
    )
    .await?;
    let (stops, mut stop) = mpsc::channel(1);
    let say = reporter(instance, &health, &plane, Some(node_name.clone()));
    control_socket::serve(&instance.socket(), say, stops, shutdown.clone())?;

    let nodes: Api<Node> = Api::all(plane.client(UserInfo::admin()));
    let ready = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ready = node_ready(nodes, &node_name) => ready,
        error = plane.failed() => Err(error),
    };
    if let Err(error) = ready {
        shutdown.cancel();
        node.stop().await;
        plane.close().await;
        return Err(error);
    }
    report.ready(&format!(
        "node {node_name} ({node_ip}) is Ready after {:.1} s\n  API server   {}\n  kubeconfig   {}\n  data         {}\n\
         try          kubectl --kubeconfig {} get nodes\n",
        began.elapsed().as_secs_f64(),
        plane.url,
        instance.kubeconfig().display(),
        instance.data_dir.display(),
        instance.kubeconfig().display(),
    ));
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(ExitCode::SUCCESS),
        Some(stop) = stop.recv() => {
            let stopped = if stop.pods { node.end_pods().await } else { Stopped::default() };
            shutdown.cancel();
            let _ = stop.answer.send(stopped);
            Ok(ExitCode::SUCCESS)
        }
        // The pods run on; whoever watches over this program starts it again.
        error = plane.failed() => Err(error),
    };
    shutdown.cancel();
    node.stop().await;
    plane.close().await;
    outcome
}

/// Waits until the node says Ready; when it doesn't in time, the error is what its condition says.
async fn node_ready(nodes: Api<Node>, name: &str) -> anyhow::Result<()> {
    let condition = |node: &Node| {
        let status = node.status.as_ref()?;
        let conditions = status.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .cloned()
    };
    let is_ready = |node: Option<&Node>| {
        node.and_then(condition)
            .is_some_and(|condition| condition.status == "True")
    };
    let ready = await_condition(nodes.clone(), name, is_ready);
    match tokio::time::timeout(READY_WITHIN, ready).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error).context("cannot watch the node"),
        Err(_) => {
            let node = nodes.get_opt(name).await.context("cannot read the node")?;
            match node.as_ref().and_then(condition) {
                Some(condition) => bail!(
                    "the node is not Ready: {}: {}",
                    condition.reason.unwrap_or_default(),
                    condition.message.unwrap_or_default()
                ),
                None => bail!(
                    "the node did not register within {} s",
                    READY_WITHIN.as_secs()
                ),
            }
        }
    }
}

pub fn run_server(global: &Global, options: &ServerOptions) -> anyhow::Result<ExitCode> {
    log(global)?;
    let instance = Instance::create(&global.data_dir)?;
    let _lock = instance.lock()?;
    runtime()?.block_on(async {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        stop_on_signals(&shutdown)?;
        let node_ip = address(options.node_ip)?;
        let plane = control_plane::start(
            &instance,
            &options.cluster,
            node_ip,
            &options.without,
            &health,
            &shutdown,
        )
        .await?;
        let (stops, mut stop) = mpsc::channel(1);
        let say = reporter(&instance, &health, &plane, None);
        control_socket::serve(&instance.socket(), say, stops, shutdown.clone())?;
        println!(
            "API server {}; kubeconfig {}",
            plane.url,
            instance.kubeconfig().display()
        );
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(ExitCode::SUCCESS),
            Some(stop) = stop.recv() => {
                shutdown.cancel();
                let _ = stop.answer.send(Stopped::default());
                Ok(ExitCode::SUCCESS)
            }
            error = plane.failed() => Err(error),
        };
        shutdown.cancel();
        plane.close().await;
        outcome
    })
}

pub fn run_scheduler(global: &Global, options: &PartOptions) -> anyhow::Result<ExitCode> {
    log(global)?;
    runtime()?.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(&shutdown)?;
        let client = kernelet_client::from_kubeconfig(&options.kubeconfig).await?;
        kernelet_scheduler::run(client, shutdown)
            .await
            .context("the scheduler ended")?;
        Ok(ExitCode::SUCCESS)
    })
}

pub fn run_controllers(global: &Global, options: &ControllersOptions) -> anyhow::Result<ExitCode> {
    log(global)?;
    let Some(instance) = Instance::find(&global.data_dir)? else {
        bail!(
            "the controllers sign certificates and need the cluster's authority in {}/pki",
            global.data_dir.display()
        );
    };
    runtime()?.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(&shutdown)?;
        let ca = kernelet_pki::Ca::load_or_create(
            &instance.pki_dir(),
            kernelet_pki::Lifetimes::default(),
        )?;
        let client = kernelet_client::from_kubeconfig(&options.part.kubeconfig).await?;
        let mut config =
            kernelet_controllers::ControllersConfig::new(ca, vec![options.cluster_cidr.clone()]);
        config.service_account_keys = Some(kernelet_pki::ServiceAccountKeys::load_or_create(
            &instance.pki_dir(),
        )?);
        kernelet_controllers::run(client, config, shutdown)
            .await
            .context("the controllers ended")?;
        Ok(ExitCode::SUCCESS)
    })
}

fn address(given: Option<IpAddr>) -> anyhow::Result<IpAddr> {
    given.map_or_else(preflight::node_ip, Ok)
}

fn reporter(
    instance: &Instance,
    health: &Health,
    plane: &ControlPlane,
    node: Option<String>,
) -> impl Fn() -> Pin<Box<dyn Future<Output = StatusReport> + Send>> + Clone + Send + Sync + 'static
{
    let (health, instance, store) = (health.clone(), instance.clone(), plane.store.clone());
    let server = plane.url.clone();
    move || {
        let report = StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            instance: instance.id.clone(),
            pid: std::process::id(),
            data_dir: instance.data_dir.display().to_string(),
            server: Some(server.clone()),
            kubeconfig: Some(instance.kubeconfig().display().to_string()),
            node: node.clone(),
            parts: health.snapshot(),
            kernel_lacks: kernel_lacks(node.is_some()),
        };
        let store = store.clone();
        Box::pin(async move {
            let mut report = report;
            let now = store_health(&store).await;
            report.parts.insert("store".to_owned(), now);
            report
        })
    }
}

/// An etcd cluster comes and goes by itself: only a question tells how it is.
async fn store_health(store: &Store) -> PartHealth {
    let reason = match tokio::time::timeout(STORE_ANSWERS_WITHIN, store.revision()).await {
        Ok(Ok(_)) => return PartHealth::Healthy,
        Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
        Err(_) => format!(
            "it does not answer within {} s",
            STORE_ANSWERS_WITHIN.as_secs()
        ),
    };
    PartHealth::Unhealthy { reason }
}

fn stop_on_signals(shutdown: &CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).context("cannot wait for signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signal.recv().await;
            shutdown.cancel();
        });
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn log(global: &Global) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&global.log).with_context(|| format!("--log {}", global.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

/// What this kernel can't do, and what is done instead.
fn kernel_lacks(node: bool) -> Vec<String> {
    kernelet_image::unconfined()
        .filter(|_| node)
        .map(|why| {
            format!(
                "layers are unpacked without a second confinement, by the walk on descriptors alone: {why}"
            )
        })
        .into_iter()
        .collect()
}
