//! exec: one more process in a container.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use kernelet_container::ExecDescriptors;
use kernelet_spec::{Capability, ExecPlan, NameOrId, ProcessPlan, process_of};
use kernelet_sys::{cgroup::Layout, fd, namespace as ns, seccomp};
use nix::fcntl::OFlag;
use oci_spec::runtime::Process;

use crate::{
    cli::{self, Global},
    console,
    create::{self, load_spec},
    state::{self, Folder, Status},
};

#[derive(Args)]
pub struct ExecArgs {
    id: String,
    /// The program and its arguments; not with --process.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
    /// A file with an OCI process.
    #[arg(long, short)]
    process: Option<PathBuf>,
    #[arg(long, short)]
    tty: bool,
    #[arg(long)]
    console_socket: Option<PathBuf>,
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// NAME=value, added to the container's own.
    #[arg(long, short)]
    env: Vec<String>,
    /// UID[:GID].
    #[arg(long, short)]
    user: Option<String>,
    #[arg(long, short = 'g')]
    additional_gids: Vec<u32>,
    /// A capability more.
    #[arg(long, short)]
    cap: Vec<String>,
    #[arg(long)]
    no_new_privs: bool,
    #[arg(long, short)]
    detach: bool,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    preserve_fds: u16,
    /// Also into a paused container, where it waits.
    #[arg(long)]
    ignore_paused: bool,
}

pub fn exec(global: &Global, args: ExecArgs) -> Result<ExitCode> {
    let folder = Folder::of(global, &cli::id(&args.id)?);
    let saved = folder.load()?;
    let layout = Layout::detect()?;
    match saved.status(&folder, &layout) {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            bail!("cannot exec in a paused container (use --ignore-paused to override)")
        }
        Status::Stopped => bail!("cannot exec in a stopped container"),
    }
    let plan = plan(&folder, &saved.bundle, &args)?;
    if plan.terminal && args.detach && args.console_socket.is_none() {
        bail!("a detached terminal needs --console-socket");
    }
    let signals = (!args.detach).then(console::block_signals).transpose()?;
    let filter = seccomp::filter_for(&plan.process.seccomp, plan.process.capabilities.bounding)?;
    let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let descriptors = ExecDescriptors {
        container: saved.pidfd()?,
        join: layout.group(&saved.cgroup).join()?,
        stdio: if plan.terminal {
            None
        } else {
            Some(create::stdio()?)
        },
        own_pid: Some(ns::open(proc.as_fd(), "self", "pid")?),
        filter: filter.map(|filter| (*filter).clone()),
        preserve: args.preserve_fds,
    };
    let mut waiting =
        kernelet_container::exec(&plan, descriptors).map_err(|e| anyhow!(e.line()))?;
    let mut terminal = waiting.terminal.take();
    if let (Some(socket), Some(control)) = (&args.console_socket, &terminal) {
        console::hand_over(socket, control)?;
        terminal = None;
    }
    if let Some(path) = &args.pid_file {
        state::write_whole(path, waiting.process.pid.to_string().as_bytes())?;
    }
    let (process, _) = waiting.start().map_err(|e| anyhow!(e.line()))?;
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => Ok(ExitCode::from(
            console::attend(&process, signals, terminal)?.code() as u8,
        )),
    }
}

fn plan(folder: &Folder, bundle: &Path, args: &ExecArgs) -> Result<ExecPlan> {
    if let Some(path) = &args.process {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let process: Process = serde_json::from_slice(&text)
            .with_context(|| format!("understand {}", path.display()))?;
        let spec = load_spec(bundle)?;
        let linux = spec.linux().clone().unwrap_or_default();
        let plan = process_of(&process, &linux)?;
        check(&plan)?;
        return Ok(ExecPlan {
            process: plan,
            terminal: args.tty || process.terminal().unwrap_or(false),
            timeout: None,
        });
    }
    let mut process = folder.load_plan()?.process;
    process.args = args.args.clone();
    process.env.extend(args.env.iter().cloned());
    process.oom_score_adj = None;
    if let Some(cwd) = &args.cwd {
        process.cwd = cwd.clone();
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user
            .split_once(':')
            .map_or((user.as_str(), None), |(u, g)| (u, Some(g)));
        let parse =
            |text: &str| NameOrId::parse(text).with_context(|| format!("{text:?} is no id"));
        process.user.user = parse(uid)?;
        process.user.group = gid.map(parse).transpose()?;
    }
    process.user.additional_gids.extend(&args.additional_gids);
    process.no_new_privileges |= args.no_new_privs;
    for name in &args.cap {
        let cap: Capability = name.parse()?;
        let sets = &mut process.capabilities;
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            *set = set.with(cap);
        }
    }
    check(&process)?;
    Ok(ExecPlan {
        process,
        terminal: args.tty,
        timeout: None,
    })
}

fn check(process: &ProcessPlan) -> Result<()> {
    if process.args.is_empty() {
        bail!("process args cannot be empty");
    }
    if !process.cwd.is_absolute() {
        bail!("cwd must be an absolute path");
    }
    Ok(())
}
