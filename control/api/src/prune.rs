//! Removing what the schema does not know, and bringing a tree into the form that upstream's structs would give it.

use crate::{Schema, TypeId, Value};

/// Removes fields that the schema does not know and nulls, at every depth.
pub fn prune(schema: &Schema, ty: TypeId, value: &mut Value) {
    let _ = (schema, ty, value);
    todo!()
}

/// Brings a tree into the form that a decode into and an encode from upstream's Go structs gives: empty optional
/// values disappear, fields that Go always writes are there. Equal objects become equal trees.
pub fn canonicalize(schema: &Schema, ty: TypeId, value: &mut Value) {
    let _ = (schema, ty, value);
    todo!()
}
