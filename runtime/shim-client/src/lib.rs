//! The agent's side of the shim's protocol: spawn, adopt, ask, listen.
//!
//! ```text
//!            spawn                     ┌─ create_sandbox ─ create_volume* ─ create ─ start ─ …
//! (nothing) ───────► Shim (connected) ─┤  watch(): the pod's state as a level
//!            adopt                     └─ shutdown ─► (nothing) ◄─ cleanup, whatever is left
//! ```
//! Everything that needs the host's view (paths, cgroups, compiled filters) happens here and goes to
//! the shim as descriptors. A container is killed through its cgroup, with or without the shim's help.
//!
//! **Invariant:** a stopped or dead shim never hangs a caller: each call has a deadline, and the end of
//! the shim's process ends all of them.

mod attach;
mod cleanup;
mod connection;
mod create;
mod error;
mod exec;
mod shim;
mod spawn;

pub use attach::{AttachWish, Attached};
pub use cleanup::{Leftovers, cleanup};
pub use error::{AdoptError, CleanupError, ShimError, SpawnError};
pub use exec::{Exec, ExecIo};
pub use kernelet_shim::protocol::{
    ContainerState, ExecExit, ExitRecord, Failure, FailureKind, Phase, PodState, SandboxState,
    VolumePlan,
};
pub use shim::{Liveness, Observed, Sandbox, Shim, SpawnOptions, Stdio, Terminal};
