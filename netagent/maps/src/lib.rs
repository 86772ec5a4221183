//! Loads the eBPF programs, applies map entries, pins; and reads back what the kernel holds.
//!
//! **Invariant:** the only crate that loads eBPF. It decides nothing about services: it writes what it
//! is told, and its views read only the kernel's maps.

mod error;
pub mod flows;
mod paths;
mod plane;
mod sys;
mod tables;
pub mod trace;
pub mod view;

pub use error::LoadError;
pub use paths::{purge, uplinks};
pub use plane::{
    DataPlane, EntryError, Features, ObservedServices, PacketProgram, detach_tcx, has_tcx,
    supported,
};
pub use sys::netns_cookie;
