//! Server-side apply and the book-keeping of who manages which field.
//!
//! [`FieldManager`] is made per request. `apply` merges what an applier wants into the live object; `update` records
//! what any other write changed. Both keep `metadata.managedFields` right. The order of the rules is upstream's:
//!
//! ```text
//! apply   decode managedFields → adopt fields of before the first apply → merge → prune → conflicts → encode
//! update  decode managedFields → compare old and new → take what changed → cap the number of updaters → encode
//! ```
//!
//! Source: "Server-Side Apply" in the Kubernetes reference; `metadata.managedFields` of the API reference.

mod blank;
mod conflict;
mod error;
mod last_applied;
mod managed;
mod manager;
mod updater;
mod versions;

pub use conflict::Conflict;
pub use error::{ApplyError, ManagedFieldsError};
pub use managed::{ManagerId, Operation};
pub use manager::{Applied, FieldManager, keep_unchanged_times};
pub use versions::{NoOtherVersions, Versions};
