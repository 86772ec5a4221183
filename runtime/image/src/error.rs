//! What can go wrong, one enum an operation.

use std::{io, path::PathBuf};

use crate::{Digest, ImageId};

/// Opening the image store.
#[derive(Debug, thiserror::Error)]
#[error("can't {attempt} {}", path.display())]
pub struct OpenError {
    /// What was attempted.
    pub attempt: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A reference that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct ReferenceError {
    /// As given.
    pub reference: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Working with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference makes no sense.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No such image here.
    #[error("image {0:?} is not in the store")]
    NotFound(String),
    /// Several images begin with this id.
    #[error("image id {0:?} is ambiguous")]
    Ambiguous(String),
    /// A container uses it.
    #[error("image {image} is used by {holder}")]
    InUse {
        /// The image.
        image: ImageId,
        /// Who.
        holder: String,
    },
    /// The file is neither a `docker save` archive nor an OCI layout.
    #[error("not an image: {0}")]
    NotAnImage(String),
    /// The file ends too early, or can't be decompressed.
    #[error("the image file is damaged while reading {what}")]
    Damaged {
        /// What was being read.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A part isn't what its digest says.
    #[error("{what} has digest {found}, but {expected} was expected")]
    WrongDigest {
        /// Which part.
        what: String,
        /// What the image says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A part isn't as long as its descriptor says.
    #[error("{what} has {found} bytes, but {expected} were expected")]
    WrongSize {
        /// Which part.
        what: String,
        /// What the image says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A part that the image names isn't in the file.
    #[error("the image file lacks {0}")]
    Missing(String),
    /// A document of the image can't be read.
    #[error("{what} makes no sense")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A layer's entry that must not be unpacked.
    #[error("layer entry {path:?}: {reason}")]
    Entry {
        /// As the archive names it.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The image is for another machine.
    #[error("the image is for {found}, and {wanted} is wanted")]
    Platform {
        /// `os/architecture` of the image.
        found: String,
        /// Ours, or the one asked for.
        wanted: String,
    },
    /// The machine's part of it failed.
    #[error("can't {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Finding out whom a container runs as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The image has no such user.
    #[error("the image's /etc/passwd has no user {0:?}")]
    NoUser(String),
    /// The image has no such group.
    #[error("the image's /etc/group has no group {0:?}")]
    NoGroup(String),
    /// A number that is no user or group id.
    #[error("{0:?} is not a user or group id")]
    OutOfRange(String),
    /// The image's files can't be read.
    #[error("can't read {path} of the image")]
    Read {
        /// Which one.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}
