//! Starts every controller on the process's shared watches.

use crate::{
    BadCidr, ControllersConfig, bootstrap, certificates,
    common::Context,
    daemonset, deployment, disruption, endpoints, garbage,
    inventory::Inventory,
    namespace_defaults, namespaces,
    node::{Cidr, eviction, ipam, lifecycle},
    podgc, quota, replicaset, tokens,
};
use kernelet_client::Informers;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why the controllers ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("reading the cluster's pod ranges")]
    Ranges(#[source] BadCidr),
    #[error("a controller panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs all controllers until `shutdown`, with watches of their own.
pub async fn run(
    client: Client,
    config: ControllersConfig,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    run_shared(client, &informers, config, shutdown).await
}

/// Runs all controllers until `shutdown`, reading through the process's shared watches and
/// writing with `client`, the controllers' own identity.
pub async fn run_shared(
    client: Client,
    informers: &Informers,
    config: ControllersConfig,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let ranges = config
        .cluster_cidrs
        .iter()
        .map(|range| {
            let cluster: Cidr = range.parse()?;
            let node_prefix = if cluster.is_v4() {
                config.node_mask_v4
            } else {
                config.node_mask_v6
            };
            Ok(ipam::Range {
                cluster,
                node_prefix,
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(RunError::Ranges)?;
    // Whatever ends one ends all: listeners and loops of this run must not outlive it.
    let run = shutdown.child_token();
    let _end = run.clone().drop_guard();
    let context = Context::new(client, informers, run);
    let mut set = JoinSet::new();
    set.spawn(deployment::run(context.clone()));
    set.spawn(replicaset::run(context.clone()));
    set.spawn(replicaset::run_replication_controllers(context.clone()));
    set.spawn(daemonset::run(context.clone()));
    set.spawn(endpoints::run(context.clone()));
    let ca_pem = config.ca.cert_pem().to_owned();
    set.spawn(bootstrap::run(context.clone()));
    if let Some(keys) = config.service_account_keys {
        set.spawn(tokens::run(context.clone(), keys, ca_pem.clone()));
    }
    set.spawn(namespace_defaults::run(context.clone(), ca_pem));
    set.spawn(ipam::run(context.clone(), ranges));
    set.spawn(lifecycle::run(context.clone(), config.node_grace));
    set.spawn(eviction::run(context.clone()));
    set.spawn(podgc::run(context.clone(), config.terminated_pods_kept));
    set.spawn(disruption::run(context.clone()));
    set.spawn(certificates::run(context.clone(), config.ca));
    let everything = context.clone();
    set.spawn(async move {
        if let Some(inventory) = Inventory::start(&everything).await {
            tokio::join!(
                garbage::run(everything.clone(), inventory.clone()),
                namespaces::run(everything.clone(), inventory.clone()),
                quota::run(everything, inventory),
            );
        }
    });
    while let Some(ended) = set.join_next().await {
        ended.map_err(RunError::Panicked)?;
    }
    Ok(())
}
