//! Deployments: a ReplicaSet per template, and moving from one to the next.

mod plan;
mod revision;
mod scale;
mod status;

use crate::common::{
    Attempt, Context, Failed, Matcher, controller_of, controller_reference, is_controlled_by,
    is_finished, is_namespace_terminating, message_of, now, orphans_of, write_status,
};
use crate::expectations::Writes;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kernelet_client::{
    Change, EventType, Index, Next, ObjectKey, Queue, Recorder, Shared, is_already_exists,
    is_not_found, reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use plan::{Action, Plan, creation_failed, plan};
use scale::size;
use std::sync::Arc;

pub(crate) use revision::template_hash;
pub(crate) use scale::share;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    deployments: Shared<Deployment>,
    sets: Index<ReplicaSet>,
    all_sets: Shared<ReplicaSet>,
    pods: Index<Pod>,
    writes: Writes,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let deployments = context.informers.all::<Deployment>();
    let sets = context.informers.all::<ReplicaSet>();
    let pods = context.informers.all::<Pod>();
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        deployments: deployments.clone(),
        sets: context.sets_by_controller.clone(),
        all_sets: sets.clone(),
        pods: context.pods_by_controller.clone(),
        writes: Writes::default(),
        recorder: Recorder::new(context.client.clone(), "deployment-controller", None),
    });
    let (deployment_queue, set_queue, pod_queue) = (queue.clone(), queue.clone(), queue.clone());
    let (on_sets, on_pods) = (controller.clone(), controller.clone());
    deployments.on_change_until(&context.shutdown, move |change| {
        deployment_queue.add(ObjectKey::of(&**change.object()))
    });
    sets.on_change_until(&context.shutdown, move |change| {
        on_sets.on_set(change, &set_queue)
    });
    pods.on_change_until(&context.shutdown, move |change| {
        on_pods.on_pod(change, &pod_queue)
    });
    deployments.wait_until_synced().await;
    sets.wait_until_synced().await;
    pods.wait_until_synced().await;
    reconcile_all("deployment", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

fn owner_key(set: &ReplicaSet) -> Option<ObjectKey> {
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    Some(ObjectKey::new(namespace, owner.name.as_str()))
}

impl Controller {
    fn on_set(&self, change: &Change<ReplicaSet>, queue: &Queue<ObjectKey>) {
        let owners = [change.old(), change.new()].into_iter().flatten();
        for key in owners.filter_map(|set| owner_key(set)) {
            if change.new().is_none() {
                self.writes.gone(&key, &change.object().name_any());
            }
            queue.add(key);
        }
        let Some(set) = change.new() else {
            return;
        };
        if controller_of(&set.metadata).is_none() {
            for deployment in self
                .deployments
                .list_in(&set.namespace().unwrap_or_default())
            {
                if selector_of(&deployment).matches(&set.metadata) {
                    queue.add(ObjectKey::of(&*deployment));
                }
            }
        }
    }

    /// Only Recreate waits for pods: until the last one of the old sets is gone.
    fn on_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let pod = change.object();
        if change.new().is_some_and(|pod| !is_finished(pod)) {
            return;
        }
        let Some(owner) = controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet") else {
            return;
        };
        let namespace = pod.namespace().unwrap_or_default();
        let set = self.all_sets.get(&namespace, &owner.name);
        let Some(key) = set.and_then(|set| owner_key(&set)) else {
            return;
        };
        let recreates = self
            .deployments
            .get_key(&key)
            .is_some_and(|deployment| scale::strategy(&deployment) == scale::Strategy::Recreate);
        if recreates {
            queue.add(key);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(deployment) = self.deployments.get_key(key) else {
            self.writes.forget(key);
            return Ok(Next::OnChange);
        };
        let seen = |set: &str| self.all_sets.get(&key.namespace, set)?.resource_version();
        if let Some(left) = self.writes.unseen(key, seen) {
            return Ok(Next::After(left));
        }
        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        if selector.is_none_or(|selector| *selector == Default::default()) {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder
                .event(&*deployment, EventType::Warning, "SelectingAll", message);
            return Ok(Next::OnChange);
        }
        let sets = self.claim(&deployment).await?;
        let runs = |uid: &str| self.pods.get(uid).iter().any(|pod| !is_finished(pod));
        let now = now();
        let Plan {
            actions,
            revision,
            mut status,
            recheck,
        } = plan(&deployment, &sets, &runs, now);
        let mut failed = Ok(());
        for action in actions {
            failed = self.act(&deployment, action, &mut status).await;
            if failed.is_err() {
                break;
            }
        }
        self.write_status(&deployment, revision, status).await?;
        failed?;
        Ok(recheck.map_or(Next::OnChange, Next::After))
    }

    /// The deployment's sets: those it controls and still selects, and orphans that it adopts.
    async fn claim(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Failed> {
        let namespace = deployment.namespace().unwrap_or_default();
        let uid = deployment.uid().unwrap_or_default();
        let selector = selector_of(deployment);
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let mut sets = Vec::new();
        for set in self.sets.get(&uid) {
            if deleting || selector.matches(&set.metadata) {
                sets.push(set);
            } else {
                let owners = serde_json::json!([{"$patch": "delete", "uid": uid}]);
                own(&api, &set, owners, "releasing").await?;
            }
        }
        if deleting {
            return Ok(sets);
        }
        let orphans: Vec<_> = self
            .sets
            .get(&orphans_of(&namespace))
            .into_iter()
            .filter(|set| selector.matches(&set.metadata))
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        if orphans.is_empty() {
            return Ok(sets);
        }
        // The store may be behind: a deleted deployment's namesake must not adopt in its name.
        let name = deployment.name_any();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let fresh = deployments
            .get_metadata(&name)
            .await
            .attempt(|| format!("reading Deployment {name} before adopting ReplicaSets"))?
            .metadata;
        if fresh.uid == deployment.metadata.uid && fresh.deletion_timestamp.is_none() {
            for set in orphans {
                let owners = serde_json::json!([controller_reference(deployment)]);
                own(&api, &set, owners, "adopting").await?;
                // The sizes to count with are the set's own; its new owner comes by the watch.
                sets.push(set);
            }
        }
        Ok(sets)
    }

    async fn act(
        &self,
        deployment: &Deployment,
        action: Action,
        status: &mut DeploymentStatus,
    ) -> Result<(), Failed> {
        let namespace = deployment.namespace().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
        match action {
            Action::Create(set) => self.create(deployment, &api, &set, status).await,
            Action::Update { set, from } => {
                let (set_name, to) = (set.name_any(), size(&set));
                // The version makes it fail when the sizes it was computed from are outdated.
                let patch = serde_json::json!({
                    "metadata": {
                        "resourceVersion": set.metadata.resource_version,
                        "annotations": set.metadata.annotations,
                    },
                    "spec": {
                        "replicas": to,
                        "minReadySeconds": set.spec.as_ref().and_then(|s| s.min_ready_seconds),
                    },
                });
                let params = PatchParams::default();
                let written = api
                    .patch(&set_name, &params, &Patch::Merge(&patch))
                    .await
                    .attempt(|| format!("scaling ReplicaSet {namespace}/{set_name}"))?;
                self.wrote(deployment, &written);
                if from != to {
                    self.scaled(deployment, &set_name, from, to);
                }
                Ok(())
            }
            Action::Delete(set) => match api.delete(&set, &DeleteParams::background()).await {
                Err(error) if is_not_found(&error) => Ok(()),
                result => result
                    .map(drop)
                    .attempt(|| format!("deleting old ReplicaSet {namespace}/{set}")),
            },
        }
    }

    async fn create(
        &self,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        set: &ReplicaSet,
        status: &mut DeploymentStatus,
    ) -> Result<(), Failed> {
        let name = set.name_any();
        let attempted = || format!("creating ReplicaSet {name}");
        let error = match api.create(&PostParams::default(), set).await {
            Ok(written) => {
                self.wrote(deployment, &written);
                if size(set) > 0 {
                    self.scaled(deployment, &name, 0, size(set));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if is_already_exists(&error) {
            let known = api.get(&name).await.attempt(attempted)?;
            let ours = is_controlled_by(&known.metadata, &deployment.metadata);
            let template = deployment.spec.as_ref().map(|spec| &spec.template);
            if ours && template.is_some_and(|template| revision::is_from(&known, template)) {
                // An earlier turn made it; the store will show it.
                self.wrote(deployment, &known);
                return Ok(());
            }
            // Somebody else's set has the name: another hash next time.
            let collisions = status.collision_count.unwrap_or(0);
            status.collision_count = Some(collisions + 1);
            return Err(error).attempt(attempted);
        }
        if is_namespace_terminating(&error) {
            return Ok(());
        }
        let message = format!(
            "Failed to create new replica set \"{name}\": {}",
            message_of(&error)
        );
        creation_failed(status, message.clone(), now());
        self.recorder.event(
            deployment,
            EventType::Warning,
            "ReplicaSetCreateError",
            message,
        );
        Err(error).attempt(attempted)
    }

    fn wrote(&self, deployment: &Deployment, set: &ReplicaSet) {
        let version = set.metadata.resource_version.as_deref();
        let owner = ObjectKey::of(deployment);
        self.writes.written(&owner, &set.name_any(), version);
    }

    fn scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.recorder
            .event(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }

    /// The revision goes with the status: written there, it doesn't count as a new generation.
    async fn write_status(
        &self,
        deployment: &Deployment,
        revision: Option<String>,
        status: DeploymentStatus,
    ) -> Result<(), Failed> {
        let known = deployment.status.as_ref();
        if revision.is_none() && known.is_some_and(|known| is_same(known, &status)) {
            return Ok(());
        }
        let key = ObjectKey::of(deployment);
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let annotations = revision.map(|revision| (revision::REVISION, revision));
        write_status(&api, &deployment.metadata, annotations, known, &status)
            .await
            .attempt(|| format!("writing the status of Deployment {key}"))
    }
}

fn selector_of(deployment: &Deployment) -> Matcher {
    let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone());
    Matcher::new(&selector.unwrap_or_default())
}

async fn own(
    api: &Api<ReplicaSet>,
    set: &ReplicaSet,
    owners: serde_json::Value,
    verb: &str,
) -> Result<(), Failed> {
    let name = set.name_any();
    let patch = serde_json::json!({
        "metadata": {"uid": set.metadata.uid, "ownerReferences": owners},
    });
    let params = PatchParams::default();
    match api.patch(&name, &params, &Patch::Strategic(&patch)).await {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result
            .map(drop)
            .attempt(|| format!("{verb} ReplicaSet {name}")),
    }
}

/// Equal apart from zeros, which the API leaves out.
fn is_same(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let counts = |s: &DeploymentStatus| {
        [
            s.replicas,
            s.updated_replicas,
            s.ready_replicas,
            s.available_replicas,
            s.unavailable_replicas,
            s.terminating_replicas,
            s.collision_count,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(a) == counts(b)
        && a.observed_generation == b.observed_generation
        && a.conditions == b.conditions
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
