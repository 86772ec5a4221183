//! The `kernelet` program: command line and wiring, nothing else.

mod cli;
mod config;
mod control_plane;
mod control_socket;
mod detach;
mod down;
mod health;
mod image;
mod instance;
mod net;
mod node;
mod preflight;
mod pull;
mod registry_options;
mod status;
mod store;
mod up;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::{Cli, Command};

/// Requests and scheduling decisions allocate much and briefly, on several threads; a sixth of the scheduler's time went
/// into the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = match config::parse(std::env::args_os().collect()) {
        Ok(matches) => matches,
        Err(config::ConfigError::Usage(error)) => error.exit(),
        Err(error) => return fail(&anyhow::Error::from(error)),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Up(options) if options.detach => detach::run(&global, &options),
        Command::Up(options) => up::run(&global, &options),
        Command::Server(options) => up::run_server(&global, &options),
        Command::Scheduler(options) => up::run_scheduler(&global, &options),
        Command::Controllers(options) => up::run_controllers(&global, &options),
        Command::Down(options) => down::run(&global, &options),
        Command::Status(options) => status::run(&global, &options),
        Command::Image(command) => image::run(&global, command),
        Command::Net(command) => net::run(&global, command),
        Command::Store(command) => store::run(&global, command),
    }
}

/// One line: what was attempted, and each reason behind it.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("kernelet: {error:#}");
    ExitCode::FAILURE
}
