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
use kernelet_container::{
    Child, CreateError, ErrorKind as CreateErrorKind, InsideHooks, Waiting, in_child,
};
use kernelet_spec::{ContainerPlan, NamespaceOf, Resources};
use kernelet_sys::{
    cgroup::Layout,
    fd,
    process::{self, Process},
};
use nix::{
    fcntl::OFlag,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    bundle::{self, Bundle},
    cli::{self, Global},
    console, container, delete,
    flags::{Flag, Given},
    hooks::{self, Lists},
    inherited::Inherited,
    log,
    notify::{Listening, Notify},
    sources,
    state::{self, Folder, Lock, Place, Saved},
};

macro_rules! common_flags {
    ($($more:expr),* $(,)?) => {
        &[
            Flag::text("bundle", "path to the root of the bundle directory, defaults to the current directory").or("b"),
            Flag::text("config", "name of the configuration file in the bundle (default: \"config.json\")").or("f"),
            Flag::text(
                "console-socket",
                "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal",
            ),
            Flag::text(
                "pidfd-socket",
                "path to an AF_UNIX socket which will receive a file descriptor referencing the init process",
            ),
            Flag::text("pid-file", "specify the file to write the process id to"),
            Flag::switch(
                "no-pivot",
                "do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk",
            ),
            Flag::switch(
                "no-new-keyring",
                "do not create a new session keyring for the container.  This will cause the container to inherit the calling processes session key",
            ),
            Flag::number("preserve-fds", "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)"),
            Flag::switch("no-subreaper", "disable the use of the subreaper used to reap reparented processes"),
            $($more),*
        ]
    };
}

pub const CREATE: &[Flag] = common_flags!();
pub const RUN: &[Flag] = common_flags!(
    Flag::switch("detach", "detach from the container's process").or("d"),
    Flag::switch("keep", "do not delete the container after it exits"),
);

/// A made container.
struct Made {
    folder: Folder,
    saved: Saved,
    waiting: Waiting,
    notify: Option<Listening>,
}

pub fn create_command(global: &Global, given: &Given) -> Result<ExitCode> {
    let made = make(global, given, Wait::AtFifo)?;
    // The process waits at the fifo; this one isn't needed any more.
    made.waiting.release();
    Ok(ExitCode::SUCCESS)
}

pub fn start_command(global: &Global, given: &Given) -> Result<ExitCode> {
    let (id, folder, saved) = container::named(global, given)?;
    if !saved.is_alive() {
        bail!("cannot start a container that has stopped");
    }
    // Without a reader, that is without the waiting process, this fails instead of blocking.
    let running = "cannot start an already running container";
    let fifo = match fd::open(&folder.fifo(), OFlag::O_WRONLY | OFlag::O_NONBLOCK, 0) {
        Err(e) if e.errno == nix::errno::Errno::ENOENT => bail!(running),
        other => other.context("open the exec fifo")?,
    };
    let listening = match Notify::of(&folder) {
        Some(notify) if folder.notify().is_dir() => Some(notify.listen()?),
        _ => None,
    };
    // Removed first: from the byte on, the container counts as running.
    match fs::remove_file(folder.fifo()) {
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(running),
        other => other.context("remove the exec fifo")?,
    }
    nix::unistd::write(&fifo, b"0").context("write to the exec fifo")?;
    let started = match saved.start_hooks {
        true => hear_of_start(&folder, fifo),
        false => Ok(()),
    };
    started
        .and_then(|()| after_start(&saved))
        .or_else(|error| give_up(global, &id, error))?;
    if let Some(listening) = listening {
        listening.wait(saved.pidfd()?.as_fd(), saved.pid)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until nobody has the other end of the fifo any more: its program begins, or it has ended, and said why.
fn hear_of_start(folder: &Folder, fifo: OwnedFd) -> Result<()> {
    loop {
        let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_)
                if fds[0]
                    .revents()
                    .is_some_and(|r| r.contains(PollFlags::POLLERR)) =>
            {
                break;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).context("wait for the container's start"),
        }
    }
    match fs::read_to_string(folder.start_report()).unwrap_or_default() {
        said if said.is_empty() => Ok(()),
        said => bail!(said),
    }
}

fn after_start(saved: &Saved) -> Result<()> {
    hooks::run("poststart", &saved.poststart, None, || {
        saved.oci_state("running", saved.pid)
    })
}

/// A hook of the start has failed: by OCI's lifecycle the container is stopped and destroyed.
fn give_up<T>(global: &Global, id: &kernelet_spec::ContainerId, error: anyhow::Error) -> Result<T> {
    let folder = Folder::of(global, id);
    let removed =
        folder
            .lock(Duration::from_secs(10))
            .and_then(|lock| match (lock, folder.try_load()?) {
                (Some(_held), Some(saved)) => delete::remove_all(&folder, &saved),
                _ => Ok(()),
            });
    if let Err(also) = removed {
        log::warn(&format!("{also:#}"));
    }
    Err(error)
}

pub fn run_command(global: &Global, given: &Given) -> Result<ExitCode> {
    let foreground = !given.on("detach");
    let signals = foreground.then(console::block_signals).transpose()?;
    if foreground && !given.on("no-subreaper") {
        process::become_subreaper()?;
    }
    let mut made = make(global, given, Wait::ForWord)?;
    let id = made.saved.id.clone();
    let terminal = made.waiting.terminal.take();
    if let Some(terminal) = &terminal {
        console::prepare(terminal);
    }
    let started = made.waiting.start().map_err(start_error);
    let process = match started.and_then(|(process, _)| after_start(&made.saved).map(|()| process))
    {
        Ok(process) => process,
        Err(error) => return give_up(global, &id, error),
    };
    let Some(signals) = signals else {
        if let Some(listening) = made.notify {
            listening.wait(process.pidfd.as_fd(), process.pid)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let ended = console::attend(&process, signals, terminal, made.notify)?;
    if !given.on("keep") {
        let lock = made.folder.lock(Duration::from_secs(10))?;
        // Somebody may have deleted it already.
        if lock.is_some()
            && made
                .folder
                .try_load()?
                .is_some_and(|saved| saved.pid == made.saved.pid)
            && let Err(error) = delete::remove_all(&made.folder, &made.saved)
        {
            log::warn(&format!("{error:#}"));
        }
    }
    Ok(ExitCode::from(ended.code() as u8))
}

/// What the process waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    AtFifo,
    ForWord,
}

/// In the words that callers of OCI runtimes look for.
pub fn start_error(error: CreateError) -> anyhow::Error {
    anyhow!("unable to start container process: {}", error.line())
}

/// What is wanted, understood and checked.
struct Wanted<'a> {
    given: &'a Given,
    wait: Wait,
    bundle: Bundle,
    plan: ContainerPlan,
    lists: Lists,
    inherited: Inherited,
    place: Place,
    pid_file: Option<PathBuf>,
}

fn make(global: &Global, given: &Given, wait: Wait) -> Result<Made> {
    let pid_file = given
        .path("pid-file")
        .map(|path| cli::absolute(&path))
        .transpose()?;
    let mut bundle = bundle::enter(given)?;
    let id = cli::id(given.word(0))?;
    let lists = Lists::of(bundle.spec.hooks().as_ref())?;
    let inherited = Inherited::of(given)?;
    inherited.change(&mut bundle.spec);
    let layout = Layout::detect()?;
    let notify = Notify::of(&Folder::of(global, &id));
    if let Some(notify) = &notify {
        notify.change(&mut bundle.spec)?;
    }
    let mut place = sources::place(global, &mut bundle.spec, &id)?;
    let plan = kernelet_spec::from_oci(&bundle.spec, id.clone(), &bundle.path)?;
    kernelet_spec::validate(&plan)?;
    if global.manager != cli::Manager::Disabled {
        place.cgroup = Some(plan.cgroup.clone());
    }
    let detached = wait == Wait::AtFifo || given.on("detach");
    let socket = given.path("console-socket");
    if detached && plan.terminal && socket.is_none() {
        bail!("cannot allocate tty if runc will detach without setting console socket");
    }
    if (!detached || !plan.terminal) && socket.is_some() {
        bail!("cannot use console socket if runc will not detach or allocate tty");
    }
    let wanted = Wanted {
        given,
        wait,
        bundle,
        plan,
        lists,
        inherited,
        place,
        pid_file,
    };
    if Folder::of(global, &id).path.exists() {
        bail!("container with given ID already exists");
    }
    sources::check_free(&wanted.place, &layout)?;
    let (folder, lock) = Folder::create(global, &id)?;
    let result = notify
        .as_ref()
        .map_or(Ok(()), Notify::make_folder)
        .and_then(|()| make_placed(global, &folder, wanted, &layout, lock))
        .and_then(|mut made| {
            if wait == Wait::ForWord {
                made.notify = notify.map(Notify::listen).transpose()?;
            }
            Ok(made)
        });
    if result.is_err() {
        // Best effort: the error that matters is the first.
        let _ = delete::remove_half(&folder);
    }
    result
}

/// With a unit of systemd's, the creation happens while a short-lived process keeps its place.
fn make_placed(
    global: &Global,
    folder: &Folder,
    mut wanted: Wanted<'_>,
    layout: &Layout,
    lock: Lock,
) -> Result<Made> {
    folder.save_place(&wanted.place)?;
    let Some(unit) = wanted.place.unit.clone() else {
        sources::make_group(
            global,
            &mut wanted.place,
            &wanted.plan,
            &wanted.bundle.spec,
            layout,
        )?;
        return make_in(global, folder, wanted, layout, lock);
    };
    let mut made = None;
    in_child(
        Child::default(),
        || Ok(()),
        |keeper| {
            let plan = &wanted.plan;
            let started = unit.start(
                keeper.pid,
                &plan.id,
                layout.mode(),
                &plan.resources,
                &plan.annotations,
            );
            made = Some(started.and_then(|()| {
                sources::make_group(
                    global,
                    &mut wanted.place,
                    &wanted.plan,
                    &wanted.bundle.spec,
                    layout,
                )?;
                make_in(global, folder, wanted, layout, lock)
            }));
            Ok(())
        },
    )
    .map_err(start_error)?;
    made.context("the process that keeps the unit's place did not come up")?
}

fn make_in(
    global: &Global,
    folder: &Folder,
    wanted: Wanted<'_>,
    layout: &Layout,
    lock: Lock,
) -> Result<Made> {
    let (plan, lists) = (&wanted.plan, &wanted.lists);
    let mut saved = Saved {
        id: plan.id.clone(),
        pid: 0,
        start_time: 0,
        boot_id: process::boot_id()?,
        rootfs: sources::rootfs(plan),
        bundle: wanted.bundle.path.clone(),
        created_ns: state::now_ns(),
        place: wanted.place.clone(),
        own_pids: plan.namespaces.pid == NamespaceOf::New,
        namespaces: plan.namespaces.clone(),
        annotations: plan.annotations.clone(),
        oci_version: wanted.bundle.spec.version().clone(),
        poststart: lists.poststart.clone(),
        poststop: lists.poststop.clone(),
        start_hooks: !lists.start_container.is_empty(),
        rdt: sources::rdt(&wanted.bundle.spec, &plan.id),
    };
    let mut descriptors = sources::descriptors(
        global,
        folder,
        wanted.given,
        wanted.wait,
        plan,
        &wanted.place,
        layout,
    )?;
    descriptors.preserve = wanted.inherited.count;
    log::of_process(&plan.process, descriptors.filter.as_ref());
    log::debug(|| "nsexec container setup".to_owned());
    descriptors.hooks = inside_hooks(folder, lists, &saved)?;
    descriptors.listener = crate::listener::of(&plan.process, &saved, "creating");
    descriptors.stop_before_pivot = !(lists.prestart.is_empty()
        && lists.create_runtime.is_empty()
        && lists.create_container.is_empty());
    // The rules bind the container's program; until it begins, only our own code runs in the group. On v2 the kernel
    // verifies and compiles them, which takes as long as a third of the root.
    let rules = Resources {
        devices: plan.resources.devices.clone(),
        ..Resources::default()
    };
    let beside = || match &wanted.place.cgroup {
        Some(path) => layout.group(path).set(&rules),
        None => Ok(()),
    };
    let complete = |saved: &mut Saved, process: &Process| -> Result<()> {
        let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        saved.pid = process.pid;
        saved.start_time = process::start_time(proc.as_fd(), process.pid)?;
        folder.save(saved)
    };
    let mut early = saved.clone();
    let before_pivot = |process: &Process| {
        complete(&mut early, process)
            .and_then(|()| {
                let state = || early.oci_state("creating", early.pid);
                let bundle = Some(early.bundle.as_path());
                hooks::run("prestart", &lists.prestart, bundle, state)?;
                hooks::run("createRuntime", &lists.create_runtime, bundle, state)
            })
            .map_err(|error| CreateError {
                kind: CreateErrorKind::Invalid,
                what: format!("{error:#}"),
                errno: None,
            })
    };
    let mut waiting = kernelet_container::create_hooked(plan, descriptors, beside, before_pivot)
        .map_err(start_error)?;
    log::debug(|| "child process in init()".to_owned());
    let done =
        complete(&mut saved, &waiting.process).and_then(|()| hand_out(&wanted, &mut waiting));
    drop(lock);
    log::debug(|| "init: closing the pipe to signal completion".to_owned());
    match done {
        Ok(()) => Ok(Made {
            folder: folder.clone(),
            saved,
            waiting,
            notify: None,
        }),
        Err(error) => {
            let (process, _) = waiting.release();
            let _ = process::pidfd_send_signal(process.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(process.pidfd.as_fd());
            Err(error)
        }
    }
}

/// Terminal, pidfd and pid to who asked for them.
fn hand_out(wanted: &Wanted<'_>, waiting: &mut Waiting) -> Result<()> {
    if let Some(socket) = wanted.given.path("console-socket")
        && let Some(terminal) = waiting.terminal.take()
    {
        console::hand_over(&socket, b"/dev/ptmx", terminal.as_fd())?;
    }
    if let Some(socket) = wanted.given.path("pidfd-socket") {
        console::hand_over(&socket, b"pidfd", waiting.process.pidfd.as_fd())?;
    }
    match &wanted.pid_file {
        Some(path) => state::write_whole(path, waiting.process.pid.to_string().as_bytes(), 0o644),
        None => Ok(()),
    }
}

fn inside_hooks(folder: &Folder, lists: &Lists, saved: &Saved) -> Result<Option<InsideHooks>> {
    if lists.create_container.is_empty() && lists.start_container.is_empty() {
        return Ok(None);
    }
    let report = match lists.start_container.is_empty() {
        true => None,
        false => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            Some(fd::open(&folder.start_report(), flags, 0o600)?)
        }
    };
    let saved = saved.clone();
    Ok(Some(InsideHooks {
        create_container: hooks::convert(&lists.create_container, false),
        start_container: hooks::convert(&lists.start_container, true),
        state: Box::new(move |status, pid| saved.oci_state(status, pid)),
        report,
    }))
}
