//! Pods: the status in a word, from the states of all their containers.

use jiff::Timestamp;
use kernelet_api::Value;
use serde_json::json;

use super::cells::{NONE, at, list, number, or, since, text, time};

/// What a computed cell of a pod is made of, as paths of an outline; `None` for a cell of something else.
pub(super) fn sources(name: &str) -> Option<&'static [&'static str]> {
    const CONDITIONS: [&str; 3] = [
        "status.conditions.*.type",
        "status.conditions.*.status",
        "status.conditions.*.reason",
    ];
    const SUMMARY: &[&str] = &[
        "metadata.deletionTimestamp",
        "spec.initContainers.*.name",
        "spec.initContainers.*.restartPolicy",
        "spec.containers.*.name",
        "status.phase",
        "status.reason",
        CONDITIONS[0],
        CONDITIONS[1],
        CONDITIONS[2],
        "status.initContainerStatuses",
        "status.containerStatuses.*.lastState",
        "status.containerStatuses.*.ready",
        "status.containerStatuses.*.restartCount",
        "status.containerStatuses.*.state",
    ];
    Some(match name {
        "pod.ready" | "pod.status" | "pod.restarts" => SUMMARY,
        "pod.ip" => &["status.podIP", "status.podIPs"],
        "pod.node" => &["spec.nodeName"],
        "pod.nominatedNode" => &["status.nominatedNodeName"],
        "pod.readinessGates" => &[
            "spec.readinessGates",
            CONDITIONS[0],
            CONDITIONS[1],
            CONDITIONS[2],
        ],
        _ => return None,
    })
}

pub(super) fn ip(pod: &Value) -> String {
    let first = list(pod, "status.podIPs")
        .first()
        .map_or("", |address| text(address, "ip"));
    or(or(first, text(pod, "status.podIP")), NONE).to_owned()
}

/// What kubectl hides, or prints in another way, when it is asked to.
pub(super) fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(pod, "status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// What its containers' states come to.
pub(super) struct Summary {
    pub status: String,
    ready: usize,
    containers: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn condition<'p>(pod: &'p Value, ty: &str) -> Option<&'p Value> {
    list(pod, "status.conditions")
        .iter()
        .find(|condition| text(condition, "type") == ty)
}

fn holds(pod: &Value, ty: &str) -> bool {
    condition(pod, ty).is_some_and(|condition| text(condition, "status") == "True")
}

/// When the container's previous instance ended.
fn last_end(status: &Value) -> Option<Timestamp> {
    time(at(status, "lastState.terminated.finishedAt"))
}

/// `Error`, `Signal:9` or `ExitCode:1`.
fn ended(terminated: &Value) -> String {
    let (reason, signal) = (text(terminated, "reason"), number(terminated, "signal"));
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", number(terminated, "exitCode"))
    }
}

impl Summary {
    pub(super) fn of(pod: &Value) -> Self {
        let sidecars: Vec<&str> = list(pod, "spec.initContainers")
            .iter()
            .filter(|container| text(container, "restartPolicy") == "Always")
            .map(|container| text(container, "name"))
            .collect();
        let phase = text(pod, "status.phase");
        let mut summary = Self {
            status: or(text(pod, "status.reason"), phase).to_owned(),
            ready: 0,
            containers: list(pod, "spec.containers").len() + sidecars.len(),
            restarts: 0,
            last_restart: None,
        };
        if condition(pod, "PodScheduled").is_some_and(|it| text(it, "reason") == "SchedulingGated")
        {
            summary.status = "SchedulingGated".to_owned();
        }
        let initializing = init_containers(pod, &sidecars, &mut summary);
        if !initializing || holds(pod, "Initialized") {
            main_containers(pod, &sidecars, &mut summary);
        }
        let deleted = at(pod, "metadata.deletionTimestamp").is_some_and(|time| !time.is_null());
        if deleted && text(pod, "status.reason") == "NodeLost" {
            summary.status = "Unknown".to_owned();
        } else if deleted && !matches!(phase, "Succeeded" | "Failed") {
            summary.status = "Terminating".to_owned();
        }
        summary
    }

    /// `1/2`
    pub(super) fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.containers)
    }

    /// `2 (3m ago)`
    pub(super) fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!(
                    "{} ({} ago)",
                    self.restarts,
                    since(Some(&json!(last.to_string())), now)
                )
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// Reads the init containers up to the first that isn't done. Answers whether there is one.
fn init_containers(pod: &Value, sidecars: &[&str], summary: &mut Summary) -> bool {
    let total = list(pod, "spec.initContainers").len();
    for (i, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        summary.restarts += number(status, "restartCount");
        summary.last_restart = summary.last_restart.max(last_end(status));
        let sidecar = sidecars.contains(&text(status, "name"));
        let terminated = at(status, "state.terminated").filter(|state| !state.is_null());
        if terminated.is_some_and(|state| number(state, "exitCode") == 0) {
            continue;
        }
        if sidecar && status.get("started").and_then(Value::as_bool) == Some(true) {
            summary.ready +=
                usize::from(status.get("ready").and_then(Value::as_bool) == Some(true));
            continue;
        }
        let waiting = text(status, "state.waiting.reason");
        summary.status = match terminated {
            Some(state) => format!("Init:{}", ended(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{i}/{total}"),
        };
        return true;
    }
    false
}

fn main_containers(pod: &Value, sidecars: &[&str], summary: &mut Summary) {
    // From here on only sidecars count among the init containers.
    let of_sidecars = || {
        list(pod, "status.initContainerStatuses")
            .iter()
            .filter(|status| sidecars.contains(&text(status, "name")))
    };
    summary.restarts = of_sidecars()
        .map(|status| number(status, "restartCount"))
        .sum();
    summary.last_restart = of_sidecars().filter_map(last_end).max();

    let mut running = false;
    let mut error = String::new();
    for status in list(pod, "status.containerStatuses").iter().rev() {
        summary.restarts += number(status, "restartCount");
        summary.last_restart = summary.last_restart.max(last_end(status));
        let waiting = text(status, "state.waiting.reason");
        let terminated = at(status, "state.terminated").filter(|state| !state.is_null());
        let is_running = at(status, "state.running").is_some_and(|state| !state.is_null());
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(state) = terminated {
            summary.status = ended(state);
            if number(state, "exitCode") != 0 {
                error.clone_from(&summary.status);
            }
        } else if is_running && status.get("ready").and_then(Value::as_bool) == Some(true) {
            running = true;
            summary.ready += 1;
        }
    }
    // One container is done, but another may still run, or have failed.
    if summary.status == "Completed" {
        if running && holds(pod, "Ready") {
            summary.status = "Running".to_owned();
        } else if !error.is_empty() {
            summary.status = error;
        } else if running {
            summary.status = "NotReady".to_owned();
        }
    }
}

pub(super) fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| holds(pod, text(gate, "conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}
