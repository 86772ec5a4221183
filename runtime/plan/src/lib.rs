//! Pods wanted and pods observed, turned into steps: the kubelet's decisions without its hands.
//!
//! `runtime/node` drives this crate: it feeds what it saw into [`Observed`], asks [`plan`] what to do
//! next, executes each [`Step`] and reports how it ended. Nothing here reads a clock, a file or a
//! socket: time is an argument.
//!
//! ```text
//!   Pod (API) ──► Wanted ─┐
//!                         ├─► plan(now) ─► Vec<Step> ─► node executes ─► Observed::finish
//!   kernel, shim ► Observed ┘                └─ wake_at: when to ask again without an event
//! ```

mod back_off;
pub mod cgroup;
pub mod env;
pub mod fields;
mod life;
pub mod network_files;
mod observed;
mod planner;
pub mod probe;
pub mod project;
pub mod quantity;
mod resize;
pub mod resources;
mod restore;
mod status;
mod step;
#[cfg(test)]
mod testing;
mod wanted;

pub use back_off::{BackOff, CrashBackOff, RetryBackOff, go_seconds};
pub use life::STATUS_UNKNOWN;
pub use observed::{
    ContainerId, Exit, Failure, FailureReason, Finished, Hook, ImageFound, ImageStage, Observed,
    ObservedContainer, Reported, Run, Stage, Stop, Teardown, VolumeStage,
};
pub use planner::{Plan, plan, pull_policy};
pub use resize::infeasible_resize;
pub use restore::{ShimLeft, Survivor, SurvivorPhase, Survivors, container_id};
pub use status::{pod_status, runtime_id, status_patch};
pub use step::{Done, KillReason, Outcome, PullPolicy, Step, StepError, StepKind};
pub use wanted::{Deletion, NodeFacts, Presence, RestartPolicy, Role, Wanted};
