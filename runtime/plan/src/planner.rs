//! The decision: which steps are due now for one pod, and when to look again if nothing happens.
//!
//! ```text
//!  up:   folders ─► shim ─► sandbox ─► network ┐
//!        cgroup ───────────────────────────────┤
//!        volumes ──────────────────────────────┼─► create ─► start ─► (post-start, probes)
//!        image of each container whose turn it is ┘
//!  down: pre-stop ─► signal ─► kill ─► pod's cgroup killed ─► network ─► volumes ─► shim ─► cgroup
//!        ─► folders ─► API object, when it is to be deleted
//! ```
//!
//! All steps of one answer are independent and may run at the same time; the next answer follows when any has
//! ended. A step in flight is `Busy` in [`Observed`] and never asked for twice.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodStatus};

use crate::{
    ContainerId, Failure, Hook, ImageStage, KillReason, Observed, ObservedContainer, Presence,
    PullPolicy, Role, Run, Stage, Step, StepKind, Stop, Teardown, VolumeStage, Wanted,
    cgroup::PodCgroup,
    life::TEARDOWN,
    probe::ProbeAnswer,
    resize::allocated,
    status::{self, is_terminal, pod_status},
};

mod resize;

/// What is due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Ask again then, if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// Nothing is left to do for ever: the pod's task may end.
    pub finished: bool,
    /// What the API should have now.
    pub status: PodStatus,
    /// It has something else.
    pub differs: bool,
}

/// A status change that changes nothing for anybody (a waiting reason) is held back so long, so that a pod that
/// starts fast costs one write, and a crowd of pods that starts slowly isn't slowed further.
const REPORT_DELAY: Duration = Duration::from_secs(1);
/// A killed container that is still there is killed again after this.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// What a container has at least between a pre-stop hook that used the grace up and its kill.
const AFTER_PRE_STOP: Duration = Duration::from_secs(2);

/// Decides for one pod.
pub fn plan(wanted: &Wanted, observed: &Observed, now: Timestamp) -> Plan {
    let mut planner = Planner {
        wanted,
        observed,
        now,
        plan: Plan::default(),
    };
    let status = pod_status(wanted, observed, now);
    // A suspended pod's object must not change: the next start finds what ran, and runs it again.
    let untold = wanted.presence == Presence::Removed || wanted.suspended.is_some();
    let in_sync = untold || planner.report(&status);
    if observed.rebuild
        || goes_down(wanted, observed, now, &status)
        || observed.teardown != Teardown::NotBegun
    {
        planner.down(in_sync, &status);
    } else {
        planner.up(in_sync);
    }
    planner.plan.status = status;
    planner.plan
}

fn goes_down(wanted: &Wanted, observed: &Observed, now: Timestamp, status: &PodStatus) -> bool {
    wanted.deletion().is_some()
        || wanted.suspended.is_some()
        || observed.failed.is_some()
        || deadline(wanted, observed).is_some_and(|at| now >= at)
        || is_terminal(status)
        || containers_finished(wanted, observed)
}

/// When `activeDeadlineSeconds` ends the pod.
pub(crate) fn deadline(wanted: &Wanted, observed: &Observed) -> Option<Timestamp> {
    let limit = wanted.spec().active_deadline_seconds?;
    Some(observed.start_time? + Duration::from_secs(u64::try_from(limit).ok()?))
}

/// Every main container has ended for good, or an init container has: what still runs are sidecars.
pub(crate) fn containers_finished(wanted: &Wanted, observed: &Observed) -> bool {
    let ended = |role, c: &Container| match observed.containers.get(&c.name).map(|o| &o.run) {
        Some(Run::Exited { finished }) => !wanted.restarts(role, c, finished.exit_code),
        _ => false,
    };
    let init_failed = wanted.containers().any(|(role, c)| {
        role == Role::Init && ended(role, c) && !observed.containers.get(&c.name).is_some_and(|o| o.initialized)
            && !matches!(observed.containers.get(&c.name).map(|o| &o.run), Some(Run::Exited { finished }) if finished.exit_code == 0)
    });
    let mut mains = wanted
        .containers()
        .filter(|(role, _)| *role == Role::Main)
        .peekable();
    init_failed || (mains.peek().is_some() && mains.all(|(role, c)| ended(role, c)))
}

struct Planner<'a> {
    wanted: &'a Wanted,
    observed: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

impl Planner<'_> {
    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    /// A time that has passed needs no waking: whatever it stands for is in flight.
    fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |w| w.min(at)));
        }
    }

    /// Whether a failed step may be tried again now; else its time is noted.
    fn due(&mut self, failure: &Failure) -> bool {
        let at = failure.retry_at();
        if self.now < at {
            self.wake(at);
        }
        self.now >= at
    }

    /// Plans the status patch; true when the API knows all that somebody may wait for, each container's end above all.
    fn report(&mut self, status: &PodStatus) -> bool {
        let reported = &self.observed.reported;
        let difference = status::difference(reported.status.as_ref(), status);
        self.plan.differs = difference != status::Difference::None;
        if reported.busy {
            return false;
        }
        let due = match difference {
            status::Difference::None => return true,
            status::Difference::Urgent => true,
            status::Difference::MayWait => {
                let since = reported.differs_since.or(self.observed.start_time);
                let at = since.unwrap_or(self.now) + REPORT_DELAY;
                self.wake(at);
                self.now >= at
            }
        };
        if due
            && reported.failed.as_ref().is_none_or(|f| self.due(f))
            && self.observed.deleted_from_api == Stage::Absent
        {
            self.step(Step::ReportStatus {
                status: Box::new(status.clone()),
            });
        }
        difference == status::Difference::MayWait
    }

    fn up(&mut self, in_sync: bool) {
        if let Some(at) = deadline(self.wanted, self.observed) {
            self.wake(at);
        }
        let o = self.observed;
        let folders = self.ground(&o.folders, true, Step::MakeFolders);
        let cgroup = PodCgroup::of(&self.wanted.node.cgroup_root, self.wanted);
        let cgroup = self.ground(&o.cgroup, true, Step::MakeCgroup { cgroup });
        let shim = self.ground(&o.shim, folders, Step::SpawnShim);
        let sandbox = self.ground(&o.sandbox, shim, Step::CreateSandbox);
        let network =
            self.wanted.host_network() || self.ground(&o.network, sandbox, Step::AttachNetwork);
        // A volume's content is collected while the shim that will hold it starts.
        let shim_comes = shim || o.shim.is_busy() || self.plan.steps.contains(&Step::SpawnShim);
        let volumes = self.volumes(folders && shim_comes);
        let ready = cgroup && sandbox && network && volumes;
        self.containers(ready);
        self.resize();
        if in_sync {
            self.remove_remains();
        }
    }

    fn ground(&mut self, stage: &Stage, may_begin: bool, step: Step) -> bool {
        match stage {
            Stage::Done => return true,
            Stage::Busy { .. } => {}
            Stage::Absent if may_begin => self.step(step),
            Stage::Failed(failure) if may_begin && self.due(failure) => self.step(step),
            Stage::Absent | Stage::Failed(_) => {}
        }
        false
    }

    fn volumes(&mut self, may_begin: bool) -> bool {
        let mut all = true;
        for volume in self.wanted.spec().volumes.iter().flatten() {
            let name = &volume.name;
            match self
                .observed
                .volumes
                .get(name)
                .unwrap_or(&VolumeStage::Absent)
            {
                VolumeStage::Mounted { refresh_at, stale } => {
                    let due = refresh_at
                        .filter(|at| self.now < *at)
                        .map(|at| self.wake(at))
                        .is_none();
                    if *stale || (refresh_at.is_some() && due) {
                        self.step(Step::RefreshVolume {
                            volume: name.clone(),
                        });
                    }
                }
                VolumeStage::Refreshing { .. } => {}
                VolumeStage::Failed {
                    failure,
                    mounted: true,
                } => {
                    if self.due(failure) {
                        self.step(Step::RefreshVolume {
                            volume: name.clone(),
                        });
                    }
                }
                VolumeStage::Busy { .. } => all = false,
                VolumeStage::Absent => {
                    all = false;
                    if may_begin {
                        self.step(Step::MountVolume {
                            volume: name.clone(),
                        });
                    }
                }
                VolumeStage::Failed {
                    failure,
                    mounted: false,
                } => {
                    all = false;
                    if may_begin && self.due(failure) {
                        self.step(Step::MountVolume {
                            volume: name.clone(),
                        });
                    }
                }
            }
        }
        all
    }

    /// Init containers one after the other, each sidecar in its turn, then all main ones together; ephemeral ones at
    /// any time.
    fn containers(&mut self, ready: bool) {
        static NONE: std::sync::LazyLock<ObservedContainer> =
            std::sync::LazyLock::new(ObservedContainer::default);
        let (wanted, observed) = (self.wanted, self.observed);
        let of = |name: &str| observed.containers.get(name).unwrap_or(&NONE);
        for (role, container) in wanted.containers() {
            if role == Role::Ephemeral {
                self.manage(role, container, of(&container.name), ready);
            }
        }
        for (role, container) in wanted.containers() {
            let c = of(&container.name);
            match role {
                Role::Init if c.initialized => {}
                Role::Init => return self.manage(role, container, c, ready),
                Role::Sidecar => {
                    self.manage(role, container, c, ready);
                    let main_started = wanted.containers().any(|(role, c)| {
                        role == Role::Main
                            && self
                                .observed
                                .containers
                                .get(&c.name)
                                .is_some_and(|o| o.run != Run::Never)
                    });
                    if !status::is_started(container, c) && !main_started {
                        return;
                    }
                }
                Role::Main => self.manage(role, container, c, ready),
                Role::Ephemeral => {}
            }
        }
    }

    fn manage(&mut self, role: Role, container: &Container, c: &ObservedContainer, ready: bool) {
        match &c.run {
            Run::Never => self.create(container, c, c.restarts, ready),
            Run::Failed { attempt, failure } => {
                if self.due(failure) {
                    self.create(container, c, *attempt, ready);
                }
            }
            Run::Creating { .. } => {}
            Run::Created { id, starting, .. } => {
                if !starting {
                    self.step(Step::StartContainer {
                        container: container.name.clone(),
                        id: id.clone(),
                    });
                }
            }
            Run::Running { .. } => self.watch_over(container, c),
            Run::Exited { finished } => {
                let again_after_rebuild =
                    role == Role::Init && finished.exit_code == 0 && !c.initialized;
                if !again_after_rebuild
                    && !self.wanted.restarts(role, container, finished.exit_code)
                {
                    return;
                }
                let ended = finished.finished_at.unwrap_or(self.now);
                match c.back_off.waits_until(ended, self.now) {
                    Some((_, end)) => self.wake(end),
                    None => self.create(container, c, c.restarts + 1, ready),
                }
            }
        }
    }

    fn create(&mut self, container: &Container, c: &ObservedContainer, attempt: u32, ready: bool) {
        let image = container.image.clone().unwrap_or_default();
        let resolve = Step::ResolveImage {
            container: container.name.clone(),
            policy: pull_policy(container),
            image: image.clone(),
        };
        match &c.image {
            ImageStage::Unknown => self.step(resolve),
            ImageStage::Busy { .. } => {}
            ImageStage::Failed(failure) => {
                if self.due(failure) {
                    self.step(resolve);
                }
            }
            ImageStage::Found(found) if found.asked != image => self.step(resolve),
            ImageStage::Found(_) if ready => {
                self.step(Step::CreateContainer {
                    container: container.name.clone(),
                    attempt,
                    target: self.target(&container.name),
                    resources: Box::new(allocated(self.wanted, self.observed, container)),
                });
            }
            ImageStage::Found(_) => {}
        }
    }

    /// The run of the container that an ephemeral one is aimed at.
    fn target(&self, name: &str) -> Option<ContainerId> {
        let target = self.observed.containers.get(self.wanted.target(name)?)?;
        match &target.run {
            Run::Running { id, .. } => Some(id.clone()),
            _ => None,
        }
    }

    /// A running container: its hooks, and whether something speaks for its end.
    fn watch_over(&mut self, container: &Container, c: &ObservedContainer) {
        let Run::Running {
            id,
            post_start,
            stop,
            ..
        } = &c.run
        else {
            return;
        };
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref());
        if *post_start == Hook::Due && hook.is_some() && *stop == Stop::No {
            self.step(Step::RunPostStart {
                container: container.name.clone(),
                id: id.clone(),
            });
        }
        let own_grace = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
            probe
                .and_then(|p| p.termination_grace_period_seconds)
                .map(crate::wanted::seconds)
        };
        let changed =
            matches!(&c.image, ImageStage::Found(f) if Some(&f.asked) != container.image.as_ref());
        let reason = if c.startup.is(ProbeAnswer::Failure) && container.startup_probe.is_some() {
            Some((
                KillReason::StartupFailed,
                own_grace(container.startup_probe.as_ref()),
            ))
        } else if c.liveness.is(ProbeAnswer::Failure) && container.liveness_probe.is_some() {
            Some((
                KillReason::LivenessFailed,
                own_grace(container.liveness_probe.as_ref()),
            ))
        } else if *post_start == Hook::Failed {
            Some((KillReason::PostStartFailed, None))
        } else if changed {
            Some((KillReason::DefinitionChanged, None))
        } else if self.restarts_for_resize(&container.name, c) {
            Some((KillReason::Resized, None))
        } else {
            None
        };
        match (reason, stop) {
            (Some((reason, grace)), _) => {
                let grace = grace.unwrap_or_else(|| self.wanted.grace());
                self.end_container(container, c, reason, grace, None);
            }
            // The end was begun for a reason that has gone; it is finished all the same.
            (
                None,
                Stop::PreStop { reason, .. }
                | Stop::Term { reason, .. }
                | Stop::Kill { reason, .. },
            ) => {
                self.end_container(container, c, *reason, self.wanted.grace(), None);
            }
            (None, Stop::No) => {}
        }
    }

    /// Pre-stop hook, signal, kill: the next of them that is due.
    fn end_container(
        &mut self,
        container: &Container,
        c: &ObservedContainer,
        reason: KillReason,
        grace: Duration,
        not_later_than: Option<Timestamp>,
    ) {
        let Run::Running { id, stop, .. } = &c.run else {
            return;
        };
        let (name, id, now) = (container.name.clone(), id.clone(), self.now);
        let cut = |at: Timestamp| {
            not_later_than
                .map_or(at, |limit| at.min(limit))
                .max(now.min(at))
        };
        match stop {
            Stop::No => {
                let kill_at = now + grace;
                // The step's own answer may take longer than that.
                self.wake(kill_at);
                let hook = container
                    .lifecycle
                    .as_ref()
                    .and_then(|l| l.pre_stop.as_ref());
                self.step(if hook.is_some() && !grace.is_zero() {
                    Step::RunPreStop {
                        container: name,
                        id,
                        reason,
                        kill_at,
                        limit: grace,
                    }
                } else {
                    Step::SignalContainer {
                        container: name,
                        id,
                        reason,
                        kill_at,
                    }
                });
            }
            Stop::PreStop {
                reason,
                kill_at,
                busy,
            } => {
                let limit = cut(*kill_at);
                if *busy && now < limit {
                    return self.wake(limit);
                }
                let kill_at = limit.max(now + AFTER_PRE_STOP.min(grace));
                self.wake(kill_at);
                self.step(Step::SignalContainer {
                    container: name,
                    id,
                    reason: *reason,
                    kill_at,
                });
            }
            Stop::Term {
                reason,
                kill_at,
                sent,
            } => {
                let kill_at = cut(*kill_at);
                // The kill doesn't wait for the signal's answer: a stopped shim gives none.
                if now >= kill_at {
                    self.wake(now + KILL_AGAIN);
                    return self.step(Step::KillContainer {
                        container: name,
                        id,
                        reason: *reason,
                    });
                }
                self.wake(kill_at);
                if let Stage::Failed(failure) = sent
                    && self.due(failure)
                {
                    self.step(Step::SignalContainer {
                        container: name,
                        id,
                        reason: *reason,
                        kill_at,
                    });
                }
            }
            Stop::Kill { reason, at, sent } => {
                let again = match sent {
                    Stage::Failed(failure) => self.due(failure),
                    Stage::Busy { .. } => false,
                    Stage::Absent | Stage::Done => {
                        let again_at = *at + KILL_AGAIN;
                        self.wake(again_at.max(now));
                        now >= again_at
                    }
                };
                if again {
                    self.step(Step::KillContainer {
                        container: name,
                        id,
                        reason: *reason,
                    });
                }
            }
        }
    }

    fn remove_remains(&mut self) {
        for (name, c) in &self.observed.containers {
            for (id, stage) in &c.remains {
                let step = Step::RemoveContainer {
                    container: name.clone(),
                    id: id.clone(),
                };
                self.ground(stage, true, step);
            }
        }
    }

    /// `in_sync`: the API has our status, so that records of exits may go.
    fn down(&mut self, in_sync: bool, status: &PodStatus) {
        if let Teardown::Finished = self.observed.teardown {
            return self.leave(in_sync, status);
        }
        if self.observed.teardown == Teardown::NotBegun && !self.containers_ended() {
            return;
        }
        if self.grounds_busy() {
            return;
        }
        let (position, state) = match &self.observed.teardown {
            Teardown::At { step, state } => {
                (TEARDOWN.iter().position(|k| k == step).unwrap_or(0), state)
            }
            Teardown::NotBegun | Teardown::Finished => (0, &Stage::Absent),
        };
        let step = match TEARDOWN[position] {
            StepKind::DetachNetwork => Step::DetachNetwork,
            StepKind::UnmountVolumes => Step::UnmountVolumes,
            StepKind::EndShim if in_sync => Step::EndShim,
            StepKind::EndShim => return,
            StepKind::RemoveCgroup => Step::RemoveCgroup,
            _ => Step::KillPod,
        };
        self.ground(state, true, step);
    }

    /// Ends what still runs; true when nothing does.
    fn containers_ended(&mut self) -> bool {
        let wanted = self.wanted;
        let deletion = wanted.deletion();
        let reason = match (deletion, containers_finished(wanted, self.observed)) {
            _ if self.observed.failed.is_some() => KillReason::DeadlineExceeded,
            _ if wanted.suspended.is_some() => KillReason::NodeStops,
            (Some(_), _) => KillReason::PodDeleted,
            (None, true) => KillReason::PodFinished,
            (None, false) => KillReason::DeadlineExceeded,
        };
        let grace = deletion.map_or_else(|| wanted.grace(), |d| d.grace);
        let grace = wanted.suspended.map_or(grace, |most| grace.min(most));
        let not_later = deletion.and_then(|d| d.not_later_than);
        let mut ended = true;
        let mut mains_ended = true;
        // Sidecars follow the main containers, last started first.
        let order: Vec<_> = wanted.containers().collect();
        for (role, container) in order.into_iter().rev() {
            let Some(c) = self.observed.containers.get(&container.name) else {
                continue;
            };
            let up = match &c.run {
                // Killed through its cgroup, and its shim doesn't say so: the pod's cgroup and the shim go next.
                Run::Running {
                    stop:
                        Stop::Kill {
                            at,
                            sent: Stage::Done,
                            ..
                        },
                    ..
                } if self.now >= *at + KILL_AGAIN => false,
                Run::Running { .. } => {
                    if matches!(role, Role::Main | Role::Ephemeral) || mains_ended {
                        self.end_container(container, c, reason, grace, not_later);
                    }
                    true
                }
                Run::Creating { .. } | Run::Created { starting: true, .. } => true,
                Run::Never | Run::Failed { .. } | Run::Created { .. } | Run::Exited { .. } => false,
            };
            ended &= !up;
            if up && matches!(role, Role::Main | Role::Sidecar) {
                mains_ended = false;
            }
        }
        ended
    }

    /// A step of the way up still runs: its answer is awaited, so that nothing is made behind our back.
    fn grounds_busy(&self) -> bool {
        let o = self.observed;
        [
            &o.folders, &o.cgroup, &o.shim, &o.sandbox, &o.network, &o.resize,
        ]
        .into_iter()
        .any(Stage::is_busy)
            || o.volumes
                .values()
                .any(|v| matches!(v, VolumeStage::Busy { .. } | VolumeStage::Refreshing { .. }))
            || o.containers.values().any(|c| {
                matches!(
                    c.run,
                    Run::Creating { .. } | Run::Created { starting: true, .. }
                )
            })
    }

    /// All is gone from the kernel. The folders hold the logs and stay as long as the object does.
    fn leave(&mut self, in_sync: bool, status: &PodStatus) {
        let o = self.observed;
        if self.wanted.suspended.is_some() {
            self.plan.finished = true;
            return;
        }
        if self.wanted.deletion().is_none() {
            return;
        }
        match &o.folders {
            Stage::Absent => {}
            Stage::Busy { .. } => return,
            Stage::Done => return self.step(Step::RemoveFolders),
            Stage::Failed(failure) => {
                if self.due(failure) {
                    self.step(Step::RemoveFolders);
                }
                return;
            }
        }
        if self.wanted.presence == Presence::Removed || o.deleted_from_api.is_done() {
            self.plan.finished = true;
            return;
        }
        if in_sync && is_terminal(status) {
            self.ground(&o.deleted_from_api, true, Step::DeleteFromApi);
        }
    }
}

/// The policy of the container, with upstream's default by tag.
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

#[cfg(test)]
mod tests;
