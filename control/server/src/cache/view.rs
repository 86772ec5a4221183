//! A parsed view of one resource, kept as current as the cache by pulling its events on use.
//!
//! Authorisation and admission need a few resources as types (roles, bindings, namespaces, pods' nodes). A view
//! costs one comparison when nothing changed, and has no task of its own that could lag.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{CachedObject, KeyRange, ResourceCache};

/// `parse` of every object, by the object's key.
pub struct View<V> {
    cache: Arc<ResourceCache>,
    parse: fn(&CachedObject) -> Option<V>,
    state: RwLock<State<V>>,
}

struct State<V> {
    /// Every event up to here is in `items`; below 0 nothing was read yet.
    seen: i64,
    items: BTreeMap<Arc<str>, V>,
}

impl<V> View<V> {
    pub fn new(cache: Arc<ResourceCache>, parse: fn(&CachedObject) -> Option<V>) -> View<V> {
        View {
            cache,
            parse,
            state: RwLock::new(State {
                seen: -1,
                items: BTreeMap::new(),
            }),
        }
    }

    /// Calls `f` with everything as the cache has it now.
    pub fn with<R>(&self, f: impl FnOnce(&BTreeMap<Arc<str>, V>) -> R) -> R {
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.seen >= self.cache.last() {
                return f(&state.items);
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.sync(&mut state);
        f(&state.items)
    }

    fn sync(&self, state: &mut State<V>) {
        let last = self.cache.last();
        let events = if state.seen < 0 {
            None
        } else {
            self.cache
                .events_after(state.seen, usize::MAX, usize::MAX)
                .ok()
        };
        match events {
            Some(events) => {
                for event in events {
                    state.seen = state.seen.max(event.revision);
                    let Some(key) = event
                        .object
                        .as_ref()
                        .or(event.previous.as_ref())
                        .map(|o| o.key.clone())
                    else {
                        continue;
                    };
                    match event.object.as_deref().and_then(self.parse) {
                        Some(item) => state.items.insert(key, item),
                        None => state.items.remove(&key),
                    };
                }
            }
            None => {
                let (objects, revision) = self.cache.list(
                    KeyRange {
                        namespace: "",
                        after: "",
                    },
                    0,
                    |_| true,
                );
                state.seen = revision;
                state.items = objects
                    .iter()
                    .filter_map(|object| Some((object.key.clone(), (self.parse)(object)?)))
                    .collect();
            }
        }
        state.seen = state.seen.max(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Index, resource::Change};

    fn object(key: &str, revision: i64) -> Arc<CachedObject> {
        Arc::new(
            CachedObject::from_stored(key.into(), br#"{"metadata":{}}"#, revision, 0, |_| {
                Ok(Index::default())
            })
            .unwrap(),
        )
    }

    #[test]
    fn a_view_follows_its_cache() {
        let cache = Arc::new(ResourceCache::new(
            BTreeMap::from([("a".into(), object("a", 1))]),
            1,
        ));
        let view = View::new(cache.clone(), |object| Some(object.revision));
        let now = || {
            view.with(|items| {
                items
                    .iter()
                    .map(|(k, v)| format!("{k}{v}"))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(now(), ["a1"]);
        cache.apply(
            2,
            vec![Change::Put(object("b", 2)), Change::Delete("a".into())],
        );
        assert_eq!(now(), ["b2"]);
        // More events than the ring holds: the view reads everything again.
        for revision in 3..6000 {
            cache.apply(revision, vec![Change::Put(object("b", revision))]);
        }
        assert_eq!(now(), ["b5999"]);
    }
}
