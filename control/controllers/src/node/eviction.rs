//! Taint-based eviction: pods leave nodes whose NoExecute taints they don't tolerate, or tolerate
//! for a time only.
//!
//! Each pod's turn computes from scratch when it must go; a taint that is taken off in time simply
//! gives another answer.

use crate::common::{Attempt, Context, Failed, is_finished, now, since, time, tolerates};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kernelet_client::{
    EventType, Next, ObjectKey, Queue, Recorder, Shared, is_not_found, reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

const WORKERS: usize = 4;

/// A taint of a node: node, key, value.
type TaintId = (String, String, Option<String>);

struct Controller {
    client: Client,
    nodes: Shared<Node>,
    pods: Shared<Pod>,
    recorder: Recorder,
    /// When taints without a time of their own were first seen.
    first_seen: Mutex<HashMap<TaintId, Timestamp>>,
}

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.all::<Node>();
    let pods = context.informers.all::<Pod>();
    let queue: Queue<ObjectKey> = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        recorder: Recorder::new(context.client.clone(), "taint-eviction-controller", None),
        first_seen: Mutex::default(),
    });
    let (node_queue, pod_queue) = (queue.clone(), queue.clone());
    let (on_nodes, by_node) = (controller.clone(), context.pods_by_node.clone());
    nodes.on_change_until(&context.shutdown, move |change| {
        let before = change
            .old()
            .map(|node| no_execute(node))
            .unwrap_or_default();
        let after = change
            .new()
            .map(|node| no_execute(node))
            .unwrap_or_default();
        if before != after {
            let name = change.object().name_any();
            on_nodes.note(&name, &after);
            for pod in by_node.get(&name) {
                node_queue.add(ObjectKey::of(&*pod));
            }
        }
    });
    pods.on_change_until(&context.shutdown, move |change| {
        let placed = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            spec.map(|s| (s.node_name.clone(), s.tolerations.clone()))
        };
        if let Some(pod) = change.new()
            && change.old().is_none_or(|old| placed(old) != placed(pod))
        {
            pod_queue.add(ObjectKey::of(&**pod));
        }
    });
    nodes.wait_until_synced().await;
    pods.wait_until_synced().await;
    reconcile_all(
        "taint eviction",
        queue,
        WORKERS,
        context.shutdown,
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        },
    )
    .await;
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let taints = taints.into_iter().flatten();
    taints
        .filter(|taint| taint.effect == "NoExecute")
        .cloned()
        .collect()
}

/// When the pod must leave: the taints come with the time since which they count.
fn leaves_at(taints: &[(Taint, Timestamp)], tolerations: &[Toleration]) -> Option<Timestamp> {
    taints
        .iter()
        .filter_map(|(taint, since)| {
            let mut tolerating = tolerations
                .iter()
                .filter(|t| tolerates(t, taint))
                .peekable();
            if tolerating.peek().is_none() {
                return Some(*since);
            }
            // The shortest of those that apply; one without a limit limits nothing.
            let seconds = tolerating.filter_map(|t| t.toleration_seconds).min()?;
            let wait = SignedDuration::from_secs(seconds.max(0));
            Some(since.checked_add(wait).unwrap_or(Timestamp::MAX))
        })
        .min()
}

impl Controller {
    fn note(&self, node: &str, taints: &[Taint]) {
        let mut seen = self
            .first_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = |taint: &Taint| (node.to_owned(), taint.key.clone(), taint.value.clone());
        seen.retain(|known, _| known.0 != node || taints.iter().any(|t| id(t) == *known));
        for taint in taints {
            seen.entry(id(taint)).or_insert_with(now);
        }
    }

    fn since_when(&self, node: &str, taint: &Taint) -> Timestamp {
        if let Some(added) = &taint.time_added {
            return added.0;
        }
        let seen = self
            .first_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = (node.to_owned(), taint.key.clone(), taint.value.clone());
        seen.get(&id).copied().unwrap_or_else(now)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(pod) = self.pods.get_key(key) else {
            return Ok(Next::OnChange);
        };
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.as_deref());
        let Some(node) = node.and_then(|name| self.nodes.get("", name)) else {
            return Ok(Next::OnChange);
        };
        if is_finished(&pod) || pod.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let name = node.name_any();
        let taints: Vec<_> = no_execute(&node)
            .into_iter()
            .map(|taint| {
                let since = self.since_when(&name, &taint);
                (taint, since)
            })
            .collect();
        let tolerations = spec.and_then(|spec| spec.tolerations.as_deref());
        let Some(at) = leaves_at(&taints, tolerations.unwrap_or_default()) else {
            return Ok(Next::OnChange);
        };
        let left = since(now(), at);
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        self.evict(key, &pod).await.map(|()| Next::OnChange)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Failed> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder
            .event(pod, EventType::Normal, "TaintManagerEviction", message);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": time(now()),
                "observedGeneration": pod.metadata.generation,
            }]},
        });
        let params = PatchParams::default();
        let told = api
            .patch_status(&key.name, &params, &Patch::Strategic(&patch))
            .await;
        match told {
            Err(error) if is_not_found(&error) => return Ok(()),
            result => drop(result.attempt(|| format!("telling pod {key} that it is evicted"))?),
        }
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        });
        match api.delete(&key.name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.map(drop).attempt(|| format!("evicting pod {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_leaves_when_its_shortest_patience_ends() {
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("a time");
        let taint = |key: &str, since| {
            let taint = Taint {
                key: key.to_owned(),
                effect: "NoExecute".to_owned(),
                ..Taint::default()
            };
            (taint, at(since))
        };
        let patience = |key: &str, seconds: Option<i64>| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds})
        };
        let both = vec![taint("a", 100), taint("b", 200)];
        let cases: Vec<(&[_], Vec<Value>, Option<i64>)> = vec![
            (&[], vec![], None),
            (&both[..1], vec![], Some(100)),
            (&both[..1], vec![patience("a", None)], None),
            (&both[..1], vec![patience("a", Some(300))], Some(400)),
            (
                &both[..1],
                vec![patience("a", Some(300)), patience("a", Some(30))],
                Some(130),
            ),
            (&both, vec![patience("a", Some(300))], Some(200)),
            (
                &both,
                vec![patience("a", Some(300)), patience("b", None)],
                Some(400),
            ),
            (&both, vec![json!({"operator": "Exists"})], None),
            (&both[..1], vec![patience("a", Some(-5))], Some(100)),
        ];
        for (taints, tolerations, expected) in cases {
            let tolerations: Vec<Toleration> =
                serde_json::from_value(tolerations.into()).expect("tolerations");
            assert_eq!(
                leaves_at(taints, &tolerations),
                expected.map(at),
                "{tolerations:?}"
            );
        }
    }
}
