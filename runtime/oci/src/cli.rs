//! The command line: runc's, with crun's few flags that callers of either use.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::ContainerId;
use kernelet_sys::user_namespace;

use crate::{
    checkpoint, container, create, delete, events, exec, features,
    flags::{self, Flag, Given, Order},
    help, info, list, log, pause, protect, ps, update,
};

/// What every command is told.
#[derive(Clone, Debug)]
pub struct Global {
    /// Where containers' states are kept. Absolute.
    pub root: PathBuf,
    /// Whether `root` was said, and not the default.
    pub root_given: bool,
    /// `None`: found out.
    pub rootless: Option<bool>,
    pub manager: Manager,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// This program, in cgroupfs.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
    /// Nobody: containers stay in the caller's.
    Disabled,
}

pub const GLOBAL: &[Flag] = &[
    Flag::switch("debug", "enable debug logging"),
    Flag::text(
        "log",
        "set the log file to write logs to (default is '/dev/stderr')",
    ),
    Flag::text(
        "log-format",
        "set the log format ('text' (default), or 'json')",
    ),
    Flag::text(
        "log-level",
        "set the least level that is logged ('error', 'warning' (default), or 'debug')",
    ),
    Flag::text(
        "root",
        "root directory for storage of container state (this should be located in tmpfs)",
    ),
    Flag::text(
        "criu",
        "path to the criu binary used for checkpoint and restore (default: \"criu\")",
    ),
    Flag::switch(
        "systemd-cgroup",
        "enable systemd cgroup support, expects cgroupsPath to be of form \"slice:prefix:name\" for e.g. \"system.slice:runc:434234\"",
    ),
    Flag::text(
        "cgroup-manager",
        "cgroup manager ('cgroupfs' (default), 'systemd', or 'disabled')",
    ),
    Flag::text(
        "rootless",
        "ignore cgroup permission errors ('true', 'false', or 'auto')",
    ),
];

/// Flags that need no place in the help of each command.
const ALWAYS: &[Flag] = &[Flag::switch("help", "show help").or("h")];
const VERSION: &[Flag] = &[Flag::switch("version", "print the version").or("v")];

/// One command of the program.
pub struct Command {
    pub name: &'static str,
    pub help: &'static str,
    pub arguments: &'static str,
    pub flags: &'static [Flag],
    order: Order,
    /// How many words it takes.
    words: (usize, usize),
    run: fn(&Global, &Given) -> Result<ExitCode>,
}

impl Command {
    const fn new(
        name: &'static str,
        help: &'static str,
        flags: &'static [Flag],
        run: fn(&Global, &Given) -> Result<ExitCode>,
    ) -> Command {
        Command {
            name,
            help,
            arguments: "<container-id>",
            flags,
            order: Order::Any,
            words: (1, 1),
            run,
        }
    }

    const fn words(self, least: usize, most: usize, arguments: &'static str) -> Command {
        Command {
            words: (least, most),
            arguments,
            ..self
        }
    }

    const fn flags_first(self) -> Command {
        Command {
            order: Order::FlagsFirst,
            ..self
        }
    }
}

/// In the order of their help.
pub const COMMANDS: &[Command] = &[
    Command::new(
        "checkpoint",
        "checkpoint a running container",
        checkpoint::CHECKPOINT,
        checkpoint::checkpoint,
    ),
    Command::new(
        "create",
        "create a container",
        create::CREATE,
        create::create_command,
    ),
    Command::new(
        "delete",
        "delete any resources held by the container often used with detached container",
        delete::FLAGS,
        delete::delete_command,
    ),
    Command::new(
        "events",
        "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
        events::FLAGS,
        events::events,
    ),
    Command::new(
        "exec",
        "execute new process inside the container",
        exec::FLAGS,
        exec::exec,
    )
    .words(
        1,
        usize::MAX,
        "<container-id> <command> [command options]  || -p process.json <container-id>",
    )
    .flags_first(),
    Command::new(
        "kill",
        "kill sends the specified signal (default: SIGTERM) to the container's init process",
        container::KILL,
        container::kill,
    )
    .words(1, 2, "<container-id> [signal]"),
    Command::new(
        "list",
        "lists containers started by kernelet-oci with the given root",
        list::FLAGS,
        list::list,
    )
    .words(0, 0, ""),
    Command::new(
        "pause",
        "pause suspends all processes inside the container",
        &[],
        pause::pause,
    ),
    Command::new(
        "ps",
        "ps displays the processes running inside a container",
        ps::FLAGS,
        ps::ps,
    )
    .words(1, usize::MAX, "<container-id> [ps options]")
    .flags_first(),
    Command::new(
        "restore",
        "restore a container from a previous checkpoint",
        checkpoint::RESTORE,
        checkpoint::restore,
    ),
    Command::new(
        "resume",
        "resumes all processes that have been previously paused",
        &[],
        pause::resume,
    ),
    Command::new(
        "run",
        "create and run a container",
        create::RUN,
        create::run_command,
    ),
    Command::new(
        "spec",
        "create a new specification file",
        info::FLAGS,
        info::spec,
    )
    .words(0, 0, ""),
    Command::new(
        "start",
        "executes the user defined process in a created container",
        &[],
        create::start_command,
    ),
    Command::new(
        "state",
        "output the state of a container",
        &[],
        container::state,
    ),
    Command::new(
        "update",
        "update container resource constraints",
        update::FLAGS,
        update::update,
    ),
    Command::new(
        "features",
        "show the enabled features",
        &[],
        features::features,
    )
    .words(0, 0, ""),
];

/// A container's id, checked.
pub fn id(text: &str) -> Result<ContainerId> {
    if text.is_empty() {
        bail!("container id cannot be empty");
    }
    ContainerId::new(text).map_err(|_| anyhow!("invalid container ID format"))
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let given = match flags::parse(&[GLOBAL, ALWAYS, VERSION], &words, Order::FlagsFirst) {
        Ok(given) => given,
        Err(error) => {
            log::out(&format!("Incorrect Usage. {error}\n\n{}", help::program()));
            log::fatal(&error);
            return ExitCode::FAILURE;
        }
    };
    if given.on("version") {
        log::out(&info::version());
        return ExitCode::SUCCESS;
    }
    let name = given.word(0);
    let wants_help = given.on("help") || matches!(name, "" | "help" | "h");
    if wants_help && given.words.len() < 2 {
        log::out(&help::program());
        return ExitCode::SUCCESS;
    }
    let wanted = if wants_help && !given.on("help") {
        given.word(1)
    } else {
        name
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == wanted) else {
        eprintln!("No help topic for '{wanted}'");
        return ExitCode::from(3);
    };
    if wants_help {
        log::out(&help::of_command(command));
        return ExitCode::SUCCESS;
    }
    let done = global(&given).and_then(|global| of_command(command, &global, &given.words[1..]));
    done.unwrap_or_else(|error| {
        log::fatal(&error);
        ExitCode::FAILURE
    })
}

fn of_command(command: &Command, global: &Global, words: &[OsString]) -> Result<ExitCode> {
    let given =
        flags::parse(&[command.flags, ALWAYS], words, command.order).inspect_err(|error| {
            log::out(&format!(
                "Incorrect Usage: {error}\n\n{}",
                help::of_command(command)
            ));
        })?;
    if given.on("help") {
        log::out(&help::of_command(command));
        return Ok(ExitCode::SUCCESS);
    }
    check_words(command, given.words.len()).inspect_err(|_| {
        log::out(&format!(
            "Incorrect Usage.\n\n{}",
            help::of_command(command)
        ));
    })?;
    log::debug(|| format!("{} {:?}", command.name, given.words));
    let makes_processes = matches!(command.name, "create" | "run" | "exec");
    if makes_processes {
        // Before anything is made, so that no container ever sees a file of the host's as our executable.
        protect::reexecute()?;
    }
    let done = (command.run)(global, &given);
    match command.name {
        "create" => done.with_context(|| format!("{} create failed", help::name())),
        "run" => done.with_context(|| format!("{} run failed", help::name())),
        // 255, since any other could be the process's own.
        "exec" => Ok(done.context("exec failed").unwrap_or_else(|error| {
            log::fatal(&error);
            ExitCode::from(255)
        })),
        _ => done,
    }
}

fn check_words(command: &Command, count: usize) -> Result<()> {
    let (least, most) = command.words;
    let program = std::env::args().next().unwrap_or_default();
    let (how, wanted) = match () {
        () if least == most && count != least => ("exactly", least),
        () if count < least => ("a minimum of", least),
        () if count > most => ("a maximum of", most),
        () => return Ok(()),
    };
    bail!(
        "{program}: {:?} requires {how} {wanted} argument(s)",
        command.name
    )
}

fn global(given: &Given) -> Result<Global> {
    let format = given.text("log-format")?;
    log::set(
        given.path("log"),
        format,
        given.text("log-level")?,
        given.on("debug"),
    )?;
    let rootless = match given
        .text("rootless")?
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        None | Some("auto") => None,
        Some("true" | "1" | "t") => Some(true),
        Some("false" | "0" | "f") => Some(false),
        Some(other) => bail!("strconv.ParseBool: parsing {other:?}: invalid syntax"),
    };
    let manager = match given.text("cgroup-manager")? {
        None if given.on("systemd-cgroup") => Manager::Systemd,
        None | Some("cgroupfs") => Manager::Cgroupfs,
        Some("systemd") => Manager::Systemd,
        Some("disabled") => Manager::Disabled,
        Some(other) => bail!("invalid cgroup-manager: {other}"),
    };
    Ok(Global {
        root: root(given)?,
        root_given: given.has("root"),
        rootless,
        manager,
    })
}

const DEFAULT_ROOT: &str = "/run/kernelet-oci";

fn root(given: &Given) -> Result<PathBuf> {
    if given.has("root") {
        let path = given.path("root").unwrap_or_default();
        let path = absolute(&path)?;
        if path == Path::new("/") {
            bail!("Option --root argument should not be set to /");
        }
        return Ok(path);
    }
    let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) else {
        return Ok(DEFAULT_ROOT.into());
    };
    if !honours_xdg() {
        return Ok(DEFAULT_ROOT.into());
    }
    let root = Path::new(&dir).join("kernelet-oci");
    // Sticky: else what cleans up the folder may take old states away, by the XDG base directory specification.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1700);
    std::fs::create_dir_all(&root)
        .and_then(|()| std::fs::set_permissions(&root, mode))
        .with_context(|| {
            format!(
                "the path in $XDG_RUNTIME_DIR must be writable by the user: {}",
                root.display()
            )
        })?;
    Ok(root)
}

/// Not for the machine's real root, whose containers lie in /run whoever's session it is in.
fn honours_xdg() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    user_namespace::inside() && std::env::var_os("USER").is_none_or(|user| user != "root")
}

/// Without `.`, `..` and symlinks of the working directory's; nothing has to be there.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = std::env::current_dir()
        .context("find the working directory")?
        .join(path);
    let mut clean = PathBuf::from("/");
    for part in whole.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    Ok(clean)
}

impl Global {
    /// Whether missing rights to cgroups are passed over.
    pub fn rootless_cgroups(&self) -> bool {
        self.rootless
            .unwrap_or_else(|| !nix::unistd::geteuid().is_root() || user_namespace::inside())
    }
}
