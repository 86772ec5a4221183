//! A map for many readers and one writer: readers take no lock, a change copies a sixty-fourth of it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwap;

const SHARDS: usize = 64;

pub(crate) struct Sharded<K, V> {
    hasher: RandomState,
    shards: Vec<ArcSwap<HashMap<K, V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Sharded<K, V> {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS)
            .map(|_| ArcSwap::from_pointee(HashMap::new()))
            .collect();
        Self {
            hasher: RandomState::new(),
            shards,
        }
    }

    fn shard(&self, key: &K) -> &ArcSwap<HashMap<K, V>> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        &self.shards[at]
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.shard(key).load().get(key).cloned()
    }

    /// Sets or removes a value and answers the one before. Writers must not run at the same time.
    pub(crate) fn set(&self, key: &K, value: Option<V>) -> Option<V> {
        let shard = self.shard(key);
        let mut map = HashMap::clone(&shard.load());
        let before = match value {
            Some(value) => map.insert(key.clone(), value),
            None => map.remove(key),
        };
        shard.store(Arc::new(map));
        before
    }
}
