//! Resizing in place: what the containers of a running pod have, and what they shall have now.
//!
//! ```text
//!   spec (wanted) ──┐
//!   actuated ───────┴─► differ? ─► the node has room? ── no ─► PodResizePending
//!   (of each run, and of the pod's cgroup)    └─ yes ─► PodResizeInProgress: Step::ResizePod, or the container's end
//!                                                       where its resizePolicy asks for a restart
//! ```
//! Deliberately without a look at the node's other pods: a resize is infeasible when the node as a whole is too small,
//! and never deferred.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use crate::{
    ContainerId, Observed, Role, Run, Stop, Wanted,
    cgroup::PodCgroup,
    quantity,
    resources::{CgroupLimits, limited, pod_request, requested},
};

/// What a resize has to do. Nothing: `None` in [`pending`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pending {
    /// Running containers whose cgroups take the new limits as they run.
    pub in_place: Vec<(String, ContainerId)>,
    /// Running containers that must be started again for them.
    pub restarts: Vec<String>,
    /// The pod's own cgroup has other limits.
    pub pod: bool,
    /// Why this node can't do it at all.
    pub infeasible: Option<String>,
}

/// The resources that can be resized, in thousandths.
fn share(resources: Option<&ResourceRequirements>) -> [Option<i128>; 4] {
    let milli = |q: Option<&_>| q.and_then(quantity::milli);
    [
        milli(requested(resources, "cpu")),
        milli(limited(resources, "cpu")),
        milli(requested(resources, "memory")),
        milli(limited(resources, "memory")),
    ]
}

fn resizable(role: Role) -> bool {
    matches!(role, Role::Main | Role::Sidecar)
}

/// Whether a change from `old` must restart the container.
fn needs_restart(container: &Container, old: &ResourceRequirements) -> bool {
    let (new, old) = (share(container.resources.as_ref()), share(Some(old)));
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|p| p.restart_policy == "RestartContainer")
        .any(|p| match p.resource_name.as_str() {
            "cpu" => new[..2] != old[..2],
            "memory" => new[2..] != old[2..],
            _ => false,
        })
}

/// What differs between the pod as it is wanted and as it runs.
pub(crate) fn pending(wanted: &Wanted, observed: &Observed) -> Option<Pending> {
    let mut pending = Pending::default();
    for (_, container) in wanted.containers().filter(|(role, _)| resizable(*role)) {
        let Some(c) = observed.containers.get(&container.name) else {
            continue;
        };
        let (Run::Running { id, stop, .. }, Some(old)) = (&c.run, &c.actuated) else {
            continue;
        };
        if share(container.resources.as_ref()) == share(Some(old)) {
            continue;
        }
        if needs_restart(container, old) {
            pending.restarts.push(container.name.clone());
        } else if *stop == Stop::No {
            pending.in_place.push((container.name.clone(), id.clone()));
        }
    }
    let limits = PodCgroup::of(&wanted.node.cgroup_root, wanted).limits;
    pending.pod = observed.pod_limits.is_some_and(|now| now != limits);
    if pending == Pending::default() {
        return None;
    }
    pending.infeasible = infeasible(wanted);
    Some(pending)
}

/// Why this node can't give the pod what it asks for now.
pub fn infeasible_resize(wanted: &Wanted, observed: &Observed) -> Option<String> {
    pending(wanted, observed)?.infeasible
}

fn infeasible(wanted: &Wanted) -> Option<String> {
    let spec = wanted.spec();
    let cpu = pod_request(spec, "cpu", false).unwrap_or(0);
    let memory = pod_request(spec, "memory", false).unwrap_or(0) / 1000;
    let (cpus, bytes) = (
        i128::from(wanted.node.cpus) * 1000,
        i128::from(wanted.node.memory_bytes),
    );
    let what = if memory > bytes {
        format!("memory, requested: {memory}, capacity: {bytes}")
    } else if cpu > cpus {
        format!("cpu, requested: {cpu}, capacity: {cpus}")
    } else {
        return None;
    };
    Some(format!("Node didn't have enough capacity: {what}"))
}

/// What a container that is to be made gets: what the spec says, or what it had where the node can't give that.
pub(crate) fn allocated(
    wanted: &Wanted,
    observed: &Observed,
    container: &Container,
) -> ResourceRequirements {
    let own = || container.resources.clone().unwrap_or_default();
    let had = observed
        .containers
        .get(&container.name)
        .and_then(|c| c.actuated.as_ref());
    match had {
        Some(had) if share(container.resources.as_ref()) != share(Some(had)) => {
            match infeasible(wanted) {
                Some(_) => had.clone(),
                None => own(),
            }
        }
        _ => own(),
    }
}

/// The limits of a pod's cgroup as the containers' statuses tell of them.
pub(crate) fn told_limits(wanted: &Wanted) -> Option<CgroupLimits> {
    let status = wanted.pod.status.as_ref()?;
    let mut spec: PodSpec = wanted.spec().clone();
    let statuses = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    for told in statuses.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some())) {
        let containers = spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten());
        for container in containers.filter(|c| c.name == told.name) {
            container.resources = told.resources.clone();
        }
    }
    Some(CgroupLimits::of_pod(&spec, wanted.node.pod_pids))
}
