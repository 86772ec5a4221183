//! A plan and descriptors become a process that waits to be started. The one creation path: the shim
//! uses it for pods, `kernelet-oci` for bundles.
//!
//! ```text
//! sources (paths → descriptors)      create                         start
//! caller ─────────────────────► parent ──clone3──► child ─ Ready ─► waits ─ go ─► exec
//!                                  ▲                 │ every failure: what was attempted, and errno
//!                                  └─────────────────┘
//! ```
//! **Invariant:** synchronous and for single-threaded callers; the child is a copy of the caller and
//! never returns. **Invariant:** host paths are opened by [`open_sources`] only, which the caller runs
//! where they are visible; from there on there are descriptors.

mod attributes;
mod birth;
mod cgroup_mounts;
mod child;
mod copy_up;
mod create;
mod dev;
mod error;
mod exec;
mod filesystem;
mod hooks;
mod host_nodes;
mod listener;
mod mounts;
mod report;
mod sources;
mod user;
#[cfg(feature = "weakened")]
mod weakened;

pub use birth::{Joined, clone_inside};
pub use child::set_sysctl;
pub use create::{Child, Descriptors, Waiting, create, create_beside, create_hooked, in_child};
pub use dev::devices;
pub use error::{CreateError, ErrorKind};
pub use exec::{ExecDescriptors, Inside, exec};
pub use filesystem::CgroupView;
pub use hooks::{BeforeHook, Hook, InsideHooks, run_hook, run_hooks};
pub use listener::Listener;
pub use sources::{Sources, copy_for, open_sources};
