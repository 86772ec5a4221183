//! Everything the shim holds of its pod, and what each call does to it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::{Instant, SystemTime},
};

use kernelet_container::{
    CgroupView, CreateError, Descriptors, ErrorKind, ExecDescriptors, Waiting,
};
use kernelet_spec::{ContainerId, MountSource, NamespaceOf};
use kernelet_sys::{
    SysError,
    cgroup::{Group, Join},
    fd, namespace as ns,
    process::{self, Ended, Process},
    seccomp::Filter,
};
use nix::errno::Errno;

use crate::{
    exec::{Capture, Exec},
    log::Log,
    protocol::{
        self, Answer, Call, ContainerState, CreateContainer, ExecStdio, ExitRecord, Failure,
        FailureKind, JoinLayout, Message, Phase, PodState,
    },
    record::Records,
    sandbox::{self, Sandbox},
    session::chain,
    volume::Volumes,
};

pub(crate) struct Pod {
    pub sandbox: Option<Sandbox>,
    pub containers: BTreeMap<ContainerId, Container>,
    pub execs: BTreeMap<u64, Exec>,
    /// What the agent shall hear, in order.
    pub outbox: Vec<Message>,
    volumes: Volumes,
    records: Records,
    logs: OwnedFd,
    proc: OwnedFd,
    own_pid: OwnedFd,
    next_exec: u64,
}

pub(crate) struct Container {
    pub state: ContainerState,
    /// `None` once reaped.
    pub process: Option<Process>,
    pub log: Option<Log>,
    waiting: Option<Waiting>,
    oom_counter: Option<OwnedFd>,
}

/// A call's answer and the descriptors that go with it.
pub(crate) type Answered = Result<(Answer, Vec<OwnedFd>), Failure>;

fn failure(kind: FailureKind, what: impl Into<String>) -> Failure {
    Failure {
        kind,
        what: what.into(),
        errno: None,
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let kind = match error.kind {
            ErrorKind::Command => FailureKind::Command,
            ErrorKind::Invalid => FailureKind::Invalid,
            ErrorKind::Gone => FailureKind::Conflict,
            ErrorKind::Kernel => FailureKind::Kernel,
        };
        Failure {
            kind,
            what: error.line(),
            errno: error.errno.map(|e| e as i32),
        }
    }
}

impl From<SysError> for Failure {
    fn from(error: SysError) -> Self {
        CreateError::from(error).into()
    }
}

/// Descriptors of a request, taken in the order that the protocol says.
struct Taken(std::vec::IntoIter<OwnedFd>);

impl Taken {
    fn one(&mut self, what: &str) -> Result<OwnedFd, Failure> {
        self.0.next().ok_or_else(|| {
            failure(
                FailureKind::Invalid,
                format!("the descriptor of {what} is missing"),
            )
        })
    }

    fn join(&mut self, layout: JoinLayout) -> Result<Join, Failure> {
        let v2 = if layout.v2 {
            Some(self.one("the cgroup")?)
        } else {
            None
        };
        let v1 = (0..layout.v1)
            .map(|_| self.one("a cgroup's tasks"))
            .collect::<Result<_, _>>()?;
        Ok(Join { v2, v1 })
    }

    fn stdio(&mut self) -> Result<[OwnedFd; 3], Failure> {
        Ok([self.one("stdin")?, self.one("stdout")?, self.one("stderr")?])
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    fd.try_clone_to_owned()
        .map_err(|e| SysError::io("duplicate a descriptor", &e).into())
}

impl Pod {
    pub(crate) fn new(records: Records, logs: OwnedFd, proc: OwnedFd) -> Result<Self, SysError> {
        let own_pid = ns::open(proc.as_fd(), "self", "pid")?;
        Ok(Pod {
            sandbox: None,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            outbox: Vec::new(),
            volumes: Volumes::default(),
            records,
            logs,
            proc,
            own_pid,
            next_exec: 1,
        })
    }

    pub(crate) fn state(&self) -> PodState {
        PodState {
            sandbox: self.sandbox.as_ref().map(Sandbox::state),
            volumes: self.volumes.names(),
            containers: self
                .containers
                .iter()
                .map(|(id, c)| (id.clone(), c.state()))
                .collect(),
        }
    }

    /// Carries out a call; `Hello` and `Shutdown` are the server's.
    pub(crate) fn call(&mut self, call: Call, descriptors: Vec<OwnedFd>) -> Answered {
        let mut taken = Taken(descriptors.into_iter());
        let done = Ok((Answer::Done, Vec::new()));
        match call {
            Call::CreateSandbox { plan, init } => {
                if self.sandbox.is_some() {
                    return Err(failure(
                        FailureKind::Conflict,
                        "the pod has its sandbox already",
                    ));
                }
                let init = match init {
                    Some(layout) => {
                        let join = taken.join(layout)?;
                        Some((taken.one("the init program")?, join))
                    }
                    None => None,
                };
                if !plan.host_ipc && plan.shm_bytes > 0 {
                    self.volumes.create_shm(plan.shm_bytes)?;
                }
                self.sandbox = Some(sandbox::create(plan, self.proc.as_fd(), init)?);
                self.answer_sandbox()
            }
            Call::Sandbox => self.answer_sandbox(),
            Call::CreateVolume(plan) => {
                let volume = self.volumes.create(&plan)?;
                let root = fd::open_at(
                    volume.as_fd(),
                    ".",
                    nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY,
                    0,
                )?;
                Ok((Answer::Volume, vec![root]))
            }
            Call::CreateContainer(create) => self.create(*create, taken),
            Call::Start(id) => self.start(&id),
            Call::Signal { id, signal } => {
                let container = self.get(&id)?;
                if let Some(process) = &container.process {
                    process::pidfd_send_signal(process.pidfd.as_fd(), signal)?;
                }
                done
            }
            Call::Exec(exec) => self.exec(*exec, taken),
            Call::KillExec(id) => {
                if let Some(exec) = self.execs.get(&id) {
                    exec.kill();
                }
                done
            }
            Call::Acknowledge(id) => {
                self.records.delete(&id)?;
                done
            }
            Call::Remove(id) => self.remove(&id),
            Call::Hello { .. } | Call::Shutdown => {
                Err(failure(FailureKind::Invalid, "is not a call to a pod"))
            }
        }
    }

    fn get(&self, id: &ContainerId) -> Result<&Container, Failure> {
        self.containers.get(id).ok_or_else(|| {
            failure(
                FailureKind::NotFound,
                format!("the pod has no container {id}"),
            )
        })
    }

    fn answer_sandbox(&self) -> Answered {
        let Some(sandbox) = &self.sandbox else {
            return Err(failure(FailureKind::NotFound, "the pod has no sandbox yet"));
        };
        let [net, ipc, uts] = sandbox.descriptors();
        let answer = Answer::Sandbox {
            net: net.is_some(),
            ipc: ipc.is_some(),
            uts: uts.is_some(),
            init_pid: sandbox.init.as_ref().map(|init| init.pid),
        };
        let descriptors = [net, ipc, uts].into_iter().flatten().map(duplicate);
        Ok((answer, descriptors.collect::<Result<_, _>>()?))
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
            NamespaceOf::Path(_) => Err(failure(
                FailureKind::Invalid,
                format!("a pod's container can't have its {name} namespace from a path"),
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

    fn create(&mut self, create: CreateContainer, mut taken: Taken) -> Answered {
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
                kernelet_container::copy_for(volume, sub_path, mount.flags)?,
            );
        }
        let (log, stdio) = self.stdio(&plan, passed)?;
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
            pid: self.namespace(&plan.namespaces.pid, "process", |s| &s.pid)?,
            cgroup: None,
            join,
            cgroup_view: CgroupView {
                v1: cgroup_view.v1,
                v2: cgroup_view.v2,
            },
            stdio,
            place: PathBuf::from("/root"),
            own_pid: Some(duplicate(self.own_pid.as_fd())?),
            fifo: None,
            filter,
            preserve: 0,
            new_keyring: true,
        };
        let mut waiting = kernelet_container::create(&plan, made)?;
        let pid = waiting.process.pid;
        let mut answers = vec![duplicate(waiting.process.pidfd.as_fd())?];
        answers.extend(waiting.terminal.take());
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
            oom_counter,
        };
        self.publish(&container);
        self.containers.insert(plan.id, container);
        Ok((Answer::Created { pid }, answers))
    }

    /// The container's three descriptors: those handed over, or a log's, or nothing.
    fn stdio(
        &self,
        plan: &kernelet_spec::ContainerPlan,
        passed: Option<[OwnedFd; 3]>,
    ) -> Result<(Option<Log>, Option<[OwnedFd; 3]>), Failure> {
        if plan.terminal {
            return Ok((None, None));
        }
        // 0 is the null device, as the agent has placed it.
        let null = || duplicate(std::io::stdin().as_fd());
        if let Some(stdio) = passed {
            return Ok((None, Some(stdio)));
        }
        match &plan.log {
            None => Ok((None, Some([null()?, null()?, null()?]))),
            Some(log) => {
                let (log, [out, err]) = Log::create(self.logs.as_fd(), log)?;
                Ok((Some(log), Some([null()?, out, err])))
            }
        }
    }

    fn start(&mut self, id: &ContainerId) -> Answered {
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
        if let Some(log) = &mut container.log {
            log.drain();
        }
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

    fn remove(&mut self, id: &ContainerId) -> Answered {
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

    fn exec(&mut self, exec: protocol::Exec, mut taken: Taken) -> Answered {
        let container = self.get(&exec.container)?;
        let (Some(process), Phase::Running { .. }) = (&container.process, &container.state.phase)
        else {
            return Err(failure(
                FailureKind::Conflict,
                format!("container {} is not running", exec.container),
            ));
        };
        let join = taken.join(exec.join)?;
        let mut capture = None;
        let stdio = match (exec.plan.terminal, exec.stdio) {
            (true, _) => None,
            (false, ExecStdio::Passed) => Some(taken.stdio()?),
            (false, ExecStdio::Capture { limit }) => {
                let (kept, end) = Capture::new(limit)?;
                capture = Some(kept);
                let null = duplicate(std::io::stdin().as_fd())?;
                Some([null, duplicate(end.as_fd())?, end])
            }
        };
        let filter = match exec
            .filter
            .map(|bytes| Filter::from_bytes(&bytes))
            .transpose()
        {
            Ok(filter) => filter,
            Err(e) => return Err(failure(FailureKind::Invalid, chain(&e))),
        };
        let made = ExecDescriptors {
            container: duplicate(process.pidfd.as_fd())?,
            join,
            stdio,
            own_pid: Some(duplicate(self.own_pid.as_fd())?),
            filter,
            preserve: 0,
        };
        let waiting = kernelet_container::exec(&exec.plan, made)?;
        let (process, terminal) = waiting.start()?;
        let id = self.next_exec;
        self.next_exec += 1;
        let mut answers = vec![duplicate(process.pidfd.as_fd())?];
        answers.extend(terminal);
        let pid = process.pid;
        self.execs.insert(
            id,
            Exec {
                id,
                process,
                capture,
                deadline: exec.plan.timeout.map(|timeout| Instant::now() + timeout),
                timed_out: false,
            },
        );
        Ok((Answer::ExecStarted { exec: id, pid }, answers))
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

    pub(crate) fn reap_exec(&mut self, id: u64) {
        let Some(exec) = self.execs.get(&id) else {
            return;
        };
        let ended = match process::try_wait(exec.process.pidfd.as_fd()) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(_) => Ended::Exited(255),
        };
        if let Some(exec) = self.execs.remove(&id) {
            self.outbox.push(Message::ExecExited(exec.exit(ended)));
        }
    }

    pub(crate) fn reap_init(&mut self) {
        if let Some(sandbox) = &mut self.sandbox
            && let Some(init) = &sandbox.init
            && !sandbox.init_exited
            && !matches!(process::try_wait(init.pidfd.as_fd()), Ok(None))
        {
            sandbox.init_exited = true;
            self.outbox
                .push(Message::Sandbox(Box::new(sandbox.state())));
        }
    }

    /// Kills execs whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        for exec in self.execs.values_mut() {
            if !exec.timed_out && exec.deadline.is_some_and(|deadline| deadline <= now) {
                exec.timed_out = true;
                exec.kill();
            }
        }
    }

    /// The agent has gone, and with it who wanted the execs.
    pub(crate) fn end_execs(&mut self) {
        for exec in self.execs.values() {
            exec.kill();
        }
    }

    /// Whether a process of the pod is left.
    pub(crate) fn is_alive(&self) -> bool {
        let init = self
            .sandbox
            .as_ref()
            .is_some_and(|s| s.init.is_some() && !s.init_exited);
        // A container that was only created waits on us, and ends with us.
        let running = self
            .containers
            .values()
            .any(|c| matches!(c.state.phase, Phase::Running { .. }));
        init || running || !self.execs.is_empty()
    }
}

impl Container {
    fn state(&self) -> ContainerState {
        let mut state = self.state.clone();
        state.dropped_lines = self
            .log
            .as_ref()
            .map_or(state.dropped_lines, Log::dropped_lines);
        state
    }
}
