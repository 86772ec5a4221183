//! Watches services, endpoints and pods, and keeps the kernel in step.

mod agent;
mod config;

pub use agent::{NetAgent, purge};
pub use config::{NetConfig, StartError};
