//! Carrying decisions out: bindings, conditions and events, many at a time.

use crate::{
    decide::NodeName,
    pod::PodInfo,
    preempt::Plan,
    run::{SCHEDULER_NAME, World},
};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kernelet_client::{EventType, ObjectKey, Recorder, is_not_found};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
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

    /// Tells the pod's owner why it waits: the condition when it changed, and an event each time.
    /// `nominated` is the node where room is being made for it.
    pub(crate) async fn report(
        &self,
        pod: Arc<PodInfo>,
        message: String,
        nominated: Option<NodeName>,
    ) {
        let reason = "FailedScheduling";
        self.recorder
            .event_about(about(&pod), EventType::Warning, reason, message.clone());
        let room = nominated.as_ref().map(|node| &*node.0);
        if pod.says_unschedulable(&message) && pod.nominated.as_deref() == room {
            return;
        }
        let permit = self.slots.clone().acquire_owned().await;
        let client = self.client.clone();
        tokio::spawn(async move {
            let _permit = permit;
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
            let mut status = serde_json::json!({"conditions": [condition]});
            match (&nominated, &pod.nominated) {
                (Some(node), _) => status["nominatedNodeName"] = (*node.0).into(),
                (None, Some(_)) => status["nominatedNodeName"] = serde_json::Value::Null,
                (None, None) => {}
            }
            if let Err(error) = patch_status(client, &pod, status).await
                && !is_not_found(&error)
            {
                tracing::warn!(%error, pod = %pod.key, "the pod's condition was not written");
            }
        });
    }

    /// Asks the victims to leave, with their grace; the pod is tried again when they are gone.
    pub(crate) async fn preempt(&self, world: &Arc<World>, pod: Arc<PodInfo>, plan: Plan) {
        let permit = self.slots.clone().acquire_owned().await;
        let (client, recorder, world) = (self.client.clone(), self.recorder.clone(), world.clone());
        tokio::spawn(async move {
            let _permit = permit;
            for victim in plan.victims {
                match evict(&client, &victim).await {
                    Ok(()) => {
                        let message = format!("Preempted by pod {} on node {}", pod.uid, plan.node);
                        let (about, normal) = (about(&victim), EventType::Normal);
                        recorder.event_about(about, normal, "Preempted", message);
                    }
                    Err(error) => {
                        tracing::warn!(%error, victim = %victim.key, "preempting for {}", pod.key);
                        world.not_preempted(&pod);
                        return;
                    }
                }
            }
        });
    }

    /// Returns when every request under way has ended.
    pub(crate) async fn finish(&self) {
        let all = u32::try_from(AT_ONCE).expect("a small constant");
        drop(self.slots.acquire_many(all).await);
    }
}

async fn patch_status(
    client: Client,
    pod: &PodInfo,
    status: serde_json::Value,
) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
    let patch = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": status});
    let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
    api.patch_status(&pod.key.name, &params, &patch)
        .await
        .map(drop)
}

async fn evict(client: &Client, victim: &PodInfo) -> kube::Result<()> {
    let condition = serde_json::json!({"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!(
            "{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"
        ),
        "lastTransitionTime": now(),
        "observedGeneration": victim.generation,
    }]});
    let told = patch_status(client.clone(), victim, condition).await;
    if let Err(error) = told {
        return if is_not_found(&error) {
            Ok(())
        } else {
            Err(error)
        };
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &victim.key.namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: Some(victim.uid.to_string()),
        resource_version: None,
    });
    match api.delete(&victim.key.name, &params).await {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result.map(drop),
    }
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
