//! The pod's own process and its protocol.

pub mod protocol;
