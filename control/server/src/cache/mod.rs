//! The watch cache: every stored resource's objects and last events, fed by one watch on the store.
//!
//! ```text
//! store ── one watch on /registry/ ──► feed ──► ResourceCache (per stored resource) ──► lists, watches, views
//! ```
//!
//! A write is answered when the cache has it, so that whoever wrote reads its own write. A read that asks for the
//! newest state asks the store for its revision and waits until the feed has come so far; where the store is
//! embedded that is a memory read.
//!
//! **Invariant:** the cache holds bytes and an extracted index, never decoded trees.

mod object;
mod resource;
mod view;

pub use object::{CachedObject, EncodingKey, Format, Index, Shape};
pub use resource::{Event, Expired, Follower, KeyRange, ResourceCache};
pub use view::View;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use kernelet_store::{
    EventKind, KeyValue, Op, Put, Range, Revision, StoreError, Txn, Watch, WatchError,
};
use tokio::{
    sync::{Mutex, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::encrypt::{SealedStore, SealedWatcher};
use resource::Change;

/// What all of the API's keys start with.
pub const ROOT: &str = "/registry/";

/// How long a read waits for the feed before it says so.
pub const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the feed may take over what was just written before it is asked for a sign of life.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is written for that sign.
const BARRIER: &str = "/registry/kernelet/barrier";

/// Objects read from the store at once: two pages of the largest are in memory while the cache is filled.
const LOAD_PAGE: usize = 128;

/// How a stored value of one resource, its JSON, becomes an index.
pub type Indexer = Arc<dyn Fn(&[u8]) -> Result<Index, serde_json::Error> + Send + Sync>;

/// One stored resource's cache and how to index it.
struct Slot {
    cache: Arc<ResourceCache>,
    indexer: Indexer,
}

/// The whole watch cache.
pub struct WatchCache {
    store: SealedStore,
    /// By what stands between [`ROOT`] and the object's key: `pods` or `apps/deployments`.
    slots: RwLock<HashMap<String, Arc<Slot>>>,
    applied: watch::Sender<i64>,
    barrier: Mutex<()>,
    healthy: watch::Sender<Result<(), String>>,
}

/// The cache hasn't seen that revision in time.
#[derive(Debug)]
pub struct NotFresh {
    pub current: i64,
}

impl WatchCache {
    /// Reads the store into the cache. `resources` are the stored resources' prefixes and indexers.
    pub async fn load(
        store: SealedStore,
        resources: Vec<(String, Indexer)>,
    ) -> Result<(Arc<WatchCache>, Feed), StoreError> {
        let slots = resources
            .into_iter()
            .map(|(prefix, indexer)| {
                let cache = Arc::new(ResourceCache::new(BTreeMap::new(), 0));
                (prefix, Arc::new(Slot { cache, indexer }))
            })
            .collect();
        let cache = Arc::new(WatchCache {
            store,
            slots: RwLock::new(slots),
            applied: watch::Sender::new(0),
            barrier: Mutex::default(),
            healthy: watch::Sender::new(Ok(())),
        });
        let watcher = cache.read_all().await?;
        let feed = Feed {
            cache: cache.clone(),
            watcher,
        };
        Ok((cache, feed))
    }

    /// The cache of a stored resource, by its prefix (`pods`, `apps/deployments`).
    pub fn resource(&self, prefix: &str) -> Option<Arc<ResourceCache>> {
        self.slot(prefix).map(|slot| slot.cache.clone())
    }

    fn slot(&self, prefix: &str) -> Option<Arc<Slot>> {
        self.slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(prefix)
            .cloned()
    }

    /// Every change up to this revision is in the cache.
    pub fn applied(&self) -> i64 {
        *self.applied.borrow()
    }

    /// Why the cache no longer follows the store, if so.
    pub fn health(&self) -> Result<(), String> {
        self.healthy.borrow().clone()
    }

    fn broken(&self, why: String) {
        drop(self.healthy.send_replace(Err(why)));
    }

    /// Waits until the cache has seen `revision`.
    pub async fn wait(&self, revision: i64, timeout: Duration) -> Result<i64, NotFresh> {
        let mut applied = self.applied.subscribe();
        let waited = time::timeout(timeout, applied.wait_for(|applied| *applied >= revision)).await;
        match waited {
            Ok(Ok(applied)) => Ok(*applied),
            _ => Err(NotFresh {
                current: self.applied(),
            }),
        }
    }

    /// Waits until the cache has everything that the store has acknowledged by now; answers what it has seen.
    ///
    /// In a store that others use too, the newest revision may be theirs, and no event of it will ever come: then a
    /// write of our own is what the feed is sure to see.
    pub async fn fresh(&self) -> Result<i64, StoreError> {
        let newest = self.store.revision().await?.0;
        if let Ok(applied) = self.wait(newest, PATIENCE).await {
            return Ok(applied);
        }
        let _one_at_a_time = self.barrier.lock().await;
        let newest = if self.applied() >= newest {
            newest
        } else {
            let put = Put::new(BARRIER, Bytes::new());
            self.store.txn(Txn::of([Op::Put(put)])).await?.revision.0
        };
        match self.wait(newest, FRESHNESS_TIMEOUT).await {
            Ok(applied) => Ok(applied),
            Err(NotFresh { current }) => Err(StoreError::Read(
                format!("the watch cache has seen revision {current} of {newest}").into(),
            )),
        }
    }

    /// Reads everything below [`ROOT`] at one revision into the slots and answers a watcher of what comes after.
    async fn read_all(&self) -> Result<SealedWatcher, StoreError> {
        let mut objects: HashMap<String, BTreeMap<Arc<str>, Arc<CachedObject>>> = HashMap::new();
        let range = Range::prefix(ROOT).limit(LOAD_PAGE);
        let mut page = self.store.range(range.clone()).await?;
        let revision = page.revision;
        loop {
            // The store reads the next page while this one is parsed.
            let next = page.kvs.last().filter(|_| page.more).map(|last| {
                let mut next = range.clone();
                next.key = [&last.key, &b"\0"[..]].concat().into();
                next.revision = Some(revision);
                let store = self.store.clone();
                tokio::spawn(async move { store.range(next).await })
            });
            for kv in &page.kvs {
                if let Some((prefix, slot, key)) = self.locate(&kv.key)
                    && let Some(object) = read(&slot, key, kv)
                {
                    objects
                        .entry(prefix)
                        .or_default()
                        .insert(object.key.clone(), object);
                }
            }
            let Some(next) = next else { break };
            page = next
                .await
                .map_err(|error| StoreError::Read(error.to_string().into()))??;
        }
        let watch = Watch {
            progress: true,
            ..Watch::prefix(ROOT).from(revision.next())
        };
        let watcher = self
            .store
            .watch(watch)
            .map_err(|error| StoreError::Stopped(error.to_string().into()))?;
        let slots: Vec<_> = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots
                .iter()
                .map(|(prefix, slot)| (prefix.clone(), slot.clone()))
                .collect()
        };
        for (prefix, slot) in slots {
            slot.cache
                .reset(objects.remove(&prefix).unwrap_or_default(), revision.0);
        }
        self.applied.send_replace(revision.0);
        Ok(watcher)
    }

    /// The slot that a store key belongs to, its prefix, and what is left of the key.
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(String, Arc<Slot>, &'k str)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
        let (first, rest) = path.split_once('/')?;
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((second, rest)) = rest.split_once('/') {
            let prefix = format!("{first}/{second}");
            if let Some(slot) = slots.get(&prefix) {
                return Some((prefix, slot.clone(), rest));
            }
        }
        slots
            .get(first)
            .map(|slot| (first.to_owned(), slot.clone(), rest))
    }
}

fn read(slot: &Slot, key: &str, kv: &KeyValue) -> Option<Arc<CachedObject>> {
    match CachedObject::from_stored(
        key.into(),
        &kv.value,
        kv.mod_revision.0,
        kv.lease.0,
        |json| (slot.indexer)(json),
    ) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "a stored object is unreadable and left out");
            None
        }
    }
}

/// A single object read from the store, past the cache.
pub fn from_kv(kv: &KeyValue, key: &str, indexer: &Indexer) -> Option<Arc<CachedObject>> {
    CachedObject::from_stored(
        key.into(),
        &kv.value,
        kv.mod_revision.0,
        kv.lease.0,
        |json| indexer(json),
    )
    .ok()
    .map(Arc::new)
}

/// What keeps the cache current; somebody must [`Feed::run`] it.
pub struct Feed {
    cache: Arc<WatchCache>,
    watcher: SealedWatcher,
}

impl Feed {
    /// Follows the store until `shutdown`, or until the store is gone.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = self.watcher.next() => next,
            };
            match next {
                Ok(batch) => self.take_in(batch.revision, batch.events),
                Err(WatchError::Closed) => {
                    self.cache.broken("the store has closed".to_owned());
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the watch on the store broke; reading everything again");
                    match self.cache.read_all().await {
                        Ok(watcher) => self.watcher = watcher,
                        Err(error) => {
                            let text = format!("the watch cache can't be read again: {error}");
                            tracing::error!("{text}");
                            self.cache.broken(text);
                            return;
                        }
                    }
                }
            }
        }
    }

    fn take_in(&self, revision: Revision, events: Vec<kernelet_store::Event>) {
        let mut changes: Vec<(Arc<Slot>, Vec<Change>)> = Vec::new();
        for event in events {
            let Some((_, slot, key)) = self.cache.locate(&event.kv.key) else {
                continue;
            };
            let change = match event.kind {
                EventKind::Delete => Change::Delete(key.into()),
                // What can't be read must not linger in its last readable state.
                EventKind::Put => match read(&slot, key, &event.kv) {
                    Some(object) => Change::Put(object),
                    None => Change::Delete(key.into()),
                },
            };
            match changes
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &slot))
            {
                Some((_, list)) => list.push(change),
                None => changes.push((slot, vec![change])),
            }
        }
        for (slot, list) in changes {
            slot.cache.apply(revision.0, list);
        }
        self.cache.applied.send_if_modified(|applied| {
            let newer = revision.0 > *applied;
            *applied = (*applied).max(revision.0);
            newer
        });
    }
}
