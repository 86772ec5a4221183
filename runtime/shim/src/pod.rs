//! Everything the shim holds of its pod, and what each call does to it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use kernelet_spec::ContainerId;
use kernelet_sys::{SysError, fd, namespace as ns, process};

use crate::{
    answer::{Answered, Taken, duplicate, failure},
    container::Container,
    exec::Exec,
    protocol::{Answer, Call, Failure, FailureKind, Message, Phase, PodState},
    record::Records,
    sandbox::{self, Sandbox},
    volume::Volumes,
};

pub(crate) struct Pod {
    pub sandbox: Option<Sandbox>,
    pub containers: BTreeMap<ContainerId, Container>,
    pub execs: BTreeMap<u64, Exec>,
    /// What the agent shall hear, in order.
    pub outbox: Vec<Message>,
    pub volumes: Volumes,
    pub records: Records,
    pub logs: OwnedFd,
    pub proc: OwnedFd,
    pub own_pid: OwnedFd,
    pub next_exec: u64,
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
                if plan.ids.is_some() {
                    self.volumes.show_kernel()?;
                }
                let sandbox = sandbox::create(plan, self.proc.as_fd(), init)?;
                self.outbox
                    .push(Message::Sandbox(Box::new(sandbox.state())));
                self.sandbox = Some(sandbox);
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
            Call::Attach {
                id,
                stdin,
                stdout,
                stderr,
            } => {
                let outputs = [("stdout", stdout), ("stderr", stderr)];
                let mut pipes = Vec::new();
                for (stream, _) in outputs.into_iter().filter(|(_, wanted)| *wanted) {
                    pipes.push((stream, taken.one(stream)?));
                }
                self.attach(&id, stdin, pipes)
            }
            Call::CloseStdin(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.stdin = None;
                }
                done
            }
            Call::Hello { .. } | Call::Shutdown => {
                Err(failure(FailureKind::Invalid, "is not a call to a pod"))
            }
        }
    }

    pub(crate) fn get(&self, id: &ContainerId) -> Result<&Container, Failure> {
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

    /// Takes in every end that is there to be taken in.
    pub(crate) fn reap(&mut self) {
        self.reap_init();
        for id in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.reap_container(&id);
        }
        for id in self.execs.keys().copied().collect::<Vec<_>>() {
            self.reap_exec(id);
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
