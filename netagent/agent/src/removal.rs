//! Removing pods' links, many at a time.
//!
//! The kernel waits for RCU, with everybody's network changes locked out, each time links are removed:
//! some 30 ms, for one as for a hundred. So whoever comes while a removal runs is part of the next one.

use std::sync::Arc;

use kernelet_link::{LinkError, disconnect_pods};
use tokio::sync::{mpsc, oneshot};

type Answer = Result<(), Arc<LinkError>>;

/// The way to the task that removes links. It ends when all handles are gone.
#[derive(Clone)]
pub struct Removal {
    requests: mpsc::Sender<(String, oneshot::Sender<Answer>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    Link(Arc<LinkError>),
    #[error("the pod network is shutting down")]
    Ended,
}

impl Removal {
    pub fn start(instance_id: &str) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        tokio::spawn(run(instance_id.to_owned(), receiver));
        Self { requests }
    }

    /// Returns when the link of that name is gone.
    pub async fn remove(&self, name: String) -> Result<(), RemovalError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send((name, answer))
            .await
            .map_err(|_| RemovalError::Ended)?;
        answered
            .await
            .map_err(|_| RemovalError::Ended)?
            .map_err(RemovalError::Link)
    }
}

async fn run(instance_id: String, mut requests: mpsc::Receiver<(String, oneshot::Sender<Answer>)>) {
    while let Some(first) = requests.recv().await {
        let mut batch = vec![first];
        while let Ok(next) = requests.try_recv() {
            batch.push(next);
        }
        let names: Vec<String> = batch.iter().map(|(name, _)| name.clone()).collect();
        let instance_id = instance_id.clone();
        let removed = tokio::task::spawn_blocking(move || disconnect_pods(&instance_id, &names));
        let result = match removed.await {
            Ok(result) => result.map_err(Arc::new),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        for (_, answer) in batch {
            // Who asked may have gone.
            let _ = answer.send(result.clone());
        }
    }
}
