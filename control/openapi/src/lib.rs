//! What the API says about itself: discovery, OpenAPI documents, and the tables that kubectl prints.
//!
//! Everything is derived from a [`kernelet_api::Registry`], so that a new snapshot of it (a CRD) is all that is needed
//! for a new kind to be discovered, explained and printed.
//!
//! **Invariant:** pure. Ages are computed from a time that is passed in.

pub mod discovery;
mod spec;
pub mod tables;

pub use spec::{Document, Format, OpenApi};
