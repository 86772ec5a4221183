//! Starts every controller on the process's shared watches.

use crate::ControllersConfig;
use kernelet_client::Informers;
use kube::Client;
use tokio_util::sync::CancellationToken;

/// Why the controllers ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {}

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
    _client: Client,
    _informers: &Informers,
    _config: ControllersConfig,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    shutdown.cancelled().await;
    todo!()
}
