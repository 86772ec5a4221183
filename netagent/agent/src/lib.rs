//! Watches services, endpoints and pods, and keeps the kernel in step.
//!
//! **Invariant:** what is connected needs no agent: everything it does outlives it.

mod agent;
mod canary;
mod config;
mod dns;
mod firewall;
mod hooks;
mod kernel;
mod node;
mod pods;
mod removal;
mod services;

pub use agent::{NetAgent, purge};
pub use config::{NetConfig, StartError};
