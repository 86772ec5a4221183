//! create, start and run.

use std::{
    fs,
    io::ErrorKind,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use kernelet_container::{CgroupView, Descriptors, Waiting, open_sources};
use kernelet_spec::{ContainerId, ContainerPlan, NamespaceOf, Resources};
use kernelet_sys::{cgroup::Layout, fd, namespace as ns, process, seccomp};
use nix::fcntl::OFlag;
use oci_spec::runtime::Spec;

use crate::{
    cli::{self, Global},
    console, container, hooks,
    state::{self, Folder, Saved},
};

#[derive(Args)]
pub struct CreateArgs {
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Common {
    id: String,
    /// The bundle's folder (default: the working directory).
    #[arg(long, short)]
    bundle: Option<PathBuf>,
    /// A unix socket that receives the terminal's controlling end.
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// The container's process id is written here.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Keep the caller's session keyring.
    #[arg(long)]
    no_new_keyring: bool,
    /// Hand so many descriptors after stderr to the container.
    #[arg(long, default_value_t = 0)]
    preserve_fds: u16,
    /// Refused: there is always a pivot.
    #[arg(long)]
    no_pivot: bool,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// Return as soon as it runs.
    #[arg(long, short)]
    detach: bool,
    /// Leave the container's state after it has ended.
    #[arg(long)]
    keep: bool,
}

/// A made container.
struct Made {
    folder: Folder,
    saved: Saved,
    waiting: Waiting,
    spec: Spec,
    layout: Layout,
}

pub fn create_command(global: &Global, args: CreateArgs) -> Result<()> {
    let made = make(global, &args.common, Wait::AtFifo)?;
    // The process waits at the fifo; this one isn't needed any more.
    made.waiting.release();
    Ok(())
}

pub fn start(global: &Global, id: &ContainerId) -> Result<()> {
    let folder = Folder::of(global, id);
    let saved = folder.load()?;
    if !saved.is_alive() {
        bail!("cannot start a container that has stopped");
    }
    // Without a reader, that is without the waiting process, this fails instead of blocking.
    let opened = fd::open(&folder.fifo(), OFlag::O_WRONLY | OFlag::O_NONBLOCK, 0);
    let fifo = match opened {
        Err(e) if e.errno == nix::errno::Errno::ENOENT => {
            bail!("cannot start an already running container")
        }
        other => other.context("open the exec fifo")?,
    };
    // Removed first: from the byte on, the container counts as running.
    match fs::remove_file(folder.fifo()) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("cannot start an already running container")
        }
        other => other.context("remove the exec fifo")?,
    }
    nix::unistd::write(&fifo, b"0").context("write to the exec fifo")?;
    let spec = load_spec(&saved.bundle)?;
    let layout = Layout::detect()?;
    let state = || container::state_json(&folder, &saved, &layout);
    hooks::run(
        "poststart",
        spec.hooks().as_ref().and_then(|h| h.poststart().as_ref()),
        state,
    )
}

pub fn run(global: &Global, args: RunArgs) -> Result<ExitCode> {
    let foreground = !args.detach;
    let signals = foreground.then(console::block_signals).transpose()?;
    let mut made = make(global, &args.common, Wait::ForWord)?;
    let terminal = made.waiting.terminal.take();
    let started = made.waiting.start();
    let (process, _) = match started {
        Ok(started) => started,
        Err(error) => {
            let error = anyhow!(error.line());
            return Err(
                match container::remove_all(&made.folder, &made.saved, &made.layout, &made.spec) {
                    Ok(()) => error,
                    Err(also) => error.context(format!("{also:#}")),
                },
            );
        }
    };
    hooks::run(
        "poststart",
        made.spec
            .hooks()
            .as_ref()
            .and_then(|h| h.poststart().as_ref()),
        || container::state_json(&made.folder, &made.saved, &made.layout),
    )?;
    let Some(signals) = signals else {
        return Ok(ExitCode::SUCCESS);
    };
    let ended = console::attend(&process, signals, terminal)?;
    if !args.keep {
        container::remove_all(&made.folder, &made.saved, &made.layout, &made.spec)?;
    }
    Ok(ExitCode::from(ended.code() as u8))
}

/// What the process waits for.
#[derive(PartialEq, Eq)]
enum Wait {
    AtFifo,
    ForWord,
}

pub fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
}

fn make(global: &Global, args: &Common, wait: Wait) -> Result<Made> {
    if args.no_pivot {
        bail!("--no-pivot is not supported");
    }
    let id = cli::id(&args.id)?;
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    let bundle = bundle
        .canonicalize()
        .with_context(|| format!("find the bundle {}", bundle.display()))?;
    let spec = load_spec(&bundle)?;
    let plan = kernelet_spec::from_oci(&spec, id.clone(), &bundle)?;
    kernelet_spec::validate(&plan)?;
    hooks::check(spec.hooks().as_ref())?;
    match (plan.terminal, &args.console_socket) {
        (false, Some(_)) => bail!("--console-socket is for containers with process.terminal"),
        (true, None) if wait == Wait::AtFifo => bail!("process.terminal needs --console-socket"),
        _ => {}
    }
    let layout = Layout::detect()?;
    let folder = Folder::create(global, &id)?;
    let result = folder
        .save_plan(&plan)
        .and_then(|()| make_in(&folder, args, wait, &plan, spec, &layout, bundle));
    if result.is_err() {
        // Best effort: the error that matters is the first.
        let group = layout.group(&plan.cgroup);
        let _ = group.kill();
        let _ = group.remove(Duration::from_secs(1));
        let _ = folder.remove();
    }
    result
}

fn make_in(
    folder: &Folder,
    args: &Common,
    wait: Wait,
    plan: &ContainerPlan,
    spec: Spec,
    layout: &Layout,
    bundle: PathBuf,
) -> Result<Made> {
    let descriptors = descriptors(folder, args, &wait, plan, layout)?;
    // The rules bind the container's program; until it begins, only our own code runs in the group. On v2 the kernel
    // verifies and compiles them, which takes as long as a third of the root.
    let rules = Resources {
        devices: plan.resources.devices.clone(),
        ..Resources::default()
    };
    let mut waiting = kernelet_container::create_beside(plan, descriptors, || {
        layout.group(&plan.cgroup).set(&rules)
    })
    .map_err(|e| anyhow!(e.line()))?;
    let pid = waiting.process.pid;
    let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let saved = Saved {
        id: plan.id.clone(),
        pid,
        start_time: process::start_time(proc.as_fd(), pid)?,
        boot_id: process::boot_id()?,
        rootfs: match &plan.rootfs {
            kernelet_spec::Rootfs::Path(path) => path.clone(),
            kernelet_spec::Rootfs::Overlay { upper, .. } => upper.clone(),
        },
        bundle,
        created: state::now(),
        cgroup: plan.cgroup.clone(),
        annotations: plan.annotations.clone(),
        oci_version: spec.version().clone(),
    };
    folder.save(&saved)?;
    let state = || container::state_json(folder, &saved, layout);
    let of = spec.hooks().as_ref();
    let ran = hooks::run("prestart", of.and_then(|h| h.prestart().as_ref()), state)
        .and_then(|()| {
            hooks::run(
                "createRuntime",
                of.and_then(|h| h.create_runtime().as_ref()),
                state,
            )
        })
        .and_then(|()| match (&args.console_socket, waiting.terminal.take()) {
            (Some(socket), Some(terminal)) => console::hand_over(socket, &terminal),
            (_, terminal) => {
                waiting.terminal = terminal;
                Ok(())
            }
        })
        .and_then(|()| match &args.pid_file {
            Some(path) => state::write_whole(path, pid.to_string().as_bytes()),
            None => Ok(()),
        });
    match ran {
        Ok(()) => Ok(Made {
            folder: folder.clone(),
            saved,
            waiting,
            spec,
            layout: layout.clone(),
        }),
        Err(error) => {
            let (process, _) = waiting.release();
            let _ = process::pidfd_send_signal(process.pidfd.as_fd(), nix::libc::SIGKILL);
            let _ = process::wait(process.pidfd.as_fd());
            Err(error)
        }
    }
}

fn descriptors(
    folder: &Folder,
    args: &Common,
    wait: &Wait,
    plan: &ContainerPlan,
    layout: &Layout,
) -> Result<Descriptors> {
    let sources = open_sources(plan).map_err(|e| anyhow!(e.line()))?;
    let group = layout.group(&plan.cgroup);
    group.create(&Resources {
        devices: None,
        ..plan.resources.clone()
    })?;
    let fifo = match wait {
        Wait::ForWord => None,
        Wait::AtFifo => {
            nix::unistd::mkfifo(
                &folder.fifo(),
                nix::sys::stat::Mode::from_bits_truncate(0o600),
            )
            .context("make the exec fifo")?;
            Some(fd::open(&folder.fifo(), OFlag::O_RDWR, 0)?)
        }
    };
    let path = |wish: &NamespaceOf| match wish {
        NamespaceOf::Path(path) => fd::open(path, OFlag::O_RDONLY, 0).map(Some),
        _ => Ok(None),
    };
    let of = &plan.namespaces;
    let pid = path(&of.pid)?;
    let filter = seccomp::filter_for(&plan.process.seccomp, plan.process.capabilities.bounding)?;
    Ok(Descriptors {
        root: sources.root,
        sources: sources.mounts,
        net: path(&of.net)?,
        ipc: path(&of.ipc)?,
        uts: path(&of.uts)?,
        cgroup: path(&of.cgroup)?,
        own_pid: own_pid(&pid)?,
        pid,
        join: group.join()?,
        cgroup_view: CgroupView::of(layout),
        stdio: if plan.terminal { None } else { Some(stdio()?) },
        // The root is attached where it lies, in the container's own mount namespace only.
        place: match &plan.rootfs {
            kernelet_spec::Rootfs::Path(path) => path.clone(),
            kernelet_spec::Rootfs::Overlay { work, .. } => work.clone(),
        },
        fifo,
        filter: filter.map(|filter| (*filter).clone()),
        preserve: args.preserve_fds,
        new_keyring: !args.no_new_keyring,
        hooks: None,
        stop_before_pivot: false,
        no_pivot: false,
    })
}

/// The way back from another pid namespace, where one is entered.
pub fn own_pid(target: &Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let Some(_) = target else {
        return Ok(None);
    };
    let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    Ok(Some(ns::open(proc.as_fd(), "self", "pid")?))
}

/// Copies of this process's own three.
pub fn stdio() -> Result<[OwnedFd; 3]> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context("duplicate stdio");
    Ok([
        copy(std::io::stdin().as_fd())?,
        copy(std::io::stdout().as_fd())?,
        copy(std::io::stderr().as_fd())?,
    ])
}
