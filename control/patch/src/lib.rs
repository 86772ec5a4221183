//! The four ways to patch an object, and who manages its fields.
//!
//! [`json_patch`] (RFC 6902), [`merge_patch`] (RFC 7386), [`strategic_merge`] (by the schema's patch strategies) and
//! server-side apply ([`FieldManager`]).
//!
//! **Invariant:** pure. No clock (the time is passed in), no I/O; the schema is data.

mod apply;
mod fields;
mod json_patch;
mod merge_patch;
mod number;
mod strategic;
mod typed;

pub use apply::{
    Applied, ApplyError, Conflict, FieldManager, ManagedFieldsError, ManagerId, NoOtherVersions,
    Operation, Versions, keep_unchanged_times,
};
pub use fields::{FieldsError, Path, PathElement, Set};
pub use json_patch::{JsonPatchError, MAX_OPERATIONS, json_patch};
pub use merge_patch::{MergePatchError, merge_patch};
pub use strategic::{StrategicError, strategic_merge};
pub use typed::TypedError;
