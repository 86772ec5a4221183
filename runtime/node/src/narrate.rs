//! A pod's events, in upstream's words: what its steps did, and why it waits.

use std::collections::HashMap;

use kernelet_client::EventType;
use kernelet_pod_plan::{
    FailureReason, Observed, Outcome, Role, Run, Step, Wanted, infeasible_resize, probe::ProbeKind,
};
use serde_json::{Map, Value, json};

use crate::{pod::PodHome, steps::field_path};

/// What has been told already, so that a retry doesn't tell it anew each time.
#[derive(Default)]
pub(crate) struct Told {
    /// By container: the attempt whose waiting in the back-off was told.
    back_off: HashMap<String, u32>,
    /// The generation of the pod whose resize was told to be impossible.
    infeasible: Option<i64>,
}

impl Told {
    pub fn begins(&mut self, home: &PodHome, wanted: &Wanted, step: &Step) {
        let (container, reason) = match step {
            Step::RunPreStop {
                container, reason, ..
            } => (container, *reason),
            Step::SignalContainer {
                container, reason, ..
            } => {
                // With a pre-stop hook it was told when that began.
                let hook = wanted
                    .container(container)
                    .and_then(|(_, c)| c.lifecycle.as_ref()?.pre_stop.as_ref());
                if hook.is_some() {
                    return;
                }
                (container, *reason)
            }
            Step::ResizePod { .. } => {
                let message = resize_message(wanted, "Pod resize started", None);
                return home.event(EventType::Normal, "ResizeStarted", message);
            }
            _ => return,
        };
        container_event(
            home,
            wanted,
            container,
            EventType::Normal,
            "Killing",
            reason.message(container),
        );
    }

    pub fn ended(
        &mut self,
        home: &PodHome,
        wanted: &Wanted,
        seen: &Observed,
        step: &Step,
        outcome: &Outcome,
    ) {
        match (step, outcome) {
            (
                Step::ResolveImage {
                    container, image, ..
                },
                Err(error),
            ) => {
                image_failed(
                    home,
                    wanted,
                    seen,
                    container,
                    image,
                    error.reason,
                    &error.message,
                );
            }
            (Step::ResizePod { .. }, Ok(_)) => {
                let message = resize_message(wanted, "Pod resize completed", None);
                home.event(EventType::Normal, "ResizeCompleted", message);
            }
            (Step::ResizePod { .. }, Err(error)) => {
                let message = resize_message(wanted, "Pod resize error", Some(&error.message));
                home.event(EventType::Warning, "ResizeError", message);
            }
            (Step::StartContainer { container, .. }, Ok(_)) => {
                let message = format!("Started container {container}");
                container_event(
                    home,
                    wanted,
                    container,
                    EventType::Normal,
                    "Started",
                    message,
                );
            }
            (
                Step::CreateContainer { container, .. } | Step::StartContainer { container, .. },
                Err(error),
            ) => {
                container_event(
                    home,
                    wanted,
                    container,
                    EventType::Warning,
                    "Failed",
                    format!("Error: {}", error.message),
                );
            }
            (Step::MountVolume { .. } | Step::RefreshVolume { .. }, Err(error)) => {
                home.event(EventType::Warning, "FailedMount", &error.message);
            }
            (
                Step::MakeFolders
                | Step::MakeCgroup { .. }
                | Step::SpawnShim
                | Step::CreateSandbox
                | Step::AttachNetwork,
                Err(error),
            ) => {
                let message = format!("Failed to create pod sandbox: {}", error.message);
                home.event(EventType::Warning, "FailedCreatePodSandBox", message);
            }
            (
                Step::KillPod
                | Step::DetachNetwork
                | Step::UnmountVolumes
                | Step::EndShim
                | Step::RemoveCgroup
                | Step::RemoveFolders,
                Err(error),
            ) => {
                home.event(
                    EventType::Warning,
                    "FailedKillPod",
                    format!("error killing pod: {}", error.message),
                );
            }
            (_, Err(error)) => {
                tracing::warn!(pod = %home.id.name, step = step.kind().name(), error = %error.message, "step failed");
            }
            (_, Ok(_)) => {}
        }
    }

    /// A container that waits in the crash loop is told once for each of its runs.
    pub fn waits(
        &mut self,
        home: &PodHome,
        wanted: &Wanted,
        seen: &Observed,
        now: jiff::Timestamp,
    ) {
        let generation = wanted.pod.metadata.generation.unwrap_or_default();
        if self.infeasible != Some(generation)
            && let Some(why) = infeasible_resize(wanted, seen)
        {
            self.infeasible = Some(generation);
            let message = resize_message(wanted, "Pod resize Infeasible", Some(&why));
            home.event(EventType::Warning, "ResizeInfeasible", message);
        }
        for (role, container) in wanted.containers() {
            let Some(c) = seen.containers.get(&container.name) else {
                continue;
            };
            let Run::Exited { finished } = &c.run else {
                continue;
            };
            let ended = finished.finished_at.unwrap_or(now);
            let waits = wanted.restarts(role, container, finished.exit_code)
                && wanted.deletion().is_none()
                && c.back_off.waits_until(ended, now).is_some();
            if waits
                && self
                    .back_off
                    .insert(container.name.clone(), finished.attempt)
                    != Some(finished.attempt)
            {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}",
                    container.name,
                    wanted.full_name()
                );
                home.container_event(
                    &field_path(role, &container.name),
                    EventType::Warning,
                    "BackOff",
                    message,
                );
            }
        }
    }
}

/// What is asked for, as upstream's events carry it.
fn resize_message(wanted: &Wanted, what: &str, error: Option<&str>) -> String {
    let list = |main: bool| {
        let all = wanted.containers();
        all.filter(|(role, _)| {
            if main {
                *role == Role::Main
            } else {
                role.is_init()
            }
        })
        .map(|(_, c)| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
        .collect::<Vec<_>>()
    };
    let mut summary = Map::new();
    for (name, containers) in [("initContainers", list(false)), ("containers", list(true))] {
        if !containers.is_empty() {
            summary.insert(name.to_owned(), containers.into());
        }
    }
    let generation = wanted.pod.metadata.generation.unwrap_or_default();
    summary.insert("generation".to_owned(), generation.into());
    if let Some(error) = error {
        summary.insert("error".to_owned(), error.into());
    }
    format!("{what}: {}", Value::Object(summary))
}

fn container_event(
    home: &PodHome,
    wanted: &Wanted,
    container: &str,
    type_: EventType,
    reason: &str,
    message: impl Into<String>,
) {
    let role = wanted
        .container(container)
        .map_or(Role::Main, |(role, _)| role);
    home.container_event(&field_path(role, container), type_, reason, message);
}

fn image_failed(
    home: &PodHome,
    wanted: &Wanted,
    seen: &Observed,
    container: &str,
    image: &str,
    reason: FailureReason,
    message: &str,
) {
    let tell = |type_, reason: &str, message: String| {
        container_event(home, wanted, container, type_, reason, message)
    };
    let again = match seen.containers.get(container).map(|c| &c.image) {
        Some(kernelet_pod_plan::ImageStage::Busy { before }) => before.is_some(),
        _ => false,
    };
    match reason {
        FailureReason::ErrImagePull => {
            tell(
                EventType::Warning,
                "Failed",
                format!("Failed to pull image \"{image}\": {message}"),
            );
            tell(
                EventType::Warning,
                "Failed",
                "Error: ErrImagePull".to_owned(),
            );
            if again {
                tell(
                    EventType::Normal,
                    "BackOff",
                    format!("Back-off pulling image \"{image}\""),
                );
                tell(
                    EventType::Warning,
                    "Failed",
                    "Error: ImagePullBackOff".to_owned(),
                );
            }
        }
        other => {
            let told = match other {
                FailureReason::InvalidImageName => "InspectFailed",
                other => other.as_str(),
            };
            tell(EventType::Warning, told, message.to_owned());
            tell(
                EventType::Warning,
                "Failed",
                format!("Error: {}", other.as_str()),
            );
        }
    }
}

pub(crate) fn unhealthy(
    home: &PodHome,
    role: Role,
    container: &str,
    kind: ProbeKind,
    output: &str,
) {
    let message = format!("{} probe failed: {output}", kind.title());
    home.container_event(
        &field_path(role, container),
        EventType::Warning,
        "Unhealthy",
        message,
    );
}

pub(crate) fn shim_died(home: &PodHome) {
    let message =
        "The pod's shim ended unexpectedly; its containers are killed and the pod is made anew";
    home.event(EventType::Warning, "SandboxChanged", message);
}
