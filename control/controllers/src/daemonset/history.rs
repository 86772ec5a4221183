//! Keeping a DaemonSet's revisions in the API: claimed, made, renumbered, forgotten.

use super::{
    Controller,
    pod::{self, HASH},
    revision::{self, History},
};
use crate::common::{Attempt, Failed, Matcher, controller_of, is_controlled_by, orphans_of};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::Pod,
};
use kernelet_client::{ObjectKey, is_already_exists, is_not_found};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use std::{collections::HashSet, sync::Arc};

/// The revision of the template as it is, and those before it.
pub(super) struct Revisions {
    pub hash: String,
    pub history: History,
}

impl Controller {
    /// Makes the newest revision where it is missing. `None` when the DaemonSet is gone, or its name's collision has to
    /// be seen first.
    pub(super) async fn revisions(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        pods: &[Arc<Pod>],
    ) -> Result<Option<Revisions>, Failed> {
        let Some(own) = self.own_revisions(key, set).await? else {
            return Ok(None);
        };
        let mut history = History::of(set, own);
        let number = history.number();
        let api: Api<ControllerRevision> = self.api(key);
        let newest = match history.current.pop() {
            None => match self.make(&api, key, set, number).await? {
                Some(made) => Arc::new(made),
                None => return Ok(None),
            },
            Some(newest) => {
                self.drop_doubles(&api, key, &history.current, &newest, pods)
                    .await?;
                if newest.revision < number {
                    let name = newest.name_any();
                    let patch = serde_json::json!({
                        "metadata": {"uid": newest.metadata.uid}, "revision": number});
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                        .await
                        .attempt(|| format!("renumbering ControllerRevision {name}"))?;
                }
                newest
            }
        };
        Ok(Some(Revisions {
            hash: revision::hash_of(&newest).to_owned(),
            history,
        }))
    }

    /// Its revisions, those without an owner adopted where it selects them.
    async fn own_revisions(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
    ) -> Result<Option<Vec<Arc<ControllerRevision>>>, Failed> {
        let selector = set.spec.as_ref().map(|spec| Matcher::new(&spec.selector));
        let selects = |revision: &Arc<ControllerRevision>| {
            let selector = selector.as_ref();
            selector.is_some_and(|selector| selector.matches(&revision.metadata))
        };
        let uid = set.uid().unwrap_or_default();
        let (mut own, release): (Vec<_>, Vec<_>) =
            self.revisions.get(&uid).into_iter().partition(selects);
        let adopt: Vec<_> = self
            .revisions
            .get(&orphans_of(&key.namespace))
            .into_iter()
            .filter(|r| selects(r) && r.metadata.deletion_timestamp.is_none())
            .collect();
        if !self.control.claim(set, &adopt, &release).await? {
            return Ok(None);
        }
        own.extend(adopt);
        Ok(Some(own))
    }

    async fn make(
        &self,
        api: &Api<ControllerRevision>,
        key: &ObjectKey,
        set: &DaemonSet,
        number: i64,
    ) -> Result<Option<ControllerRevision>, Failed> {
        let revision = revision::new(set, number);
        let name = revision.name_any();
        let made = api.create(&PostParams::default(), &revision).await;
        match made {
            Err(error) if is_already_exists(&error) => {}
            result => {
                return result
                    .map(Some)
                    .attempt(|| format!("creating ControllerRevision {}/{name}", key.namespace));
            }
        }
        let known = api
            .get(&name)
            .await
            .attempt(|| format!("reading ControllerRevision {}/{name}", key.namespace))?;
        // Made in a turn that the store doesn't show yet.
        let mine = controller_of(&known.metadata).is_none()
            || is_controlled_by(&known.metadata, &set.metadata);
        if mine && revision::is_current(set, &known) {
            return Ok(Some(known));
        }
        // Another template has the same hash: from now on another number is mixed in.
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let patch = serde_json::json!({
            "metadata": {"uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version},
            "status": {"collisionCount": collisions.unwrap_or(0) + 1},
        });
        let sets: Api<DaemonSet> = self.api(key);
        sets.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .attempt(|| format!("counting a collision of DaemonSet {key}"))?;
        Ok(None)
    }

    /// Several revisions of one template: the newest stays, and its hash names the others' pods too.
    async fn drop_doubles(
        &self,
        api: &Api<ControllerRevision>,
        key: &ObjectKey,
        doubles: &[Arc<ControllerRevision>],
        newest: &ControllerRevision,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        if doubles.is_empty() {
            return Ok(());
        }
        let hash = revision::hash_of(newest);
        let theirs: HashSet<&str> = doubles.iter().map(|r| revision::hash_of(r)).collect();
        let pod_api: Api<Pod> = self.api(key);
        for pod in pods.iter().filter(|p| theirs.contains(pod::hash_of(p))) {
            let name = pod.name_any();
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid, "labels": {HASH: hash}}});
            let params = PatchParams::default();
            match pod_api.patch(&name, &params, &Patch::Merge(&patch)).await {
                Err(error) if is_not_found(&error) => {}
                result => drop(result.attempt(|| format!("labelling pod {name}"))?),
            }
        }
        for double in doubles {
            self.forget(api, double).await?;
        }
        Ok(())
    }

    /// Deletes old revisions beyond the limit that no pod is of.
    pub(super) async fn clean_up(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        history: &History,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
        let alive: HashSet<&str> = pods.iter().map(|pod| pod::hash_of(pod)).collect();
        let api = self.api(key);
        for revision in history.to_forget(limit.unwrap_or(10), &alive) {
            self.forget(&api, revision).await?;
        }
        Ok(())
    }

    async fn forget(
        &self,
        api: &Api<ControllerRevision>,
        revision: &ControllerRevision,
    ) -> Result<(), Failed> {
        let name = revision.name_any();
        match api.delete(&name, &DeleteParams::default()).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("deleting ControllerRevision {name}")),
        }
    }
}
