//! What controllers that keep pods do to them: claim, create, delete.
//!
//! Whoever uses it decides beforehand, and notes in the expectations how many creations and which deletions to await.

use crate::{
    common::{Attempt, Failed, controller_reference, is_namespace_terminating, message_of},
    expectations::Expectations,
};
use futures::future::join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, PodTemplateSpec},
};
use kernelet_client::{EventType, Object, ObjectKey, Recorder, is_not_found};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use std::sync::Arc;

/// A namespaced kind with a type of its own.
pub(crate) trait Kept: Object + Resource<Scope = NamespaceResourceScope> {}

impl<K: Object + Resource<Scope = NamespaceResourceScope>> Kept for K {}

/// A controller's hands: under its name events are recorded.
pub(crate) struct PodControl {
    pub client: Client,
    pub recorder: Recorder,
    pub expectations: Expectations,
}

impl PodControl {
    pub(crate) fn new(client: Client, component: &'static str) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), component, None),
            client,
            expectations: Expectations::default(),
        }
    }

    /// Makes `owner` the controller of those to adopt, and no owner of those to release. False when the owner is gone
    /// or going, which nobody should act for any more.
    pub(crate) async fn claim<O: Kept, K: Kept>(
        &self,
        owner: &O,
        adopt: &[Arc<K>],
        release: &[Arc<K>],
    ) -> Result<bool, Failed> {
        let namespace = owner.namespace().unwrap_or_default();
        if !adopt.is_empty() {
            // The store may be behind: a deleted owner's namesake must not adopt in its name.
            let owners: Api<O> = Api::namespaced(self.client.clone(), &namespace);
            let (kind, name) = (O::kind(&()), owner.name_any());
            let fresh = owners
                .get_metadata(&name)
                .await
                .attempt(|| format!("reading {kind} {name} before adopting"))?;
            if fresh.metadata.uid != owner.meta().uid || fresh.metadata.deletion_timestamp.is_some()
            {
                return Ok(false);
            }
        }
        let objects: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let uid = owner.uid().unwrap_or_default();
        let adopting = serde_json::json!([controller_reference(owner)]);
        let releasing = serde_json::json!([{"$patch": "delete", "uid": uid}]);
        let adopt = adopt.iter().map(|object| (object, &adopting, "adopting"));
        let release = release
            .iter()
            .map(|object| (object, &releasing, "releasing"));
        for (object, owners, verb) in adopt.chain(release) {
            let name = object.name_any();
            let patch = serde_json::json!({
                "metadata": {"uid": object.meta().uid, "ownerReferences": owners},
            });
            let params = PatchParams::default();
            match objects
                .patch(&name, &params, &Patch::Strategic(&patch))
                .await
            {
                Err(error) if is_not_found(&error) => {}
                result => drop(result.attempt(|| format!("{verb} {} {name}", K::kind(&())))?),
            }
        }
        Ok(true)
    }

    /// One pod, then two, then four …: a template that is refused is refused once, not 500 times.
    pub(crate) async fn create<O: Kept>(
        &self,
        key: &ObjectKey,
        owner: &O,
        pods: &[Pod],
    ) -> Result<(), Failed> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let (mut left, mut batch) = (pods, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results = join_all(now.iter().map(|pod| api.create(&params, pod))).await;
            left = later;
            batch *= 2;
            let mut failed = None;
            for result in results {
                match result {
                    Ok(created) => {
                        let message = format!("Created pod: {}", created.name_any());
                        self.record(owner, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.expectations.created(key, 1);
                        if !is_namespace_terminating(&error) {
                            let message = format!("Error creating: {}", message_of(&error));
                            self.record(owner, EventType::Warning, "FailedCreate", message);
                        }
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                self.expectations.created(key, left.len());
                // Nothing more will come of it, and nothing needs to.
                if is_namespace_terminating(&error) {
                    return Ok(());
                }
                let kind = O::kind(&());
                return Err(error).attempt(|| format!("creating pods of {kind} {key}"));
            }
        }
        Ok(())
    }

    pub(crate) async fn delete<O: Kept>(
        &self,
        key: &ObjectKey,
        owner: &O,
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
                    self.record(owner, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    self.expectations
                        .deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                    if !is_not_found(&error) {
                        let message = format!("Error deleting: {}", message_of(&error));
                        self.record(owner, EventType::Warning, "FailedDelete", message);
                        failed = Err(error).attempt(|| format!("deleting pod {name}"));
                    }
                }
            }
        }
        failed
    }

    pub(crate) fn record<O: Kept>(
        &self,
        owner: &O,
        type_: EventType,
        reason: &str,
        message: String,
    ) {
        self.recorder.event(owner, type_, reason, message);
    }
}

/// A pod of the owner's from a template. The owner's name begins its own.
pub(crate) fn from_template<O: Kept>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
