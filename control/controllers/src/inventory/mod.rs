//! Every object of every kind, as far as deletion cares: one metadata watch per kind that
//! discovery names, one graph.

mod graph;

use crate::common::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kernelet_client::{MetadataEvent, ObjectKey, Queue, watch_metadata};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    discovery::{ApiCapabilities, Discovery, Scope, verbs},
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

pub(crate) use graph::{Deletion, FOREGROUND, Graph, KindId, Node, ORPHAN, Uid};

/// A kind that can be listed and deleted.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub deletes_collections: bool,
    watched: bool,
}

impl Kind {
    fn new((resource, can): (ApiResource, ApiCapabilities)) -> Option<Self> {
        let usable = can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE);
        usable.then(|| Self {
            namespaced: can.scope == Scope::Namespaced,
            deletes_collections: can.supports_operation(verbs::DELETE_COLLECTION),
            // Events own nothing and nobody owns them; they are many.
            watched: can.supports_operation(verbs::WATCH) && resource.kind != "Event",
            resource,
        })
    }

    /// As `kubectl` names it: `pods`, `deployments.apps`.
    pub(crate) fn name(&self) -> String {
        let plural = &self.resource.plural;
        if self.resource.group.is_empty() {
            plural.clone()
        } else {
            format!("{plural}.{}", self.resource.group)
        }
    }

    pub(crate) fn api(&self, client: Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client, namespace, &self.resource)
        } else {
            Api::all_with(client, &self.resource)
        }
    }
}

pub(crate) struct Inventory {
    pub kinds: Vec<Kind>,
    graph: Mutex<Graph>,
    /// Objects whose place in the graph changed.
    pub changed: Queue<Uid>,
    /// Namespaces that became empty.
    pub emptied: Queue<ObjectKey>,
    synced: watch::Sender<usize>,
    /// Told the namespace of each object that is gone.
    removals: Mutex<Vec<Removal>>,
}

type Removal = Box<dyn Fn(&str) + Send>;

impl Inventory {
    /// Learns the kinds and begins to watch them. Tries until the server answers; `None` on
    /// shutdown.
    pub(crate) async fn start(context: &Context) -> Option<Arc<Self>> {
        let kinds = discover(context).await?;
        let inventory = Arc::new(Self {
            kinds,
            graph: Mutex::default(),
            changed: Queue::default(),
            emptied: Queue::default(),
            synced: watch::Sender::new(0),
            removals: Mutex::default(),
        });
        for (id, kind) in inventory.kinds.iter().enumerate() {
            if kind.watched {
                let inventory = inventory.clone();
                let mut listed: Option<Vec<ObjectMeta>> = None;
                let mut first = true;
                tokio::spawn(watch_metadata(
                    context.client.clone(),
                    kind.resource.clone(),
                    context.shutdown.clone(),
                    move |event| match event {
                        MetadataEvent::ListBegins => listed = Some(Vec::new()),
                        MetadataEvent::ListItem(meta) => {
                            listed.get_or_insert_default().push(*meta);
                        }
                        MetadataEvent::Listed => {
                            inventory.listed(id, listed.take().unwrap_or_default());
                            if std::mem::take(&mut first) {
                                inventory.synced.send_modify(|count| *count += 1);
                            }
                        }
                        MetadataEvent::Applied(meta) => inventory.applied(id, &meta),
                        MetadataEvent::Deleted(meta) => inventory.deleted(&meta),
                    },
                ));
            }
        }
        Some(inventory)
    }

    /// Returns once every kind has been listed: before, "not here" doesn't mean "not there".
    pub(crate) async fn wait_until_synced(&self) {
        let all = self.kinds.iter().filter(|kind| kind.watched).count();
        // The sender lives in `self`, so it can't have gone away.
        let _ = self
            .synced
            .subscribe()
            .wait_for(|count| *count >= all)
            .await;
    }

    pub(crate) fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kind that an owner reference means.
    pub(crate) fn kind_of(&self, owner: &OwnerReference) -> Option<&Kind> {
        self.kinds.iter().find(|kind| {
            kind.resource.kind == owner.kind && kind.resource.api_version == owner.api_version
        })
    }

    /// Calls `told` with the namespace of every namespaced object that goes from now on.
    pub(crate) fn on_removed(&self, told: impl Fn(&str) + Send + 'static) {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        removals.push(Box::new(told));
    }

    fn listed(&self, kind: KindId, objects: Vec<ObjectMeta>) {
        let here: HashSet<_> = objects.iter().filter_map(|meta| meta.uid.clone()).collect();
        let known = self.graph().of_kind(kind);
        for uid in known.into_iter().filter(|uid| !here.contains(&*uid.0)) {
            self.removed(&uid);
        }
        for meta in objects {
            self.applied(kind, &meta);
        }
    }

    fn applied(&self, kind: KindId, meta: &ObjectMeta) {
        let consequences = self.graph().apply(kind, meta);
        for uid in consequences.look_at {
            self.changed.add(uid);
        }
    }

    fn deleted(&self, meta: &ObjectMeta) {
        if let Some(uid) = &meta.uid {
            self.removed(&Uid(uid.as_str().into()));
        }
    }

    pub(crate) fn removed(&self, uid: &Uid) {
        let consequences = self.graph().remove(uid);
        for uid in consequences.look_at {
            self.changed.add(uid);
        }
        if let Some(namespace) = consequences.removed_from {
            let removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
            removals.iter().for_each(|told| told(&namespace));
        }
        if let Some(namespace) = consequences.emptied {
            self.emptied.add(ObjectKey::cluster(namespace));
        }
    }
}

async fn discover(context: &Context) -> Option<Vec<Kind>> {
    let mut pause = Duration::from_millis(100);
    loop {
        let discovery = Discovery::new(context.client.clone()).run_aggregated();
        match discovery.await {
            Ok(discovery) => {
                let groups = discovery.groups();
                let resources = groups.flat_map(|group| group.recommended_resources());
                let mut kinds: Vec<_> = resources.filter_map(Kind::new).collect();
                kinds.sort_by_key(Kind::name);
                return Some(kinds);
            }
            Err(error) => {
                tracing::debug!(%error, "discovery failed");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = context.shutdown.cancelled() => return None,
                }
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
}
