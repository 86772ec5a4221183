//! Pods that nobody cares for any more: on nodes that are gone, deleted before they were placed,
//! or finished and too many.

use crate::common::{Attempt, Context, Failed, is_finished, now, time};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kernelet_client::{Index, Next, ObjectKey, Queue, Shared, is_not_found, reconcile_all};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use std::{sync::Arc, time::Duration};

/// How long a node may be missing before its pods are given up: it may be about to be made again.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key for the count of finished pods; no pod has an empty name.
const FINISHED: &str = "";

struct Controller {
    client: Client,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    by_node: Index<Pod>,
    kept: usize,
}

pub(crate) async fn run(context: Context, kept: usize) {
    let pods = context.informers.all::<Pod>();
    let nodes = context.informers.all::<Node>();
    let queue: Queue<ObjectKey> = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        by_node: context.pods_by_node.clone(),
        kept,
    });
    let (pod_queue, node_queue) = (queue.clone(), queue.clone());
    let (on_nodes, on_pods) = (controller.clone(), controller.clone());
    nodes.on_change_until(&context.shutdown, move |change| {
        let name = change.object().name_any();
        if change.new().is_none() {
            for pod in on_nodes.by_node.get(&name) {
                node_queue.add_after(ObjectKey::of(&*pod), QUARANTINE);
            }
        } else if change.new().is_some_and(|node| is_out_of_service(node)) {
            for pod in on_nodes.by_node.get(&name) {
                node_queue.add(ObjectKey::of(&*pod));
            }
        }
    });
    pods.on_change_until(&context.shutdown, move |change| {
        let Some(pod) = change.new() else {
            return;
        };
        let key = ObjectKey::of(&**pod);
        if is_finished(pod) && change.old().is_none_or(|old| !is_finished(old)) {
            pod_queue.add(ObjectKey::cluster(FINISHED));
        }
        match on_pods.fate(pod) {
            Fate::Lives => {}
            Fate::Orphaned if change.old().is_none() => pod_queue.add_after(key, QUARANTINE),
            Fate::Orphaned => {}
            Fate::NeverPlaced | Fate::OutOfService => pod_queue.add(key),
        }
    });
    pods.wait_until_synced().await;
    nodes.wait_until_synced().await;
    reconcile_all("pod gc", queue, 2, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    /// Its node is gone.
    Orphaned,
    /// Deleted while it waited for a node: no kubelet will finish it.
    NeverPlaced,
    /// Being deleted on a node that an administrator declared dead.
    OutOfService,
}

impl Fate {
    fn message(self) -> Option<&'static str> {
        match self {
            Self::Orphaned => Some("PodGC: node no longer exists"),
            Self::OutOfService => Some("PodGC: node is out-of-service"),
            Self::Lives | Self::NeverPlaced => None,
        }
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let mut taints = taints.into_iter().flatten();
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The finished pods beyond those that are kept: the oldest go.
fn surplus(pods: &[Arc<Pod>], kept: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<_> = pods
        .iter()
        .filter(|pod| is_finished(pod))
        .cloned()
        .collect();
    let count = finished.len().saturating_sub(kept);
    let created = |pod: &Arc<Pod>| -> Option<Timestamp> {
        pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
    };
    finished.sort_by_key(|pod| (created(pod), pod.name_any()));
    finished.truncate(count);
    finished
}

impl Controller {
    fn fate(&self, pod: &Pod) -> Fate {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let deleting = pod.metadata.deletion_timestamp.is_some();
        match node.filter(|node| !node.is_empty()) {
            None if deleting => Fate::NeverPlaced,
            None => Fate::Lives,
            Some(name) => match self.nodes.get("", name) {
                // Before the first list no node is known.
                None if self.nodes.is_synced() => Fate::Orphaned,
                Some(node) if deleting && is_out_of_service(&node) => Fate::OutOfService,
                _ => Fate::Lives,
            },
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        if &*key.name == FINISHED {
            for pod in surplus(&self.pods.list(), self.kept) {
                self.delete(&pod, Fate::Lives).await?;
            }
            return Ok(Next::OnChange);
        }
        let Some(pod) = self.pods.get_key(key) else {
            return Ok(Next::OnChange);
        };
        let fate = self.fate(&pod);
        if fate == Fate::Lives || (fate == Fate::Orphaned && self.node_is_there(&pod).await?) {
            return Ok(Next::OnChange);
        }
        self.delete(&pod, fate).await.map(|()| Next::OnChange)
    }

    /// Asks the API itself: the store may be behind, and the pod's end is final.
    async fn node_is_there(&self, pod: &Pod) -> Result<bool, Failed> {
        let spec = pod.spec.as_ref();
        let name = spec
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default();
        let api: Api<Node> = Api::all(self.client.clone());
        let node = api.get_metadata_opt(&name).await;
        node.map(|node| node.is_some())
            .attempt(|| format!("looking for node {name} of an orphaned pod"))
    }

    async fn delete(&self, pod: &Pod, fate: Fate) -> Result<(), Failed> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let attempted = || format!("deleting abandoned pod {namespace}/{name}");
        if let Some(message) = fate.message().filter(|_| !is_finished(pod)) {
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"phase": "Failed", "conditions": [{
                    "type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByPodGC", "message": message,
                    "lastTransitionTime": time(now()),
                    "observedGeneration": pod.metadata.generation,
                }]},
            });
            let params = PatchParams::default();
            let told = api
                .patch_status(&name, &params, &Patch::Strategic(&patch))
                .await;
            match told {
                Err(error) if is_not_found(&error) => return Ok(()),
                result => drop(result.attempt(attempted)?),
            }
        }
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            });
        match api.delete(&name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.map(drop).attempt(attempted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_finished_pods_beyond_the_limit_go() {
        let pod = |name: &str, phase: &str, created: &str| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": phase}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let pods = [
            pod("new", "Failed", "2025-01-03T00:00:00Z"),
            pod("old", "Succeeded", "2025-01-01T00:00:00Z"),
            pod("running", "Running", "2024-01-01T00:00:00Z"),
            pod("middle", "Failed", "2025-01-02T00:00:00Z"),
        ];
        let gone = surplus(&pods, 1);
        let names: Vec<_> = gone.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(names, ["old", "middle"]);
        assert!(surplus(&pods, 3).is_empty());
    }
}
