//! Reconcile functions, pure, and the loops around them.

mod config;
mod run;

pub use config::ControllersConfig;
pub use run::{RunError, run, run_shared};
