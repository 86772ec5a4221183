//! Images: pull, load, verify, unpack, snapshot, prune.
//!
//! [`ImageStore`] keeps images of `docker save` archives and OCI layouts as unpacked layers in overlayfs' form, ready
//! to be the lower folders of a container's root. Nothing here mounts or runs anything.
//!
//! **Invariant:** what an archive says is used only after its digest was verified, and an archive's path is only ever
//! walked below its layer's own folder. **Invariant:** an image is there whole or not at all, whenever a crash came.

mod access;
mod archive;
pub mod compose;
mod confine;
mod digest;
mod document;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod image;
mod layer;
mod pull;
mod reference;
mod save;
mod split;
mod store;
mod tree;
mod unpack;
mod user;
mod work;

pub use access::{Access, Opened};
pub use confine::unconfined;
pub use error::{ImageError, OpenError, ReferenceError, UserError};
pub use image::{Digest, Image, ImageConfig, ImageId, Port, Protocol};
pub use pull::{
    Credential, CredentialError, Keyring, Platform, Progress, PullError, PullEvent, PullOptions,
    Pulled, Puller, Registries, RegistriesError, RegistryError, RegistryOptions, Retry,
};
pub use reference::Reference;
pub use store::{ImageStore, Pruned};
pub use user::User;
