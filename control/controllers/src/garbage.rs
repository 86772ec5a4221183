//! Garbage collection: an object whose owners are all gone goes, too; an owner that is deleted in
//! the foreground goes after its dependents, one that orphans them sets them free first.
//!
//! The graph says where to look; what is decided on is the object as the API has it now.

use crate::{
    common::{Attempt, Context, Failed},
    inventory::{Deletion, FOREGROUND, Inventory, Kind, Node, ORPHAN, Uid},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kernelet_client::{Next, is_not_found, reconcile_all};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use std::sync::Arc;

const WORKERS: usize = 8;

struct Collector {
    client: Client,
    inventory: Arc<Inventory>,
}

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>) {
    inventory.wait_until_synced().await;
    let queue = inventory.changed.clone();
    let collector = Arc::new(Collector {
        client: context.client,
        inventory,
    });
    reconcile_all(
        "garbage collector",
        queue,
        WORKERS,
        context.shutdown,
        move |uid| {
            let collector = collector.clone();
            async move { collector.look_at(&uid).await.map(|()| Next::OnChange) }
        },
    )
    .await;
}

/// An owner, as far as its dependents' lives depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    Gone,
}

/// What follows from an object's owners.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Some owner holds it; these references lead nowhere.
    Drop(Vec<String>),
    Delete,
    /// An owner waits for it, and it has dependents of its own that block.
    DeleteForeground,
}

fn judge(owners: &[(OwnerReference, Standing)], blocks_on_dependents: bool) -> Verdict {
    let is = |standing| owners.iter().any(|(_, s)| *s == standing);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if is(Standing::Solid) {
        let lost: Vec<_> = owners
            .iter()
            .filter(|(_, standing)| *standing != Standing::Solid)
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if lost.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Drop(lost)
        };
    }
    if is(Standing::Waiting) && blocks_on_dependents {
        Verdict::DeleteForeground
    } else {
        Verdict::Delete
    }
}

impl Collector {
    async fn look_at(&self, uid: &Uid) -> Result<(), Failed> {
        let Some(node) = self.inventory.graph().get(uid).cloned() else {
            return Ok(());
        };
        match node.deletion {
            Deletion::Background => Ok(()),
            Deletion::Foreground => self.go_after_dependents(uid, &node).await,
            Deletion::Orphan => self.set_dependents_free(uid, &node).await,
            Deletion::No => self.follow_owners(uid, &node).await,
        }
    }

    fn kind(&self, node: &Node) -> &Kind {
        &self.inventory.kinds[node.kind]
    }

    /// The object's metadata as the API has it; `None` when it (this one, not a namesake) is gone.
    async fn fresh(&self, uid: &Uid, node: &Node) -> Result<Option<ObjectMeta>, Failed> {
        let kind = self.kind(node);
        let api = kind.api(self.client.clone(), &node.key.namespace);
        let meta = match api.get_metadata(&node.key.name).await {
            Ok(object) => Some(object.metadata),
            Err(error) if is_not_found(&error) => None,
            Err(error) => {
                return Err(error).attempt(|| format!("reading {} {}", kind.name(), node.key));
            }
        };
        let meta = meta.filter(|meta| meta.uid.as_deref() == Some(&*uid.0));
        if meta.is_none() {
            self.inventory.removed(uid);
        }
        Ok(meta)
    }

    async fn go_after_dependents(&self, uid: &Uid, node: &Node) -> Result<(), Failed> {
        let blocking = self.inventory.graph().blocking(uid);
        if blocking.is_empty() {
            return self.remove_finalizer(uid, node, FOREGROUND).await;
        }
        // They see that this owner waits for them and go; their end brings this one back here.
        for dependent in blocking {
            let begun = {
                let graph = self.inventory.graph();
                let node = graph.get(&dependent);
                node.is_none_or(|node| node.deletion != Deletion::No)
            };
            if !begun {
                self.inventory.changed.add(dependent);
            }
        }
        Ok(())
    }

    async fn set_dependents_free(&self, uid: &Uid, node: &Node) -> Result<(), Failed> {
        let dependents = self.inventory.graph().dependents(uid);
        for dependent in dependents {
            let Some(child) = self.inventory.graph().get(&dependent).cloned() else {
                continue;
            };
            if let Some(meta) = self.fresh(&dependent, &child).await? {
                let lost = [uid.0.to_string()];
                self.drop_owners(&child, &meta, &lost).await?;
            }
        }
        self.remove_finalizer(uid, node, ORPHAN).await
    }

    async fn follow_owners(&self, uid: &Uid, node: &Node) -> Result<(), Failed> {
        let Some(meta) = self.fresh(uid, node).await? else {
            return Ok(());
        };
        if meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut owners = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            let standing = self.standing(node, owner).await?;
            owners.push((owner.clone(), standing));
        }
        let blocks = !self.inventory.graph().blocking(uid).is_empty();
        match judge(&owners, blocks) {
            Verdict::Keep => Ok(()),
            Verdict::Drop(lost) => self.drop_owners(node, &meta, &lost).await,
            Verdict::Delete => {
                let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
                let policy = if has(ORPHAN) {
                    PropagationPolicy::Orphan
                } else if has(FOREGROUND) {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                self.delete(node, &meta, policy).await
            }
            Verdict::DeleteForeground => {
                self.delete(node, &meta, PropagationPolicy::Foreground)
                    .await
            }
        }
    }

    async fn standing(&self, node: &Node, owner: &OwnerReference) -> Result<Standing, Failed> {
        let uid = Uid(owner.uid.as_str().into());
        {
            let graph = self.inventory.graph();
            if let Some(known) = graph.get(&uid) {
                // A namespaced owner holds objects of its own namespace only.
                let apart =
                    !known.key.namespace.is_empty() && known.key.namespace != node.key.namespace;
                return Ok(match known.deletion {
                    _ if apart => Standing::Gone,
                    Deletion::Foreground => Standing::Waiting,
                    _ => Standing::Solid,
                });
            }
            if graph.is_known_gone(&uid) {
                return Ok(Standing::Gone);
            }
        }
        // A kind that isn't served (here, or yet): better to keep too much.
        let Some(kind) = self.inventory.kind_of(owner) else {
            return Ok(Standing::Solid);
        };
        if kind.namespaced && node.key.namespace.is_empty() {
            return Ok(Standing::Gone);
        }
        let api = kind.api(self.client.clone(), &node.key.namespace);
        match api.get_metadata(&owner.name).await {
            Ok(found) if found.metadata.uid.as_ref() == Some(&owner.uid) => Ok(Standing::Solid),
            Ok(_) => {
                self.inventory.graph().remember_gone(&uid);
                Ok(Standing::Gone)
            }
            Err(error) if is_not_found(&error) => {
                self.inventory.graph().remember_gone(&uid);
                Ok(Standing::Gone)
            }
            Err(error) => Err(error).attempt(|| {
                format!(
                    "looking for {} {}, the owner of {}",
                    kind.name(),
                    owner.name,
                    node.key
                )
            }),
        }
    }

    async fn delete(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        policy: PropagationPolicy,
    ) -> Result<(), Failed> {
        let kind = self.kind(node);
        let params = DeleteParams {
            propagation_policy: Some(policy),
            // Whoever gives it an owner in this moment saves it.
            preconditions: Some(Preconditions {
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = kind.api(self.client.clone(), &node.key.namespace);
        match api.delete(&node.key.name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("deleting {} {}", kind.name(), node.key)),
        }
    }

    async fn drop_owners(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        lost: &[String],
    ) -> Result<(), Failed> {
        let owners = meta.owner_references.iter().flatten();
        let kept: Vec<_> = owners.filter(|owner| !lost.contains(&owner.uid)).collect();
        self.patch(node, meta, serde_json::json!({"ownerReferences": kept}))
            .await
    }

    async fn remove_finalizer(&self, uid: &Uid, node: &Node, name: &str) -> Result<(), Failed> {
        let Some(meta) = self.fresh(uid, node).await? else {
            return Ok(());
        };
        let finalizers = meta.finalizers.iter().flatten();
        let kept: Vec<_> = finalizers.filter(|finalizer| *finalizer != name).collect();
        self.patch(node, &meta, serde_json::json!({"finalizers": kept}))
            .await
    }

    /// A merge patch of the metadata that fails when the object changed since it was read.
    async fn patch(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        mut change: serde_json::Value,
    ) -> Result<(), Failed> {
        let kind = self.kind(node);
        change["uid"] = meta.uid.clone().into();
        change["resourceVersion"] = meta.resource_version.clone().into();
        let patch = serde_json::json!({"metadata": change});
        let api = kind.api(self.client.clone(), &node.key.namespace);
        let params = PatchParams::default();
        match api
            .patch_metadata(&node.key.name, &params, &Patch::Merge(&patch))
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("patching {} {}", kind.name(), node.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner_holds_it() {
        use Standing::{Gone, Solid, Waiting};
        let cases: [(&[Standing], bool, Verdict); 7] = [
            (&[], false, Verdict::Keep),
            (&[Solid], false, Verdict::Keep),
            (&[Gone], false, Verdict::Delete),
            (&[Gone, Gone], true, Verdict::Delete),
            (
                &[Solid, Gone, Waiting],
                false,
                Verdict::Drop(vec!["1".into(), "2".into()]),
            ),
            (&[Waiting], false, Verdict::Delete),
            (&[Waiting, Gone], true, Verdict::DeleteForeground),
        ];
        for (standings, blocks, expected) in cases {
            let owners: Vec<_> = standings
                .iter()
                .enumerate()
                .map(|(at, standing)| (owner(&at.to_string()), *standing))
                .collect();
            assert_eq!(judge(&owners, blocks), expected, "{standings:?}");
        }
    }
}
