//! Processes added to a running container.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use kernelet_shim::protocol::{self, Answer, Call, ExecExit, ExecStdio};
use kernelet_spec::{ContainerId, ExecPlan};
use tokio::sync::oneshot;

use crate::{
    ShimError, Stdio, Terminal,
    connection::Connection,
    create::{self, sys},
    shim::{ANSWER_WITHIN, Shim},
};

/// Where an exec's input and output go.
#[derive(Debug)]
pub enum ExecIo {
    /// Kept, up to so many bytes, for probes.
    Capture { limit: u32 },
    /// The process's own three. Ignored with a terminal.
    Passed(Stdio),
}

/// A running exec. Dropping it kills the process.
#[derive(Debug)]
pub struct Exec {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The controlling end, if the plan has a terminal.
    pub terminal: Option<Terminal>,
    exit: Option<oneshot::Receiver<ExecExit>>,
    id: u64,
    connection: Arc<Connection>,
}

impl Exec {
    /// Waits for its end.
    pub async fn wait(mut self) -> Result<ExecExit, ShimError> {
        // Taken out only when it has come: a caller that stops waiting drops us, which kills.
        let Some(exit) = self.exit.as_mut() else {
            return Err(ShimError::Gone);
        };
        let exit = exit.await.map_err(|_| ShimError::Gone);
        self.exit = None;
        exit
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.exit.is_none() {
            return;
        }
        let (connection, id) = (self.connection.clone(), self.id);
        // Without a runtime the agent is ending, and its execs end with its connection.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = connection
                    .call("kill exec", Call::KillExec(id), &[], ANSWER_WITHIN)
                    .await;
            });
        }
    }
}

impl Shim {
    /// One more process in a running container.
    pub async fn exec(
        &self,
        id: &ContainerId,
        plan: &ExecPlan,
        io: ExecIo,
    ) -> Result<Exec, ShimError> {
        let cgroup = self.cgroup_of(id)?;
        let layout = self.layout().clone();
        let join = self
            .blocking(move || {
                layout
                    .group(&cgroup)
                    .join()
                    .map_err(sys("open the container's cgroup"))
            })
            .await?;
        let (stdio, passed) = match io {
            ExecIo::Capture { limit } => (ExecStdio::Capture { limit }, None),
            ExecIo::Passed(passed) => (ExecStdio::Passed, Some(passed)),
        };
        let message = protocol::Exec {
            container: id.clone(),
            plan: plan.clone(),
            filter: create::filter(&plan.process)?,
            join: create::layout_of(&join),
            stdio,
        };
        let mut descriptors: Vec<BorrowedFd<'_>> = create::join_descriptors(&join).collect();
        if let Some(stdio) = passed.as_ref().filter(|_| !plan.terminal) {
            descriptors.extend([
                stdio.stdin.as_fd(),
                stdio.stdout.as_fd(),
                stdio.stderr.as_fd(),
            ]);
        }
        let connection = self.connection().clone();
        let call = Call::Exec(Box::new(message));
        let (answer, got) = connection
            .call("exec", call, &descriptors, ANSWER_WITHIN)
            .await?;
        let mut got = got.into_iter();
        match (answer, got.next()) {
            (Answer::ExecStarted { exec, pid }, Some(pidfd)) => Ok(Exec {
                pid,
                pidfd,
                terminal: got.next(),
                exit: Some(connection.exec_exit(exec)),
                id: exec,
                connection,
            }),
            _ => Err(ShimError::Protocol(
                "exec was not answered by its start".into(),
            )),
        }
    }
}
