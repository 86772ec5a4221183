//! The loop: watches → snapshot and queue → decide → bind.

use kernelet_client::Informers;
use kube::Client;
use tokio_util::sync::CancellationToken;

/// Why the scheduler ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {}

/// Schedules pods until `shutdown`, with watches of its own.
pub async fn run(client: Client, shutdown: CancellationToken) -> Result<(), RunError> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    run_shared(client, &informers, shutdown).await
}

/// Schedules pods until `shutdown`, reading through the process's shared watches and writing
/// with `client`, the scheduler's own identity.
pub async fn run_shared(
    _client: Client,
    _informers: &Informers,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    shutdown.cancelled().await;
    todo!()
}
