//! A pod's status from what was observed: phase, conditions, container statuses, in upstream's words.
//!
//! Drives nothing: [`pod_status`] is a function of its arguments, and [`difference`] says whether the API must be
//! told at once. The patch that tells it is made in [`status_patch`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, HostIP, PodIP, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    ContainerId, Finished, Hook, ImageStage, Observed, ObservedContainer, Role, Run, Stage, Stop,
    Teardown, Wanted, back_off::go_seconds, planner, probe::ProbeAnswer, resize,
    resources::QosClass,
};

mod conditions;
mod patch;
#[cfg(test)]
mod tests;

pub(crate) use patch::normalized;
pub use patch::status_patch;

/// The status that the API should have now.
pub fn pod_status(wanted: &Wanted, observed: &Observed, now: Timestamp) -> PodStatus {
    let spec = wanted.spec();
    let down = goes_down(wanted, observed);
    let render = |role_wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        wanted
            .containers()
            .filter(|(role, _)| role_wanted(*role))
            .map(|(role, c)| container_status(wanted, observed, role, c, now, down))
            .collect()
    };
    let init = render(Role::is_init);
    let main = render(|r| r == Role::Main);
    let ephemeral = render(|r| r == Role::Ephemeral);
    let ended = down && nothing_runs(observed);
    let phase = match &observed.failed {
        Some(_) if ended => Phase::Failed,
        _ => phase(wanted, observed, &init, &main, ended),
    };
    let (reason, message) = observed
        .failed
        .clone()
        .map_or((None, None), |(r, m)| (Some(r), Some(m)));
    let ips: Vec<String> = match (wanted.host_network(), &observed.ips) {
        (true, _) if observed.start_time.is_some() => wanted
            .node
            .host_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        (false, ips) => ips.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let host_ips = &wanted.node.host_ips;
    let generation = wanted.pod.metadata.generation;
    let mut status = PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason,
        message,
        host_ip: host_ips.first().map(ToString::to_string),
        host_ips: some(
            host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: observed.start_time.map(whole_seconds),
        qos_class: Some(QosClass::of(spec).as_str().to_owned()),
        observed_generation: generation,
        init_container_statuses: some(init),
        container_statuses: some(main),
        ephemeral_container_statuses: some(ephemeral),
        ..PodStatus::default()
    };
    let sandbox = observed.sandbox.is_done()
        && (wanted.host_network() || observed.network.is_done())
        && matches!(observed.teardown, Teardown::NotBegun);
    let known = observed.reported.status.as_ref();
    let mut conditions = conditions::conditions(wanted, &status, phase, sandbox, known, now);
    if matches!(phase, Phase::Pending | Phase::Running) && !down {
        conditions.extend(conditions::resize(wanted, observed, known, now));
    }
    status.conditions = Some(conditions);
    status
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

pub(crate) fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Whether a sidecar lets the next container start, and `started` in any container's status.
pub(crate) fn is_started(container: &Container, c: &ObservedContainer) -> bool {
    let Run::Running { post_start, .. } = &c.run else {
        return false;
    };
    let hook = container
        .lifecycle
        .as_ref()
        .is_some_and(|l| l.post_start.is_some());
    let hook_settled = !hook || *post_start == Hook::Settled;
    hook_settled && (container.startup_probe.is_none() || c.startup.is(ProbeAnswer::Success))
}

fn is_ready(container: &Container, c: &ObservedContainer) -> bool {
    is_started(container, c)
        && (container.readiness_probe.is_none() || c.readiness.is(ProbeAnswer::Success))
}

/// Whether the pod is on its way down for good, so that nothing in it is started again.
fn goes_down(wanted: &Wanted, observed: &Observed) -> bool {
    wanted.deletion().is_some()
        || observed.failed.is_some()
        || (!observed.rebuild && observed.teardown != Teardown::NotBegun)
        || planner::containers_finished(wanted, observed)
}

fn nothing_runs(observed: &Observed) -> bool {
    !observed.containers.values().any(|c| {
        matches!(
            c.run,
            Run::Running { .. } | Run::Creating { .. } | Run::Created { starting: true, .. }
        )
    })
}

fn phase(
    wanted: &Wanted,
    observed: &Observed,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    ended: bool,
) -> Phase {
    if let Some(phase) = reported_terminal(observed) {
        return phase;
    }
    if ended {
        // Stopped for good: upstream calls a pod whose containers all ended well Succeeded, any other Failed.
        let sidecar = |name: &str| {
            wanted
                .container(name)
                .is_some_and(|(role, _)| role == Role::Sidecar)
        };
        let well = |s: &ContainerStatus| terminated(s).is_some_and(|t| t.exit_code == 0);
        let all = main.iter().all(well) && init.iter().filter(|s| !sidecar(&s.name)).all(well);
        return if all { Phase::Succeeded } else { Phase::Failed };
    }
    let initialized = wanted
        .containers()
        .filter(|(role, _)| role.is_init())
        .all(|(role, c)| {
            observed
                .containers
                .get(&c.name)
                .is_some_and(|o| match role {
                    Role::Init => o.initialized,
                    _ => is_started(c, o) || o.restarts > 0 || o.last.is_some(),
                })
        });
    let main_seen = main
        .iter()
        .any(|s| s.started == Some(true) || s.last_state.is_some() || terminated(s).is_some());
    if !initialized && !main_seen {
        return Phase::Pending;
    }
    let waits = |s: &ContainerStatus| {
        let state = s.state.as_ref();
        state.is_none_or(|st| st.running.is_none() && st.terminated.is_none())
            && s.last_state.as_ref().is_none_or(|l| l.terminated.is_none())
    };
    if main.iter().any(waits) {
        Phase::Pending
    } else {
        Phase::Running
    }
}

/// A phase that was final once stays final.
fn reported_terminal(observed: &Observed) -> Option<Phase> {
    match observed.reported.status.as_ref()?.phase.as_deref()? {
        "Succeeded" => Some(Phase::Succeeded),
        "Failed" => Some(Phase::Failed),
        _ => None,
    }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn container_status(
    wanted: &Wanted,
    observed: &Observed,
    role: Role,
    container: &Container,
    now: Timestamp,
    down: bool,
) -> ContainerStatus {
    static NONE: std::sync::LazyLock<ObservedContainer> =
        std::sync::LazyLock::new(ObservedContainer::default);
    let c = observed.containers.get(&container.name).unwrap_or(&NONE);
    let (state, last) = states(wanted, observed, role, container, c, now, down);
    let current = match &c.run {
        Run::Running { id, .. } => Some(id),
        Run::Exited { finished } => finished.id.as_ref(),
        _ => c.last.as_ref().and_then(|f| f.id.as_ref()),
    };
    let (image, image_id) = match &c.image {
        ImageStage::Found(found) => (found.name.clone(), found.id.clone()),
        _ => (container.image.clone().unwrap_or_default(), String::new()),
    };
    let ready = match (role, &c.run) {
        // Nobody waits for it.
        (Role::Ephemeral, _) => false,
        (Role::Init, Run::Exited { finished }) => finished.exit_code == 0,
        (Role::Init, Run::Running { .. }) => false,
        (
            _,
            Run::Running {
                stop: Stop::No | Stop::PreStop { .. } | Stop::Term { .. } | Stop::Kill { .. },
                ..
            },
        ) => is_ready(container, c),
        _ => false,
    };
    ContainerStatus {
        name: container.name.clone(),
        container_id: current.map(runtime_id),
        image,
        image_id,
        ready,
        started: (role != Role::Ephemeral).then(|| is_started(container, c)),
        restart_count: i32::try_from(c.restarts).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: last,
        allocated_resources: resize::allocated(wanted, observed, container)
            .requests
            .filter(|r| !r.is_empty()),
        resources: actual_resources(container, c),
        ..ContainerStatus::default()
    }
}

/// What the run has, not what the spec asks for.
fn actual_resources(container: &Container, c: &ObservedContainer) -> Option<ResourceRequirements> {
    let actual = match (&c.run, &c.actuated) {
        (Run::Running { .. }, Some(actual)) => Some(actual),
        _ => container.resources.as_ref(),
    };
    let some = |list: &Option<BTreeMap<_, _>>| list.as_ref().is_some_and(|l| !l.is_empty());
    actual
        .filter(|r| some(&r.limits) || some(&r.requests))
        .cloned()
}

/// `state` and `lastState`.
fn states(
    wanted: &Wanted,
    observed: &Observed,
    role: Role,
    container: &Container,
    c: &ObservedContainer,
    now: Timestamp,
    down: bool,
) -> (ContainerState, Option<ContainerState>) {
    let last = c.last.as_ref().map(terminated_state);
    match &c.run {
        Run::Running { started_at, .. } => {
            let running = ContainerStateRunning {
                started_at: Some(whole_seconds(*started_at)),
            };
            (
                ContainerState {
                    running: Some(running),
                    ..ContainerState::default()
                },
                last,
            )
        }
        Run::Exited { finished } => {
            let restarts = !down && wanted.restarts(role, container, finished.exit_code);
            let ended = finished.finished_at.unwrap_or(now);
            match c.back_off.waits_until(ended, now).filter(|_| restarts) {
                Some((delay, _)) => {
                    let message = format!(
                        "back-off {} restarting failed container={} pod={}",
                        go_seconds(delay),
                        container.name,
                        wanted.full_name()
                    );
                    (
                        waiting("CrashLoopBackOff", Some(message)),
                        Some(terminated_state(finished)),
                    )
                }
                None => (terminated_state(finished), last),
            }
        }
        Run::Failed { failure, .. } => (
            waiting(failure.reason.as_str(), Some(failure.message.clone())),
            last,
        ),
        Run::Creating {
            before: Some(failure),
            ..
        } => (
            waiting(failure.reason.as_str(), Some(failure.message.clone())),
            last,
        ),
        Run::Never if down && observed.failed.is_none() && wanted.deletion().is_some() => {
            (never_ran(), last)
        }
        Run::Never | Run::Creating { .. } | Run::Created { .. } => {
            (not_yet(wanted, observed, role, container, c), last)
        }
    }
}

/// A container of a deleted pod that had no chance to run.
fn never_ran() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn not_yet(
    wanted: &Wanted,
    observed: &Observed,
    role: Role,
    container: &Container,
    c: &ObservedContainer,
) -> ContainerState {
    let failure = match &c.image {
        ImageStage::Failed(failure) => Some(failure),
        ImageStage::Busy { before } => before.as_deref(),
        ImageStage::Unknown | ImageStage::Found(_) => None,
    };
    if let Some(failure) = failure {
        let reason = failure.reason.as_str();
        // The first failure is told as it is; while it is tried again, as the waiting between.
        return match reason {
            "ErrImagePull" if failure.back_off.attempts > 1 => {
                let image = container.image.as_deref().unwrap_or_default();
                let message = format!(
                    "Back-off pulling image \"{image}\": ErrImagePull: {}",
                    failure.message
                );
                waiting("ImagePullBackOff", Some(message))
            }
            _ => waiting(reason, Some(failure.message.clone())),
        };
    }
    let uninitialized = wanted
        .containers()
        .filter(|(r, _)| r.is_init())
        .any(|(r, init)| {
            let seen = observed.containers.get(&init.name);
            match r {
                Role::Init => !seen.is_some_and(|o| o.initialized),
                _ => !seen.is_some_and(|o| is_started(init, o)),
            }
        });
    let has_init = wanted
        .spec()
        .init_containers
        .as_ref()
        .is_some_and(|i| !i.is_empty());
    match (role, has_init && uninitialized) {
        (_, true) | (Role::Init | Role::Sidecar, _) => waiting("PodInitializing", None),
        _ if has_init => waiting("PodInitializing", None),
        _ => waiting("ContainerCreating", None),
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn terminated_state(finished: &Finished) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: finished.exit_code,
        reason: Some(finished.reason.clone()),
        message: finished.message.clone(),
        started_at: finished.started_at.map(whole_seconds),
        finished_at: finished.finished_at.map(whole_seconds),
        container_id: finished.id.as_ref().map(runtime_id),
        signal: None,
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// `containerID` as the API writes it.
pub fn runtime_id(id: &ContainerId) -> String {
    format!("kernelet://{id}")
}

/// The API's times have whole seconds.
pub(crate) fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// How our status differs from what the API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    /// Only waiting reasons and the like.
    MayWait,
    Urgent,
}

pub(crate) fn difference(reported: Option<&PodStatus>, ours: &PodStatus) -> Difference {
    let Some(theirs) = reported else {
        return if progressed(&PodStatus::default(), ours) {
            Difference::Urgent
        } else {
            Difference::MayWait
        };
    };
    if patch::same(theirs, ours) {
        Difference::None
    } else if progressed(theirs, ours) {
        Difference::Urgent
    } else {
        Difference::MayWait
    }
}

/// Something that somebody may wait for: a phase, a readiness, a container that runs or has ended.
fn progressed(theirs: &PodStatus, ours: &PodStatus) -> bool {
    let phase = |s: &PodStatus| s.phase.clone().filter(|p| p != "Pending");
    let conditions = |s: &PodStatus| {
        let mut list: Vec<(String, String)> = s
            .conditions
            .iter()
            .flatten()
            .filter(|c| matches!(c.type_.as_str(), "Ready" | "ContainersReady"))
            .map(|c| (c.type_.clone(), c.status.clone()))
            .collect();
        list.retain(|(_, status)| status == "True");
        list
    };
    let containers = |s: &PodStatus| {
        let all = s
            .init_container_statuses
            .iter()
            .flatten()
            .chain(s.container_statuses.iter().flatten())
            .chain(s.ephemeral_container_statuses.iter().flatten());
        all.filter_map(|c| {
            let state = c.state.as_ref()?;
            let ended = state
                .terminated
                .as_ref()
                .map(|t| (t.container_id.clone(), t.exit_code));
            let last = c
                .last_state
                .as_ref()
                .and_then(|l| l.terminated.as_ref())
                .map(|t| t.container_id.clone());
            let runs = state.running.is_some();
            let fails = state
                .waiting
                .as_ref()
                .and_then(|w| w.reason.clone())
                .filter(|r| !matches!(r.as_str(), "ContainerCreating" | "PodInitializing"));
            (runs || ended.is_some() || last.is_some() || fails.is_some()).then(|| {
                (
                    c.name.clone(),
                    runs,
                    ended,
                    last,
                    fails,
                    c.ready,
                    c.restart_count,
                )
            })
        })
        .collect::<Vec<_>>()
    };
    phase(theirs) != phase(ours)
        || conditions(theirs) != conditions(ours)
        || containers(theirs) != containers(ours)
}

impl Observed {
    /// Brings what depends on time alone up to date; the node calls it before each [`crate::plan`].
    pub fn settle(&mut self, wanted: &Wanted, now: Timestamp) {
        self.start_time.get_or_insert(now);
        if self.failed.is_none()
            && planner::deadline(wanted, self).is_some_and(|at| now >= at)
            && reported_terminal(self).is_none()
            && !planner::containers_finished(wanted, self)
        {
            let message = "Pod was active on the node longer than the specified deadline";
            self.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
        }
    }

    /// Whether the last plan found the API's status to differ from ours; since when is what a report may wait by.
    pub fn differs(&mut self, differs: bool, now: Timestamp) {
        self.reported.differs_since = differs.then(|| self.reported.differs_since.unwrap_or(now));
    }

    /// Whether a stage of the ground has failed: its message is what keeps the pod from starting.
    pub fn ground_failure(&self) -> Option<&crate::Failure> {
        [
            &self.folders,
            &self.cgroup,
            &self.shim,
            &self.sandbox,
            &self.network,
        ]
        .into_iter()
        .find_map(Stage::failure)
    }
}
