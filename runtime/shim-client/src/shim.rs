//! A connected shim.

use std::{
    collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration,
    time::SystemTime,
};

use kernelet_shim::protocol::{ExecExit, PodState, VolumePlan};
use kernelet_spec::{ContainerId, ContainerPlan, ExecPlan, PodUid, SandboxPlan};
use kernelet_sys::cgroup::Layout;
use tokio::sync::watch;

use crate::{AdoptError, ShimError, SpawnError};

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
pub struct Shim {}

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

/// Where an exec's input and output go.
#[derive(Debug)]
pub enum ExecIo {
    /// Kept, up to so many bytes, for probes.
    Capture {
        limit: u32,
    },
    Passed(Stdio),
}

/// The controlling end of a pseudo terminal.
pub type Terminal = OwnedFd;

/// A running exec. Dropping it kills the process.
#[derive(Debug)]
pub struct Exec {
    pub pid: i32,
    pub terminal: Option<Terminal>,
}

impl Exec {
    /// Waits for its end.
    pub async fn wait(self) -> Result<ExecExit, ShimError> {
        todo!()
    }
}

impl Shim {
    /// Starts a pod's shim.
    pub async fn spawn(options: SpawnOptions) -> Result<Shim, SpawnError> {
        let _ = options;
        todo!()
    }

    /// Takes over the shim of a former agent.
    pub async fn adopt(options: SpawnOptions) -> Result<Shim, AdoptError> {
        let _ = options;
        todo!()
    }

    /// Exit records of a shim that is gone, by container: what it had written before it died.
    pub fn records(
        dir: &std::path::Path,
    ) -> std::io::Result<BTreeMap<ContainerId, crate::ExitRecord>> {
        let _ = dir;
        todo!()
    }

    /// The pod's state, as a level: it always holds the newest.
    pub fn watch(&self) -> watch::Receiver<Observed> {
        todo!()
    }

    pub fn pid(&self) -> i32 {
        todo!()
    }

    pub async fn create_sandbox(&self, plan: &SandboxPlan) -> Result<Sandbox, ShimError> {
        let _ = plan;
        todo!()
    }

    /// Again the sandbox's descriptors, after an adoption.
    pub async fn sandbox(&self) -> Result<Option<Sandbox>, ShimError> {
        todo!()
    }

    /// Makes (or finds again) a tmpfs of the pod; the answer is its root folder, to be filled.
    pub async fn create_volume(&self, plan: &VolumePlan) -> Result<OwnedFd, ShimError> {
        let _ = plan;
        todo!()
    }

    /// Makes the cgroup, the root, the mounts and the process, which then waits to be started.
    pub async fn create(&self, plan: &ContainerPlan) -> Result<i32, ShimError> {
        let _ = plan;
        todo!()
    }

    pub async fn start(&self, id: &ContainerId) -> Result<SystemTime, ShimError> {
        let _ = id;
        todo!()
    }

    /// A signal for the container's first process; ended already is no error.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), ShimError> {
        let _ = (id, signal);
        todo!()
    }

    /// Kills everything in the container's cgroup. Works without the shim's help.
    pub async fn kill(&self, id: &ContainerId) -> Result<(), ShimError> {
        let _ = id;
        todo!()
    }

    /// One more process in a running container.
    pub async fn exec(
        &self,
        id: &ContainerId,
        plan: &ExecPlan,
        io: ExecIo,
    ) -> Result<Exec, ShimError> {
        let _ = (id, plan, io);
        todo!()
    }

    /// The exit record has been reported: it may leave the disk.
    pub async fn acknowledge(&self, id: &ContainerId) -> Result<(), ShimError> {
        let _ = id;
        todo!()
    }

    /// Forgets an exited container and removes its cgroup.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), ShimError> {
        let _ = id;
        todo!()
    }

    /// Ends the shim: politely while it answers, with SIGKILL after the deadline. The pod's
    /// containers have ended before (through their cgroup); the caller goes on with
    /// [`crate::cleanup`].
    pub async fn shutdown(self, deadline: Duration) -> Result<(), ShimError> {
        let _ = deadline;
        todo!()
    }
}
