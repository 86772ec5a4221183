//! Reconcile functions, pure, and the loops around them.
//!
//! **Invariant:** controllers know each other only through the API: each watches, decides and
//! writes for itself.

mod bootstrap;
mod certificates;
mod common;
mod config;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod expectations;
mod garbage;
mod inventory;
mod namespace_defaults;
mod namespaces;
mod node;
mod podgc;
mod pods;
mod quota;
mod replicaset;
mod run;
mod tokens;

pub use config::ControllersConfig;
pub use node::BadCidr;
pub use run::{RunError, run, run_shared};
