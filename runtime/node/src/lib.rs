//! The node: the kubelet's part of the cluster.
//!
//! ```text
//!   API ─► pods ─► worker (one task a pod) ─► plan (pure) ─► steps ─► shim, network, images, volumes
//!                     ▲  probes, logs, hooks                              │
//!                     └──────────────── what happened ◄───────────────────┘
//!   register: Node, status, lease        api: the kubelet's HTTPS API
//! ```
//! **Invariant:** one task owns each pod; the pure `kernelet_pod_plan` decides, this crate only executes.
//! **Invariant:** the network is met only through `kernelet_attach`, containers only through their shims.
//! **Invariant:** nothing here polls for a pod: each wait is for the API's watch, a shim, a probe or a time.

mod adopt;
mod api;
mod builtin;
mod config;
mod container;
mod context;
mod errors;
mod facts;
#[cfg(feature = "fault-points")]
mod fault;
mod handle;
mod id_ranges;
mod image_gc;
mod image_watch;
mod images;
mod inotify;
mod left;
mod logs;
mod narrate;
mod objects;
mod pod;
mod pods;
mod pressure;
mod probes;
mod purge;
mod qos;
mod register;
mod seccomp_file;
mod stats;
mod steps;
mod termination;
mod tls;
mod volumes;
mod worker;

pub use builtin::HELLO_IMAGE;
pub use config::{NodeConfig, StartError};
pub use handle::{EndPodsError, Node, NodeHandle, NodeReport, PodReport};
pub use images::ImageSettings;
pub use left::{EndedPods, LeftPods};
pub use pressure::{ThresholdError, Thresholds};
pub use purge::{PurgeError, purge};
