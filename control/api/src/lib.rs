//! The API's types as data: schemas, names, the table of resources, codecs, defaulting, validation and selectors.
//!
//! An object is a [`Value`] tree that is walked together with a [`schema::Schema`]; nothing here is generated per kind.
//!
//! A write goes: [`codec::decode`] (or [`codec::typecheck`] of a patch's result) → [`Resource::default`] → mutating
//! admission → [`Resource::prepare_for_create`] or [`Resource::prepare_for_update`] → [`Resource::validate_create`] or
//! [`Resource::validate_update`] → [`Resource::convert`] to the stored form → [`prune::canonicalize`].
//!
//! **Invariant:** pure. No I/O, no clock, no randomness; whoever needs the time or a name passes it in.

pub mod codec;
pub mod convert;
pub mod defaults;
mod facts;
pub mod field;
pub mod flowcontrol;
pub mod meta;
pub mod names;
pub mod podsecurity;
pub mod prune;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unimplemented;
pub mod validate;
pub mod warn;

pub use field::{ErrorType, FieldError};
pub use names::{GroupVersion, Gvk, Gvr};
pub use prune::prune;
pub use resources::{Registry, Resource};
pub use schema::{Field, Schema, Type, TypeId};
pub use status::ApiError;

/// An API object: JSON's value tree, its keys in the order of the alphabet.
pub type Value = serde_json::Value;
