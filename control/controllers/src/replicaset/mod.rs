//! ReplicaSets: as many pods as wanted, from their template.

mod plan;

use crate::{
    common::{
        Attempt, Context, Failed, Matcher, controller_of, controller_reference,
        is_namespace_terminating, message_of, now, orphans_of, write_status,
    },
    expectations::Expectations,
};
use futures::future::join_all;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kernelet_client::{
    Change, EventType, Index, Next, ObjectKey, Queue, Recorder, Shared, is_not_found, reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use plan::{Plan, plan, set_failure};
use std::sync::Arc;

/// Pods created or deleted in one turn at most.
pub(crate) const BURST: usize = 500;
const WORKERS: usize = 5;

struct Controller {
    client: Client,
    sets: Shared<ReplicaSet>,
    /// ReplicaSets by their own controller's uid.
    sets_by_owner: Index<ReplicaSet>,
    pods: Index<Pod>,
    recorder: Recorder,
    expectations: Expectations,
}

pub(crate) async fn run(context: Context) {
    let sets = context.informers.all::<ReplicaSet>();
    let pods = context.informers.all::<Pod>();
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        sets: sets.clone(),
        sets_by_owner: context.sets_by_controller.clone(),
        pods: context.pods_by_controller.clone(),
        recorder: Recorder::new(context.client.clone(), "replicaset-controller", None),
        expectations: Expectations::default(),
    });
    let (on_sets, on_pods) = (controller.clone(), controller.clone());
    let (set_queue, pod_queue) = (queue.clone(), queue.clone());
    sets.on_change_until(&context.shutdown, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.new().is_none() {
            on_sets.expectations.forget(&key);
        }
        set_queue.add(key);
    });
    pods.on_change_until(&context.shutdown, move |change| {
        on_pods.on_pod(change, &pod_queue)
    });
    sets.wait_until_synced().await;
    pods.wait_until_synced().await;
    reconcile_all("replicaset", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

impl Controller {
    fn on_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let owner_key = |pod: &Pod| {
            let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
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
            self.expectations.created(&key, 1);
        }
        if change.new().is_none() || pod.metadata.deletion_timestamp.is_some() {
            self.expectations.deleted(&key, uid);
        }
        queue.add(key);
    }

    /// A pod without a controller: whoever selects it may adopt it.
    fn offer(&self, pod: &Pod, queue: &Queue<ObjectKey>) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for set in self.sets.list_in(namespace) {
            let selector = set.spec.as_ref().map(|spec| Matcher::new(&spec.selector));
            if selector.is_some_and(|selector| selector.matches(&pod.metadata)) {
                queue.add(ObjectKey::of(&*set));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let uid = set.uid().unwrap_or_default();
        let mut pods = self.pods.get(&uid);
        pods.extend(self.pods.get(&orphans_of(&key.namespace)));
        let now = now();
        let plan = plan(&set, &pods, &self.related(&set), now);
        self.claim(&set, &plan).await?;
        let waiting = self.expectations.missing(key);
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

    /// Pods of the owner's other ReplicaSets.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(&set.metadata) else {
            return Vec::new();
        };
        self.sets_by_owner
            .get(&owner.uid)
            .into_iter()
            .filter(|other| other.metadata.uid != set.metadata.uid)
            .flat_map(|other| self.pods.get(&other.uid().unwrap_or_default()))
            .collect()
    }

    /// Adopts pods that match and releases those that no longer do.
    async fn claim(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), Failed> {
        if plan.adopt.is_empty() && plan.release.is_empty() {
            return Ok(());
        }
        let namespace = set.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if !plan.adopt.is_empty() {
            // The store may be behind: a deleted set's namesake must not adopt in its name.
            let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
            let name = set.name_any();
            let fresh = sets
                .get_metadata(&name)
                .await
                .attempt(|| format!("reading ReplicaSet {name} before adopting pods"))?;
            if fresh.metadata.uid != set.metadata.uid || fresh.metadata.deletion_timestamp.is_some()
            {
                return Ok(());
            }
        }
        let uid = set.uid().unwrap_or_default();
        let adopt = serde_json::json!([controller_reference(set)]);
        let release = serde_json::json!([{"$patch": "delete", "uid": uid}]);
        let adopt = plan.adopt.iter().map(|pod| (pod, &adopt, "adopting"));
        let release = plan.release.iter().map(|pod| (pod, &release, "releasing"));
        for (pod, owners, verb) in adopt.chain(release) {
            let name = pod.name_any();
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid, "ownerReferences": owners},
            });
            let params = PatchParams::default();
            match pods.patch(&name, &params, &Patch::Strategic(&patch)).await {
                Err(error) if is_not_found(&error) => {}
                result => drop(result.attempt(|| format!("{verb} pod {name}"))?),
            }
        }
        Ok(())
    }

    /// Creates or deletes pods. The error carries the reason for the condition.
    async fn manage(
        &self,
        key: &ObjectKey,
        set: &Arc<ReplicaSet>,
        plan: &Plan,
    ) -> Result<(), (&'static str, Failed)> {
        if plan.create > 0 {
            self.expectations.expect(key, plan.create, []);
            self.create(key, set, plan.create)
                .await
                .map_err(|failed| ("FailedCreate", failed))
        } else if !plan.delete.is_empty() {
            let uids = plan.delete.iter().filter_map(|pod| pod.uid());
            self.expectations.expect(key, 0, uids);
            self.delete(key, set, &plan.delete)
                .await
                .map_err(|failed| ("FailedDelete", failed))
        } else {
            Ok(())
        }
    }

    /// One pod, then two, then four …: a template that is refused is refused once, not 500 times.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &Arc<ReplicaSet>,
        count: usize,
    ) -> Result<(), Failed> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pod = from_template(set);
        let params = PostParams::default();
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| pods.create(&params, &pod))).await;
            left -= size;
            batch *= 2;
            let mut failed = None;
            for result in results {
                match result {
                    Ok(created) => {
                        let message = format!("Created pod: {}", created.name_any());
                        self.record(set, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.expectations.created(key, 1);
                        if !is_namespace_terminating(&error) {
                            let message = format!("Error creating: {}", message_of(&error));
                            self.record(set, EventType::Warning, "FailedCreate", message);
                        }
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                self.expectations.created(key, left);
                // Nothing more will come of it, and nothing needs to.
                if is_namespace_terminating(&error) {
                    return Ok(());
                }
                return Err(error).attempt(|| format!("creating pods of ReplicaSet {key}"));
            }
        }
        Ok(())
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        set: &Arc<ReplicaSet>,
        victims: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let results = join_all(victims.iter().map(|pod| {
            let pods = pods.clone();
            async move {
                // A namesake that came meanwhile is not the one that was chosen.
                let params = DeleteParams::default().preconditions(Preconditions {
                    uid: pod.uid(),
                    resource_version: None,
                });
                (pod, pods.delete(&pod.name_any(), &params).await)
            }
        }))
        .await;
        let mut failed = Ok(());
        for (pod, result) in results {
            let name = pod.name_any();
            match result {
                Ok(_) => {
                    let message = format!("Deleted pod: {name}");
                    self.record(set, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    self.expectations
                        .deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                    if !is_not_found(&error) {
                        let message = format!("Error deleting: {}", message_of(&error));
                        self.record(set, EventType::Warning, "FailedDelete", message);
                        failed = Err(error).attempt(|| format!("deleting pod {name}"));
                    }
                }
            }
        }
        failed
    }

    fn record(&self, set: &ReplicaSet, type_: EventType, reason: &str, message: String) {
        self.recorder.event(set, type_, reason, message);
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        status: k8s_openapi::api::apps::v1::ReplicaSetStatus,
    ) -> Result<(), Failed> {
        if is_same(set, &status) {
            return Ok(());
        }
        let name = set.name_any();
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
        write_status(&api, &set.metadata, None, set.status.as_ref(), &status)
            .await
            .attempt(|| format!("writing the status of ReplicaSet {namespace}/{name}"))
    }
}

/// Equal apart from zeros, which the API leaves out.
fn is_same(set: &ReplicaSet, status: &k8s_openapi::api::apps::v1::ReplicaSetStatus) -> bool {
    let zero = |n: Option<i32>| n.unwrap_or(0);
    set.status.as_ref().is_some_and(|known| {
        known.replicas == status.replicas
            && zero(known.fully_labeled_replicas) == zero(status.fully_labeled_replicas)
            && zero(known.ready_replicas) == zero(status.ready_replicas)
            && zero(known.available_replicas) == zero(status.available_replicas)
            && zero(known.terminating_replicas) == zero(status.terminating_replicas)
            && known.observed_generation == status.observed_generation
            && known.conditions == status.conditions
    })
}

fn from_template(set: &ReplicaSet) -> Pod {
    let spec = set.spec.as_ref();
    let template = spec
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests;
