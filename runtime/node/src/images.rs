//! Images as pods meet them: found in the local store or not. Nothing is pulled here.

use std::path::PathBuf;

use kernelet_image::{Image, ImageConfig, ImageError, ImageId, ImageStore};
use kernelet_pod_plan::{ContainerId, FailureReason, ImageFound, PullPolicy, StepError};

use crate::errors::chain;

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
}

impl Images {
    pub fn new(store: ImageStore) -> Self {
        Self { store }
    }

    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// The image that a container asks for, in upstream's words when it can't be had.
    pub async fn resolve(&self, asked: &str, policy: PullPolicy) -> Result<LocalImage, StepError> {
        let (store, name) = (self.store.clone(), asked.to_owned());
        match blocking(move || store.get(&name)).await? {
            Ok(image) => Ok(local(asked, image)),
            Err(ImageError::Reference(error)) => Err(StepError {
                reason: FailureReason::InvalidImageName,
                message: format!("Failed to apply default image tag \"{asked}\": {error}"),
            }),
            Err(ImageError::NotFound(_)) if policy == PullPolicy::Never => Err(StepError {
                reason: FailureReason::ErrImageNeverPull,
                message: format!(
                    "Container image \"{asked}\" is not present with pull policy of Never"
                ),
            }),
            Err(ImageError::NotFound(_)) => Err(StepError {
                reason: FailureReason::ErrImagePull,
                message: format!(
                    "failed to pull image \"{asked}\": it is not in this node's image store, and pulling from a registry is \
                     not implemented yet; load it with `kernelet image load`"
                ),
            }),
            Err(error) => Err(StepError {
                reason: FailureReason::ErrImagePull,
                message: chain(&error),
            }),
        }
    }

    /// Keeps the image while the container's root needs its layers.
    pub fn hold(&self, image: ImageId, container: &ContainerId) -> Result<(), ImageError> {
        self.store.hold(image, &container.0)
    }

    pub fn release(&self, container: &str) -> Result<(), ImageError> {
        self.store.release(container)
    }
}

fn local(asked: &str, image: Image) -> LocalImage {
    let wanted = asked.parse::<kernelet_image::Reference>().ok();
    let name = match wanted.filter(|w| image.references.contains(w)) {
        Some(reference) => reference.to_string(),
        None => image
            .references
            .first()
            .map_or_else(|| asked.to_owned(), ToString::to_string),
    };
    LocalImage {
        found: ImageFound {
            asked: asked.to_owned(),
            name,
            id: image.id.to_string(),
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
