//! exec: one more process in a container.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_container::{ExecDescriptors, Inside};
use kernelet_spec::{ExecPlan, process_of};
use kernelet_sys::{
    SysError,
    cgroup::{Join, Layout},
    fd, namespace as ns,
};
use nix::{errno::Errno, fcntl::OFlag};
use oci_spec::runtime::{Capability, Linux, Process};

use crate::{
    bundle,
    cli::{self, Global},
    config, console, container,
    create::start_error,
    filters,
    flags::{Flag, Given},
    inherited, log, sources,
    state::{self, Saved, Status},
};

pub const FLAGS: &[Flag] = &[
    Flag::text(
        "console-socket",
        "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal",
    ),
    Flag::text(
        "pidfd-socket",
        "path to an AF_UNIX socket which will receive a file descriptor referencing the exec process",
    ),
    Flag::text("cwd", "current working directory in the container"),
    Flag::list("env", "set environment variables").or("e"),
    Flag::switch("tty", "allocate a pseudo-TTY").or("t"),
    Flag::text("user", "UID (format: <uid>[:<gid>])").or("u"),
    Flag::list("additional-gids", "additional gids").or("g"),
    Flag::text("process", "path to the process.json").or("p"),
    Flag::switch("detach", "detach from the container's process").or("d"),
    Flag::text("pid-file", "specify the file to write the process id to"),
    Flag::text(
        "process-label",
        "set the asm process label for the process commonly used with selinux",
    ),
    Flag::text("apparmor", "set the apparmor profile for the process"),
    Flag::switch(
        "no-new-privs",
        "set the no new privileges value for the process",
    ),
    Flag::list(
        "cap",
        "add a capability to the bounding set for the process",
    )
    .or("c"),
    Flag::number(
        "preserve-fds",
        "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)",
    ),
    Flag::list(
        "cgroup",
        "run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>.",
    ),
    Flag::switch("ignore-paused", "allow exec in a paused container"),
];

pub fn exec(global: &Global, given: &Given) -> Result<ExitCode> {
    let pid_file = given
        .path("pid-file")
        .map(|path| cli::absolute(&path))
        .transpose()?;
    let (_, folder, saved) = container::named(global, given)?;
    let layout = Layout::detect()?;
    match saved.status(&folder, &layout) {
        Status::Running | Status::Created => {}
        Status::Paused if given.on("ignore-paused") => {}
        Status::Paused => {
            bail!("cannot exec in a paused container (use --ignore-paused to override)")
        }
        Status::Stopped => bail!("cannot exec in a stopped container"),
    }
    let preserve = inherited::of_exec(given)?;
    let plan = plan(&saved, given)?;
    let detach = given.on("detach");
    let socket = given.path("console-socket");
    if detach && plan.terminal && socket.is_none() {
        bail!("cannot allocate tty if runc will detach without setting console socket");
    }
    if (!detach || !plan.terminal) && socket.is_some() {
        bail!("cannot use console socket if runc will not detach or allocate tty");
    }
    let signals = (!detach).then(console::block_signals).transpose()?;
    let subs = SubGroups::parse(&given.list("cgroup")?)?;
    let join = match subs.0.is_empty() {
        true => sources::join(&saved.place, &layout)?,
        false => subs.join(&saved, &layout)?,
    };
    let make = |join| {
        let filter = filters::filter_for(global, &plan.process)?;
        log::of_process(&plan.process, filter.as_ref());
        log::debug(|| "nsexec container setup".to_owned());
        let proc = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        let descriptors = ExecDescriptors {
            container: saved.pidfd()?,
            join,
            stdio: if plan.terminal {
                None
            } else {
                Some(sources::stdio()?)
            },
            own_pid: Some(ns::open(proc.as_fd(), "self", "pid")?),
            filter,
            listener: crate::listener::of(&plan.process, &saved, "running"),
            preserve,
            inside: Inside::of(&saved.namespaces),
        };
        Ok::<_, anyhow::Error>(kernelet_container::exec(&plan, descriptors))
    };
    let mut waiting = match make(join)? {
        // A program of the container's has made groups of its own below: then only they can have processes.
        Err(error) if error.errno == Some(Errno::EBUSY) && subs.0.is_empty() => {
            make(where_init_is(&saved, &layout)?)?.map_err(start_error)?
        }
        other => other.map_err(start_error)?,
    };
    log::debug(|| "child process in init()".to_owned());
    let mut terminal = waiting.terminal.take();
    if let Some(path) = &socket
        && let Some(control) = terminal.take()
    {
        console::hand_over(path, b"/dev/ptmx", control.as_fd())?;
    }
    if let Some(path) = given.path("pidfd-socket") {
        console::hand_over(&path, b"pidfd", waiting.process.pidfd.as_fd())?;
    }
    if let Some(path) = &pid_file {
        state::write_whole(path, waiting.process.pid.to_string().as_bytes(), 0o644)?;
    }
    if let Some(terminal) = &terminal {
        console::prepare(terminal);
    }
    log::debug(|| "setns_init: about to exec".to_owned());
    let (process, _) = waiting.start().map_err(start_error)?;
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => {
            let ended = console::attend(&process, signals, terminal, None)?;
            Ok(ExitCode::from(ended.code() as u8))
        }
    }
}

fn plan(saved: &Saved, given: &Given) -> Result<ExecPlan> {
    let file = given.path("process");
    let spec = bundle::load(&saved.bundle.join("config.json"));
    let (process, linux) = match file {
        Some(path) => {
            let text = fs::read(&path).with_context(|| format!("open {}", path.display()))?;
            let mut process: Process =
                config::process(&text).with_context(|| format!("understand {}", path.display()))?;
            if given.on("tty") {
                process.set_terminal(Some(true));
            }
            // Its filter is the container's; without a bundle there is none to know.
            (process, spec?.linux().clone())
        }
        None => {
            let spec = spec?;
            let process = spec.process().clone();
            let process = process.context("process property must not be empty")?;
            (change(process, given)?, spec.linux().clone())
        }
    };
    bundle::check(Some(&process))?;
    let mut plan = process_of(&process, &linux.unwrap_or_else(empty))?;
    // The container's first process has it; others would need a right to lower theirs.
    if given.path("process").is_none() {
        plan.oom_score_adj = None;
    }
    Ok(ExecPlan {
        process: plan,
        terminal: process.terminal().unwrap_or(false),
        timeout: None,
    })
}

fn empty() -> Linux {
    serde_json::from_str("{}").expect("every field of it is optional")
}

/// The container's own process with what the command line says.
fn change(mut process: Process, given: &Given) -> Result<Process> {
    let args: Option<Vec<String>> = given.words[1..]
        .iter()
        .map(|word| word.to_str().map(str::to_owned))
        .collect();
    let args = args.context("an argument is not UTF-8")?;
    if args.is_empty() {
        bail!("exec args cannot be empty");
    }
    process.set_args(Some(args));
    if let Some(cwd) = given.path("cwd") {
        process.set_cwd(cwd);
    }
    if let Some(profile) = given.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = given.text("process-label")? {
        process.set_selinux_label(Some(label.to_owned()));
    }
    let caps = given.list("cap")?;
    if !caps.is_empty() {
        let caps: Vec<Capability> = caps.into_iter().map(capability).collect::<Result<_>>()?;
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.extend(caps.iter().copied());
            Some(set)
        };
        let (bounding, effective, permitted) = (
            with(sets.bounding()),
            with(sets.effective()),
            with(sets.permitted()),
        );
        // Ambient needs inheritable, which isn't added.
        let ambient = sets
            .inheritable()
            .is_some()
            .then(|| with(sets.ambient()))
            .flatten();
        sets.set_bounding(bounding);
        sets.set_effective(effective);
        sets.set_permitted(permitted);
        if ambient.is_some() {
            sets.set_ambient(ambient);
        }
        process.set_capabilities(Some(sets));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(given.list("env")?.into_iter().map(str::to_owned));
    process.set_env(Some(env));
    process.set_terminal(Some(given.on("tty")));
    if given.has("no-new-privs") {
        process.set_no_new_privileges(Some(given.on("no-new-privs")));
    }
    let mut user = process.user().clone();
    if let Some(text) = given.text("user")? {
        let (uid, gid) = text
            .split_once(':')
            .map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        if let Some(gid) = gid {
            user.set_gid(gid.parse().with_context(|| format!("bad gid: {gid:?}"))?);
        }
        user.set_uid(uid.parse().with_context(|| format!("bad uid: {uid:?}"))?);
    }
    let mut gids = user.additional_gids().clone().unwrap_or_default();
    for text in given
        .list("additional-gids")?
        .iter()
        .flat_map(|list| list.split(','))
    {
        let gid: i64 = text
            .trim()
            .parse()
            .with_context(|| format!("invalid gid {text:?}"))?;
        let gid = u32::try_from(gid)
            .map_err(|_| anyhow!("additional-gids must be a positive number {gid}"))?;
        gids.push(gid);
    }
    if !gids.is_empty() {
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    Ok(process)
}

fn capability(name: &str) -> Result<Capability> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .with_context(|| format!("unknown capability {name:?}"))
}

/// Where the container's first process is, in each hierarchy.
fn where_init_is(saved: &Saved, layout: &Layout) -> Result<Join> {
    let path = format!("/proc/{}/cgroup", saved.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("open {path}"))?;
    // `0::/path` is v2's.
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    let mut join = sources::join(&saved.place, layout)?;
    if let (Some(mount), Some(path)) = (&layout.v2, v2) {
        join.v2 = Some(open_group(&mount.join(path.trim_start_matches('/')))?);
    }
    Ok(join)
}

fn open_group(path: &Path) -> Result<OwnedFd, SysError> {
    fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
}

/// `--cgroup`: controller (none: v2) and a path below the container's group.
#[derive(Debug, Default, PartialEq, Eq)]
struct SubGroups(Vec<(Option<String>, PathBuf)>);

impl SubGroups {
    fn parse(texts: &[&str]) -> Result<SubGroups> {
        let mut all: Vec<(Option<String>, PathBuf)> = Vec::new();
        let mut add = |controller: Option<&str>, path: &str| {
            let name = controller.map(str::to_owned);
            if all.iter().any(|(known, _)| *known == name) {
                let name = name.unwrap_or_default();
                bail!("invalid --cgroup argument(s): controller {name} specified multiple times");
            }
            let path = path.trim_start_matches('/');
            if path.split('/').any(|part| part == "..") {
                bail!("bad sub cgroup path: {path}");
            }
            all.push((name, path.into()));
            Ok(())
        };
        for text in texts {
            match text.split_once(':') {
                None if texts.len() > 1 => {
                    bail!("invalid --cgroup argument: {text} (missing <controller>: prefix)")
                }
                None => add(None, text)?,
                Some((controllers, path)) => {
                    for controller in controllers.split(',') {
                        if controller.is_empty() {
                            bail!("invalid --cgroup argument: {text} (empty <controller> prefix)");
                        }
                        add(Some(controller), path)?;
                    }
                }
            }
        }
        Ok(SubGroups(all))
    }

    fn join(&self, saved: &Saved, layout: &Layout) -> Result<Join> {
        let own = saved
            .place
            .cgroup
            .as_ref()
            .context("the container has no cgroup of its own")?;
        let own = own.trim_matches('/');
        let below = |mount: &Path, sub: Option<&PathBuf>| {
            let dir = mount.join(own);
            sub.map_or(dir.clone(), |sub| dir.join(sub))
        };
        let of = |name: Option<&str>| {
            let found = self
                .0
                .iter()
                .find(|(controller, _)| controller.as_deref() == name);
            found.map(|(_, path)| path)
        };
        for (controller, _) in &self.0 {
            match controller {
                None if layout.v2.is_some() => {}
                Some(name) if layout.v1_of(name).is_some() => {}
                _ => bail!(
                    "unknown controller {} in SubCgroupPaths",
                    controller.as_deref().unwrap_or("(cgroup v2)")
                ),
            }
        }
        // Its process joins them by itself; until then this one stands for it.
        let not_joined = |e: SysError| {
            let (pid, why) = (std::process::id(), e.errno.desc().to_lowercase());
            anyhow!("error adding pid {pid} to cgroups: {}: {why}", e.attempted)
        };
        let mut v1 = Vec::new();
        for hierarchy in &layout.v1 {
            let sub = hierarchy.controllers.iter().find_map(|name| of(Some(name)));
            let tasks = below(&hierarchy.mount, sub).join("tasks");
            v1.push(fd::open(&tasks, OFlag::O_WRONLY, 0).map_err(not_joined)?);
        }
        let v2 = layout
            .v2
            .as_ref()
            .map(|mount| open_group(&below(mount, of(None))).map_err(not_joined))
            .transpose()?;
        Ok(Join { v2, v1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_groups_are_understood() {
        let parse = |texts: &[&str]| SubGroups::parse(texts).map_err(|e| e.to_string());
        assert_eq!(parse(&["a/b"]).unwrap().0, [(None, PathBuf::from("a/b"))]);
        let both = parse(&["cpu,pids:/x", "memory:y"]).unwrap().0;
        let names: Vec<_> = both
            .iter()
            .filter_map(|(name, _)| name.as_deref())
            .collect();
        assert_eq!(names, ["cpu", "pids", "memory"]);
        for (texts, error) in [
            (&["a", "cpu:b"][..], "missing <controller>: prefix"),
            (&[":a"], "empty <controller> prefix"),
            (
                &["cpu:a", "cpu:b"],
                "controller cpu specified multiple times",
            ),
            (&["../a"], "bad sub cgroup path"),
        ] {
            assert!(parse(texts).unwrap_err().contains(error), "{texts:?}");
        }
    }
}
