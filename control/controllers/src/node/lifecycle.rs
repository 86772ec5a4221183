//! Watches nodes' heartbeats: a node that falls silent becomes Unknown, is tainted, and its pods
//! are marked not ready.
//!
//! A heartbeat is a renewed lease or a posted status. Each one pushes the node's next look further
//! away, so that a healthy cluster costs nothing but the heartbeats themselves.

use crate::{
    common::{Attempt, Context, Failed, is_ready, now},
    node::health::{Eviction, condition, readiness, silenced, taints},
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kernelet_client::{
    Change, EventType, Index, Next, ObjectKey, Queue, Recorder, Scope, Shared, is_not_found,
    reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

const LEASES: &str = "kube-node-lease";
const WORKERS: usize = 2;

struct Seen {
    at: Instant,
    ready: bool,
}

struct Controller {
    client: Client,
    nodes: Shared<Node>,
    pods: Index<Pod>,
    recorder: Recorder,
    grace: Duration,
    seen: Mutex<HashMap<String, Seen>>,
}

pub(crate) async fn run(context: Context, grace: Duration) {
    let nodes = context.informers.all::<Node>();
    let leases = context
        .informers
        .namespaced::<Lease>(LEASES, Scope::default());
    let queue: Queue<ObjectKey> = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        nodes: nodes.clone(),
        pods: context.pods_by_node.clone(),
        recorder: Recorder::new(context.client, "node-controller", None),
        grace,
        seen: Mutex::default(),
    });
    let (on_nodes, on_leases) = (controller.clone(), controller.clone());
    let (node_queue, lease_queue) = (queue.clone(), queue.clone());
    nodes.on_change_until(&context.shutdown, move |change| {
        on_nodes.on_node(change, &node_queue)
    });
    leases.on_change_until(&context.shutdown, move |change| {
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.renew_time.clone());
        if let Some(lease) = change.new()
            && change
                .old()
                .is_none_or(|old| renewed(old) != renewed(lease))
        {
            let name = lease.name_any();
            on_leases.heard_of(&name);
            // Silence, or its end: a node that isn't ready may be again.
            lease_queue.add_after(ObjectKey::cluster(name), on_leases.grace);
        }
    });
    nodes.wait_until_synced().await;
    leases.wait_until_synced().await;
    reconcile_all(
        "node life cycle",
        queue,
        WORKERS,
        context.shutdown,
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key.name).await }
        },
    )
    .await;
}

impl Controller {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard_of(&self, name: &str) {
        if let Some(seen) = self.seen().get_mut(name) {
            seen.at = Instant::now();
        }
    }

    fn on_node(&self, change: &Change<Node>, queue: &Queue<ObjectKey>) {
        let node = change.object();
        let name = node.name_any();
        if change.new().is_none() {
            self.seen().remove(&name);
            let message = format!("Node {name} event: Removing Node {name} from Controller");
            self.recorder
                .event(&**node, EventType::Normal, "RemovingNode", message);
            self.look_at_all(queue);
            return;
        }
        let ready = readiness(node) == "True";
        let heartbeat = |node: &Node| condition(node, "Ready")?.last_heartbeat_time.clone();
        let mut all = self.seen();
        let known = all.get_mut(&name);
        let turned = known.as_ref().is_none_or(|seen| seen.ready != ready);
        match known {
            Some(seen) => {
                if seen.ready && !ready {
                    let message = format!("Node {name} status is now: NodeNotReady");
                    self.recorder
                        .event(&**node, EventType::Normal, "NodeNotReady", message);
                }
                seen.ready = ready;
                if change
                    .old()
                    .is_none_or(|old| heartbeat(old) != heartbeat(node))
                {
                    seen.at = Instant::now();
                }
            }
            None => {
                let at = Instant::now();
                all.insert(name.clone(), Seen { at, ready });
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder
                    .event(&**node, EventType::Normal, "RegisteredNode", message);
            }
        }
        drop(all);
        queue.add(ObjectKey::cluster(name));
        if turned {
            // The first node that is ready, or the last one that isn't, changes all nodes' taints.
            self.look_at_all(queue);
        }
    }

    fn look_at_all(&self, queue: &Queue<ObjectKey>) {
        for (name, seen) in self.seen().iter() {
            if !seen.ready {
                queue.add(ObjectKey::cluster(name.as_str()));
            }
        }
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Failed> {
        let Some(node) = self.nodes.get("", name) else {
            return Ok(Next::OnChange);
        };
        let (silent_for, any_ready) = {
            let seen = self.seen();
            let silent_for = seen.get(name).map(|seen| seen.at.elapsed());
            let any_ready = seen.values().any(|seen| seen.ready);
            (silent_for.unwrap_or_default(), any_ready)
        };
        if let Some(left) = self
            .grace
            .checked_sub(silent_for)
            .filter(|left| !left.is_zero())
        {
            self.taint(&node, any_ready).await?;
            return Ok(Next::After(left));
        }
        let conditions = silenced(&node, now());
        if conditions.is_empty() {
            self.taint(&node, any_ready).await?;
        } else {
            // The taints follow when the watch brings the conditions back.
            self.write_conditions(&node, &conditions).await?;
        }
        self.mark_pods(name).await?;
        Ok(Next::OnChange)
    }

    async fn write_conditions(
        &self,
        node: &Node,
        conditions: &[k8s_openapi::api::core::v1::NodeCondition],
    ) -> Result<(), Failed> {
        let name = node.name_any();
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = serde_json::json!({
            "metadata": {"uid": node.metadata.uid},
            "status": {"conditions": conditions},
        });
        let params = PatchParams::default();
        match api
            .patch_status(&name, &params, &Patch::Strategic(&patch))
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("marking node {name} as unknown")),
        }
    }

    async fn taint(&self, node: &Node, any_ready: bool) -> Result<(), Failed> {
        let eviction = if any_ready {
            Eviction::Allowed
        } else {
            Eviction::Suspended
        };
        let Some(taints) = taints(node, eviction, now()) else {
            return Ok(());
        };
        let name = node.name_any();
        let api: Api<Node> = Api::all(self.client.clone());
        // The list is written whole: somebody else's taint of this moment must not be lost.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let params = PatchParams::default();
        match api.patch(&name, &params, &Patch::Merge(&patch)).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("writing the taints of node {name}")),
        }
    }

    /// Nobody vouches for the pods of a silent node: Services must not send to them.
    async fn mark_pods(&self, node: &str) -> Result<(), Failed> {
        for pod in self.pods.get(node).iter().filter(|pod| is_ready(pod)) {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{
                    "type": "Ready", "status": "False",
                    "lastTransitionTime": crate::common::time(now()),
                }]},
            });
            let params = PatchParams::default();
            match api
                .patch_status(&name, &params, &Patch::Strategic(&patch))
                .await
            {
                Err(error) if is_not_found(&error) => {}
                result => drop(
                    result.attempt(|| format!("marking pod {namespace}/{name} as not ready"))?,
                ),
            }
        }
        Ok(())
    }
}
