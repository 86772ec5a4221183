//! What the node, its pods and their containers use: read when somebody asks, from cgroups, `/proc` and the file system.
//!
//! ```text
//!   look ─► Look ──┬─► api/summary            JSON, the kubelet's `stats/summary`
//!                  └─► api/metrics/*          Prometheus texts
//!   counters ──────────► api/metrics/node     what happened since the start
//! ```
//! Nothing here runs by itself: who asks twice gets rates.

mod counters;
mod disk;
mod look;
mod network;
mod process;
mod rates;
mod text;

pub(crate) use counters::{Counters, PodStart};
pub(crate) use disk::{Disks, Used};
pub(crate) use look::{ContainerUse, Depth, Look, PodUse, Use, disk, is_running};
pub(crate) use network::{Interface, of_machine as interfaces_of_machine};
pub(crate) use process::Process;
pub(crate) use rates::Rates;
pub(crate) use text::{Text, float};
