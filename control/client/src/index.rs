//! A second way to look up a store's objects: by owner, by node, by anything an object tells.

use crate::{
    ObjectKey,
    shared::{Change, Handler, Keep, Object},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

type Entries<K> = HashMap<String, BTreeMap<ObjectKey, Arc<K>>>;

/// Objects by the keys that the index's function gives for them. Made by `Shared::index`.
pub struct Index<K> {
    entries: Arc<RwLock<Entries<K>>>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
        }
    }
}

impl<K: Object> Index<K> {
    pub(crate) fn new(keys_of: impl Fn(&K) -> Vec<String> + Send + 'static) -> (Self, Handler<K>) {
        let entries = Arc::new(RwLock::new(Entries::new()));
        let held = Arc::downgrade(&entries);
        let index = Self { entries };
        let handler = Box::new(move |change: &Change<K>| {
            let Some(entries) = held.upgrade() else {
                return Keep::Off;
            };
            let mut entries = entries.write().unwrap_or_else(PoisonError::into_inner);
            let key = ObjectKey::of(&**change.object());
            if let Some(old) = change.old() {
                for by in keys_of(old) {
                    if let Some(objects) = entries.get_mut(&by) {
                        objects.remove(&key);
                        if objects.is_empty() {
                            entries.remove(&by);
                        }
                    }
                }
            }
            if let Some(new) = change.new() {
                for by in keys_of(new) {
                    entries
                        .entry(by)
                        .or_default()
                        .insert(key.clone(), new.clone());
                }
            }
            Keep::On
        });
        (index, handler)
    }

    /// The objects filed under `by`, ordered by namespace and name.
    pub fn get(&self, by: &str) -> Vec<Arc<K>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(by)
            .map(|objects| objects.values().cloned().collect())
            .unwrap_or_default()
    }
}
