//! Which node a pod runs on: `decide`, pure, and a thin loop around it.
//!
//! **Invariant:** everything but `run` and `bind` does no I/O and reads no clock.

mod bind;
mod decide;
mod filter;
mod neighbours;
mod node;
mod pod;
mod preempt;
mod queue;
mod reasons;
mod resources;
mod run;
mod score;
mod selector;
mod snapshot;
mod spread;
#[cfg(test)]
mod tests;

pub use decide::{NodeName, decide};
pub use pod::PodInfo;
pub use preempt::{Budget, Plan, Preemption, preempt};
pub use reasons::{ClusterEvent, Reason, Unschedulable};
pub use resources::{Resources, pod_requests};
pub use run::{run, run_shared};
pub use snapshot::Snapshot;
