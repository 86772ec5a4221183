//! Who owns whom, over all kinds. Pure.
//!
//! Only what deletion needs of an object is kept. An owner that isn't here may exist all the same
//! (its kind isn't watched, or its event is on the way): then it's the caller who asks the API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kernelet_client::ObjectKey;
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// Uids of objects that are known to be gone, so that nobody needs to ask for them again.
const GONE_REMEMBERED: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(pub Arc<str>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An index into the inventory's kinds.
pub(crate) type KindId = usize;

/// What an object that is being deleted does about its dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    No,
    /// Nothing: they follow when it is gone.
    Background,
    /// It goes after those that block it.
    Foreground,
    /// It lets them go free first.
    Orphan,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: KindId,
    pub key: ObjectKey,
    pub owners: Box<[OwnerReference]>,
    pub deletion: Deletion,
}

#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    per_namespace: HashMap<Box<str>, usize>,
    gone: (HashSet<Uid>, VecDeque<Uid>),
}

fn deletion(meta: &ObjectMeta) -> Deletion {
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    match &meta.deletion_timestamp {
        None => Deletion::No,
        Some(_) if has(ORPHAN) => Deletion::Orphan,
        Some(_) if has(FOREGROUND) => Deletion::Foreground,
        Some(_) => Deletion::Background,
    }
}

/// What a change asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Consequences {
    /// Objects to look at again.
    pub look_at: Vec<Uid>,
    /// A namespace that holds nothing any more.
    pub emptied: Option<Box<str>>,
    /// The namespace that an object is gone from.
    pub removed_from: Option<Box<str>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(crate) fn dependents(&self, uid: &Uid) -> Vec<Uid> {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        dependents.cloned().collect()
    }

    pub(crate) fn is_known_gone(&self, uid: &Uid) -> bool {
        self.gone.0.contains(uid)
    }

    /// Objects in the namespace, of the kinds that are watched.
    pub(crate) fn count_in(&self, namespace: &str) -> usize {
        self.per_namespace.get(namespace).copied().unwrap_or(0)
    }

    pub(crate) fn of_kind(&self, kind: KindId) -> HashSet<Uid> {
        let nodes = self.nodes.iter().filter(|(_, node)| node.kind == kind);
        nodes.map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes an object's state.
    pub(crate) fn apply(&mut self, kind: KindId, meta: &ObjectMeta) -> Consequences {
        let mut consequences = Consequences::default();
        let Some(uid) = meta.uid.as_deref().map(|uid| Uid(uid.into())) else {
            return consequences;
        };
        let owners: Box<[_]> = meta.owner_references.clone().unwrap_or_default().into();
        let deletion = deletion(meta);
        let known = self.nodes.get(&uid);
        let old_owners = known.map(|node| node.owners.clone()).unwrap_or_default();
        let was = known.map_or(Deletion::No, |node| node.deletion);
        if known.is_none() {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            *self.per_namespace.entry(namespace.into()).or_default() += 1;
        }
        let owners_changed = old_owners != owners;
        if owners_changed {
            self.unlink(&uid, &old_owners);
            for owner in &owners {
                let owner = Uid(owner.uid.as_str().into());
                self.dependents
                    .entry(owner)
                    .or_default()
                    .insert(uid.clone());
            }
            // An owner that waits for its dependents may have lost one.
            consequences
                .look_at
                .extend(self.waiting_owners(&old_owners));
        }
        let waits = matches!(deletion, Deletion::Foreground | Deletion::Orphan);
        if (owners_changed && !owners.is_empty()) || (waits && was != deletion) {
            consequences.look_at.push(uid.clone());
        }
        // A deletion that its owner waits for has begun, or its owner begins to wait.
        if was == Deletion::No && deletion != Deletion::No {
            consequences.look_at.extend(self.waiting_owners(&owners));
        }
        let node = Node {
            kind,
            key: ObjectKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            owners,
            deletion,
        };
        self.nodes.insert(uid, node);
        consequences
    }

    /// The object is gone: those it owned, and those that waited for it, must look again.
    pub(crate) fn remove(&mut self, uid: &Uid) -> Consequences {
        let mut consequences = Consequences::default();
        self.remember_gone(uid);
        let Some(node) = self.nodes.remove(uid) else {
            return consequences;
        };
        self.unlink(uid, &node.owners);
        consequences.look_at = self.dependents(uid);
        consequences
            .look_at
            .extend(self.waiting_owners(&node.owners));
        let namespace = &node.key.namespace;
        if !namespace.is_empty() {
            consequences.removed_from = Some(namespace.clone());
        }
        if let Some(count) = self.per_namespace.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.per_namespace.remove(namespace);
                if !namespace.is_empty() {
                    consequences.emptied = Some(namespace.clone());
                }
            }
        }
        consequences
    }

    /// Dependents that keep a foreground deletion waiting.
    pub(crate) fn blocking(&self, uid: &Uid) -> Vec<Uid> {
        self.dependents(uid)
            .into_iter()
            .filter(|dependent| {
                self.nodes.get(dependent).is_some_and(|node| {
                    node.owners.iter().any(|owner| {
                        owner.uid == *uid.0 && owner.block_owner_deletion == Some(true)
                    })
                })
            })
            .collect()
    }

    fn waiting_owners(&self, owners: &[OwnerReference]) -> Vec<Uid> {
        owners
            .iter()
            .map(|owner| Uid(owner.uid.as_str().into()))
            .filter(|owner| {
                let owner = self.nodes.get(owner);
                owner.is_some_and(|node| node.deletion == Deletion::Foreground)
            })
            .collect()
    }

    fn unlink(&mut self, uid: &Uid, owners: &[OwnerReference]) {
        for owner in owners {
            let owner = Uid(owner.uid.as_str().into());
            if let Some(dependents) = self.dependents.get_mut(&owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner);
                }
            }
        }
    }

    pub(crate) fn remember_gone(&mut self, uid: &Uid) {
        let (set, order) = &mut self.gone;
        if set.insert(uid.clone()) {
            order.push_back(uid.clone());
        }
        if order.len() > GONE_REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(uid: &str, over: Value) -> ObjectMeta {
        let mut meta = json!({"name": uid, "namespace": "default", "uid": uid});
        for (key, value) in over.as_object().cloned().unwrap_or_default() {
            meta[key] = value;
        }
        serde_json::from_value(meta).expect("metadata")
    }

    fn owned_by(owner: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": owner, "uid": owner,
            "blockOwnerDeletion": true}]})
    }

    fn deleted(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2025-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    fn uid(text: &str) -> Uid {
        Uid(text.into())
    }

    #[test]
    fn dependents_look_again_when_their_owner_goes() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(0, &meta("owner", json!({}))).look_at, []);
        assert_eq!(
            graph.apply(1, &meta("child", owned_by("owner"))).look_at,
            [uid("child")]
        );
        assert_eq!(graph.remove(&uid("owner")).look_at, [uid("child")]);
        assert!(graph.is_known_gone(&uid("owner")));
    }

    #[test]
    fn a_foreground_deletion_waits_for_blocking_dependents_and_hears_of_their_end() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("owner", json!({})));
        graph.apply(1, &meta("child", owned_by("owner")));
        let mut free = owned_by("owner");
        free["ownerReferences"][0]["blockOwnerDeletion"] = false.into();
        graph.apply(1, &meta("free", free));
        let begun = graph.apply(0, &meta("owner", deleted(FOREGROUND)));
        assert_eq!(begun.look_at, [uid("owner")]);
        assert_eq!(graph.blocking(&uid("owner")), [uid("child")]);
        assert_eq!(graph.remove(&uid("child")).look_at, [uid("owner")]);
        assert_eq!(graph.blocking(&uid("owner")), []);
    }

    #[test]
    fn a_dependent_that_is_set_free_is_reported_to_the_waiting_owner() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("owner", deleted(FOREGROUND)));
        graph.apply(1, &meta("child", owned_by("owner")));
        assert_eq!(
            graph.apply(1, &meta("child", json!({}))).look_at,
            [uid("owner")]
        );
        assert_eq!(graph.dependents(&uid("owner")), []);
    }

    #[test]
    fn a_namespace_is_reported_once_it_is_empty() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("a", json!({})));
        graph.apply(0, &meta("b", json!({})));
        graph.apply(0, &meta("b", json!({"labels": {"x": "y"}})));
        assert_eq!(graph.remove(&uid("a")).emptied, None);
        assert_eq!(graph.remove(&uid("b")).emptied.as_deref(), Some("default"));
        assert_eq!(graph.count_in("default"), 0);
    }
}
