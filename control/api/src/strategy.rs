//! What happens to an object between decoding and storing: which parts a request may write, and the generation.

use crate::{Resource, Value};

/// How a kind treats `status` and `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Strategy {
    /// `status` is written only through its subresource.
    pub status: bool,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// The kind may be deleted with a grace period by default (pods).
    pub graceful: bool,
    /// `PUT` to a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update without resourceVersion is allowed.
    pub unconditional_update: bool,
}

impl Resource {
    /// Strips what a client may not set on create (status, server-set metadata) and sets the first generation.
    /// The server then sets uid, creationTimestamp, name and namespace.
    pub fn prepare_for_create(&self, object: &mut Value) {
        let _ = object;
        todo!()
    }

    /// Keeps of `old` what this request may not change (status on the main resource; everything but status, and
    /// managedFields, on `status`) and bumps the generation.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value, subresource: Option<&str>) {
        let _ = (new, old, subresource);
        todo!()
    }

    /// The fields that a request to the resource or a subresource does not write, as dotted paths; apply forgets
    /// ownership of them.
    pub fn reset_fields(&self, subresource: Option<&str>) -> Vec<&'static str> {
        let _ = subresource;
        todo!()
    }
}
