//! Values walked together with their type: merging, comparing, removing, and the set of fields a value has.
//!
//! These are the operations of structured merge (upstream's "structured-merge-diff"): a map is *granular* (each key is
//! owned alone) or *atomic* (owned as a whole); a list is atomic, a set of scalars, or keyed by some of its items' fields.

mod compare;
mod error;
mod field_set;
mod items;
mod merge;
mod reconcile;
mod remove;
mod shape;
mod validate;

pub(crate) use compare::{Comparison, compare};
pub use error::TypedError;
pub(crate) use field_set::field_set;
pub(crate) use merge::merge;
pub(crate) use reconcile::reconcile;
pub(crate) use remove::{drop_nulls, remove};
pub(crate) use shape::{Atom, Keys, ListAtom, MapAtom, Scalar, Shape};
pub(crate) use validate::{Duplicates, validate};
