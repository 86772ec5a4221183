//! What the agent prepares for a container: the cgroup, the sources of mounts, the filter.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use kernelet_container::{CgroupView, CreateError, Sources, open_sources};
use kernelet_shim::protocol::{ContainerDescriptors, CreateContainer, JoinLayout, WireCgroupView};
use kernelet_spec::{ContainerPlan, ProcessPlan};
use kernelet_sys::{
    SysError,
    cgroup::{Join, Layout},
    seccomp,
};

use crate::{Failure, FailureKind, ShimError, Stdio};

/// All descriptors of a creation, in no order yet.
pub(crate) struct Prepared {
    sources: Sources,
    join: Join,
    oom_counter: Option<OwnedFd>,
    stdio: Option<Stdio>,
}

pub(crate) fn refused(error: CreateError) -> ShimError {
    ShimError::Refused(Failure {
        kind: FailureKind::Kernel,
        what: error.line(),
        errno: error.errno.map(|e| e as i32),
    })
}

pub(crate) fn sys(step: impl Into<String>) -> impl FnOnce(SysError) -> ShimError {
    let step = step.into();
    move |source| ShimError::Prepare { step, source }
}

/// The plan's filter, compiled.
pub(crate) fn filter(process: &ProcessPlan) -> Result<Option<Vec<u8>>, ShimError> {
    match seccomp::filter_for(&process.seccomp, process.capabilities.bounding) {
        Ok(filter) => Ok(filter.map(|filter| filter.to_bytes())),
        Err(e) => Err(ShimError::Refused(Failure {
            kind: FailureKind::Invalid,
            what: e.to_string(),
            errno: None,
        })),
    }
}

pub(crate) fn layout_of(join: &Join) -> JoinLayout {
    JoinLayout {
        v2: join.v2.is_some(),
        v1: join.v1.len() as u16,
    }
}

pub(crate) fn join_descriptors(join: &Join) -> impl Iterator<Item = BorrowedFd<'_>> {
    join.v2.iter().chain(&join.v1).map(AsFd::as_fd)
}

/// Blocking. A failure leaves no cgroup behind.
pub(crate) fn prepare(
    plan: &ContainerPlan,
    layout: &Arc<Layout>,
    stdio: Option<Stdio>,
) -> Result<Prepared, ShimError> {
    // Sources first: they fail most often (a missing host path), and have nothing to be undone.
    let sources = open_sources(plan).map_err(refused)?;
    let group = layout.group(&plan.cgroup);
    let made = group
        .create(&plan.resources)
        .map_err(sys("make the container's cgroup"))
        .and_then(|()| group.join().map_err(sys("open the container's cgroup")));
    match made {
        Ok(join) => Ok(Prepared {
            sources,
            join,
            oom_counter: group.oom_counter(),
            stdio,
        }),
        Err(e) => {
            undo(plan, layout);
            Err(e)
        }
    }
}

/// Removes what [`prepare`] has made.
pub(crate) fn undo(plan: &ContainerPlan, layout: &Layout) {
    let group = layout.group(&plan.cgroup);
    let _ = group.kill();
    if let Err(e) = group.remove(Duration::from_secs(1)) {
        tracing::warn!(cgroup = plan.cgroup, error = %crate::cleanup::line(&e), "a cgroup stays behind");
    }
}

impl Prepared {
    /// The message's part about descriptors.
    pub(crate) fn message(
        &self,
        plan: &ContainerPlan,
        layout: &Layout,
        filter: Option<Vec<u8>>,
    ) -> CreateContainer {
        let view = CgroupView::of(layout);
        CreateContainer {
            plan: plan.clone(),
            descriptors: ContainerDescriptors {
                sources: self
                    .sources
                    .mounts
                    .keys()
                    .map(|index| *index as u16)
                    .collect(),
                join: layout_of(&self.join),
                oom_counter: self.oom_counter.is_some(),
                stdio: self.stdio.is_some(),
            },
            filter,
            cgroup_view: WireCgroupView {
                v1: view.v1,
                v2: view.v2,
            },
        }
    }

    /// In the order that the protocol says.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.sources.root.as_fd()];
        all.extend(self.sources.mounts.values().map(AsFd::as_fd));
        all.extend(join_descriptors(&self.join));
        all.extend(self.oom_counter.as_ref().map(AsFd::as_fd));
        if let Some(stdio) = &self.stdio {
            all.extend([
                stdio.stdin.as_fd(),
                stdio.stdout.as_fd(),
                stdio.stderr.as_fd(),
            ]);
        }
        all
    }
}
