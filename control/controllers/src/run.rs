//! Starts every controller on the process's shared watches.

use crate::{
    ControllersConfig, common::Context, deployment, endpoints, garbage, inventory::Inventory,
    namespace_defaults, namespaces, replicaset,
};
use kernelet_client::Informers;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why the controllers ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
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
    let context = Context::new(client, informers, shutdown.clone());
    let mut set = JoinSet::new();
    set.spawn(deployment::run(context.clone()));
    set.spawn(replicaset::run(context.clone()));
    set.spawn(endpoints::run(context.clone()));
    let ca_pem = config.ca.cert_pem().to_owned();
    set.spawn(namespace_defaults::run(context.clone(), ca_pem));
    let everything = context.clone();
    set.spawn(async move {
        if let Some(inventory) = Inventory::start(&everything).await {
            tokio::join!(
                garbage::run(everything.clone(), inventory.clone()),
                namespaces::run(everything, inventory),
            );
        }
    });
    while let Some(ended) = set.join_next().await {
        ended.map_err(RunError::Panicked)?;
    }
    Ok(())
}
