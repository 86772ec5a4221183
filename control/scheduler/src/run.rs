//! The loop: watches → snapshot and queue → decide → bind.
//!
//! One lock holds snapshot and queue, so that a decision and the parking that may follow see the
//! same cluster: no event can fall between them. A decided pod counts against its node at once
//! (it is "assumed"); binding goes on beside the next decisions and takes the pod back on failure.

use crate::{
    bind::Binder,
    decide::{NodeName, decide},
    pod::PodInfo,
    preempt::{Budget, Plan, Preemption, preempt},
    queue::Queue,
    reasons::{ClusterEvent, Unschedulable},
    snapshot::Snapshot,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kernelet_client::{Change, Informers, Shared};
use kube::{Client, ResourceExt};
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// The scheduler that pods name when they name none.
pub(crate) const SCHEDULER_NAME: &str = "default-scheduler";

/// Decisions in a row before other tasks of this thread get a turn.
const DECISIONS_AT_ONCE: usize = 8;

/// Schedules pods until `shutdown`, with watches of its own.
pub async fn run(client: Client, shutdown: CancellationToken) -> Result<(), Infallible> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    run_shared(client, &informers, shutdown).await
}

/// Schedules pods until `shutdown`, reading through the process's shared watches and writing
/// with `client`, the scheduler's own identity.
pub async fn run_shared(
    client: Client,
    informers: &Informers,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let budgets = informers.all::<PodDisruptionBudget>();
    let world = Arc::new(World::new(budgets.clone()));
    let pods = informers.all::<Pod>();
    let nodes = informers.all::<Node>();
    let namespaces = informers.all::<Namespace>();
    // A run that ends by a panic and is started again must not listen twice.
    let run = shutdown.child_token();
    let _end = run.clone().drop_guard();
    follow(&world, &pods, &nodes, &namespaces, &run);
    let synced = async {
        nodes.wait_until_synced().await;
        namespaces.wait_until_synced().await;
        pods.wait_until_synced().await;
        budgets.wait_until_synced().await;
    };
    tokio::select! {
        () = synced => {}
        // Nothing was begun yet.
        () = shutdown.cancelled() => return Ok(()),
    }
    let binder = Binder::new(client);
    let mut in_a_row = 0;
    while !shutdown.is_cancelled() {
        let Some(verdict) = world.next_verdict() else {
            in_a_row = 0;
            if !world.wait(&shutdown).await {
                break;
            }
            continue;
        };
        match verdict {
            Verdict::Bind(pod, node) => binder.bind(&world, pod, node).await,
            Verdict::Refuse(pod, message) => binder.report(pod, message, None).await,
            Verdict::Preempt(pod, plan, message) => {
                binder
                    .report(pod.clone(), message, Some(plan.node.clone()))
                    .await;
                binder.preempt(&world, pod, plan).await;
            }
        }
        in_a_row += 1;
        if in_a_row % DECISIONS_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    binder.finish().await;
    Ok(())
}

enum Verdict {
    Bind(Arc<PodInfo>, NodeName),
    Refuse(Arc<PodInfo>, String),
    Preempt(Arc<PodInfo>, Plan, String),
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

/// What the watches, the loop and the binds share.
pub(crate) struct World {
    state: Mutex<State>,
    wake: Notify,
    budgets: Shared<PodDisruptionBudget>,
}

impl World {
    fn new(budgets: Shared<PodDisruptionBudget>) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            budgets,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_verdict(&self) -> Option<Verdict> {
        let now = Instant::now();
        let state = &mut *self.state();
        let pod = state.queue.pop(now)?;
        Some(match decide(&state.snapshot, &pod) {
            Ok(node) => {
                state.snapshot.place(pod.clone(), &node.0);
                state.queue.on_event(ClusterEvent::PodPlaced, now);
                Verdict::Bind(pod, node)
            }
            Err(why) => self.make_room(state, pod, why, now),
        })
    }

    /// Nobody takes the pod: if there are less important ones, some may have to leave.
    fn make_room(
        &self,
        state: &mut State,
        pod: Arc<PodInfo>,
        mut why: Unschedulable,
        now: Instant,
    ) -> Verdict {
        let mut plan = None;
        if state.snapshot.has_lower(pod.priority) && why.nodes > 0 {
            let budgets = self.budgets.list();
            let budgets: Vec<_> = budgets.iter().map(|budget| Budget::new(budget)).collect();
            match preempt(&mut state.snapshot, &pod, &budgets) {
                Ok(found) => {
                    state.snapshot.nominate(pod.clone(), &found.node.0);
                    why.preemption = Preemption::Begun;
                    plan = Some(found);
                }
                Err(outcome) => {
                    if matches!(outcome, Preemption::NoUse(_)) {
                        state.snapshot.forget_nomination(&pod.uid);
                    }
                    why.preemption = outcome;
                }
            }
        }
        let message = why.to_string();
        state.queue.park(&pod.uid, why, now);
        match plan {
            Some(plan) => Verdict::Preempt(pod, plan, message),
            None => Verdict::Refuse(pod, message),
        }
    }

    /// Waits for a change or for a pod's back-off to end; false on shutdown.
    async fn wait(&self, shutdown: &CancellationToken) -> bool {
        let due = self.state().queue.next_due();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wake.notified() => true,
            () = sleep => true,
            () = shutdown.cancelled() => false,
        }
    }

    pub(crate) fn bound(&self, pod: &PodInfo) {
        self.state().queue.remove(&pod.uid);
    }

    /// The pod doesn't count any more where it was assumed; it is tried again, unless it is gone.
    pub(crate) fn not_bound(&self, pod: &PodInfo) {
        let state = &mut *self.state();
        let now = Instant::now();
        // The watch may have told meanwhile that it is bound after all: then it isn't queued.
        if state.queue.contains(&pod.uid) {
            state.snapshot.remove_pod(&pod.uid);
            state.queue.on_event(ClusterEvent::PodGone, now);
            state.queue.retry(&pod.uid, now);
        }
        self.wake.notify_one();
    }

    /// Victims couldn't be asked to leave: their room isn't kept, and the pod tries again.
    pub(crate) fn not_preempted(&self, pod: &PodInfo) {
        let state = &mut *self.state();
        state.snapshot.forget_nomination(&pod.uid);
        state.queue.wake(&pod.uid, Instant::now());
        self.wake.notify_one();
    }

    fn on_pod(&self, change: &Change<Pod>) {
        let state = &mut *self.state();
        let now = Instant::now();
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        // A pod of the same name that was deleted and made again while nobody watched.
        if let Some(old) = change.old().and_then(|old| old.metadata.uid.as_deref())
            && old != uid
        {
            forget(state, old, now);
        }
        if change.new().is_none() || is_finished(pod) {
            forget(state, uid, now);
        } else if is_bound(pod) {
            state.queue.remove(uid);
            if counts_differently(change, state.snapshot.node_of(uid)) {
                let info = PodInfo::new(pod);
                let node = info.node.clone().expect("a bound pod names its node");
                state.snapshot.place(Arc::new(info), &node);
                state.queue.on_event(ClusterEvent::PodPlaced, now);
            }
        } else if !is_ours(pod) {
            state.queue.remove(uid);
        } else if state.queue.contains(uid) && !wants_differently(change) {
            state.queue.refresh(Arc::new(PodInfo::new(pod)));
        } else if state.snapshot.node_of(uid).is_none() {
            let info = Arc::new(PodInfo::new(pod));
            // After a restart: room that was made before is still kept for it.
            if let Some(node) = info.nominated.clone() {
                state.snapshot.nominate(info.clone(), &node);
            }
            state.queue.add(info);
        }
        self.wake.notify_one();
    }

    fn on_node(&self, change: &Change<Node>) {
        let state = &mut *self.state();
        let better = match change.new() {
            Some(node) => state.snapshot.set_node(node),
            None => {
                state.snapshot.remove_node(&change.object().name_any());
                // A spread's minimum may rise when a domain goes.
                true
            }
        };
        if better {
            let event = ClusterEvent::NodeChanged;
            state.queue.on_event(event, Instant::now());
            self.wake.notify_one();
        }
    }

    fn on_namespace(&self, change: &Change<Namespace>) {
        let mut state = self.state();
        match change.new() {
            Some(namespace) => state.snapshot.set_namespace(namespace),
            None => state.snapshot.remove_namespace(&change.object().name_any()),
        }
    }
}

fn follow(
    world: &Arc<World>,
    pods: &Shared<Pod>,
    nodes: &Shared<Node>,
    namespaces: &Shared<Namespace>,
    run: &CancellationToken,
) {
    let (on_pods, on_nodes, on_namespaces) = (world.clone(), world.clone(), world.clone());
    nodes.on_change_until(run, move |change| on_nodes.on_node(change));
    namespaces.on_change_until(run, move |change| on_namespaces.on_namespace(change));
    pods.on_change_until(run, move |change| on_pods.on_pod(change));
}

fn forget(state: &mut State, uid: &str, now: Instant) {
    state.queue.remove(uid);
    state.snapshot.forget_nomination(uid);
    if state.snapshot.remove_pod(uid) {
        state.queue.on_event(ClusterEvent::PodGone, now);
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .is_some_and(|node| !node.is_empty())
}

/// Whether this scheduler should look for a node.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let name = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME);
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|g| !g.is_empty());
    name == SCHEDULER_NAME && !gated && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a bound pod must be counted again; most updates only change its status.
fn counts_differently(change: &Change<Pod>, counted_at: Option<&str>) -> bool {
    let pod = change.object();
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    let changed = change.old().is_some_and(|old| {
        let (old, new) = (&old.metadata, &pod.metadata);
        old.labels != new.labels
            || old.deletion_timestamp.is_some() != new.deletion_timestamp.is_some()
            || old.generation != new.generation
    });
    counted_at != node || changed
}

/// Whether a waiting pod changed in what decides its place.
fn wants_differently(change: &Change<Pod>) -> bool {
    match change.old() {
        Some(old) => old.spec != change.object().spec || old.labels() != change.object().labels(),
        None => true,
    }
}
