//! kernelet-oci: runc's command line over kernelet's own creation path.
//!
//! ```text
//! create ─► process waits at exec.fifo ─ start ─► runs ─ kill ─► stopped ─ delete ─► nothing
//! ```
//! A container is a folder below `--root` (state.json, plan.json, exec.fifo while it waits) and a
//! process; its status is always read from the kernel, never remembered.
//!
//! **Invariant:** one thread, since a container's process begins as a copy of this one.

mod cli;
mod console;
mod container;
mod create;
mod events;
mod exec;
mod hooks;
mod info;
mod log;
mod protect;
mod state;
mod update;
#[cfg(feature = "weakened")]
mod weakened;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before anything is made, so that no container ever sees a file of the host's as our executable.
    let protected = match cli::makes_processes() {
        true => protect::reexecute(),
        false => Ok(()),
    };
    let cli = cli::Cli::parse();
    let sink = log::Sink::new(&cli.global);
    match protected.and_then(|()| cli.run()) {
        Ok(code) => code,
        Err(error) => {
            sink.error(&error);
            ExitCode::FAILURE
        }
    }
}
