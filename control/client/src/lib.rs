//! How the parts of the cluster see the API: list+watch → reflector → keyed work queue.
//!
//! **Invariant:** nothing here polls, and nothing here knows a kind's meaning.

mod connect;
mod correlator;
mod errors;
mod events;
mod index;
mod key;
mod metadata;
mod queue;
mod reflect;
mod shared;
mod workers;

pub use connect::{ConnectError, from_kubeconfig, from_service, of_no_server};
pub use errors::{is_already_exists, is_conflict, is_forbidden, is_gone, is_not_found};
pub use events::{EventType, Recorder, reference};
pub use index::Index;
pub use key::ObjectKey;
pub use metadata::{MetadataEvent, watch_metadata};
pub use queue::{Backoff, Item, Queue};
pub use shared::{Change, Feed, Informers, Object, Scope, Shared};
pub use workers::{Next, reconcile_all};

pub use kube::Client;
