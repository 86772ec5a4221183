//! ReplicaSets and ReplicationControllers: as many pods as wanted, from their template.

mod owner;
mod plan;

use crate::{
    common::{
        Attempt, Context, Failed, controller_key, controller_of, message_of, now, orphans_of,
        write_status,
    },
    pods::{PodControl, from_template},
};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::{Pod, ReplicationController},
};
use kernelet_client::{Change, Index, Next, ObjectKey, Queue, Shared, reconcile_all};
use kube::{Api, Client, ResourceExt};
use owner::Replicated;
use plan::{Plan, plan, set_failure};
use std::sync::Arc;

/// Pods created or deleted in one turn at most.
pub(crate) const BURST: usize = 500;
const WORKERS: usize = 5;

struct Controller<S> {
    client: Client,
    sets: Shared<S>,
    /// Sets by their own controller's uid.
    sets_by_owner: Index<S>,
    pods: Index<Pod>,
    control: PodControl,
}

pub(crate) async fn run(context: Context) {
    let by_owner = context.sets_by_controller.clone();
    run_kind::<ReplicaSet>(context, by_owner).await;
}

/// The same for ReplicationControllers.
pub(crate) async fn run_replication_controllers(context: Context) {
    let controllers = context.informers.all::<ReplicationController>();
    let by_owner = controllers.index(|rc| vec![controller_key(&rc.metadata)]);
    run_kind::<ReplicationController>(context, by_owner).await;
}

async fn run_kind<S: Replicated>(context: Context, sets_by_owner: Index<S>) {
    let sets = context.informers.all::<S>();
    let pods = context.informers.all::<Pod>();
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        sets: sets.clone(),
        sets_by_owner,
        pods: context.pods_by_controller.clone(),
        control: PodControl::new(context.client.clone(), S::COMPONENT),
    });
    let (on_sets, on_pods) = (controller.clone(), controller.clone());
    let (set_queue, pod_queue) = (queue.clone(), queue.clone());
    sets.on_change_until(&context.shutdown, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.new().is_none() {
            on_sets.control.expectations.forget(&key);
        }
        set_queue.add(key);
    });
    pods.on_change_until(&context.shutdown, move |change| {
        on_pods.on_pod(change, &pod_queue)
    });
    sets.wait_until_synced().await;
    pods.wait_until_synced().await;
    reconcile_all(S::QUEUE, queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

impl<S: Replicated> Controller<S> {
    fn on_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let owner_key = |pod: &Pod| {
            let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == S::kind(&()))?;
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            Some(ObjectKey::new(namespace, owner.name.as_str()))
        };
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(old) = change.old().and_then(|old| owner_key(old)) {
            queue.add(old);
        }
        let Some(key) = owner_key(pod) else {
            if change.new().is_some() && controller_of(&pod.metadata).is_none() {
                self.offer(pod, queue);
            }
            return;
        };
        if matches!(change, Change::Added(_)) {
            self.control.expectations.created(&key, 1);
        }
        if change.new().is_none() || pod.metadata.deletion_timestamp.is_some() {
            self.control.expectations.deleted(&key, uid);
        }
        queue.add(key);
    }

    /// A pod without a controller: whoever selects it may adopt it.
    fn offer(&self, pod: &Pod, queue: &Queue<ObjectKey>) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for set in self.sets.list_in(namespace) {
            if set
                .wanted()
                .is_some_and(|wanted| wanted.selector.matches(&pod.metadata))
            {
                queue.add(ObjectKey::of(&*set));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(set) = self.sets.get_key(key) else {
            self.control.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let uid = set.uid().unwrap_or_default();
        let mut pods = self.pods.get(&uid);
        pods.extend(self.pods.get(&orphans_of(&key.namespace)));
        let now = now();
        let plan = plan(&*set, &pods, &self.related(&set), now);
        self.control
            .claim(&*set, &plan.adopt, &plan.release)
            .await?;
        let waiting = self.control.expectations.missing(key);
        let managed = match waiting {
            Some(_) => Ok(()),
            None => self.manage(key, &set, &plan).await,
        };
        let mut status = plan.status;
        let failure = managed
            .as_ref()
            .err()
            .map(|(reason, failed)| (*reason, message_of(&failed.source)));
        // While events are awaited nothing was tried: the old verdict stands.
        if waiting.is_none() {
            set_failure(&mut status, failure, now);
        }
        self.write_status(&set, status).await?;
        managed.map_err(|(_, failed)| failed)?;
        let again = [plan.recheck, waiting].into_iter().flatten().min();
        Ok(again.map_or(Next::OnChange, Next::After))
    }

    /// Pods of the owner's other sets.
    fn related(&self, set: &S) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(set.meta()) else {
            return Vec::new();
        };
        self.sets_by_owner
            .get(&owner.uid)
            .into_iter()
            .filter(|other| other.meta().uid != set.meta().uid)
            .flat_map(|other| self.pods.get(&other.uid().unwrap_or_default()))
            .collect()
    }

    /// Creates or deletes pods. The error carries the reason for the condition.
    async fn manage(
        &self,
        key: &ObjectKey,
        set: &S,
        plan: &Plan,
    ) -> Result<(), (&'static str, Failed)> {
        let expectations = &self.control.expectations;
        if plan.create > 0 {
            let template = set.wanted().and_then(|wanted| wanted.template);
            let pod = from_template(set, template.unwrap_or(&Default::default()));
            expectations.expect(key, plan.create, []);
            self.control
                .create(key, set, &vec![pod; plan.create])
                .await
                .map_err(|failed| ("FailedCreate", failed))
        } else if !plan.delete.is_empty() {
            let uids = plan.delete.iter().filter_map(|pod| pod.uid());
            expectations.expect(key, 0, uids);
            self.control
                .delete(key, set, &plan.delete)
                .await
                .map_err(|failed| ("FailedDelete", failed))
        } else {
            Ok(())
        }
    }

    async fn write_status(&self, set: &S, status: ReplicaSetStatus) -> Result<(), Failed> {
        let status = S::own(&status);
        if set
            .status()
            .is_some_and(|known| is_same(&S::neutral(known), &S::neutral(&status)))
        {
            return Ok(());
        }
        let name = set.name_any();
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<S> = Api::namespaced(self.client.clone(), &namespace);
        write_status(&api, set.meta(), None, set.status(), &status)
            .await
            .attempt(|| {
                let kind = S::kind(&());
                format!("writing the status of {kind} {namespace}/{name}")
            })
    }
}

/// Equal apart from zeros, which the API leaves out.
fn is_same(known: &ReplicaSetStatus, status: &ReplicaSetStatus) -> bool {
    let zero = |n: Option<i32>| n.unwrap_or(0);
    known.replicas == status.replicas
        && zero(known.fully_labeled_replicas) == zero(status.fully_labeled_replicas)
        && zero(known.ready_replicas) == zero(status.ready_replicas)
        && zero(known.available_replicas) == zero(status.available_replicas)
        && zero(known.terminating_replicas) == zero(status.terminating_replicas)
        && known.observed_generation == status.observed_generation
        && known.conditions == status.conditions
}

#[cfg(test)]
mod tests;
