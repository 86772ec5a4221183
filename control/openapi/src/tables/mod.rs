//! Tables: the rows that `kubectl get` prints.
//!
//! Source: `meta.k8s.io/v1` Table in the API reference; the columns and words are upstream's printers'.

use jiff::Timestamp;
use kernelet_api::{Value, resources::Resource};

/// What a row carries of its object (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// One request for a table.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    pub include: IncludeObject,
    pub now: Timestamp,
}

/// A Table of `objects`, with the list's metadata (`resourceVersion`, `continue`, `remainingItemCount`).
pub fn table<'o>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'o Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    let _ = (resource, objects.into_iter().count(), metadata, options);
    todo!()
}
