//! What objects cost under ResourceQuotas, and whether a quota has room for them.
//!
//! Admission charges a write with these rules before it is stored; the quota controller counts what is stored with
//! the same ones. Sources: the API's ResourceQuota, upstream's evaluators.

mod charge;
mod count;
mod list;
mod pod;

pub use charge::{Change, charge};
pub use count::{Counter, scopes_match};
pub use list::{ResourceList, resource_list, to_value};
pub use pod::{Figure, Source, pod_resources};

#[cfg(test)]
mod tests;
