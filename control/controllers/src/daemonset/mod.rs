//! DaemonSets: a pod on each node that they are for.
//!
//! Each turn: claim pods and revisions → the newest revision → missing and surplus pods (`plan`) → the rolling update
//! (`rolling`) → old revisions forgotten → status. A pod is bound by the scheduler, which its node affinity leaves no
//! choice.

mod backoff;
mod history;
mod nodes;
mod plan;
mod pod;
mod revision;
mod rolling;

use crate::{
    common::{
        Attempt, Context, Failed, Matcher, controller_key, controller_of, is_controlled_by, now,
        orphans_of, write_status,
    },
    pods::PodControl,
};
use backoff::FailedPods;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kernelet_client::{Change, EventType, Index, Next, ObjectKey, Queue, Shared, reconcile_all};
use kube::{Api, Client, Resource, ResourceExt};
use nodes::{Placement, Verdict};
use plan::{Steps, View, is_same};
use std::sync::{Arc, Mutex, PoisonError};

/// Pods created or deleted in one turn at most.
const BURST: usize = 250;
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    sets: Shared<DaemonSet>,
    nodes: Shared<Node>,
    pods: Index<Pod>,
    pods_by_node: Index<Pod>,
    /// By their controller's uid, or by `orphans_of` their namespace.
    revisions: Index<ControllerRevision>,
    control: PodControl,
    failed: Mutex<FailedPods>,
}

pub(crate) async fn run(context: Context) {
    let sets = context.informers.all::<DaemonSet>();
    let nodes = context.informers.all::<Node>();
    let pods = context.informers.all::<Pod>();
    let revisions = context.informers.all::<ControllerRevision>();
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        sets: sets.clone(),
        nodes: nodes.clone(),
        pods: context.pods_by_controller.clone(),
        pods_by_node: context.pods_by_node.clone(),
        revisions: revisions.index(|revision| vec![controller_key(&revision.metadata)]),
        control: PodControl::new(context.client.clone(), "daemonset-controller"),
        failed: Mutex::default(),
    });
    let (on, to) = (controller.clone(), queue.clone());
    sets.on_change_until(&context.shutdown, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.new().is_none() {
            on.control.expectations.forget(&key);
        }
        to.add(key);
    });
    let (on, to) = (controller.clone(), queue.clone());
    pods.on_change_until(&context.shutdown, move |change| on.on_pod(change, &to));
    let (on, to) = (controller.clone(), queue.clone());
    nodes.on_change_until(&context.shutdown, move |change| on.on_node(change, &to));
    let (on, to) = (controller.clone(), queue.clone());
    revisions.on_change_until(&context.shutdown, move |change| on.on_revision(change, &to));
    sets.wait_until_synced().await;
    nodes.wait_until_synced().await;
    pods.wait_until_synced().await;
    revisions.wait_until_synced().await;
    reconcile_all("daemonset", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

fn owner_key<K: Resource>(object: &K) -> Option<ObjectKey> {
    let owner = controller_of(object.meta()).filter(|owner| owner.kind == "DaemonSet")?;
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    Some(ObjectKey::new(namespace, owner.name.as_str()))
}

impl Controller {
    fn on_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        let pod = change.object();
        if let Some(old) = change.old().and_then(|old| owner_key(&**old)) {
            queue.add(old);
        }
        let Some(key) = owner_key(&**pod) else {
            if change.new().is_some() {
                self.offer(&**pod, queue);
            }
            return;
        };
        if matches!(change, Change::Added(_)) {
            self.control.expectations.created(&key, 1);
        }
        if change.new().is_none() || pod.metadata.deletion_timestamp.is_some() {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.control.expectations.deleted(&key, uid);
        }
        queue.add(key);
    }

    fn on_revision(&self, change: &Change<ControllerRevision>, queue: &Queue<ObjectKey>) {
        match owner_key(&**change.object()) {
            Some(key) => queue.add(key),
            None if change.new().is_some() => self.offer(&**change.object(), queue),
            None => {}
        }
    }

    /// An object without a controller: whoever selects it may adopt it.
    fn offer<K: Resource>(&self, object: &K, queue: &Queue<ObjectKey>) {
        let meta = object.meta();
        if controller_of(meta).is_some() {
            return;
        }
        for set in self
            .sets
            .list_in(meta.namespace.as_deref().unwrap_or_default())
        {
            let selector = set.spec.as_ref().map(|spec| Matcher::new(&spec.selector));
            if selector.is_some_and(|selector| selector.matches(meta)) {
                queue.add(ObjectKey::of(&*set));
            }
        }
    }

    /// Heartbeats change nothing; labels and taints may.
    fn on_node(&self, change: &Change<Node>, queue: &Queue<ObjectKey>) {
        let node = change.object();
        let facts = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
            (node.metadata.labels.clone(), taints)
        };
        let before = change.old().map(|old| facts(old));
        if before.is_some_and(|before| change.new().is_some_and(|new| facts(new) == before)) {
            return;
        }
        let there = self.pods_by_node.get(&node.name_any());
        for set in self.sets.list() {
            let has_pod = there
                .iter()
                .any(|pod| is_controlled_by(&pod.metadata, &set.metadata));
            let status = set.status.as_ref();
            let concerns = match Placement::of(&set).ask(node) {
                _ if change.new().is_none() => true,
                Verdict::Run if !has_pod => true,
                Verdict::Leave if has_pod => true,
                _ => has_pod && status.is_some_and(|s| s.number_misscheduled > 0),
            };
            // A node that it no longer fits, or fits again, changes the numbers in its status too.
            let counted = |node: &Node| Placement::of(&set).ask(node).should_run();
            let recount = change
                .old()
                .is_some_and(|old| change.new().is_some_and(|new| counted(old) != counted(new)));
            if concerns || recount {
                queue.add(ObjectKey::of(&*set));
            }
        }
    }

    fn api<K>(&self, key: &ObjectKey) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(set) = self.sets.get_key(key) else {
            self.control.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        if selector == Some(&LabelSelector::default()) {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            let message = message.to_owned();
            self.control
                .record(&*set, EventType::Warning, "SelectingAll", message);
            return Ok(Next::OnChange);
        }
        // Its revisions may be gone already, so that nothing true could be said of it.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let Some(pods) = self.own_pods(key, &set).await? else {
            return Ok(Next::OnChange);
        };
        let Some(revisions) = self.revisions(key, &set, &pods).await? else {
            return Ok(Next::OnChange);
        };
        let nodes = self.nodes.list();
        let view = View::new(&set, &revisions.hash, &nodes, &pods, now());
        let waiting = self.control.expectations.missing(key);
        if let Some(left) = waiting {
            // Nothing was tried of this generation yet.
            self.write_status(key, &set, view.status(None)).await?;
            return Ok(Next::After(left));
        }
        let steps = {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            view.manage(&mut failed)
        };
        let recheck = steps.recheck;
        let acted = self.act(key, &set, &revisions, &view, steps, &pods).await;
        let status = view.status(set.metadata.generation);
        let written = self.write_status(key, &set, status).await;
        acted?;
        written?;
        let again = [recheck, view.recheck()].into_iter().flatten().min();
        Ok(again.map_or(Next::OnChange, Next::After))
    }

    /// Its pods, those without an owner adopted where it selects them.
    async fn own_pods(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
    ) -> Result<Option<Vec<Arc<Pod>>>, Failed> {
        let selector = set.spec.as_ref().map(|spec| Matcher::new(&spec.selector));
        let selects = |pod: &Arc<Pod>| {
            let selector = selector.as_ref();
            selector.is_some_and(|selector| selector.matches(&pod.metadata))
        };
        let uid = set.uid().unwrap_or_default();
        let (mut own, release): (Vec<_>, Vec<_>) =
            self.pods.get(&uid).into_iter().partition(selects);
        let orphans = self.pods.get(&orphans_of(&key.namespace));
        let adopt: Vec<_> = orphans
            .into_iter()
            .filter(|pod| selects(pod) && pod.metadata.deletion_timestamp.is_none())
            .collect();
        if !self.control.claim(set, &adopt, &release).await? {
            return Ok(None);
        }
        own.extend(adopt);
        Ok(Some(own))
    }

    async fn act(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        revisions: &history::Revisions,
        view: &View<'_>,
        steps: Steps,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        self.carry_out(key, set, &revisions.hash, steps).await?;
        if self.control.expectations.missing(key).is_none() {
            let steps = view.rolling_update();
            self.carry_out(key, set, &revisions.hash, steps).await?;
        }
        self.clean_up(key, set, &revisions.history, pods).await
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        mut steps: Steps,
    ) -> Result<(), Failed> {
        for (type_, reason, message) in steps.events {
            self.control.record(set, type_, reason, message);
        }
        steps.create.truncate(BURST);
        steps.delete.truncate(BURST);
        if steps.create.is_empty() && steps.delete.is_empty() {
            return Ok(());
        }
        let uids = steps.delete.iter().filter_map(|pod| pod.uid());
        self.control
            .expectations
            .expect(key, steps.create.len(), uids);
        let new: Vec<Pod> = steps
            .create
            .iter()
            .map(|node| pod::pod_for(set, node, hash))
            .collect();
        // What can't be made doesn't keep anything from going.
        let created = self.control.create(key, set, &new).await;
        let deleted = self.control.delete(key, set, &steps.delete).await;
        created.and(deleted)
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        status: DaemonSetStatus,
    ) -> Result<(), Failed> {
        if set
            .status
            .as_ref()
            .is_some_and(|known| is_same(known, &status))
        {
            return Ok(());
        }
        let api: Api<DaemonSet> = self.api(key);
        write_status(&api, &set.metadata, None, set.status.as_ref(), &status)
            .await
            .attempt(|| format!("writing the status of DaemonSet {key}"))
    }
}

#[cfg(test)]
mod tests;
