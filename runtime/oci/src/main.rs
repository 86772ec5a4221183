//! kernelet-oci: runc's command line over kernelet's own creation path.
//!
//! ```text
//! create ─► process waits at exec.fifo ─ start ─► runs ─ kill ─► stopped ─ delete ─► nothing
//! ```
//! A container is a folder below `--root` (place.json before anything is made, state.json, exec.fifo while it waits) and a
//! process; its status is always read from the kernel, never remembered.
//!
//! **Invariant:** one thread, since a container's process begins as a copy of this one.

mod bundle;
mod checkpoint;
mod cli;
mod config;
mod console;
mod container;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod filters;
mod flags;
mod help;
mod hooks;
mod info;
mod inherited;
mod list;
mod listener;
mod log;
mod notify;
mod pause;
mod protect;
mod ps;
mod rootless;
mod sources;
mod state;
mod stats;
mod systemd;
mod update;
#[cfg(feature = "weakened")]
mod weakened;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
