//! Which run of a container a request for its log means, and where that run's log is; in upstream's words.

use std::path::PathBuf;

use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};
use kernelet_pod_plan::{ContainerId, container_id};
use kube::ResourceExt;

use crate::{context::Context, worker::View};

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub container: String,
    /// The run that is read; it is followed until this is no longer the running one.
    pub id: ContainerId,
    pub log: PathBuf,
}

/// The status of a container of any kind.
pub(super) fn status_of<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let mut all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    all.find(|s| s.name == container)
}

pub(super) fn source(
    ctx: &Context,
    view: &View,
    container: &str,
    previous: bool,
) -> Result<Source, (StatusCode, String)> {
    let pod = &view.pod;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    if !is_there(view, container) {
        let problem = format!("container {container:?} not found in pod {name:?}");
        return Err((StatusCode::NOT_FOUND, problem));
    }
    let bad = |problem: String| (StatusCode::BAD_REQUEST, problem);
    let (id, attempt) = run_of(view, container, previous).map_err(bad)?;
    let dir = ctx.pod_log_dir(&namespace, &name, &pod.uid().unwrap_or_default());
    Ok(Source {
        container: container.to_owned(),
        id,
        log: dir.join(container).join(format!("{attempt}.log")),
    })
}

fn is_there(view: &View, container: &str) -> bool {
    let Some(spec) = &view.pod.spec else {
        return false;
    };
    let mut names = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| &c.name)
        .chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.name));
    names.any(|name| name == container)
}

/// The run, and its number: how often the container had been started before.
fn run_of(view: &View, container: &str, previous: bool) -> Result<(ContainerId, u32), String> {
    let pod = view.pod.name_any();
    let status = status_of(&view.status, container)
        .ok_or_else(|| format!("container {container:?} in pod {pod:?} is not available"))?;
    let none = ContainerState::default();
    let (state, last) = (
        status.state.as_ref().unwrap_or(&none),
        status.last_state.as_ref().unwrap_or(&none),
    );
    let ended = |state: &ContainerState| {
        let text = state.terminated.as_ref()?.container_id.as_deref();
        container_id(text)
    };
    let gone = || format!("container {container:?} in pod {pod:?} is terminated");
    let waits =
        |why: &str| format!("container {container:?} in pod {pod:?} is waiting to start{why}");
    let id = if previous {
        ended(last).ok_or_else(|| {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        })?
    } else if state.running.is_some() {
        container_id(status.container_id.as_deref()).ok_or_else(|| waits(" - no logs yet"))?
    } else if state.terminated.is_some() {
        ended(state).or_else(|| ended(last)).ok_or_else(gone)?
    } else if last.terminated.is_some() {
        ended(last).ok_or_else(gone)?
    } else {
        let reason = state.waiting.as_ref().map(|w| w.reason.as_deref());
        return Err(match reason {
            Some(Some("ErrImagePull")) => waits(": image can't be pulled"),
            Some(Some("ImagePullBackOff")) => waits(": trying and failing to pull image"),
            Some(reason) => waits(&format!(": {}", reason.unwrap_or_default())),
            None => waits(" - no logs yet"),
        });
    };
    let attempt = match view.containers.get(container) {
        Some((own, attempt)) if *own == id => *attempt,
        // The run before the present one.
        Some((_, attempt)) => attempt.saturating_sub(1),
        None => u32::try_from(status.restart_count).unwrap_or(0),
    };
    Ok((id, attempt))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    /// What is said of a container whose present or last run is the `n`th, with this state and that last state.
    fn found(state: Value, last: Value, n: u32, previous: bool) -> Result<(String, u32), String> {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let running = format!("kernelet://run{n}");
        let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": n, "containerID": running, "state": state, "lastState": last}]});
        let view = View {
            pod: Arc::new(serde_json::from_value(pod).expect("a pod")),
            status: serde_json::from_value(status).expect("a status"),
            containers: [("c".to_owned(), (ContainerId(format!("run{n}")), n))].into(),
        };
        run_of(&view, "c", previous).map(|(id, attempt)| (id.0, attempt))
    }

    #[test]
    fn the_run_that_is_meant_follows_from_the_states() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let ended = |n: u32| json!({"terminated": {"exitCode": 1, "containerID": format!("kernelet://run{n}")}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let run = |n: u32| Ok((format!("run{n}"), n));
        let err = |text: &str| Err(format!("container \"c\" in pod \"p\" is {text}"));
        let no_previous =
            Err("previous terminated container \"c\" in pod \"p\" not found".to_owned());
        for (state, last, n, previous, expected) in [
            (running.clone(), json!({}), 0, false, run(0)),
            (running.clone(), json!({}), 0, true, no_previous.clone()),
            (running.clone(), ended(2), 3, false, run(3)),
            (running, ended(2), 3, true, run(2)),
            (ended(3), ended(2), 3, false, run(3)),
            (ended(3), ended(2), 3, true, run(2)),
            // In the crash loop the run that has ended is both.
            (waiting("CrashLoopBackOff"), ended(3), 3, false, run(3)),
            (waiting("CrashLoopBackOff"), ended(3), 3, true, run(3)),
            (
                json!({"terminated": {"exitCode": 128}}),
                json!({}),
                0,
                false,
                err("terminated"),
            ),
            (
                waiting("ContainerCreating"),
                json!({}),
                0,
                true,
                no_previous,
            ),
            (
                waiting("ContainerCreating"),
                json!({}),
                0,
                false,
                err("waiting to start: ContainerCreating"),
            ),
            (
                waiting("ErrImagePull"),
                json!({}),
                0,
                false,
                err("waiting to start: image can't be pulled"),
            ),
            (
                waiting("ImagePullBackOff"),
                json!({}),
                0,
                false,
                err("waiting to start: trying and failing to pull image"),
            ),
            (
                json!({}),
                json!({}),
                0,
                false,
                err("waiting to start - no logs yet"),
            ),
        ] {
            assert_eq!(
                found(state.clone(), last, n, previous),
                expected,
                "{state} {previous}"
            );
        }
    }
}
