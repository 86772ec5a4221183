//! The agent's side of the shim's protocol: spawn, adopt, ask, listen.
//!
//! ```text
//!            spawn                     ┌─ create_sandbox ─ create_volume* ─ create ─ start ─ …
//! (nothing) ───────► Shim (connected) ─┤  watch(): the pod's state as a level
//!            adopt                     └─ shutdown ─► (nothing) ◄─ cleanup, whatever is left
//! ```

mod cleanup;
mod error;
mod shim;

pub use cleanup::{Leftovers, cleanup};
pub use error::{AdoptError, CleanupError, ShimError, SpawnError};
pub use kernelet_shim::protocol::{
    ContainerState, ExecExit, ExitRecord, Failure, FailureKind, Phase, PodState, SandboxState,
    VolumePlan,
};
pub use shim::{Exec, ExecIo, Liveness, Observed, Sandbox, Shim, SpawnOptions, Stdio, Terminal};
