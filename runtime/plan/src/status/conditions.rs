//! The pod's conditions, with upstream's reasons and messages. A transition time changes only with its status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::{Phase, whole_seconds};
use crate::{Observed, Role, Wanted, resize};

/// The condition types that this node owns; others in the API's list are left alone.
pub(super) const OWN: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    PENDING,
    IN_PROGRESS,
];

/// Those that are there only while they hold.
pub(super) const PASSING: [&str; 2] = [PENDING, IN_PROGRESS];
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// How a resize stands.
pub(super) fn resize(
    wanted: &Wanted,
    observed: &Observed,
    known: Option<&PodStatus>,
    now: Timestamp,
) -> Option<PodCondition> {
    let pending = resize::pending(wanted, observed)?;
    let (type_, reason, message) = match (pending.infeasible, observed.resize.failure()) {
        (Some(why), _) => (PENDING, Some("Infeasible"), Some(why)),
        (None, Some(failure)) => (IN_PROGRESS, Some("Error"), Some(failure.message.clone())),
        (None, None) => (IN_PROGRESS, None, None),
    };
    let before = known.and_then(|s| find(s, type_));
    Some(PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_probe_time: None,
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(whole_seconds(now))),
        observed_generation: wanted.pod.metadata.generation,
    })
}

pub(super) fn conditions(
    wanted: &Wanted,
    status: &PodStatus,
    phase: Phase,
    sandbox: bool,
    known: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers = containers_ready(wanted, status, phase);
    let ready = ready(wanted, &containers, phase);
    let sandbox = Verdict {
        holds: sandbox,
        reason: None,
        message: None,
    };
    let scheduled = Verdict::holds();
    let generation = wanted.pod.metadata.generation;
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(wanted, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", scheduled),
    ]
    .into_iter()
    .map(|(type_, verdict)| {
        let text = if verdict.holds { "True" } else { "False" };
        let from_api = || wanted.pod.status.as_ref();
        let before = known
            .or_else(from_api)
            .and_then(|s| find(s, type_))
            .filter(|c| c.status == text);
        PodCondition {
            type_: type_.to_owned(),
            status: text.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_probe_time: None,
            last_transition_time: before
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(whole_seconds(now))),
            observed_generation: generation,
        }
    })
    .collect()
}

#[derive(Clone)]
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn holds() -> Self {
        Self {
            holds: true,
            reason: None,
            message: None,
        }
    }

    fn not(reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds: false,
            reason: Some(reason),
            message,
        }
    }
}

fn find<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == type_)
}

fn initialized(wanted: &Wanted, status: &PodStatus, phase: Phase) -> Verdict {
    let incomplete: Vec<&str> = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|s| match wanted.container(&s.name) {
            Some((Role::Sidecar, _)) => s.started != Some(true),
            _ => !s.ready,
        })
        .map(|s| s.name.as_str())
        .collect();
    if phase == Phase::Succeeded {
        return Verdict {
            reason: Some("PodCompleted"),
            ..Verdict::holds()
        };
    }
    // Once a main container has run, what happens to sidecars no longer speaks against the initialization.
    let begun = status
        .container_statuses
        .iter()
        .flatten()
        .any(|s| s.container_id.is_some());
    if incomplete.is_empty() || begun {
        return Verdict::holds();
    }
    let message = format!(
        "containers with incomplete status: [{}]",
        incomplete.join(" ")
    );
    Verdict::not("ContainersNotInitialized", Some(message))
}

fn containers_ready(wanted: &Wanted, status: &PodStatus, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict::not("PodCompleted", None),
        Phase::Failed => return Verdict::not("PodFailed", None),
        Phase::Pending | Phase::Running => {}
    }
    let sidecar =
        |s: &&ContainerStatus| matches!(wanted.container(&s.name), Some((Role::Sidecar, _)));
    let counted = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(sidecar);
    let unready: Vec<&str> = counted
        .chain(status.container_statuses.iter().flatten())
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::holds();
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::not("ContainersNotReady", Some(message))
}

fn ready(wanted: &Wanted, containers: &Verdict, phase: Phase) -> Verdict {
    if !containers.holds || matches!(phase, Phase::Succeeded | Phase::Failed) {
        return containers.clone();
    }
    let mut missing = Vec::new();
    for gate in wanted.spec().readiness_gates.iter().flatten() {
        let condition = wanted
            .pod
            .status
            .as_ref()
            .and_then(|s| find(s, &gate.condition_type));
        match condition {
            None => missing.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Verdict::holds();
    }
    Verdict::not("ReadinessGatesNotReady", Some(missing.join(", ")))
}
