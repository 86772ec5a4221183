//! What a restarted agent knows of a pod: what survived (the shim, told by itself), and what the API was told.
//!
//! The shim is believed in everything it knows; the API fills in the history. A container that the API calls
//! running and no shim holds has ended unseen.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

use crate::{
    ContainerId, CrashBackOff, Exit, Finished, Hook, ImageFound, Observed, ObservedContainer, Role,
    Run, Stage, Stop, Teardown, Wanted,
    life::STATUS_UNKNOWN,
    observed::ImageStage,
    probe::{ProbeAnswer, ProbeState},
    resize,
    status::normalized,
};

/// What is left of the pod on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survivors {
    pub shim: ShimLeft,
    pub sandbox: bool,
    /// The network still holds the pod.
    pub ips: Vec<IpAddr>,
    pub cgroup: bool,
    pub folders: bool,
    pub containers: Vec<Survivor>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShimLeft {
    #[default]
    None,
    Adopted,
    /// Its folder is there and nobody answers.
    Dead,
}

/// A container as its shim, or a dead shim's record, tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Survivor {
    pub id: ContainerId,
    pub name: String,
    pub attempt: u32,
    pub image: Option<ImageFound>,
    pub phase: SurvivorPhase,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SurvivorPhase {
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited {
        started_at: Option<Timestamp>,
        exit: Exit,
        message: Option<String>,
    },
}

impl Observed {
    /// The state to go on from.
    pub fn restored(wanted: &Wanted, survivors: Survivors, now: Timestamp) -> Self {
        let status = normalized(wanted.pod.status.clone().unwrap_or_default());
        let mut seen = Self {
            start_time: status.start_time.as_ref().map(|t| t.0),
            ..Self::default()
        };
        seen.reported.status = status.start_time.is_some().then(|| status.clone());
        if status.phase.as_deref() == Some("Failed")
            && let Some(reason) = &status.reason
        {
            seen.failed = Some((reason.clone(), status.message.clone().unwrap_or_default()));
        }
        let final_phase = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let all = status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten())
            .chain(status.ephemeral_container_statuses.iter().flatten());
        for told in all {
            let mut c = from_api(told, now);
            if let (Run::Exited { .. }, Some((role, spec))) = (&c.run, wanted.container(&told.name))
                && (final_phase || role == Role::Ephemeral)
                && !told.image_id.is_empty()
            {
                // What never runs again keeps the image that it ran.
                c.image = ImageStage::Found(ImageFound {
                    asked: spec.image.clone().unwrap_or_default(),
                    name: told.image.clone(),
                    id: told.image_id.clone(),
                });
            }
            if let Run::Running { .. } = c.run {
                c.actuated = Some(told.resources.clone().unwrap_or_default());
            }
            seen.containers.insert(told.name.clone(), c);
        }
        let adopted = survivors.shim == ShimLeft::Adopted;
        seen.take_in(survivors.containers, &status, adopted);
        if !adopted {
            let message = "The container could not be located when the node came back";
            seen.lose_containers(message, None);
        }
        let done = |is: bool| if is { Stage::Done } else { Stage::Absent };
        seen.folders = done(survivors.folders);
        // Made again where nobody held it: a crash may have left it without its limits.
        seen.cgroup = done(survivors.cgroup && adopted);
        seen.pod_limits = resize::told_limits(wanted).filter(|_| seen.cgroup.is_done());
        seen.shim = done(survivors.shim != ShimLeft::None);
        seen.sandbox = done(adopted && survivors.sandbox);
        seen.network = done(adopted && survivors.sandbox && !survivors.ips.is_empty());
        seen.ips = survivors.ips;
        // A sandbox that ended takes what its init containers had done with it.
        if adopted && survivors.sandbox {
            seen.remember_initialization(wanted);
        } else {
            seen.containers
                .values_mut()
                .for_each(|c| c.initialized = false);
        }
        let nothing = survivors.shim == ShimLeft::None && !survivors.cgroup;
        if final_phase && nothing {
            seen.teardown = Teardown::Finished;
        }
        seen.rebuild = survivors.shim == ShimLeft::Dead && !final_phase;
        seen
    }

    fn take_in(
        &mut self,
        mut survivors: Vec<Survivor>,
        status: &k8s_openapi::api::core::v1::PodStatus,
        adopted: bool,
    ) {
        survivors.sort_by_key(|s| s.attempt);
        let mut newest: BTreeMap<String, Survivor> = BTreeMap::new();
        for survivor in survivors {
            let name = survivor.name.clone();
            if let Some(old) = newest.insert(name.clone(), survivor) {
                let c = self.container_mut(&name);
                c.last = finished(&old).or(c.last.take());
                c.remains.insert(old.id, Stage::Absent);
            }
        }
        let told = |name: &str| {
            let mut all = status
                .init_container_statuses
                .iter()
                .flatten()
                .chain(status.container_statuses.iter().flatten())
                .chain(status.ephemeral_container_statuses.iter().flatten());
            all.find(|c| c.name == name)
        };
        for (name, survivor) in newest {
            let known = told(&name);
            let c = self.container_mut(&name);
            c.restarts = c.restarts.max(survivor.attempt);
            if let Some(image) = survivor.image.clone() {
                c.image = ImageStage::Found(image);
            }
            // What the API shows as ended is an earlier run than the survivor, unless it is the same one.
            if let Run::Exited { finished } = &c.run
                && finished.id.as_ref() != Some(&survivor.id)
                && finished.attempt < survivor.attempt
            {
                c.last = Some(finished.clone());
            }
            c.run = match (&survivor.phase, adopted) {
                (SurvivorPhase::Created, true) => Run::Created {
                    id: survivor.id,
                    attempt: survivor.attempt,
                    starting: false,
                },
                (SurvivorPhase::Running { started_at }, true) => {
                    c.back_off = CrashBackOff::restored(c.restarts, Some(*started_at));
                    if let Some(known) = known {
                        c.startup = passed(known.started == Some(true));
                        c.readiness = passed(known.ready);
                    }
                    Run::Running {
                        id: survivor.id,
                        attempt: survivor.attempt,
                        started_at: *started_at,
                        // Whether the hook had ended isn't known; it isn't run twice.
                        post_start: Hook::Settled,
                        stop: Stop::No,
                    }
                }
                (SurvivorPhase::Exited { .. }, _) => match finished(&survivor) {
                    Some(finished) => Run::Exited { finished },
                    None => Run::Never,
                },
                // Its shim is dead, and so is it.
                (SurvivorPhase::Created | SurvivorPhase::Running { .. }, false) => Run::Exited {
                    finished: Finished {
                        id: Some(survivor.id),
                        attempt: survivor.attempt,
                        exit_code: STATUS_UNKNOWN.1,
                        reason: STATUS_UNKNOWN.0.to_owned(),
                        message: Some("The pod's shim was gone when the node came back".to_owned()),
                        started_at: None,
                        finished_at: None,
                    },
                },
            };
        }
    }

    /// Init containers are done in this sandbox if they ended well, or if a main container has begun.
    fn remember_initialization(&mut self, wanted: &Wanted) {
        let begun = wanted.containers().any(|(role, c)| {
            role == Role::Main
                && self.containers.get(&c.name).is_some_and(|o| {
                    matches!(
                        o.run,
                        Run::Created { .. } | Run::Running { .. } | Run::Exited { .. }
                    )
                })
        });
        for (role, container) in wanted.containers() {
            if role == Role::Init
                && let Some(c) = self.containers.get_mut(&container.name)
            {
                let well = matches!(&c.run, Run::Exited { finished } if finished.exit_code == 0);
                c.initialized = begun || well;
            }
        }
    }
}

fn passed(yes: bool) -> ProbeState {
    if yes {
        ProbeState::passed(ProbeAnswer::Success)
    } else {
        ProbeState::default()
    }
}

fn finished(survivor: &Survivor) -> Option<Finished> {
    let SurvivorPhase::Exited {
        started_at,
        exit,
        message,
    } = &survivor.phase
    else {
        return None;
    };
    let reason = match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Some(Finished {
        id: Some(survivor.id.clone()),
        attempt: survivor.attempt,
        exit_code: exit.code,
        reason: reason.to_owned(),
        message: message.clone(),
        started_at: *started_at,
        finished_at: Some(exit.at),
    })
}

fn from_api(told: &ContainerStatus, now: Timestamp) -> ObservedContainer {
    let restarts = u32::try_from(told.restart_count).unwrap_or(0);
    let last = told
        .last_state
        .as_ref()
        .and_then(|s| from_terminated(s, restarts.saturating_sub(1)));
    let state = told.state.clone().unwrap_or_default();
    let run = if let Some(running) = &state.running {
        Run::Running {
            id: container_id(told.container_id.as_deref())
                .unwrap_or_else(|| ContainerId(String::new())),
            attempt: restarts,
            started_at: running.started_at.as_ref().map_or(now, |t| t.0),
            post_start: Hook::Settled,
            stop: Stop::No,
        }
    } else if let Some(finished) = from_terminated(&state, restarts) {
        Run::Exited { finished }
    } else if let Some(last) = last.clone() {
        // Waiting in the back-off: the run that ended is the present one.
        Run::Exited {
            finished: Finished {
                attempt: restarts,
                ..last
            },
        }
    } else {
        Run::Never
    };
    let waiting_after_run = state.waiting.is_some() && last.is_some();
    let last_start = match &run {
        Run::Exited { finished } => finished.started_at,
        Run::Running { started_at, .. } => Some(*started_at),
        _ => None,
    };
    ObservedContainer {
        run,
        last: if waiting_after_run { None } else { last },
        restarts,
        back_off: CrashBackOff::restored(restarts, last_start),
        ..ObservedContainer::default()
    }
}

fn from_terminated(state: &ContainerState, attempt: u32) -> Option<Finished> {
    let t: &ContainerStateTerminated = state.terminated.as_ref()?;
    Some(Finished {
        id: container_id(t.container_id.as_deref()),
        attempt,
        exit_code: t.exit_code,
        reason: t.reason.clone().unwrap_or_else(|| "Error".to_owned()),
        message: t.message.clone(),
        started_at: t.started_at.as_ref().map(|t| t.0),
        finished_at: t.finished_at.as_ref().map(|t| t.0),
    })
}

/// The id in `containerID` as the API writes it.
pub fn container_id(text: Option<&str>) -> Option<ContainerId> {
    text?
        .strip_prefix("kernelet://")
        .map(|id| ContainerId(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plan, Step, plan, pod_status, testing::wanted};
    use serde_json::json;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + secs).expect("in range")
    }

    fn running_pod() -> Wanted {
        wanted(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "a", "image": "x"}]},
            "status": {"phase": "Running", "startTime": "2023-11-14T22:13:20Z", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
                "initContainerStatuses": [{"name": "i", "ready": true, "restartCount": 0, "image": "x", "imageID": "y",
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "kernelet://i0"}}}],
                "containerStatuses": [{"name": "a", "ready": true, "started": true, "restartCount": 2, "image": "x", "imageID": "y",
                    "containerID": "kernelet://a2", "state": {"running": {"startedAt": "2023-11-14T22:13:25Z"}}}]}}),
        )
    }

    fn steps(wanted: &Wanted, seen: &Observed) -> Vec<Step> {
        let Plan { steps, .. } = plan(wanted, seen, at(100));
        steps
            .into_iter()
            .filter(|s| !matches!(s, Step::ReportStatus { .. }))
            .collect()
    }

    #[test]
    fn a_pod_that_ran_on_needs_nothing() {
        let wanted = running_pod();
        let found = ImageFound {
            asked: "x".into(),
            name: "x".into(),
            id: "y".into(),
        };
        let phase = SurvivorPhase::Running { started_at: at(5) };
        let survivors = Survivors {
            shim: ShimLeft::Adopted,
            sandbox: true,
            ips: vec!["10.244.0.2".parse().expect("ip")],
            cgroup: true,
            folders: true,
            containers: vec![Survivor {
                id: ContainerId("a2".into()),
                name: "a".into(),
                attempt: 2,
                image: Some(found),
                phase,
            }],
        };
        let seen = Observed::restored(&wanted, survivors, at(100));
        assert_eq!(steps(&wanted, &seen), []);
        let status = pod_status(&wanted, &seen, at(100));
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let a = &status.container_statuses.expect("one")[0];
        assert_eq!(
            (a.ready, a.restart_count, a.container_id.as_deref()),
            (true, 2, Some("kernelet://a2"))
        );
    }

    #[test]
    fn an_exit_while_the_agent_was_down_is_told_with_its_code() {
        let wanted = running_pod();
        let exit = Exit {
            code: 3,
            oom_killed: false,
            at: at(50),
        };
        let phase = SurvivorPhase::Exited {
            started_at: Some(at(5)),
            exit,
            message: Some("bye".into()),
        };
        let survivors = Survivors {
            shim: ShimLeft::Adopted,
            sandbox: true,
            ips: vec!["10.244.0.2".parse().expect("ip")],
            cgroup: true,
            folders: true,
            containers: vec![Survivor {
                id: ContainerId("a2".into()),
                name: "a".into(),
                attempt: 2,
                image: None,
                phase,
            }],
        };
        let seen = Observed::restored(&wanted, survivors, at(51));
        let status = pod_status(&wanted, &seen, at(51));
        let a = &status.container_statuses.expect("one")[0];
        let last = a
            .last_state
            .clone()
            .and_then(|s| s.terminated)
            .expect("told as the last state, in the back-off");
        assert_eq!((last.exit_code, last.message.as_deref()), (3, Some("bye")));
        assert_eq!(
            a.state.clone().and_then(|s| s.waiting?.reason).as_deref(),
            Some("CrashLoopBackOff")
        );
    }

    #[test]
    fn after_a_reboot_everything_is_started_again_and_counts_on() {
        let wanted = running_pod();
        let mut seen = Observed::restored(
            &wanted,
            Survivors {
                folders: true,
                ..Survivors::default()
            },
            at(100),
        );
        let a = &seen.containers["a"];
        let Run::Exited { finished } = &a.run else {
            panic!("{:?}", a.run)
        };
        assert_eq!(
            (
                finished.reason.as_str(),
                finished.exit_code,
                finished.attempt
            ),
            ("ContainerStatusUnknown", 137, 2)
        );
        assert!(
            !seen.containers["i"].initialized,
            "a new sandbox is initialized again"
        );
        let kinds: Vec<&str> = steps(&wanted, &seen)
            .iter()
            .map(|s| s.kind().name())
            .collect();
        assert_eq!(kinds, ["MakeCgroup", "SpawnShim", "ResolveImage"]);
        seen.settle(&wanted, at(100));
        let status = pod_status(&wanted, &seen, at(100));
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.container_statuses.expect("one")[0].restart_count, 2);
    }

    #[test]
    fn a_dead_shims_pod_is_taken_down_and_made_anew() {
        let wanted = running_pod();
        let survivors = Survivors {
            shim: ShimLeft::Dead,
            cgroup: true,
            folders: true,
            ..Survivors::default()
        };
        let seen = Observed::restored(&wanted, survivors, at(100));
        let kinds: Vec<&str> = steps(&wanted, &seen)
            .iter()
            .map(|s| s.kind().name())
            .collect();
        assert_eq!(kinds, ["KillPod"]);
    }

    #[test]
    fn a_finished_pod_without_remains_is_left_alone() {
        let wanted = wanted(
            json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]},
            "status": {"phase": "Succeeded", "startTime": "2023-11-14T22:13:20Z", "containerStatuses": [{"name": "a", "ready": false, "restartCount": 0,
                "image": "x", "imageID": "y", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}),
        );
        let seen = Observed::restored(
            &wanted,
            Survivors {
                folders: true,
                ..Survivors::default()
            },
            at(100),
        );
        assert_eq!(steps(&wanted, &seen), []);
        assert_eq!(
            pod_status(&wanted, &seen, at(100)).phase.as_deref(),
            Some("Succeeded")
        );
    }
}
