//! Upstream's validation, one function a kind. They run on canonical, defaulted trees.

pub mod apps;
pub mod certificates;
pub mod core;
pub mod daemonset;
pub mod endpoints;
pub mod flowcontrol;
mod meta;
pub mod names;
pub(crate) mod node;
pub mod options;
pub mod pod;
pub mod policy;
pub mod quota;
pub mod rbac;
pub mod replication;
pub mod reviews;
pub mod service;

pub use meta::{Prefix, field_manager};
pub use pod::qos_class;

use crate::{FieldError, Value, field::Path, resources::NameRule};
use node::{Errors, Node};

/// `metadata` of a new object.
pub fn metadata(object: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::metadata(
        &Node::root(object).get("metadata"),
        namespaced,
        rule,
        &mut errors,
    );
    errors.into_vec()
}

/// `metadata` of an update.
pub fn metadata_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::metadata_update(
        &Node::root(new).get("metadata"),
        &Node::root(old).get("metadata"),
        &mut errors,
    );
    errors.into_vec()
}

/// The object form of a label selector.
pub fn label_selector(selector: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::label_selector(&Node::at(selector, path.clone()), &mut errors);
    errors.into_vec()
}
