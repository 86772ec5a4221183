//! The command line, as runc has it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kernelet_spec::ContainerId;

use crate::{container, create, events, exec, info, update};

#[derive(Parser)]
#[command(
    name = "kernelet-oci",
    version,
    about = "An OCI runtime: containers straight on the kernel"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone)]
pub struct Global {
    /// Where containers' states are kept.
    #[arg(long, global = true, default_value = "/run/kernelet-oci")]
    pub root: PathBuf,
    /// Errors also go to this file.
    #[arg(long, global = true)]
    pub log: Option<PathBuf>,
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Accepted for runc's callers; every error is complete without it.
    #[arg(long, global = true)]
    debug: bool,
    /// Refused: groups are made in cgroupfs.
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Only `false` and `auto` are possible.
    #[arg(long, global = true)]
    rootless: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a container, whose process then waits for `start`.
    Create(create::CreateArgs),
    /// Lets a created container run.
    Start { id: String },
    /// Makes, starts and (without --detach) waits for a container.
    Run(create::RunArgs),
    /// Prints a container's state as JSON.
    State { id: String },
    /// Sends a signal to a container's first process.
    Kill(container::KillArgs),
    /// Removes what is left of a container.
    Delete {
        id: String,
        /// End it first if it still runs; one that doesn't exist is no error.
        #[arg(long, short)]
        force: bool,
    },
    /// Lists containers.
    List(container::ListArgs),
    /// Writes a starting point for config.json.
    Spec {
        #[arg(long, short)]
        bundle: Option<PathBuf>,
    },
    /// Runs one more process in a container.
    Exec(Box<exec::ExecArgs>),
    /// Shows a container's processes.
    Ps(container::PsArgs),
    /// Stops every process of a container.
    Pause { id: String },
    /// Lets a paused container go on.
    Resume { id: String },
    /// Changes a container's limits.
    Update(Box<update::UpdateArgs>),
    /// Prints events and figures of a container as JSON lines.
    Events(events::EventsArgs),
    /// Prints what this runtime can do as JSON.
    Features,
}

/// Whether a process in a container may begin as a copy of this one. Looked at before the command line is understood,
/// which would otherwise be done twice; a container that has a command's name as its id costs a needless second start.
pub fn makes_processes() -> bool {
    std::env::args_os()
        .skip(1)
        .any(|word| word == "create" || word == "run" || word == "exec")
}

/// A container's id, checked.
pub fn id(text: &str) -> Result<ContainerId> {
    Ok(ContainerId::new(text)?)
}

impl Cli {
    pub fn run(self) -> Result<ExitCode> {
        let global = &self.global;
        if global.systemd_cgroup {
            bail!(
                "--systemd-cgroup is not supported: groups are made in cgroupfs (set the caller's cgroup driver to cgroupfs)"
            );
        }
        if !matches!(global.rootless.as_deref(), None | Some("false" | "auto")) {
            bail!("--rootless=true is not supported");
        }
        let done = Ok(ExitCode::SUCCESS);
        match self.command {
            Command::Create(args) => create::create_command(global, args).and(done),
            Command::Start { id: text } => create::start(global, &id(&text)?).and(done),
            Command::Run(args) => create::run(global, args),
            Command::State { id: text } => container::state(global, &id(&text)?).and(done),
            Command::Kill(args) => container::kill(global, &args).and(done),
            Command::Delete { id: text, force } => {
                container::delete(global, &id(&text)?, force).and(done)
            }
            Command::List(args) => container::list(global, &args).and(done),
            Command::Spec { bundle } => info::spec(bundle).and(done),
            Command::Exec(args) => exec::exec(global, *args),
            Command::Ps(args) => container::ps(global, &args).and(done),
            Command::Pause { id: text } => container::freeze(global, &id(&text)?, true).and(done),
            Command::Resume { id: text } => container::freeze(global, &id(&text)?, false).and(done),
            Command::Update(args) => update::update(global, &args).and(done),
            Command::Events(args) => events::events(global, &args).and(done),
            Command::Features => info::features().and(done),
        }
    }
}
