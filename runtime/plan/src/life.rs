//! How [`Observed`] changes: a step begins, a step ends, something happened by itself.
//!
//! The node reports here and nowhere else; together with [`crate::plan`] this is the whole state machine, so a
//! simulated node in the tests walks it without a kernel.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};

use crate::{
    ContainerId, Done, Exit, Failure, FailureReason, Finished, Hook, ImageStage, Observed,
    ObservedContainer, Outcome, RetryBackOff, Run, Stage, Step, StepError, StepKind, Stop,
    Teardown, VolumeStage, Wanted,
    back_off::RetryKind,
    probe::{ProbeAnswer, ProbeKind, ProbeState, ProbeTiming},
    resources::CgroupLimits,
    status::normalized,
};

/// The way down, in order. Each is idempotent.
pub(crate) const TEARDOWN: [StepKind; 5] = [
    StepKind::KillPod,
    StepKind::DetachNetwork,
    StepKind::UnmountVolumes,
    StepKind::EndShim,
    StepKind::RemoveCgroup,
];

/// `reason` and exit code of a container whose true end nobody saw.
pub const STATUS_UNKNOWN: (&str, i32) = ("ContainerStatusUnknown", 137);

impl Observed {
    /// A step is about to be executed.
    pub fn begin(&mut self, step: &Step, now: Timestamp) {
        let kind = step.kind();
        if TEARDOWN.contains(&kind) {
            let state = match std::mem::take(&mut self.teardown) {
                Teardown::At { step, state } if step == kind => busy(state),
                _ => busy(Stage::Absent),
            };
            self.teardown = Teardown::At { step: kind, state };
            return;
        }
        match step {
            Step::MountVolume { volume } => {
                let before = match self.volumes.remove(volume) {
                    Some(VolumeStage::Failed { failure, .. }) => Some(Box::new(failure)),
                    _ => None,
                };
                self.volumes
                    .insert(volume.clone(), VolumeStage::Busy { before });
            }
            Step::RefreshVolume { volume } => {
                let before = match self.volumes.remove(volume) {
                    Some(VolumeStage::Failed { failure, .. }) => Some(Box::new(failure)),
                    _ => None,
                };
                self.volumes
                    .insert(volume.clone(), VolumeStage::Refreshing { before });
            }
            Step::ReportStatus { .. } => self.reported.busy = true,
            Step::ResolveImage { container, .. } => {
                let c = self.container_mut(container);
                let before = match std::mem::take(&mut c.image) {
                    ImageStage::Failed(failure) => Some(Box::new(failure)),
                    _ => None,
                };
                c.image = ImageStage::Busy { before };
            }
            Step::CreateContainer {
                container,
                attempt,
                resources,
                ..
            } => {
                let c = self.container_mut(container);
                c.begin_create(*attempt, now);
                c.actuated = Some((**resources).clone());
            }
            Step::StartContainer { container, .. } => {
                if let Run::Created { starting, .. } = &mut self.container_mut(container).run {
                    *starting = true;
                }
            }
            Step::RunPostStart { container, .. } => {
                if let Run::Running { post_start, .. } = &mut self.container_mut(container).run {
                    *post_start = Hook::Busy;
                }
            }
            Step::RunPreStop {
                container,
                reason,
                kill_at,
                ..
            } => {
                if let Run::Running { stop, .. } = &mut self.container_mut(container).run {
                    *stop = Stop::PreStop {
                        reason: *reason,
                        kill_at: *kill_at,
                        busy: true,
                    };
                }
            }
            Step::SignalContainer {
                container,
                reason,
                kill_at,
                ..
            } => {
                if let Run::Running { stop, .. } = &mut self.container_mut(container).run {
                    let sent = match stop {
                        Stop::Term { sent, .. } => busy(std::mem::take(sent)),
                        _ => busy(Stage::Absent),
                    };
                    *stop = Stop::Term {
                        reason: *reason,
                        kill_at: *kill_at,
                        sent,
                    };
                }
            }
            Step::KillContainer {
                container, reason, ..
            } => {
                if let Run::Running { stop, .. } = &mut self.container_mut(container).run {
                    let sent = match stop {
                        Stop::Kill { sent, .. } => busy(std::mem::take(sent)),
                        _ => busy(Stage::Absent),
                    };
                    *stop = Stop::Kill {
                        reason: *reason,
                        at: now,
                        sent,
                    };
                }
            }
            Step::RemoveContainer { container, id } => {
                let remains = &mut self.container_mut(container).remains;
                let before = remains.remove(id).unwrap_or_default();
                remains.insert(id.clone(), busy(before));
            }
            _ => {
                if let Step::MakeCgroup { cgroup } = step {
                    self.pod_limits = Some(cgroup.limits);
                }
                if let Some(stage) = self.stage_mut(kind) {
                    *stage = busy(std::mem::take(stage));
                }
            }
        }
    }

    /// A step has ended.
    pub fn finish(&mut self, step: &Step, outcome: Outcome, now: Timestamp) {
        let kind = step.kind();
        if TEARDOWN.contains(&kind) {
            return self.finish_teardown(kind, outcome, now);
        }
        match step {
            Step::MountVolume { volume } | Step::RefreshVolume { volume } => {
                self.finish_volume(volume, kind, outcome, now);
            }
            Step::ReportStatus { status } => self.finish_report(status, outcome, now),
            Step::ResolveImage { container, .. } => {
                let c = self.container_mut(container);
                let before = match std::mem::take(&mut c.image) {
                    ImageStage::Busy { before } => before,
                    _ => None,
                };
                c.image = match outcome {
                    Ok(Done::Image(found)) => ImageStage::Found(found),
                    Ok(_) => ImageStage::Unknown,
                    Err(error) => {
                        ImageStage::Failed(failure(kind, error, before, RetryKind::Image, now))
                    }
                };
            }
            Step::CreateContainer {
                container, attempt, ..
            } => {
                self.container_mut(container)
                    .finish_create(*attempt, outcome, now);
            }
            Step::StartContainer { container, id } => {
                self.container_mut(container).finish_start(id, outcome, now)
            }
            Step::RunPostStart { container, id } => {
                if let Run::Running {
                    id: running,
                    post_start,
                    ..
                } = &mut self.container_mut(container).run
                    && running == id
                {
                    *post_start = if outcome.is_ok() {
                        Hook::Settled
                    } else {
                        Hook::Failed
                    };
                }
            }
            // A failed hook is told by its event and doesn't keep the container alive.
            Step::RunPreStop { container, id, .. } => {
                if let Run::Running {
                    id: running,
                    stop: Stop::PreStop { busy, .. },
                    ..
                } = &mut self.container_mut(container).run
                    && running == id
                {
                    *busy = false;
                }
            }
            Step::SignalContainer { container, id, .. }
            | Step::KillContainer { container, id, .. } => {
                self.container_mut(container)
                    .finish_signal(id, kind, outcome, now);
            }
            Step::RemoveContainer { container, id } => {
                let remains = &mut self.container_mut(container).remains;
                if let Some(before) = remains.remove(id)
                    && let Err(error) = outcome
                {
                    remains.insert(id.clone(), failed(kind, error, before, now));
                }
            }
            _ => {
                if let (Step::AttachNetwork, Ok(Done::Attached { ips })) = (step, &outcome) {
                    self.ips.clone_from(ips);
                }
                if let (Step::ResizePod { cgroup, containers }, Ok(_)) = (step, &outcome) {
                    self.resized(cgroup.limits, containers);
                }
                let made = match kind {
                    // Till the next one.
                    StepKind::RemoveFolders | StepKind::ResizePod => Stage::Absent,
                    _ => Stage::Done,
                };
                if let Some(stage) = self.stage_mut(kind) {
                    *stage = match outcome {
                        Ok(_) => made,
                        Err(error) => failed(kind, error, std::mem::take(stage), now),
                    };
                }
            }
        }
    }

    fn resized(
        &mut self,
        limits: CgroupLimits,
        containers: &[(String, ContainerId, ResourceRequirements)],
    ) {
        self.pod_limits = Some(limits);
        for (name, id, resources) in containers {
            let c = self.container_mut(name);
            if matches!(&c.run, Run::Running { id: own, .. } if own == id) {
                c.actuated = Some(resources.clone());
            }
        }
    }

    /// A container's process has ended. `message`: its termination message.
    pub fn container_exited(
        &mut self,
        name: &str,
        id: &ContainerId,
        exit: Exit,
        message: Option<String>,
    ) {
        let c = self.container_mut(name);
        let (attempt, started_at) = match &c.run {
            Run::Created {
                id: own, attempt, ..
            } if own == id => (*attempt, exit.at),
            Run::Running {
                id: own,
                attempt,
                started_at,
                ..
            } if own == id => (*attempt, *started_at),
            _ => return,
        };
        let reason = match (exit.oom_killed, exit.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        c.end(Finished {
            id: Some(id.clone()),
            attempt,
            exit_code: exit.code,
            reason: reason.to_owned(),
            message,
            started_at: Some(started_at),
            finished_at: Some(exit.at),
        });
    }

    /// The shim is gone: nobody saw how its containers ended, and what it held is lost.
    pub fn shim_died(&mut self, how: &str, now: Timestamp) {
        if matches!(self.teardown, Teardown::Finished) || self.shim == Stage::Absent {
            return;
        }
        let message = format!("The pod's shim is gone ({how}); its containers were killed");
        self.lose_containers(&message, Some(now));
        // On the way down (perhaps we ended it ourselves) there is nothing to be made anew.
        self.rebuild |= self.teardown == Teardown::NotBegun;
    }

    /// Every container that isn't known to have ended is now of unknown end.
    pub(crate) fn lose_containers(&mut self, message: &str, at: Option<Timestamp>) {
        for c in self.containers.values_mut() {
            let (id, attempt, started_at) = match &c.run {
                Run::Created { id, attempt, .. } => (id.clone(), *attempt, None),
                Run::Running {
                    id,
                    attempt,
                    started_at,
                    ..
                } => (id.clone(), *attempt, Some(*started_at)),
                Run::Never | Run::Creating { .. } | Run::Failed { .. } | Run::Exited { .. } => {
                    continue;
                }
            };
            c.end(Finished {
                id: Some(id),
                attempt,
                exit_code: STATUS_UNKNOWN.1,
                reason: STATUS_UNKNOWN.0.to_owned(),
                message: Some(message.to_owned()),
                started_at,
                finished_at: at,
            });
        }
    }

    /// A probe has answered; true when its verdict changed.
    pub fn probed(
        &mut self,
        name: &str,
        id: &ContainerId,
        kind: ProbeKind,
        answer: ProbeAnswer,
        timing: &ProbeTiming,
        now: Timestamp,
    ) -> bool {
        let c = self.container_mut(name);
        if !matches!(&c.run, Run::Running { id: own, .. } if own == id) {
            return false;
        }
        let state = match kind {
            ProbeKind::Startup => &mut c.startup,
            ProbeKind::Readiness => &mut c.readiness,
            ProbeKind::Liveness => &mut c.liveness,
        };
        state.record(answer, timing, now)
    }

    /// The object as the watch shows it. What somebody else wrote into its status after our last write is what the
    /// API has now; what is ours in it is written again.
    pub fn api_status_seen(&mut self, wanted: &Wanted) {
        let version = wanted
            .pod
            .metadata
            .resource_version
            .as_deref()
            .and_then(|v| v.parse::<u64>().ok());
        let newer = match (version, self.reported.version) {
            (Some(theirs), Some(ours)) => theirs > ours,
            _ => false,
        };
        if newer && !self.reported.busy {
            self.reported.version = version;
            self.reported.status = wanted.pod.status.clone().map(normalized);
        }
    }

    /// What a volume is made from has changed.
    pub fn volume_source_changed(&mut self, volume: &str) {
        match self.volumes.get_mut(volume) {
            Some(VolumeStage::Mounted { stale, .. }) => *stale = true,
            // What was missing may be there now.
            Some(VolumeStage::Failed { failure, .. }) => {
                failure.back_off = failure.back_off.at_once()
            }
            _ => {}
        }
    }

    /// Something that a failed container's configuration was made from has changed: try again now.
    pub fn configuration_changed(&mut self) {
        for c in self.containers.values_mut() {
            if let Run::Failed { failure, .. } = &mut c.run {
                failure.back_off = failure.back_off.at_once();
            }
        }
    }

    /// Images have come into the store: whoever waits for one that `is_there` now tries again at once. What is still
    /// missing waits on: its registry wasn't asked.
    pub fn images_changed(&mut self, wanted: &Wanted, is_there: impl Fn(&str) -> bool) {
        for (_, container) in wanted.containers() {
            let image = container.image.as_deref().unwrap_or_default();
            if let Some(c) = self.containers.get_mut(&container.name)
                && let ImageStage::Failed(failure) = &mut c.image
                && is_there(image)
            {
                failure.back_off = failure.back_off.at_once();
            }
        }
    }

    pub(crate) fn container_mut(&mut self, name: &str) -> &mut ObservedContainer {
        self.containers.entry(name.to_owned()).or_default()
    }

    fn stage_mut(&mut self, kind: StepKind) -> Option<&mut Stage> {
        match kind {
            StepKind::MakeFolders | StepKind::RemoveFolders => Some(&mut self.folders),
            StepKind::MakeCgroup => Some(&mut self.cgroup),
            StepKind::SpawnShim => Some(&mut self.shim),
            StepKind::CreateSandbox => Some(&mut self.sandbox),
            StepKind::AttachNetwork => Some(&mut self.network),
            StepKind::DeleteFromApi => Some(&mut self.deleted_from_api),
            StepKind::ResizePod => Some(&mut self.resize),
            _ => None,
        }
    }

    fn finish_volume(&mut self, volume: &str, kind: StepKind, outcome: Outcome, now: Timestamp) {
        let (mounted, before) = match self.volumes.remove(volume) {
            Some(VolumeStage::Refreshing { before }) => (true, before),
            Some(VolumeStage::Busy { before }) => (false, before),
            _ => (false, None),
        };
        let stage = match outcome {
            Ok(Done::Mounted { refresh_at }) => VolumeStage::Mounted {
                refresh_at,
                stale: false,
            },
            Ok(_) => VolumeStage::Mounted {
                refresh_at: None,
                stale: false,
            },
            Err(error) => VolumeStage::Failed {
                failure: failure(kind, error, before, RetryKind::Other, now),
                mounted,
            },
        };
        self.volumes.insert(volume.to_owned(), stage);
    }

    fn finish_report(&mut self, status: &PodStatus, outcome: Outcome, now: Timestamp) {
        self.reported.busy = false;
        match outcome {
            Ok(done) => {
                if let Done::Reported {
                    version: Some(version),
                } = done
                {
                    self.reported.version = Some(version);
                }
                self.reported.status = Some(status.clone());
                self.reported.failed = None;
                self.reported.differs_since = None;
            }
            Err(error) => {
                let before = self.reported.failed.take().map(Box::new);
                self.reported.failed = Some(failure(
                    StepKind::ReportStatus,
                    error,
                    before,
                    RetryKind::Other,
                    now,
                ));
            }
        }
    }

    fn finish_teardown(&mut self, kind: StepKind, outcome: Outcome, now: Timestamp) {
        if let Err(error) = outcome {
            let before = match std::mem::take(&mut self.teardown) {
                Teardown::At { state, .. } => state,
                Teardown::NotBegun | Teardown::Finished => Stage::Absent,
            };
            self.teardown = Teardown::At {
                step: kind,
                state: failed(kind, error, before, now),
            };
            return;
        }
        match kind {
            StepKind::DetachNetwork => {
                self.network = Stage::Absent;
            }
            StepKind::UnmountVolumes => self.volumes.clear(),
            StepKind::EndShim => {
                // Usually none is left; a shim that was stuck to its end told nothing.
                self.lose_containers("The pod's shim did not answer and was killed", Some(now));
                self.shim = Stage::Absent;
                self.sandbox = Stage::Absent;
                for c in self.containers.values_mut() {
                    c.remains.clear();
                }
            }
            StepKind::RemoveCgroup => self.cgroup = Stage::Absent,
            _ => {}
        }
        let position = TEARDOWN
            .iter()
            .position(|k| *k == kind)
            .expect("only steps of the way down come here");
        self.teardown = match TEARDOWN.get(position + 1) {
            Some(next) => Teardown::At {
                step: *next,
                state: Stage::Absent,
            },
            None if self.rebuild => {
                self.begin_anew();
                Teardown::NotBegun
            }
            None => Teardown::Finished,
        };
    }

    /// All is gone and the pod shall run again: its init containers too.
    fn begin_anew(&mut self) {
        self.rebuild = false;
        self.ips.clear();
        self.resize = Stage::Absent;
        for c in self.containers.values_mut() {
            c.initialized = false;
            c.rerun_init();
        }
    }
}

impl ObservedContainer {
    fn begin_create(&mut self, attempt: u32, now: Timestamp) {
        let before = match std::mem::take(&mut self.run) {
            Run::Exited { finished } => {
                let ended = finished.finished_at.unwrap_or(now);
                self.back_off.restarted(ended, now);
                self.remains
                    .extend(finished.id.clone().map(|id| (id, Stage::Absent)));
                self.last = Some(finished);
                None
            }
            Run::Failed { failure, .. } => Some(Box::new(failure)),
            _ => None,
        };
        self.restarts = self.restarts.max(attempt);
        self.run = Run::Creating { attempt, before };
    }

    fn finish_create(&mut self, attempt: u32, outcome: Outcome, now: Timestamp) {
        let before = match std::mem::take(&mut self.run) {
            Run::Creating { before, .. } => before,
            other => {
                self.run = other;
                return;
            }
        };
        self.run = match outcome {
            Ok(Done::Created { id }) => Run::Created {
                id,
                attempt,
                starting: false,
            },
            Ok(_) => Run::Never,
            Err(error) if error.reason == FailureReason::RunContainerError => {
                return self.could_not_start(None, attempt, error, now);
            }
            Err(error) => {
                // The image may have been removed meanwhile: look again before the next try.
                self.image = ImageStage::Unknown;
                let failure = failure(
                    StepKind::CreateContainer,
                    error,
                    before,
                    RetryKind::Other,
                    now,
                );
                Run::Failed { attempt, failure }
            }
        };
    }

    fn finish_start(&mut self, id: &ContainerId, outcome: Outcome, now: Timestamp) {
        match (&mut self.run, outcome) {
            (
                Run::Created {
                    id: own, attempt, ..
                },
                Ok(done),
            ) if own == id => {
                let started_at = if let Done::Started { at } = done {
                    at
                } else {
                    now
                };
                (self.startup, self.readiness, self.liveness) = Default::default();
                self.run = Run::Running {
                    id: id.clone(),
                    attempt: *attempt,
                    started_at,
                    post_start: Hook::Due,
                    stop: Stop::No,
                };
            }
            (
                Run::Created {
                    id: own, attempt, ..
                },
                Err(error),
            ) if own == id => {
                let attempt = *attempt;
                self.could_not_start(Some(id.clone()), attempt, error, now);
            }
            // It ended before the answer came: only the time of its start is news.
            (Run::Exited { finished }, Ok(Done::Started { at }))
                if finished.id.as_ref() == Some(id) =>
            {
                finished.started_at = Some(at);
            }
            _ => {}
        }
    }

    fn finish_signal(
        &mut self,
        id: &ContainerId,
        kind: StepKind,
        outcome: Outcome,
        now: Timestamp,
    ) {
        let Run::Running { id: own, stop, .. } = &mut self.run else {
            return;
        };
        if own != id {
            return;
        }
        let sent = match (stop, kind) {
            (Stop::Term { sent, .. }, StepKind::SignalContainer)
            | (Stop::Kill { sent, .. }, StepKind::KillContainer) => sent,
            _ => return,
        };
        *sent = match outcome {
            Ok(_) => Stage::Done,
            Err(error) => failed(kind, error, std::mem::take(sent), now),
        };
    }

    /// As containerd reports it: an exit with 128 and `StartError`, so that restart policy and back-off apply.
    fn could_not_start(
        &mut self,
        id: Option<ContainerId>,
        attempt: u32,
        error: StepError,
        now: Timestamp,
    ) {
        self.end(Finished {
            id,
            attempt,
            exit_code: 128,
            reason: "StartError".to_owned(),
            message: Some(error.message),
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Some(now),
        });
    }

    pub(crate) fn end(&mut self, finished: Finished) {
        self.initialized |= finished.exit_code == 0;
        (self.startup, self.readiness, self.liveness) =
            <(ProbeState, ProbeState, ProbeState)>::default();
        self.run = Run::Exited { finished };
    }

    fn rerun_init(&mut self) {
        if let Run::Failed { .. } | Run::Creating { .. } = self.run {
            self.run = Run::Never;
        }
    }
}

fn busy(stage: Stage) -> Stage {
    match stage {
        Stage::Failed(failure) => Stage::Busy {
            before: Some(Box::new(failure)),
        },
        Stage::Busy { before } => Stage::Busy { before },
        Stage::Absent | Stage::Done => Stage::Busy { before: None },
    }
}

fn failed(kind: StepKind, error: StepError, before: Stage, now: Timestamp) -> Stage {
    let before = match before {
        Stage::Busy { before } => before,
        Stage::Failed(failure) => Some(Box::new(failure)),
        Stage::Absent | Stage::Done => None,
    };
    Stage::Failed(failure(kind, error, before, RetryKind::Other, now))
}

fn failure(
    step: StepKind,
    error: StepError,
    before: Option<Box<Failure>>,
    kind: RetryKind,
    now: Timestamp,
) -> Failure {
    let back_off = before.map_or_else(|| RetryBackOff::first(kind), |f| f.back_off.again());
    Failure {
        step,
        reason: error.reason,
        message: error.message,
        at: now,
        back_off,
    }
}
