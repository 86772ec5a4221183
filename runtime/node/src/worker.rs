//! The one task that owns a pod: it asks the plan, lets steps run, takes in what happens, and asks again.
//!
//! ```text
//!   watch of pods ─► wanted ┐                        ┌─► steps (each a task of its own)
//!   shim's state ───────────┼─► Observed ─► plan ────┤
//!   probes, volumes' news ──┤                        └─► wake-up
//!   ended steps ────────────┘
//! ```
//! Cancelling it (the node stops) leaves the pod running: everything it knew is in the shim and the API.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kernelet_pod_plan::{
    ContainerId, Exit, FailureReason, Observed, Outcome, Plan, Presence, Run, Step, StepError,
    Teardown, Wanted, plan,
    probe::{ProbeAnswer, ProbeKind, ProbeTiming},
};
use kernelet_shim_client::{Liveness, Observed as ShimObserved, Phase};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    errors::chain,
    narrate::{self, Told},
    pod::{Follower, PodHome},
    probes::{ProbeNews, Probes},
    stats::PodStart,
    steps::{self, Scene},
    termination, volumes,
};

/// What others ask of a pod's task.
#[derive(Debug)]
pub(crate) enum Request {
    /// End the containers within this time and take everything down; the object stays.
    Suspend(Duration),
    /// The image store has changed.
    ImagesChanged,
}

/// What everybody may see of a pod at any time.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub pod: Arc<Pod>,
    pub status: PodStatus,
    /// By container: the id of its present or last run, and its attempt.
    pub containers: BTreeMap<String, (ContainerId, u32)>,
}

pub(crate) struct Worker {
    home: Arc<PodHome>,
    wanted: Wanted,
    seen: Observed,
    pods: watch::Receiver<Option<Arc<Pod>>>,
    requests: mpsc::Receiver<Request>,
    news: mpsc::UnboundedReceiver<Follower>,
    probe_news: mpsc::UnboundedReceiver<ProbeNews>,
    probes: Probes,
    view: watch::Sender<View>,
    steps: JoinSet<(Step, Outcome)>,
    told: Told,
    start: PodStart,
    shim: Option<watch::Receiver<ShimObserved>>,
}

/// The ends of a worker's channels that its maker holds.
pub(crate) struct Channels {
    pub pods: watch::Receiver<Option<Arc<Pod>>>,
    pub requests: mpsc::Receiver<Request>,
    pub news: mpsc::UnboundedReceiver<Follower>,
    pub view: watch::Sender<View>,
}

enum Happening {
    Object,
    Request(Request),
    News(Follower),
    Probe(ProbeNews),
    Step(Step, Outcome),
    Shim,
    Time,
    Stop,
}

impl Worker {
    pub fn new(home: Arc<PodHome>, wanted: Wanted, seen: Observed, channels: Channels) -> Self {
        let (probe_sender, probe_news) = mpsc::unbounded_channel();
        let shim = home.shim().map(|s| s.watch());
        Self {
            probes: Probes::new(home.clone(), probe_sender),
            told: Told::default(),
            start: PodStart::default(),
            home,
            wanted,
            seen,
            pods: channels.pods,
            requests: channels.requests,
            news: channels.news,
            probe_news,
            view: channels.view,
            steps: JoinSet::new(),
            shim,
        }
    }

    /// Until the pod is gone for good, or the node stops.
    pub async fn run(mut self) {
        self.take_in_shim().await;
        loop {
            let now = Timestamp::now();
            self.seen.settle(&self.wanted, now);
            let Plan {
                steps,
                wake_at,
                finished,
                status,
                differs,
            } = plan(&self.wanted, &self.seen, now);
            self.seen.differs(differs, now);
            self.told.waits(&self.home, &self.wanted, &self.seen, now);
            self.publish(status);
            self.probes.reconcile(&self.wanted, &self.seen);
            if finished && self.steps.is_empty() {
                break;
            }
            for step in steps {
                self.begin(step, now);
            }
            match self.happening(wake_at).await {
                Happening::Stop => break,
                happening => self.take_in(happening).await,
            }
        }
        self.home.over.cancel();
        self.home.ctx.counters.forget(&self.home.id.uid);
        // A step in flight has perhaps made something that nobody knows of yet; it is brief, so let it end.
        let rest = async { while self.steps.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    }

    fn begin(&mut self, step: Step, now: Timestamp) {
        self.told.begins(&self.home, &self.wanted, &step);
        self.seen.begin(&step, now);
        if matches!(step, Step::SpawnShim) {
            self.home.shim_comes();
        }
        let scene = Scene {
            wanted: self.wanted.clone(),
            ips: self.seen.ips.clone(),
            reported: match step {
                Step::ReportStatus { .. } => self.seen.reported.status.clone().map(Arc::new),
                _ => None,
            },
        };
        let home = self.home.clone();
        self.steps.spawn(async move {
            let (name, began) = (home.id.name.clone(), Instant::now());
            let run = {
                let (home, scene, step) = (home, scene, step.clone());
                async move { steps::execute(&home, &scene, &step).await }
            };
            // On a task of its own, so that a panic in it is this step's failure and not the pod's end.
            let outcome = tokio::spawn(run).await.unwrap_or_else(|error| {
                tracing::error!(%error, step = step.kind().name(), "a step panicked");
                let message = format!(
                    "{} panicked; this is a defect of kernelet",
                    step.kind().name()
                );
                Err(StepError {
                    reason: FailureReason::CreateContainerError,
                    message,
                })
            });
            tracing::debug!(pod = %name, step = step.kind().name(), took = ?began.elapsed(), ok = outcome.is_ok(), "step");
            (step, outcome)
        });
    }

    async fn happening(&mut self, wake_at: Option<Timestamp>) -> Happening {
        let wake = async {
            match wake_at {
                Some(at) => {
                    let left =
                        Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                    // A little late rather than a little early: too early plans the same wait again.
                    tokio::time::sleep(left + Duration::from_millis(1)).await;
                }
                None => std::future::pending().await,
            }
        };
        let shim = async {
            let changed = match &mut self.shim {
                Some(shim) => shim.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        // Every arm only receives: a cancelled one has taken nothing.
        tokio::select! {
            biased;
            () = self.home.ctx.shutdown.cancelled() => Happening::Stop,
            Some(ended) = self.steps.join_next(), if !self.steps.is_empty() => match ended {
                Ok((step, outcome)) => Happening::Step(step, outcome),
                Err(error) => {
                    tracing::error!(pod = %self.home.id.name, %error, "a step of this pod was lost");
                    Happening::Stop
                }
            },
            () = shim => Happening::Shim,
            changed = self.pods.changed() => match changed {
                Ok(()) => Happening::Object,
                Err(_) => Happening::Stop,
            },
            Some(request) = self.requests.recv() => Happening::Request(request),
            Some(news) = self.news.recv() => Happening::News(news),
            Some(news) = self.probe_news.recv() => Happening::Probe(news),
            () = wake => Happening::Time,
        }
    }

    async fn take_in(&mut self, happening: Happening) {
        let now = Timestamp::now();
        match happening {
            Happening::Object => self.take_in_object(),
            Happening::Request(Request::Suspend(grace)) => self.wanted.suspended = Some(grace),
            Happening::Request(Request::ImagesChanged) => {
                let store = self.home.ctx.images.store();
                self.seen.images_changed(&self.wanted, |image| {
                    store.get(image).is_ok_and(|image| image.is_everybodys())
                });
            }
            Happening::News(Follower::Volume(name)) => self.seen.volume_source_changed(&name),
            Happening::News(Follower::Configuration) => self.seen.configuration_changed(),
            Happening::Probe(news) => self.take_in_probe(&news, now),
            Happening::Step(step, outcome) => {
                self.end_silent_shim();
                self.told
                    .ended(&self.home, &self.wanted, &self.seen, &step, &outcome);
                let counters = &self.home.ctx.counters;
                counters.step(&self.wanted, &step, &outcome);
                self.seen.finish(&step, outcome, now);
                if matches!(step, Step::SpawnShim) {
                    self.shim = self.home.shim().map(|s| s.watch());
                }
                if matches!(step, Step::EndShim) {
                    self.shim = None;
                }
                // A container that ended before its start was told is taken in now.
                if matches!(
                    step,
                    Step::StartContainer { .. } | Step::CreateContainer { .. } | Step::SpawnShim
                ) {
                    self.take_in_shim().await;
                }
            }
            Happening::Shim => self.take_in_shim().await,
            Happening::Time | Happening::Stop => {}
        }
    }

    /// A shim that answers nothing (stopped, stuck) is as good as dead, and is made so: its end is then told like any.
    fn end_silent_shim(&self) {
        if !self.home.take_silent() {
            return;
        }
        if let Some(shim) = self.home.shim() {
            tracing::warn!(pod = %self.home.id.name, "the pod's shim doesn't answer and is killed");
            tokio::spawn(async move {
                if let Err(error) = shim.shutdown(Duration::ZERO).await {
                    tracing::warn!(error = %chain(&error), "end a shim that doesn't answer");
                }
            });
        }
    }

    fn take_in_object(&mut self) {
        let newest = self.pods.borrow_and_update().clone();
        let Some(pod) = newest else {
            self.wanted.presence = Presence::Removed;
            return;
        };
        let metadata = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if metadata(&pod) != metadata(&self.wanted.pod) {
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            for volume in volumes.filter(|v| volumes::speaks_of_metadata(v)) {
                self.seen.volume_source_changed(&volume.name);
            }
        }
        self.wanted.set_pod(pod);
        self.seen.api_status_seen(&self.wanted);
    }

    fn take_in_probe(&mut self, news: &ProbeNews, now: Timestamp) {
        let ProbeNews {
            container,
            id,
            kind,
            answer,
            output,
        } = news;
        let Some((role, spec)) = self.wanted.container(container) else {
            return;
        };
        let probe = match kind {
            ProbeKind::Startup => spec.startup_probe.as_ref(),
            ProbeKind::Readiness => spec.readiness_probe.as_ref(),
            ProbeKind::Liveness => spec.liveness_probe.as_ref(),
        };
        let Some(probe) = probe else { return };
        let of = &self.home.id;
        let pod = (of.namespace.as_str(), of.name.as_str(), of.uid.as_str());
        let counters = &self.home.ctx.counters;
        counters.probe(pod, container, *kind, *answer);
        if *answer == ProbeAnswer::Failure {
            narrate::unhealthy(&self.home, role, container, *kind, output);
        }
        self.seen
            .probed(container, id, *kind, *answer, &ProbeTiming::of(probe), now);
    }

    /// The shim's newest state against what we know: ends of containers, and its own.
    async fn take_in_shim(&mut self) {
        let Some(shim) = &mut self.shim else { return };
        let level = shim.borrow_and_update().clone();
        let current: Vec<(String, ContainerId)> = self
            .seen
            .containers
            .iter()
            .filter_map(|(name, c)| match &c.run {
                Run::Created { id, .. } | Run::Running { id, .. } => {
                    Some((name.clone(), id.clone()))
                }
                _ => None,
            })
            .collect();
        for (name, id) in current {
            let Ok(spec_id) = kernelet_spec::ContainerId::new(id.0.clone()) else {
                continue;
            };
            let Some(state) = level.state.containers.get(&spec_id) else {
                continue;
            };
            let Phase::Exited(record) = &state.phase else {
                continue;
            };
            let exit = Exit {
                code: record.exit_code,
                oom_killed: record.oom_killed,
                at: Timestamp::try_from(record.finished_at).unwrap_or_else(|_| Timestamp::now()),
            };
            let message =
                termination::message(&self.home, &self.wanted, &name, &id, &self.seen, exit.code)
                    .await;
            self.seen.container_exited(&name, &id, exit, message);
        }
        if level.liveness == Liveness::Dead && self.home.shim().is_some() {
            self.shim = None;
            self.home.set_shim(None);
            let expected = self.seen.teardown != Teardown::NotBegun;
            self.seen.shim_died("its process ended", Timestamp::now());
            if !expected {
                narrate::shim_died(&self.home);
            }
        }
    }

    fn publish(&mut self, status: PodStatus) {
        let counters = &self.home.ctx.counters;
        self.start.published(status.phase.as_deref(), counters);
        let containers = self.seen.containers.iter().filter_map(|(name, c)| {
            let (id, attempt) = match &c.run {
                Run::Created { id, attempt, .. } | Run::Running { id, attempt, .. } => {
                    (id.clone(), *attempt)
                }
                Run::Exited { finished } => (finished.id.clone()?, finished.attempt),
                _ => {
                    let last = c.last.as_ref()?;
                    (last.id.clone()?, last.attempt)
                }
            };
            Some((name.clone(), (id, attempt)))
        });
        let view = View {
            pod: self.wanted.pod.clone(),
            status,
            containers: containers.collect(),
        };
        self.view.send_replace(view);
    }
}
