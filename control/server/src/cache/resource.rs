//! One resource's part of the watch cache: its objects now, and the last events.
//!
//! Whoever watches pulls events from the shared ring at its own pace. Nothing is queued per watcher: one that is
//! slower than the ring is long is told so ([`Expired`]) and lists again.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::watch;

use super::object::CachedObject;

/// A ring holds at most so many events …
const RING_EVENTS: usize = 4096;
/// … and forgets the oldest when it weighs more than this; but never below `RING_MINIMUM` events.
const RING_WEIGHT: usize = 4 << 20;
const RING_MINIMUM: usize = 16;

/// The events that a watcher asks for are no longer (or, after a restart, not yet again) in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Watches can start at this revision.
    pub floor: i64,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub revision: i64,
    /// The object after it; `None` for a deletion.
    pub object: Option<Arc<CachedObject>>,
    /// The object before it; `None` for a creation.
    pub previous: Option<Arc<CachedObject>>,
    tombstone: OnceLock<Arc<CachedObject>>,
}

impl Event {
    /// The previous state at this event's revision: what a DELETED event carries.
    pub fn tombstone(&self) -> Option<Arc<CachedObject>> {
        let previous = self.previous.as_ref()?;
        Some(
            self.tombstone
                .get_or_init(|| Arc::new(previous.at_revision(self.revision)))
                .clone(),
        )
    }
}

/// A change as the store reports it.
pub enum Change {
    Put(Arc<CachedObject>),
    Delete(Arc<str>),
}

/// Objects and recent events of one resource.
pub struct ResourceCache {
    inner: RwLock<Inner>,
    changed: watch::Sender<i64>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Arc<str>, Arc<CachedObject>>,
    ring: VecDeque<Arc<Event>>,
    ring_weight: usize,
    /// Every event above this revision is in the ring.
    floor: i64,
    /// The revision of the last event (or of the load).
    last: i64,
}

/// Which keys a list reads.
#[derive(Clone, Copy, Debug)]
pub struct KeyRange<'a> {
    /// Only this namespace, if not empty.
    pub namespace: &'a str,
    /// Only keys after this one, if not empty.
    pub after: &'a str,
}

impl ResourceCache {
    pub fn new(objects: BTreeMap<Arc<str>, Arc<CachedObject>>, revision: i64) -> ResourceCache {
        ResourceCache {
            inner: RwLock::new(Inner {
                objects,
                floor: revision,
                last: revision,
                ..Inner::default()
            }),
            changed: watch::Sender::new(revision),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts over from a fresh read of the store: watchers that haven't seen everything up to `revision` expire.
    pub fn reset(&self, objects: BTreeMap<Arc<str>, Arc<CachedObject>>, revision: i64) {
        {
            let mut inner = self.write();
            *inner = Inner {
                objects,
                floor: revision,
                last: revision,
                ..Inner::default()
            };
        }
        self.changed.send_replace(revision);
    }

    /// Takes in all changes of one revision.
    pub fn apply(&self, revision: i64, changes: Vec<Change>) {
        {
            let mut inner = self.write();
            for change in changes {
                let (key, object) = match change {
                    Change::Put(object) => (object.key.clone(), Some(object)),
                    Change::Delete(key) => (key, None),
                };
                let previous = match &object {
                    Some(object) => inner.objects.insert(key, object.clone()),
                    None => inner.objects.remove(&key),
                };
                if object.is_none() && previous.is_none() {
                    continue;
                }
                let event = Arc::new(Event {
                    revision,
                    object,
                    previous,
                    tombstone: OnceLock::new(),
                });
                inner.ring_weight += weight(&event);
                inner.ring.push_back(event);
            }
            inner.last = revision;
            inner.trim();
        }
        self.changed.send_replace(revision);
    }

    pub fn get(&self, key: &str) -> Option<Arc<CachedObject>> {
        self.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// The revision of the last event; what is derived from this cache is current if it has seen it.
    pub fn last(&self) -> i64 {
        *self.changed.borrow()
    }

    /// The objects of that range that `keep` keeps, and the revision at which they are so: `applied` (which must
    /// have been read before) or later.
    pub fn list(
        &self,
        range: KeyRange<'_>,
        applied: i64,
        mut keep: impl FnMut(&CachedObject) -> bool,
    ) -> (Vec<Arc<CachedObject>>, i64) {
        let prefix = match range.namespace {
            "" => String::new(),
            namespace => format!("{namespace}/"),
        };
        let inner = self.read();
        let start = if range.after > prefix.as_str() {
            Bound::Excluded(range.after)
        } else {
            Bound::Included(prefix.as_str())
        };
        let objects = inner
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter(|(_, object)| keep(object))
            .map(|(_, object)| object.clone())
            .collect();
        (objects, applied.max(inner.last))
    }

    /// Events after `revision`, whole revisions, until they are `limit` or weigh `weight_limit`.
    pub fn events_after(
        &self,
        revision: i64,
        limit: usize,
        weight_limit: usize,
    ) -> Result<Vec<Arc<Event>>, Expired> {
        let inner = self.read();
        if revision < inner.floor {
            return Err(Expired { floor: inner.floor });
        }
        let start = inner
            .ring
            .partition_point(|event| event.revision <= revision);
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut total = 0;
        for event in inner.ring.range(start..) {
            let full = events.len() >= limit || total >= weight_limit;
            if full
                && events
                    .last()
                    .is_some_and(|last| last.revision != event.revision)
            {
                break;
            }
            total += weight(event);
            events.push(event.clone());
        }
        Ok(events)
    }

    /// Follows the events after `revision`.
    pub fn follow(self: &Arc<Self>, revision: i64) -> Follower {
        Follower {
            changed: self.changed.subscribe(),
            cache: self.clone(),
            position: revision,
        }
    }
}

impl Inner {
    fn trim(&mut self) {
        while self.ring.len() > RING_EVENTS
            || (self.ring_weight > RING_WEIGHT && self.ring.len() > RING_MINIMUM)
        {
            let Some(event) = self.ring.pop_front() else {
                break;
            };
            self.ring_weight -= weight(&event);
            self.floor = event.revision;
        }
    }
}

/// A deletion keeps its object alive; otherwise the previous state is counted with the event that wrote it.
fn weight(event: &Event) -> usize {
    event
        .object
        .as_ref()
        .or(event.previous.as_ref())
        .map_or(0, |object| object.weight())
}

/// A watcher's place in the ring.
pub struct Follower {
    cache: Arc<ResourceCache>,
    changed: watch::Receiver<i64>,
    position: i64,
}

impl Follower {
    /// The next events, at least one. Safe to cancel.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            self.changed.borrow_and_update();
            let events = self.cache.events_after(self.position, 128, 1 << 20)?;
            if let Some(last) = events.last() {
                self.position = last.revision;
                return Ok(events);
            }
            if self.changed.changed().await.is_err() {
                // The cache is held by `self`, so its sender lives.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether every event up to now has been handed out.
    pub fn caught_up(&self) -> bool {
        self.cache.last() <= self.position
            || self
                .cache
                .events_after(self.position, 1, 1)
                .is_ok_and(|e| e.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::object::Index;

    fn object(key: &str, revision: i64) -> Arc<CachedObject> {
        Arc::new(
            CachedObject::from_stored(key.into(), br#"{"metadata":{}}"#, revision, 0, |_| {
                Ok(Index::default())
            })
            .unwrap(),
        )
    }

    fn keys(objects: &[Arc<CachedObject>]) -> Vec<&str> {
        objects.iter().map(|object| &*object.key).collect()
    }

    #[tokio::test]
    async fn a_follower_sees_every_event_in_order_and_whole_revisions() {
        let cache = Arc::new(ResourceCache::new(BTreeMap::new(), 1));
        let mut follower = cache.follow(1);
        cache.apply(
            2,
            vec![Change::Put(object("a/x", 2)), Change::Put(object("a/y", 2))],
        );
        cache.apply(
            3,
            vec![
                Change::Delete("a/x".into()),
                Change::Delete("a/none".into()),
            ],
        );
        let events = follower.next().await.unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.revision, e.object.is_some(), e.previous.is_some()))
            .collect();
        assert_eq!(seen, [(2, true, false), (2, true, false), (3, false, true)]);
        assert_eq!(events[2].tombstone().unwrap().revision, 3);
        assert!(follower.caught_up());
    }

    #[tokio::test]
    async fn a_follower_that_is_too_slow_expires() {
        let cache = Arc::new(ResourceCache::new(BTreeMap::new(), 1));
        let mut follower = cache.follow(1);
        for revision in 2..(RING_EVENTS as i64 + 10) {
            cache.apply(revision, vec![Change::Put(object("a", revision))]);
        }
        let Err(expired) = follower.next().await else {
            panic!("nothing was lost")
        };
        assert!(expired.floor > 1);
        assert!(cache.follow(expired.floor).next().await.is_ok());
    }

    #[test]
    fn a_list_keeps_to_its_namespace_and_continues_behind_a_key() {
        let objects = ["a-b/z", "a/x", "a/y", "b/x"].map(|key| (Arc::from(key), object(key, 5)));
        let cache = ResourceCache::new(BTreeMap::from(objects), 5);
        let list = |namespace, after| cache.list(KeyRange { namespace, after }, 7, |_| true);
        assert_eq!(keys(&list("a", "").0), ["a/x", "a/y"]);
        assert_eq!(keys(&list("a", "a/x").0), ["a/y"]);
        assert_eq!(keys(&list("", "").0), ["a-b/z", "a/x", "a/y", "b/x"]);
        assert_eq!(keys(&list("", "a/x").0), ["a/y", "b/x"]);
        assert_eq!(list("", "").1, 7);
    }
}
