//! decide(snapshot, pod), pure, and the loop around it.

mod run;

pub use run::{RunError, run, run_shared};
