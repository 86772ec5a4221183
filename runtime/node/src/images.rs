//! Images as pods meet them: found in the local store, or pulled into it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kernelet_image::{
    Image, ImageConfig, ImageError, ImageId, ImageStore, Keyring, PullError, PullOptions, Pulled,
    Puller, Reference, Registries,
};
use kernelet_pod_plan::{ContainerId, FailureReason, ImageFound, StepError};
use tokio::sync::Semaphore;

use crate::errors::chain;

/// Where a node's images come from, and when they go.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// Mirrors, authorities and the like.
    pub registries: Registries,
    /// Files in the form of `docker login`'s, read at each pull; one that isn't there is no error.
    pub credentials: Vec<PathBuf>,
    /// How many images are pulled at the same time; 1 is one after another.
    pub parallel_pulls: usize,
    /// The disk's usage, in percent, from which images that nobody uses are removed.
    pub gc_high_percent: u8,
    /// The usage down to which they are.
    pub gc_low_percent: u8,
    /// Younger images stay.
    pub gc_min_age: Duration,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            credentials: Vec::new(),
            parallel_pulls: 5,
            gc_high_percent: 85,
            gc_low_percent: 80,
            gc_min_age: Duration::from_secs(120),
        }
    }
}

/// An image that is in the store, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct LocalImage {
    pub found: ImageFound,
    pub id: ImageId,
    pub config: ImageConfig,
    /// The unpacked layers, top first.
    pub layers: Vec<PathBuf>,
}

#[derive(Clone)]
pub(crate) struct Images {
    store: ImageStore,
    puller: Puller,
    credentials: Vec<PathBuf>,
    turns: Arc<Semaphore>,
}

impl Images {
    pub fn new(store: ImageStore, settings: &ImageSettings) -> Self {
        Self {
            puller: Puller::new(store.clone(), settings.registries.clone()),
            store,
            credentials: settings.credentials.clone(),
            turns: Arc::new(Semaphore::new(settings.parallel_pulls.max(1))),
        }
    }

    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// What the node's own files know. Read anew each time: credentials change, and pulls are rare.
    pub fn node_keyring(&self) -> Keyring {
        let mut keyring = Keyring::default();
        for path in self.credentials.iter().filter(|path| path.exists()) {
            match Keyring::read(path) {
                Ok(more) => keyring = keyring.and(&more),
                Err(error) => tracing::warn!(error = %chain(&error), "the node's credentials"),
            }
        }
        keyring
    }

    /// Pulls when it is its turn; answers how long that took by itself.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<(Pulled, Duration), PullError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let begun = Instant::now();
        let pulled = self.puller.pull(reference, options).await?;
        Ok((pulled, begun.elapsed()))
    }

    /// Keeps the image while the container's root needs its layers.
    pub fn hold(&self, image: ImageId, container: &ContainerId) -> Result<(), ImageError> {
        self.store.hold(image, &container.0)
    }

    pub fn release(&self, container: &str) -> Result<(), ImageError> {
        self.store.release(container)
    }
}

/// An image under the name that was asked for.
pub(crate) fn local(asked: &str, image: Image) -> LocalImage {
    let wanted = asked.parse::<Reference>().ok();
    let name = match wanted.as_ref().filter(|w| image.references.contains(w)) {
        Some(reference) => reference.to_string(),
        None => image
            .references
            .first()
            .map_or_else(|| asked.to_owned(), ToString::to_string),
    };
    // As everybody shows it: what the repository calls it, where it came from one.
    let repository = wanted.map(|w| format!("{}/{}@", w.registry(), w.repository()));
    let id = repository
        .and_then(|own| {
            image
                .repo_digests
                .iter()
                .find(|digest| digest.starts_with(&own))
        })
        .or(image.repo_digests.first())
        .map_or_else(|| image.id.to_string(), Clone::clone);
    LocalImage {
        found: ImageFound {
            asked: asked.to_owned(),
            name,
            id,
        },
        id: image.id,
        config: image.config,
        layers: image.layers,
    }
}

/// Runs what blocks where that is allowed. A panic there is told as this step's failure.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StepError {
            reason: FailureReason::CreateContainerError,
            message: chain(&error),
        })
}
