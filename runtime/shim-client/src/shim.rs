//! A connected shim.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use kernelet_shim::{
    protocol::{Answer, Call, ContainerState, ExitRecord, Phase, PodState, VolumePlan},
    record,
};
use kernelet_spec::{ContainerId, ContainerPlan, PodUid, SandboxPlan};
use kernelet_sys::{cgroup::Layout, fd, process, socket};
use nix::fcntl::OFlag;
use tokio::sync::watch;

use crate::{
    AdoptError, ShimError, SpawnError,
    connection::{self, Connection},
    create::{self, sys},
    spawn,
};

/// No call takes longer, unless the shim is stopped or the kernel stuck.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where a shim lives.
#[derive(Clone, Debug)]
pub struct SpawnOptions {
    pub uid: PodUid,
    /// The shim's own folder (socket, records), 0700, made when it is missing.
    pub dir: PathBuf,
    /// `LogPlan::path` is relative to this; made when it is missing.
    pub log_dir: PathBuf,
    /// The shim's cgroup: `<cgroup root>/shims/<uid>`.
    pub cgroup: String,
    pub layout: Arc<Layout>,
}

/// A pod's shim, connected. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shim {
    connection: Arc<Connection>,
    options: Arc<SpawnOptions>,
}

/// The level of a pod, as its shim reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub state: PodState,
    pub liveness: Liveness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Connected,
    /// The shim process has ended. If containers ran, their fate is unknown: kill the pod's cgroup.
    Dead,
}

/// The pod's namespaces.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `None` with `hostNetwork`.
    pub net: Option<Arc<OwnedFd>>,
    pub ipc: Option<Arc<OwnedFd>>,
    pub uts: Option<Arc<OwnedFd>>,
    pub init_pid: Option<i32>,
}

/// A process's own three descriptors.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// The controlling end of a pseudo terminal (`kernelet_sys::terminal::resize` resizes it).
pub type Terminal = OwnedFd;

impl Shim {
    /// Starts a pod's shim. A failure leaves no process and no cgroup.
    pub async fn spawn(options: SpawnOptions) -> Result<Shim, SpawnError> {
        let options = Arc::new(options);
        let theirs = options.clone();
        let task = tokio::task::spawn_blocking(move || spawn::spawn(&theirs));
        let spawned = task.await.expect("spawn() has nothing that panics");
        let result = match spawned {
            Err(e) => Err(e),
            Ok((process, socket)) => match connection::greet(socket).await {
                Ok(greeted) if greeted.hello.pid == process.pid => {
                    Connection::start(greeted, spawn::socket_path(&options.dir))
                        .map_err(SpawnError::Hello)
                }
                other => {
                    // It may have died of something it wrote to its log; its status is all we have.
                    let _ = process::pidfd_send_signal(process.pidfd.as_fd(), nix::libc::SIGKILL);
                    let reap =
                        tokio::task::spawn_blocking(move || process::wait(process.pidfd.as_fd()));
                    let _ = reap.await;
                    Err(SpawnError::Hello(other.err().unwrap_or(ShimError::Gone)))
                }
            },
        };
        match result {
            Ok(connection) => Ok(Shim {
                connection,
                options,
            }),
            Err(e) => {
                let undo = move || {
                    options
                        .layout
                        .group(&options.cgroup)
                        .remove(Duration::from_secs(1))
                };
                let _ = tokio::task::spawn_blocking(undo).await;
                Err(e)
            }
        }
    }

    /// Takes over the shim of a former agent. It is who it says when the process that listens (by
    /// SO_PEERCRED) is the one it sent a descriptor of, is root's, was started when it says, in this
    /// boot, for this pod.
    pub async fn adopt(options: SpawnOptions) -> Result<Shim, AdoptError> {
        let path = spawn::socket_path(&options.dir);
        let gone = |e: kernelet_sys::SysError| AdoptError::Gone {
            path: path.clone(),
            source: e.errno.into(),
        };
        let socket = socket::connect(&path).map_err(gone)?;
        let peer = socket::peer(socket.as_fd()).map_err(gone)?;
        let impostor = |reason: &str| AdoptError::Impostor {
            path: path.clone(),
            reason: reason.into(),
        };
        if peer.uid() != 0 {
            return Err(impostor("it is not root's"));
        }
        let greeted = connection::greet(socket)
            .await
            .map_err(|source| AdoptError::Hello {
                path: path.clone(),
                source,
            })?;
        let hello = &greeted.hello;
        if hello.pod != options.uid.as_str() {
            return Err(impostor("it is another pod's"));
        }
        if hello.pid != peer.pid()
            || process::pid_of(greeted.pidfd.as_fd()).ok().flatten() != Some(hello.pid)
        {
            return Err(impostor(
                "the process that listens is another than the one that answers",
            ));
        }
        if process::boot_id().ok().as_deref() != Some(hello.boot_id.as_str()) {
            return Err(impostor("it is of another boot"));
        }
        let started = fd::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)
            .and_then(|proc| process::start_time(proc.as_fd(), hello.pid));
        if started != Ok(hello.start_time) {
            return Err(impostor("it was started at another time than it says"));
        }
        let connection =
            Connection::start(greeted, path.clone()).map_err(|source| AdoptError::Hello {
                path: path.clone(),
                source,
            })?;
        Ok(Shim {
            connection,
            options: Arc::new(options),
        })
    }

    /// How containers of a shim that is gone ended, as far as it had written that before.
    pub fn records(dir: &Path) -> std::io::Result<BTreeMap<ContainerId, ExitRecord>> {
        let exited = |state: ContainerState| match state.phase {
            Phase::Exited(record) => Some((state.id, record)),
            Phase::Created { .. } | Phase::Running { .. } => None,
        };
        Ok(Self::recorded_states(dir)?
            .into_values()
            .filter_map(exited)
            .collect())
    }

    /// What a shim that is gone had on record: every container that was started and not acknowledged
    /// or removed. One that is `Running` here has an unknown end.
    pub fn recorded_states(dir: &Path) -> std::io::Result<BTreeMap<ContainerId, ContainerState>> {
        let boot_id = process::boot_id().map_err(|e| std::io::Error::from(e.errno))?;
        record::read_all(&spawn::records_path(dir), &boot_id)
    }

    /// The pod's state, as a level: it always holds the newest.
    pub fn watch(&self) -> watch::Receiver<Observed> {
        self.connection.watch()
    }

    pub fn pid(&self) -> i32 {
        self.connection.pid
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.options.layout
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ShimError> + Send + 'static,
    ) -> Result<T, ShimError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) => Err(ShimError::Protocol(format!("a helper thread ended: {e}"))),
        }
    }

    pub(crate) async fn call(
        &self,
        name: &'static str,
        call: Call,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), ShimError> {
        self.connection
            .call(name, call, descriptors, ANSWER_WITHIN)
            .await
    }

    pub(crate) fn cgroup_of(&self, id: &ContainerId) -> Result<String, ShimError> {
        let observed = self.connection.watch();
        let observed = observed.borrow();
        match observed.state.containers.get(id) {
            Some(container) => Ok(container.cgroup.clone()),
            None => Err(ShimError::Refused(crate::Failure {
                kind: crate::FailureKind::NotFound,
                what: format!("the pod has no container {id}"),
                errno: None,
            })),
        }
    }

    /// Makes the pod's namespaces, its `/dev/shm` and, for a shared process namespace, its init.
    pub async fn create_sandbox(&self, plan: &SandboxPlan) -> Result<Sandbox, ShimError> {
        kernelet_spec::validate_sandbox(plan)?;
        let mut join = None;
        if plan.share_process_namespace {
            let (layout, path) = (self.layout().clone(), plan.init_cgroup.clone());
            let made = self.blocking(move || {
                let group = layout.group(&path);
                group
                    .create(&Default::default())
                    .map_err(sys("make the init's cgroup"))?;
                group.join().map_err(sys("open the init's cgroup"))
            });
            join = Some(made.await?);
        }
        let call = Call::CreateSandbox {
            plan: plan.clone(),
            init: join.as_ref().map(create::layout_of),
        };
        let mut descriptors: Vec<BorrowedFd<'_>> =
            join.iter().flat_map(create::join_descriptors).collect();
        if join.is_some() {
            let program = spawn::init_program().map_err(sys("load the pod's init"))?;
            descriptors.push(program.as_fd());
        }
        let (answer, got) = self.call("create sandbox", call, &descriptors).await?;
        sandbox(answer, got)
    }

    /// The sandbox's descriptors again, after an adoption; `None` when it isn't made yet.
    pub async fn sandbox(&self) -> Result<Option<Sandbox>, ShimError> {
        match self.call("sandbox", Call::Sandbox, &[]).await {
            Ok((answer, got)) => sandbox(answer, got).map(Some),
            Err(ShimError::Refused(f)) if f.kind == crate::FailureKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes (or finds again) a tmpfs of the pod; the answer is its root folder, to be filled.
    pub async fn create_volume(&self, plan: &VolumePlan) -> Result<OwnedFd, ShimError> {
        let (_, got) = self
            .call("create volume", Call::CreateVolume(plan.clone()), &[])
            .await?;
        let missing = || ShimError::Protocol("a volume came without its descriptor".into());
        got.into_iter().next().ok_or_else(missing)
    }

    /// Makes the cgroup, the root, the mounts and the process, which then waits to be started.
    /// Returns its pid. A failure leaves nothing behind.
    pub async fn create(&self, plan: &ContainerPlan) -> Result<i32, ShimError> {
        self.create_with(plan, None).await
    }

    /// The same with descriptors of the caller's as the process's own three.
    pub async fn create_with(
        &self,
        plan: &ContainerPlan,
        stdio: Option<Stdio>,
    ) -> Result<i32, ShimError> {
        kernelet_spec::validate(plan)?;
        let filter = create::filter(&plan.process)?;
        let (theirs, layout) = (plan.clone(), self.layout().clone());
        let prepared = self
            .blocking(move || create::prepare(&theirs, &layout, stdio))
            .await?;
        let message = prepared.message(plan, self.layout(), filter);
        let call = Call::CreateContainer(Box::new(message));
        let answered = self
            .call("create container", call, &prepared.descriptors())
            .await;
        match answered {
            Ok((Answer::Created { pid }, _)) => Ok(pid),
            Ok(_) => Err(ShimError::Protocol(
                "create was not answered by its pid".into(),
            )),
            Err(e) => {
                let refused_twice =
                    matches!(&e, ShimError::Refused(f) if f.kind == crate::FailureKind::Conflict);
                // A second create of the same container must not take the first one's cgroup away.
                if !refused_twice {
                    let (theirs, layout) = (plan.clone(), self.layout().clone());
                    let undo = move || {
                        create::undo(&theirs, &layout);
                        Ok(())
                    };
                    self.blocking(undo).await?;
                }
                Err(e)
            }
        }
    }

    /// Lets a created container run. When its command can't be executed, the container has exited
    /// with 128, and the error says why.
    pub async fn start(&self, id: &ContainerId) -> Result<SystemTime, ShimError> {
        match self.call("start", Call::Start(id.clone()), &[]).await? {
            (Answer::Started { at }, _) => Ok(at),
            _ => Err(ShimError::Protocol(
                "start was not answered by its time".into(),
            )),
        }
    }

    /// A signal for the container's first process; ended already is no error.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), ShimError> {
        self.call(
            "signal",
            Call::Signal {
                id: id.clone(),
                signal,
            },
            &[],
        )
        .await
        .map(drop)
    }

    /// Kills everything in the container's cgroup. Works without the shim's help.
    pub async fn kill(&self, id: &ContainerId) -> Result<(), ShimError> {
        let (layout, cgroup) = (self.layout().clone(), self.cgroup_of(id)?);
        self.blocking(move || {
            layout
                .group(&cgroup)
                .kill()
                .map_err(sys("kill the container"))
        })
        .await
    }

    /// The exit record has been reported: it may leave the disk.
    pub async fn acknowledge(&self, id: &ContainerId) -> Result<(), ShimError> {
        self.call("acknowledge", Call::Acknowledge(id.clone()), &[])
            .await
            .map(drop)
    }

    /// Forgets an exited container and removes its cgroup. One that is gone already is no error.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), ShimError> {
        let cgroup = match self.cgroup_of(id) {
            Ok(cgroup) => Some(cgroup),
            Err(ShimError::Refused(f)) if f.kind == crate::FailureKind::NotFound => None,
            Err(e) => return Err(e),
        };
        self.call("remove", Call::Remove(id.clone()), &[]).await?;
        let Some(cgroup) = cgroup else {
            return Ok(());
        };
        let layout = self.layout().clone();
        let remove = move || {
            let group = layout.group(&cgroup);
            // With a shared or the host's process namespace, the first process's end isn't all's.
            group
                .kill()
                .map_err(sys("kill what is left in the container"))?;
            group
                .remove(Duration::from_secs(5))
                .map_err(sys("remove the container's cgroup"))
        };
        self.blocking(remove).await
    }

    /// Ends the shim: politely while it answers, with SIGKILL after the deadline (a stopped one).
    /// The pod's processes have ended before, through their cgroup; the caller goes on with
    /// [`crate::cleanup`]. Refused while the shim says that processes are left.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), ShimError> {
        let asked = self
            .connection
            .call("shutdown", Call::Shutdown, &[], deadline)
            .await;
        match asked {
            Ok(_) | Err(ShimError::Gone) => {}
            Err(ShimError::Refused(failure)) => return Err(ShimError::Refused(failure)),
            Err(_) => self.kill_shim()?,
        }
        let mut observed = self.watch();
        let dead = observed.wait_for(|o| o.liveness == Liveness::Dead);
        if tokio::time::timeout(deadline, dead).await.is_ok() {
            return Ok(());
        }
        self.kill_shim()?;
        let mut observed = self.watch();
        let dead = observed.wait_for(|o| o.liveness == Liveness::Dead);
        match tokio::time::timeout(Duration::from_secs(10), dead).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ShimError::Silent {
                call: "SIGKILL",
                seconds: 10,
            }),
        }
    }

    fn kill_shim(&self) -> Result<(), ShimError> {
        process::pidfd_send_signal(self.connection.pidfd.get_ref().as_fd(), nix::libc::SIGKILL)
            .map_err(sys("kill the shim"))
    }
}

fn sandbox(answer: Answer, got: Vec<OwnedFd>) -> Result<Sandbox, ShimError> {
    let Answer::Sandbox {
        net,
        ipc,
        uts,
        init_pid,
    } = answer
    else {
        return Err(ShimError::Protocol(
            "the sandbox was not answered by itself".into(),
        ));
    };
    let mut got = got.into_iter();
    let mut take = |present: bool| match present {
        false => Ok(None),
        true => match got.next() {
            Some(fd) => Ok(Some(Arc::new(fd))),
            None => Err(ShimError::Protocol(
                "a namespace came without its descriptor".into(),
            )),
        },
    };
    Ok(Sandbox {
        net: take(net)?,
        ipc: take(ipc)?,
        uts: take(uts)?,
        init_pid,
    })
}
