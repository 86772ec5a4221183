//! The pod's own process, and what the agent says to it.
//!
//! ```text
//! agent ── SOCK_SEQPACKET ── server ─► pod ─► container ─► kernelet-container (clone3 …)
//!                                      │         └─► log (CRI files) ─► tap (who is attached)
//!                                      └─► record (the disk, before anybody is told)
//! ```
//! One thread, one poll loop, no async runtime: it must be small, and nothing may interleave with the
//! making of a process. The agent may come and go; the shim lives as long as the pod.
//!
//! **Invariant:** nothing here waits for the agent: what can't be sent is cut off with the connection,
//! and the next one learns the level. **Invariant:** no JSON, no tokio, no host path: everything comes
//! as a descriptor.

mod answer;
mod container;
mod exec;
mod log;
mod pod;
pub mod protocol;
pub mod record;
mod sandbox;
mod server;
mod session;
mod tap;
mod time;
mod volume;
pub mod wire;

pub use server::{DESCRIPTORS, run};
