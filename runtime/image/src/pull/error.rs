//! Why an image couldn't be pulled, in the words that containerd's users know.

use std::io;

use crate::{CredentialError, ImageError, Platform};

/// Pulling an image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Its registry, and all mirrors, don't give its manifest.
    #[error(
        "failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\""
    )]
    Resolve {
        /// The image.
        reference: String,
        /// Why.
        source: RegistryError,
    },
    /// A part of it can't be downloaded.
    #[error("failed to pull and unpack image \"{reference}\": failed to copy: {what}")]
    Copy {
        /// The image.
        reference: String,
        /// Which part.
        what: String,
        /// Why.
        source: RegistryError,
    },
    /// It has nothing for this machine.
    #[error(
        "failed to pull and unpack image \"{reference}\": no match for platform in manifest: {platform} is not among {found}"
    )]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was asked for.
        platform: Platform,
        /// What there is.
        found: String,
    },
    /// What came isn't what was asked for, or can't be kept.
    #[error("failed to pull and unpack image \"{reference}\"")]
    Image {
        /// The image.
        reference: String,
        /// Why.
        source: ImageError,
    },
}

impl PullError {
    /// Whether the image isn't there, as opposed to a registry that can't be asked.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            PullError::Resolve {
                source: RegistryError::NotFound(_),
                ..
            }
        )
    }
}

/// Asking a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry has no such thing.
    #[error("{0}: not found")]
    NotFound(String),
    /// It says no to this identity, or to nobody in particular.
    #[error("pull access denied, repository does not exist or may require authorization: {detail}")]
    Denied {
        /// What the registry says, and what may help.
        detail: String,
    },
    /// Its token service says no, or makes no sense.
    #[error("failed to authorize: {0}")]
    Authorize(String),
    /// Any other answer.
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status {
        /// `GET`.
        method: &'static str,
        /// Without its query.
        url: String,
        /// Number and words.
        status: String,
        /// What the registry says, after `: `.
        detail: String,
    },
    /// No connection, or a broken one.
    #[error("failed to do request: {method} {url}: {attempt}")]
    Io {
        /// `GET`.
        method: &'static str,
        /// Without its query.
        url: String,
        /// What was attempted.
        attempt: String,
        /// Why.
        source: io::Error,
    },
    /// A redirection that isn't followed.
    #[error("redirected from {from} to {to}: {reason}")]
    Redirect {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer that no registry gives.
    #[error("{url} answers {problem}")]
    Protocol {
        /// Without its query.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The credentials can't be read.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// What came isn't what it says it is.
    #[error(transparent)]
    Content(Box<ImageError>),
}

impl From<ImageError> for RegistryError {
    fn from(error: ImageError) -> Self {
        RegistryError::Content(Box::new(error))
    }
}
