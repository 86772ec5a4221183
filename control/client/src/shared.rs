//! One list+watch per kind and process, seen through cheap handles.
//!
//! ```text
//! list+watch ─→ reflect::drive ─→ objects ─→ indexes ─→ handlers (usually: put a key in a queue)
//!                                                    └→ generation (`Shared::changed`)
//! ```
//! Handlers are synchronous and run on the reflector's task, one change at a time: there is no
//! channel whose length could grow, and whoever reads the store inside a handler sees the change.
//! There is deliberately no resync timer: a level that nobody changed needs no second look.

use crate::{ObjectKey, index::Index, reflect};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, api::ObjectMeta};
use serde::de::DeserializeOwned;
use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A statically known kind that can be kept in a `Shared` store.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// What happened to one object. After a relist, only real differences are reported.
#[derive(Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it was last seen when it is gone.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => {
                object
            }
        }
    }

    /// The object before the change.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Updated { old, .. } | Self::Deleted(old) => Some(old),
        }
    }

    /// The object after the change.
    #[expect(
        clippy::new_ret_no_self,
        reason = "the other half of `old`, not a constructor"
    )]
    pub fn new(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(new) | Self::Updated { new, .. } => Some(new),
            Self::Deleted(_) => None,
        }
    }
}

/// Whether a handler wants to hear of further changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    On,
    Off,
}

pub(crate) type Handler<K> = Box<dyn FnMut(&Change<K>) -> Keep + Send>;

/// Indexes are told first, so that they are up to date when a handler runs.
struct Listeners<K> {
    indexes: Vec<Handler<K>>,
    handlers: Vec<Handler<K>>,
}

impl<K> Listeners<K> {
    fn tell(&mut self, change: &Change<K>) {
        self.indexes.retain_mut(|index| index(change) == Keep::On);
        self.handlers
            .retain_mut(|handler| handler(change) == Keep::On);
    }
}

struct Inner<K> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<K>>>,
    listeners: Mutex<Listeners<K>>,
    synced: watch::Sender<bool>,
    generation: watch::Sender<u64>,
}

/// A handle on a kind's objects. Clones are cheap and see the same store.
pub struct Shared<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<K: Object> Shared<K> {
    /// A store that the caller fills itself: for tests, and for objects from elsewhere.
    pub fn detached() -> (Self, Feed<K>) {
        let shared = Self {
            inner: Arc::new(Inner {
                objects: RwLock::default(),
                listeners: Mutex::new(Listeners {
                    indexes: Vec::new(),
                    handlers: Vec::new(),
                }),
                synced: watch::Sender::new(false),
                generation: watch::Sender::new(0),
            }),
        };
        let feed = Feed {
            shared: shared.clone(),
            listing: None,
        };
        (shared, feed)
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// A namespace's objects, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        self.read()
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Whether the first list has been taken in (and every handler has seen it).
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Returns once the first list has been taken in and every handler has seen it.
    pub async fn wait_until_synced(&self) {
        // The sender lives in `inner`, so it can't have gone away.
        let _ = self.inner.synced.subscribe().wait_for(|done| *done).await;
    }

    /// A level that rises with every change: for callers that look at the whole store again.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.generation.subscribe()
    }

    /// Calls `handler` for each object that is here now (as `Added`), then for every change.
    /// It runs on the reflector's task and must not block, nor register with the same store.
    pub fn on_change(&self, mut handler: impl FnMut(&Change<K>) + Send + 'static) {
        self.listen(Box::new(move |change| {
            handler(change);
            Keep::On
        }));
    }

    /// As `on_change`, but only until `end`: for listeners that may be started again.
    pub fn on_change_until(
        &self,
        end: &CancellationToken,
        mut handler: impl FnMut(&Change<K>) + Send + 'static,
    ) {
        let end = end.clone();
        self.listen(Box::new(move |change| {
            if end.is_cancelled() {
                return Keep::Off;
            }
            handler(change);
            Keep::On
        }));
    }

    fn listen(&self, mut handler: Handler<K>) {
        let mut listeners = self.listeners();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        listeners.handlers.push(handler);
    }

    /// A further way to look objects up, kept up to date while somebody holds it; `keys_of` gives
    /// an object's keys.
    pub fn index(&self, keys_of: impl Fn(&K) -> Vec<String> + Send + 'static) -> Index<K> {
        let (index, mut handler) = Index::new(keys_of);
        let mut listeners = self.listeners();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        listeners.indexes.push(handler);
        index
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ObjectKey, Arc<K>>> {
        self.inner
            .objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners<K>> {
        self.inner
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: ObjectKey, object: Option<Arc<K>>) {
        let mut listeners = self.listeners();
        let change = {
            let mut objects = self
                .inner
                .objects
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            match (object, objects.get(&key)) {
                (Some(new), Some(old)) => {
                    let old = old.clone();
                    objects.insert(key, new.clone());
                    Change::Updated { old, new }
                }
                (Some(new), None) => {
                    objects.insert(key, new.clone());
                    Change::Added(new)
                }
                (None, Some(_)) => {
                    Change::Deleted(objects.remove(&key).expect("was found under the same lock"))
                }
                (None, None) => return,
            }
        };
        listeners.tell(&change);
        self.inner
            .generation
            .send_modify(|generation| *generation += 1);
    }
}

/// The writing end of a `Shared` store.
pub struct Feed<K> {
    shared: Shared<K>,
    listing: Option<BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K: Object> Feed<K> {
    /// An object that was added or modified.
    pub fn apply(&mut self, object: K) {
        self.shared
            .put(ObjectKey::of(&object), Some(Arc::new(lean(object))));
    }

    pub fn delete(&mut self, object: &K) {
        self.shared.put(ObjectKey::of(object), None);
    }

    /// A (re)list begins: what was seen before stays visible until `listed`.
    pub fn list_begins(&mut self) {
        self.listing = Some(BTreeMap::new());
    }

    /// An object of the list that has begun.
    pub fn list_item(&mut self, object: K) {
        let object = Arc::new(lean(object));
        if let Some(listing) = &mut self.listing {
            listing.insert(ObjectKey::of(&*object), object);
        }
    }

    /// The list is complete: reports its differences from what was seen before.
    pub fn listed(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        let gone: Vec<ObjectKey> = self
            .shared
            .read()
            .keys()
            .filter(|key| !listing.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.shared.put(key, None);
        }
        for (key, object) in listing {
            let known = self.shared.get_key(&key);
            let version = |meta: &ObjectMeta| (meta.uid.clone(), meta.resource_version.clone());
            if known.is_none_or(|known| version(known.meta()) != version(object.meta())) {
                self.shared.put(key, Some(object));
            }
        }
        self.shared.inner.synced.send_replace(true);
        self.shared
            .inner
            .generation
            .send_modify(|generation| *generation += 1);
    }
}

/// Drops what no component here reads: managedFields are often the larger half of an object.
fn lean<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Restricts what a store holds, on the server's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: Option<String>,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

impl Scope {
    pub fn fields(selector: impl Into<String>) -> Self {
        Self {
            fields: Some(selector.into()),
            ..Self::default()
        }
    }

    pub fn labels(selector: impl Into<String>) -> Self {
        Self {
            labels: Some(selector.into()),
            ..Self::default()
        }
    }

    fn selectors(&self) -> reflect::Selectors {
        reflect::Selectors {
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }
}

type Registry = HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>;

/// The process's stores: asking twice for a kind gives the same one. Watches run until
/// `shutdown`.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    stores: Arc<Mutex<Registry>>,
}

impl Informers {
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self {
            client,
            shutdown,
            stores: Arc::default(),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// All objects of a kind, in all namespaces.
    pub fn all<K: Object>(&self) -> Shared<K> {
        self.scoped(Scope::default())
    }

    /// The objects of a kind, in all namespaces, that the scope's selectors match. A scope with a
    /// namespace is for `namespaced`.
    pub fn scoped<K: Object>(&self, scope: Scope) -> Shared<K> {
        self.open(scope, |client| Api::all(client))
    }

    /// The objects of a kind in one namespace.
    pub fn namespaced<K>(&self, namespace: &str, scope: Scope) -> Shared<K>
    where
        K: Object + Resource<Scope = NamespaceResourceScope>,
    {
        let scope = Scope {
            namespace: Some(namespace.to_owned()),
            ..scope
        };
        self.open(scope, |client| Api::namespaced(client, namespace))
    }

    fn open<K: Object>(&self, scope: Scope, api: impl FnOnce(Client) -> Api<K>) -> Shared<K> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (TypeId::of::<K>(), scope);
        if let Some(known) = stores.get(&id) {
            let known: &Shared<K> = known
                .downcast_ref()
                .expect("a store is filed under its kind's type id");
            return known.clone();
        }
        let (shared, feed) = Shared::<K>::detached();
        tokio::spawn(reflect::drive(
            api(self.client.clone()),
            id.1.selectors(),
            feed,
            self.shutdown.clone(),
        ));
        stores.insert(id, Box::new(shared.clone()));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config(name: &str, namespace: &str, version: &str) -> ConfigMap {
        let mut config = ConfigMap::default();
        config.metadata.name = Some(name.to_owned());
        config.metadata.namespace = Some(namespace.to_owned());
        config.metadata.uid = Some(name.to_owned());
        config.metadata.resource_version = Some(version.to_owned());
        config.metadata.managed_fields = Some(Vec::new());
        config
    }

    fn log(shared: &Shared<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        shared.on_change(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            let kind = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            writer
                .lock()
                .expect("not poisoned")
                .push(format!("{kind}{name}"));
        });
        log
    }

    fn take(log: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
        std::mem::take(&mut *log.lock().expect("not poisoned"))
    }

    #[test]
    fn a_relist_reports_only_what_differs() {
        let (shared, mut feed) = Shared::detached();
        feed.apply(config("kept", "x", "1"));
        let log = log(&shared);
        assert_eq!(take(&log), ["+kept"], "who comes late is told what is here");
        feed.apply(config("gone", "x", "2"));
        feed.apply(config("changed", "x", "3"));
        assert!(!shared.is_synced());
        take(&log);
        feed.list_begins();
        for (name, version) in [("kept", "1"), ("changed", "9"), ("new", "4")] {
            feed.list_item(config(name, "x", version));
        }
        assert_eq!(
            take(&log),
            [""; 0],
            "nothing is told before the list is complete"
        );
        assert_eq!(shared.len(), 3);
        feed.listed();
        assert_eq!(take(&log), ["-gone", "~changed", "+new"]);
        assert!(shared.is_synced());
    }

    #[test]
    fn objects_are_found_by_name_namespace_and_index() {
        let (shared, mut feed) = Shared::detached();
        let index = shared.index(|config: &ConfigMap| {
            config
                .metadata
                .resource_version
                .clone()
                .into_iter()
                .collect()
        });
        feed.apply(config("a", "x", "1"));
        feed.apply(config("b", "x", "2"));
        feed.apply(config("a", "y", "2"));
        feed.apply(config("a", "xx", "2"));
        assert_eq!(shared.list_in("x").len(), 2);
        assert_eq!(shared.list_in("y").len(), 1);
        assert_eq!(index.get("2").len(), 3);
        feed.apply(config("b", "x", "1"));
        assert_eq!((index.get("1").len(), index.get("2").len()), (2, 2));
        let found = shared.get("x", "a").expect("it was added");
        assert_eq!(found.metadata.managed_fields, None, "nobody reads them");
        feed.delete(&found);
        assert_eq!(index.get("1").len(), 1);
        assert!(shared.get("x", "a").is_none());
    }

    #[test]
    fn listeners_that_are_over_are_forgotten() {
        let (shared, mut feed) = Shared::detached();
        let end = CancellationToken::new();
        let heard = Arc::new(Mutex::new(0));
        let count = heard.clone();
        shared.on_change_until(&end, move |_| *count.lock().expect("not poisoned") += 1);
        let index = shared.index(|_: &ConfigMap| Vec::new());
        feed.apply(config("a", "x", "1"));
        end.cancel();
        drop(index);
        feed.apply(config("a", "x", "2"));
        assert_eq!(*heard.lock().expect("not poisoned"), 1);
        let listeners = shared.listeners();
        assert_eq!((listeners.handlers.len(), listeners.indexes.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_level_rises_with_every_change() {
        let (shared, mut feed) = Shared::detached();
        let mut changed = shared.changed();
        feed.apply(config("a", "x", "1"));
        changed.changed().await.expect("the store lives");
        assert!(!changed.has_changed().expect("the store lives"));
        feed.delete(&config("a", "x", "1"));
        assert!(changed.has_changed().expect("the store lives"));
    }
}
