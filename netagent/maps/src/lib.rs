//! Loads the eBPF programs, applies map entries, pins.

mod error;
pub mod view;

pub use error::LoadError;
