//! Encryption at rest: what is secret goes into the store sealed, and comes out of it plain.
//!
//! ```text
//! handlers, watch cache ──► SealedStore ──► Store (SQLite, etcd)
//!     plain values            AES-256-GCM      k8s:enc:aesgcm:v1:<key's name>:<nonce><sealed>
//! ```
//!
//! The store's key is authenticated with the value, so that nobody who writes the store can pass one Secret off as
//! another. The form is upstream's `aesgcm` provider. Values from before are read as they are, and sealed with the
//! first key when a server starts: that is also how keys are rotated. Backups hold what the store holds.

mod keys;
mod reseal;
mod store;

pub use keys::{Encryption, EncryptionError};
pub use reseal::reseal;
pub use store::{SealedStore, SealedWatcher};
