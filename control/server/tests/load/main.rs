//! Many clients, large objects and clients that misbehave: the server's memory stays bounded and others are served.
//!
//! The figures are small enough for every run; `KERNELET_LOAD=full` takes the full ones.

#[path = "../common/mod.rs"]
mod common;

mod child;
mod connections;
mod streams;
