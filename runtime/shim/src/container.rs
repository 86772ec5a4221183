//! The pod's containers: made, started, ended, forgotten.
//!
//! ```text
//! create ─► Created ─ start ─► Running ─ its end ─► Exited ─ remove ─► (gone)
//!              └──────── a start that fails ─────────┘
//! ```

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::SystemTime,
};

use kernelet_container::{CgroupView, Descriptors, Joined, Waiting};
use kernelet_spec::{ContainerId, ContainerPlan, MountPlan, MountSource, NamespaceOf};
use kernelet_sys::{
    cgroup::Group,
    namespace as ns,
    process::{self, Ended, Process},
    seccomp::Filter,
};
use nix::errno::Errno;

use crate::{
    answer::{Answered, Taken, duplicate, failure},
    log::Log,
    pod::Pod,
    protocol::{
        Answer, ContainerState, CreateContainer, ExitRecord, Failure, FailureKind, Message, Phase,
    },
    sandbox::Sandbox,
    session::chain,
};

pub(crate) struct Container {
    pub state: ContainerState,
    /// `None` once reaped.
    pub process: Option<Process>,
    pub log: Option<Log>,
    waiting: Option<Waiting>,
    /// The other end of what a container that wants a stdin reads from: held open, so that it doesn't see an end.
    /// With a terminal, what to write to.
    pub stdin: Option<OwnedFd>,
    /// The controlling end of its terminal.
    terminal: Option<OwnedFd>,
    oom_counter: Option<OwnedFd>,
}

/// A container's streams: what the shim keeps, and the ends that the container gets.
#[derive(Default)]
struct Stdio {
    log: Option<Log>,
    stdin: Option<OwnedFd>,
    ends: Option<[OwnedFd; 3]>,
}

impl Pod {
    pub(crate) fn create(&mut self, create: CreateContainer, mut taken: Taken) -> Answered {
        let CreateContainer {
            plan,
            descriptors,
            filter,
            cgroup_view,
        } = create;
        if self.containers.contains_key(&plan.id) {
            return Err(failure(
                FailureKind::Conflict,
                format!("the pod has a container {} already", plan.id),
            ));
        }
        let root = taken.one("the root")?;
        let mut sources = BTreeMap::new();
        for index in &descriptors.sources {
            sources.insert(usize::from(*index), taken.one("a mount")?);
        }
        let join = taken.join(descriptors.join)?;
        let oom_counter = if descriptors.oom_counter {
            Some(taken.one("the OOM counter")?)
        } else {
            None
        };
        let passed = if descriptors.stdio {
            Some(taken.stdio()?)
        } else {
            None
        };
        for (index, mount) in plan.mounts.iter().enumerate() {
            let (volume, sub_path, name) = match &mount.source {
                MountSource::Volume { name, sub_path } => {
                    (self.volumes.get(name), sub_path.as_deref(), name.as_str())
                }
                MountSource::PodShm => (self.volumes.shm(), None, "/dev/shm"),
                _ => continue,
            };
            let volume = volume.ok_or_else(|| {
                failure(
                    FailureKind::NotFound,
                    format!("the pod has no volume {name}"),
                )
            })?;
            sources.insert(
                index,
                kernelet_container::copy_for(volume, sub_path, mount.flags, self.ids_for(mount)?)?,
            );
        }
        let Stdio {
            mut log,
            mut stdin,
            ends,
        } = self.stdio(&plan, passed)?;
        let filter = match filter.map(|bytes| Filter::from_bytes(&bytes)).transpose() {
            Ok(filter) => filter,
            Err(e) => return Err(failure(FailureKind::Invalid, chain(&e))),
        };
        let made = Descriptors {
            root,
            sources,
            net: self.namespace(&plan.namespaces.net, "network", |s| &s.net)?,
            ipc: self.namespace(&plan.namespaces.ipc, "IPC", |s| &s.ipc)?,
            uts: self.namespace(&plan.namespaces.uts, "UTS", |s| &s.uts)?,
            pid: match &plan.namespaces.pid {
                NamespaceOf::Container(target) => Some(self.processes_of(target)?),
                wish => self.namespace(wish, "process", |s| &s.pid)?,
            },
            cgroup: None,
            joined: Joined {
                user: self.namespace(&plan.namespaces.user, "user", |s| &s.user)?,
                ..Joined::default()
            },
            join,
            cgroup_view: CgroupView {
                v1: cgroup_view.v1,
                v2: cgroup_view.v2,
            },
            stdio: ends,
            place: PathBuf::from("/root"),
            own_pid: Some(duplicate(self.own_pid.as_fd())?),
            fifo: None,
            filter,
            listener: None,
            preserve: 0,
            new_keyring: true,
            hooks: None,
            stop_before_pivot: false,
            no_pivot: false,
        };
        let mut waiting = kernelet_container::create(&plan, made)?;
        let pid = waiting.process.pid;
        let mut answers = vec![duplicate(waiting.process.pidfd.as_fd())?];
        let mut terminal = None;
        if let Some(control) = waiting.terminal.take() {
            match &plan.log {
                Some(to) => {
                    terminal = Some(duplicate(control.as_fd())?);
                    if plan.stdin {
                        stdin = Some(duplicate(control.as_fd())?);
                    }
                    log = Some(Log::of_terminal(self.logs.as_fd(), to, control)?);
                }
                // The caller's alone: its close hangs up.
                None => answers.push(control),
            }
        }
        let process = Process {
            pid,
            pidfd: duplicate(waiting.process.pidfd.as_fd())?,
        };
        let container = Container {
            state: ContainerState {
                id: plan.id.clone(),
                annotations: plan.annotations,
                cgroup: plan.cgroup,
                phase: Phase::Created { pid },
                dropped_lines: 0,
            },
            process: Some(process),
            log,
            waiting: Some(waiting),
            stdin,
            terminal,
            oom_counter,
        };
        self.publish(&container);
        self.containers.insert(plan.id, container);
        Ok((Answer::Created { pid }, answers))
    }

    /// The pod's namespace for a wish; `New` and `Host` need none.
    fn namespace(
        &self,
        wish: &NamespaceOf,
        name: &str,
        of: impl Fn(&Sandbox) -> &Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Failure> {
        match wish {
            NamespaceOf::Host | NamespaceOf::New => Ok(None),
            NamespaceOf::Path(_) | NamespaceOf::Container(_) => Err(failure(
                FailureKind::Invalid,
                format!("a pod's container can't have its {name} namespace from elsewhere"),
            )),
            NamespaceOf::Pod => {
                let descriptor = self
                    .sandbox
                    .as_ref()
                    .and_then(|sandbox| of(sandbox).as_ref());
                let descriptor = descriptor.ok_or_else(|| {
                    failure(
                        FailureKind::Conflict,
                        format!("the pod has no {name} namespace to share"),
                    )
                })?;
                duplicate(descriptor.as_fd()).map(Some)
            }
        }
    }

    /// The user namespace whose ids a mount's files shall show: the pod's own, whatever tables the plan gives.
    fn ids_for(&self, mount: &MountPlan) -> Result<Option<BorrowedFd<'_>>, Failure> {
        if mount.extra.id_map.is_none() {
            return Ok(None);
        }
        let user = self.sandbox.as_ref().and_then(|s| s.user.as_ref());
        let missing = "the pod has no user namespace to map a volume's ids by";
        user.map(|user| Some(user.as_fd()))
            .ok_or_else(|| failure(FailureKind::Conflict, missing))
    }

    /// The process namespace of a running container. Its first process isn't reaped, so the number is still its own.
    fn processes_of(&self, id: &ContainerId) -> Result<OwnedFd, Failure> {
        let container = self.get(id)?;
        let (Some(process), Phase::Running { .. }) = (&container.process, &container.state.phase)
        else {
            return Err(failure(
                FailureKind::Conflict,
                format!("container {id} is not running"),
            ));
        };
        Ok(ns::open(
            self.proc.as_fd(),
            &process.pid.to_string(),
            "pid",
        )?)
    }

    /// The container's three descriptors: those handed over, or a log's, or nothing.
    fn stdio(&self, plan: &ContainerPlan, passed: Option<[OwnedFd; 3]>) -> Result<Stdio, Failure> {
        if plan.terminal {
            return Ok(Stdio::default());
        }
        if let Some(ends) = passed {
            return Ok(Stdio {
                ends: Some(ends),
                ..Stdio::default()
            });
        }
        // 0 is the null device, as the agent has placed it.
        let null = || duplicate(std::io::stdin().as_fd());
        let (read, stdin) = match plan.stdin {
            false => (null()?, None),
            true => {
                let (read, write) = process::pipe()?;
                (read, Some(write))
            }
        };
        let (log, out, err) = match &plan.log {
            None => (None, null()?, null()?),
            Some(to) => {
                let (log, [out, err]) = Log::create(self.logs.as_fd(), to)?;
                (Some(log), out, err)
            }
        };
        Ok(Stdio {
            log,
            stdin,
            ends: Some([read, out, err]),
        })
    }

    pub(crate) fn start(&mut self, id: &ContainerId) -> Answered {
        self.get(id)?;
        let container = self.containers.get_mut(id).expect("looked up above");
        let Some(waiting) = container.waiting.take() else {
            return Err(failure(
                FailureKind::Conflict,
                format!("container {id} is not waiting to be started"),
            ));
        };
        match waiting.start() {
            Ok((process, _)) => {
                let at = SystemTime::now();
                container.state.phase = Phase::Running {
                    pid: process.pid,
                    started_at: at,
                };
                self.record(id);
                Ok((Answer::Started { at }, Vec::new()))
            }
            Err(error) => {
                // Its process is gone and reaped. 128, as other runtimes have it for "could not start".
                container.process = None;
                self.exited(id, Ended::Exited(128));
                Err(error.into())
            }
        }
    }

    /// The container's process has ended and is reaped.
    fn exited(&mut self, id: &ContainerId, ended: Ended) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let (pid, started_at) = match container.state.phase {
            Phase::Created { pid } => (pid, None),
            Phase::Running { pid, started_at } => (pid, Some(started_at)),
            Phase::Exited(_) => return,
        };
        container.process = None;
        container.waiting = None;
        container.stdin = None;
        if let Some(log) = &mut container.log {
            log.drain();
            log.detach();
        }
        container.terminal = None;
        let kills = container
            .oom_counter
            .as_ref()
            .map(|counter| Group::oom_kills_in(counter.as_fd()));
        container.state.phase = Phase::Exited(ExitRecord {
            id: id.clone(),
            pid,
            started_at,
            finished_at: SystemTime::now(),
            exit_code: ended.code(),
            signal: match ended {
                Ended::Signaled(signal) => Some(signal),
                Ended::Exited(_) => None,
            },
            // A process that was killed for memory while the container went on well isn't its end.
            oom_killed: ended.code() != 0 && matches!(kills, Some(Ok(1..))),
        });
        self.record(id);
    }

    /// To the disk first, then to the agent.
    fn record(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        let state = container.state();
        if let Err(e) = self.records.write(&state) {
            // Told all the same: a pod that hangs because /run is full would be worse.
            eprintln!("{}", chain(&e));
        }
        self.outbox.push(Message::Container(Box::new(state)));
    }

    fn publish(&mut self, container: &Container) {
        self.outbox
            .push(Message::Container(Box::new(container.state())));
    }

    pub(crate) fn remove(&mut self, id: &ContainerId) -> Answered {
        if let Some(container) = self.containers.get(id) {
            if matches!(container.state.phase, Phase::Running { .. }) {
                return Err(failure(
                    FailureKind::Conflict,
                    format!("container {id} is running"),
                ));
            }
            if let Some(process) = &container.process {
                // Created and never started: it goes without a word.
                let _ = process::pidfd_send_signal(process.pidfd.as_fd(), libc::SIGKILL);
                let _ = process::wait(process.pidfd.as_fd());
            }
            self.containers.remove(id);
            self.outbox.push(Message::Removed(id.clone()));
        }
        self.records.delete(id)?;
        Ok((Answer::Done, Vec::new()))
    }

    /// One client more of a running container.
    pub(crate) fn attach(
        &mut self,
        id: &ContainerId,
        stdin: bool,
        outputs: Vec<(&'static str, OwnedFd)>,
    ) -> Answered {
        self.get(id)?;
        let container = self.containers.get_mut(id).expect("looked up above");
        if !matches!(container.state.phase, Phase::Running { .. }) {
            return Err(failure(
                FailureKind::Conflict,
                format!("container {id} is not running"),
            ));
        }
        let stdin = container.stdin.as_ref().filter(|_| stdin);
        let handed = container.terminal.as_ref().or(stdin);
        let answer = Answer::Attached {
            stdin: stdin.is_some(),
            terminal: container.terminal.is_some(),
        };
        let handed = handed.map(|fd| duplicate(fd.as_fd())).transpose()?;
        for (stream, pipe) in outputs {
            match &mut container.log {
                Some(log) => log.attach(stream, pipe)?,
                // Its output goes to whoever has made it; what the client gets is its end.
                None => drop(pipe),
            }
        }
        Ok((answer, handed.into_iter().collect()))
    }

    /// A container's pidfd has become readable.
    pub(crate) fn reap_container(&mut self, id: &ContainerId) {
        let Some(process) = self.containers.get(id).and_then(|c| c.process.as_ref()) else {
            return;
        };
        match process::try_wait(process.pidfd.as_fd()) {
            Ok(Some(ended)) => self.exited(id, ended),
            Ok(None) => {}
            // Reaped by nobody but us: this can't be, and must not spin.
            Err(e) if e.errno == Errno::ECHILD => self.exited(id, Ended::Exited(255)),
            Err(e) => eprintln!("{}", chain(&e)),
        }
    }
}

impl Container {
    pub(crate) fn state(&self) -> ContainerState {
        let mut state = self.state.clone();
        state.dropped_lines = self
            .log
            .as_ref()
            .map_or(state.dropped_lines, Log::dropped_lines);
        state
    }
}
