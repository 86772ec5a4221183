//! Carrying decisions out: bindings, conditions and events, many at a time.

use crate::{
    decide::NodeName,
    pod::PodInfo,
    run::{SCHEDULER_NAME, World},
};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kernelet_client::{EventType, ObjectKey, Recorder, is_not_found};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use std::sync::Arc;
use tokio::sync::Semaphore;

const AT_ONCE: usize = 128;

/// Why a binding couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("binding pod {pod} to node {node}")]
struct BindError {
    pod: ObjectKey,
    node: NodeName,
    source: kube::Error,
}

pub(crate) struct Binder {
    client: Client,
    recorder: Recorder,
    slots: Arc<Semaphore>,
}

impl Binder {
    pub(crate) fn new(client: Client) -> Self {
        let recorder = Recorder::new(client.clone(), SCHEDULER_NAME, None);
        Self {
            client,
            recorder,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Binds beside the caller; waits only while too many binds are under way.
    pub(crate) async fn bind(&self, world: &Arc<World>, pod: Arc<PodInfo>, node: NodeName) {
        let permit = self.slots.clone().acquire_owned().await;
        let (client, recorder, world) = (self.client.clone(), self.recorder.clone(), world.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match send(client, &pod, &node).await {
                Ok(()) => {
                    world.bound(&pod);
                    let message = format!("Successfully assigned {} to {node}", pod.key);
                    recorder.event_about(about(&pod), EventType::Normal, "Scheduled", message);
                }
                Err(error) => {
                    if !is_not_found(&error.source) {
                        let cause = error.source.to_string();
                        tracing::warn!(cause, "{error}");
                        recorder.event_about(
                            about(&pod),
                            EventType::Warning,
                            "FailedScheduling",
                            format!("binding rejected: {cause}"),
                        );
                    }
                    world.not_bound(&pod);
                }
            }
        });
    }

    /// Returns when every bind under way has ended.
    pub(crate) async fn finish(&self) {
        let all = u32::try_from(AT_ONCE).expect("a small constant");
        drop(self.slots.acquire_many(all).await);
    }
}

/// Tells the pod's owner why it waits: the condition when it changed, and an event each time.
pub(crate) async fn report(binder: &Binder, pod: Arc<PodInfo>, message: String) {
    binder.recorder.event_about(
        about(&pod),
        EventType::Warning,
        "FailedScheduling",
        message.clone(),
    );
    if pod.says_unschedulable(&message) {
        return;
    }
    let permit = binder.slots.clone().acquire_owned().await;
    let client = binder.client.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
        let mut condition = serde_json::json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "observedGeneration": pod.generation,
        });
        if !pod.is_marked_unscheduled() {
            condition["lastTransitionTime"] = now().into();
        }
        let patch = serde_json::json!({
            "metadata": {"uid": &*pod.uid},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::default();
        let patch = Patch::Strategic(&patch);
        if let Err(error) = api.patch_status(&pod.key.name, &params, &patch).await
            && !is_not_found(&error)
        {
            tracing::warn!(%error, pod = %pod.key, "the pod's condition was not written");
        }
    });
}

async fn send(client: Client, pod: &PodInfo, node: &NodeName) -> Result<(), BindError> {
    let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.to_string()),
            namespace: Some(pod.key.namespace.to_string()),
            // Without it a namesake made a moment ago could be bound by this decision.
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_string()),
            ..ObjectReference::default()
        },
    };
    let params = PostParams::default();
    api.create_subresource::<_, serde_json::Value>("binding", &pod.key.name, &params, &binding)
        .await
        .map(drop)
        .map_err(|source| BindError {
            pod: pod.key.clone(),
            node: node.clone(),
            source,
        })
}

fn about(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.to_string()),
        name: Some(pod.key.name.to_string()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

fn now() -> String {
    // Whole seconds: what the API's times hold.
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
