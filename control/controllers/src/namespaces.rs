//! The end of a namespace: everything in it is deleted, then its finalizer is taken off.
//!
//! What remains is read from the API each time; when to look again is told by the inventory (the
//! last object went), and by the pods' grace for those kinds that it doesn't watch.

use crate::{
    common::{Attempt, Context, Failed, now, time, write_status},
    inventory::{Inventory, Kind},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kernelet_client::{Next, ObjectKey, Shared, is_not_found, reconcile_all};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const WORKERS: usize = 2;
const FINALIZER: &str = "kubernetes";
/// For kinds whose end nobody reports here.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

struct Controller {
    client: Client,
    namespaces: Shared<Namespace>,
    inventory: Arc<Inventory>,
}

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>) {
    let namespaces = context.informers.all::<Namespace>();
    let queue = inventory.emptied.clone();
    let on_change = queue.clone();
    namespaces.on_change_until(&context.shutdown, move |change| {
        on_change.add(ObjectKey::of(&**change.object()))
    });
    namespaces.wait_until_synced().await;
    let controller = Arc::new(Controller {
        client: context.client,
        namespaces,
        inventory,
    });
    reconcile_all("namespace", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key.name).await }
    })
    .await;
}

/// What a look at the namespace's content found.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    /// Kinds that still have objects, with their numbers.
    remaining: BTreeMap<String, usize>,
    /// Finalizers that objects wait for, with the numbers of objects.
    finalizers: BTreeMap<String, usize>,
    /// Kinds that couldn't be deleted or listed, with the error.
    failures: Vec<String>,
}

impl Findings {
    fn is_done(&self) -> bool {
        self.remaining.is_empty() && self.failures.is_empty()
    }
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Next, Failed> {
        let Some(namespace) = self.namespaces.get("", name) else {
            return Ok(Next::OnChange);
        };
        let spec = namespace.spec.as_ref();
        let finalizers = spec
            .and_then(|spec| spec.finalizers.clone())
            .unwrap_or_default();
        let ours = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(Next::OnChange);
        }
        let findings = self.empty(name).await;
        self.tell(&namespace, &findings).await?;
        if !findings.is_done() {
            // The inventory reports the last of its objects; the rest is looked for.
            let watched = self.inventory.graph().count_in(name) > 0;
            let again = if watched {
                LOOK_AGAIN
            } else {
                Duration::from_millis(200)
            };
            return Ok(Next::After(again));
        }
        self.finalize(&namespace, finalizers).await?;
        Ok(Next::OnChange)
    }

    async fn empty(&self, namespace: &str) -> Findings {
        let mut findings = Findings::default();
        for kind in self.inventory.kinds.iter().filter(|kind| kind.namespaced) {
            if let Err(error) = self.empty_kind(kind, namespace, &mut findings).await {
                findings.failures.push(format!("{}: {error}", kind.name()));
            }
        }
        findings
    }

    async fn empty_kind(
        &self,
        kind: &Kind,
        namespace: &str,
        findings: &mut Findings,
    ) -> kube::Result<()> {
        let api = kind.api(self.client.clone(), namespace);
        let all = ListParams::default();
        let found = api.list_metadata(&all).await?.items;
        if found.is_empty() {
            return Ok(());
        }
        let background = DeleteParams::background();
        // Asking again for those that are going would only shorten nothing.
        if found
            .iter()
            .any(|object| object.metadata.deletion_timestamp.is_none())
        {
            if kind.deletes_collections {
                api.delete_collection(&background, &all).await?;
            } else {
                for object in &found {
                    match api.delete(&object.name_any(), &background).await {
                        Err(error) if is_not_found(&error) => {}
                        result => drop(result?),
                    }
                }
            }
        }
        let left = api.list_metadata(&all).await?.items;
        if !left.is_empty() {
            findings.remaining.insert(kind.name(), left.len());
        }
        for object in left {
            for finalizer in object.metadata.finalizers.into_iter().flatten() {
                *findings.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn tell(&self, namespace: &Namespace, findings: &Findings) -> Result<(), Failed> {
        let name = namespace.name_any();
        let known = namespace.status.as_ref();
        let old = known.and_then(|status| status.conditions.clone());
        let status = NamespaceStatus {
            phase: Some("Terminating".to_owned()),
            conditions: Some(conditions(
                findings,
                old.as_deref().unwrap_or_default(),
                now(),
            )),
        };
        // Nobody will read the conditions of a namespace that goes at the first look.
        if known == Some(&status) || (findings.is_done() && old.is_none()) {
            return Ok(());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        write_status(&api, &namespace.metadata, None, known, &status)
            .await
            .attempt(|| format!("writing the status of namespace {name}"))
    }

    async fn finalize(&self, namespace: &Namespace, finalizers: Vec<String>) -> Result<(), Failed> {
        let name = namespace.name_any();
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut namespace = namespace.clone();
        // Its status has just been written: only the uid must still be the same.
        namespace.metadata.resource_version = None;
        namespace.spec.get_or_insert_default().finalizers = Some(
            finalizers
                .into_iter()
                .filter(|finalizer| finalizer != FINALIZER)
                .collect(),
        );
        let params = PostParams::default();
        let finalized = api
            .replace_subresource("finalize", &name, &params, &namespace)
            .await;
        match finalized {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("finalizing namespace {name}")),
        }
    }
}

/// The five conditions of a namespace that is going, in upstream's words.
fn conditions(
    findings: &Findings,
    known: &[NamespaceCondition],
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name} {verb} {count} resource instances"))
            .collect();
        parts.join(", ")
    };
    let failure = if findings.failures.is_empty() {
        (
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        )
    } else {
        let failures = findings.failures.join(", ");
        (
            "True",
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {failures}",
                findings.failures.len()
            ),
        )
    };
    let remaining = if findings.remaining.is_empty() {
        (
            "False",
            "ContentRemoved",
            "All content successfully removed".to_owned(),
        )
    } else {
        (
            "True",
            "SomeResourcesRemain",
            format!(
                "Some resources are remaining: {}",
                listed(&findings.remaining, "has")
            ),
        )
    };
    let finalizers = if findings.finalizers.is_empty() {
        (
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        (
            "True",
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                listed(&findings.finalizers, "in")
            ),
        )
    };
    let all = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
        ),
        ("NamespaceDeletionContentFailure", failure),
        ("NamespaceContentRemaining", remaining),
        ("NamespaceFinalizersRemaining", finalizers),
    ];
    all.into_iter()
        .map(|(type_, (status, reason, message))| {
            let before = known
                .iter()
                .find(|c| c.type_ == type_ && c.status == status);
            NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or_else(|| time(now)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_remains_and_what_it_waits_for() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (first, second) = (at("2025-01-01T00:00:00Z"), at("2025-01-01T00:00:05Z"));
        let findings = Findings {
            remaining: BTreeMap::from([("pods".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/keep".to_owned(), 1)]),
            failures: Vec::new(),
        };
        let some = conditions(&findings, &[], first);
        let by_type = |conditions: &[NamespaceCondition], type_: &str| {
            let found = conditions.iter().find(|c| c.type_ == type_);
            found.cloned().expect("every condition is told")
        };
        let remaining = by_type(&some, "NamespaceContentRemaining");
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods has 2 resource instances")
        );
        assert_eq!(
            by_type(&some, "NamespaceFinalizersRemaining")
                .message
                .as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: \
                 example.com/keep in 1 resource instances"
            )
        );
        let done = conditions(&Findings::default(), &some, second);
        let remaining = by_type(&done, "NamespaceContentRemaining");
        assert_eq!(
            (remaining.status.as_str(), remaining.last_transition_time),
            ("False", time(second))
        );
        let parsed = by_type(&done, "NamespaceDeletionGroupVersionParsingFailure");
        assert_eq!(parsed.last_transition_time, time(first), "it didn't change");
    }
}
