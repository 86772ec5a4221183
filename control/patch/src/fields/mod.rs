//! Sets of field paths, and their wire form, FieldsV1.
//!
//! Source: `metadata.managedFields[].fieldsV1` of the API reference. A set is a tree: an edge is a [`PathElement`],
//! and a node says whether its own path belongs to the set.

mod path;
mod set;
mod wire;

pub use path::{Path, PathElement};
pub use set::Set;
pub use wire::FieldsError;
