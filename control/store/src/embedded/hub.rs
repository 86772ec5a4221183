//! Who is told what: the registry of live watchers and their queues.
//!
//! The writer publishes each committed batch under one lock, so that "everything up to `published` is in the
//! queues" holds whenever the lock is free. A queue is bounded; a watcher whose queue is full is cut off.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    engine::EngineError,
    read::{self, Bounds},
    rows::{EntryId, LogRow},
};
use crate::{KeyValue, Revision, WatchBatch, WatchError};

/// A watcher's number in the hub.
pub(crate) type WatcherId = u64;

/// What may wait for one watcher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub events: usize,
    pub bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Hub {
    limits: QueueLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    published: Revision,
    closed: bool,
    next_id: WatcherId,
    watchers: HashMap<WatcherId, Slot>,
    /// Watchers of one key, by the key: many of them cost a write nothing.
    keys: HashMap<Bytes, Vec<WatcherId>>,
    ranges: Vec<WatcherId>,
}

#[derive(Debug)]
struct Slot {
    bounds: Bounds,
    prev_kv: bool,
    from: Revision,
    queue: Arc<Queue>,
}

/// Between the hub and one watcher.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    batches: VecDeque<WatchBatch>,
    events: usize,
    bytes: usize,
    end: Option<WatchError>,
}

/// What a queue has for its watcher.
#[derive(Debug)]
pub(crate) enum Taken {
    Batch(WatchBatch),
    Nothing,
    End(WatchError),
}

/// How a watcher that wants everything from a revision on may join.
#[derive(Debug)]
pub(crate) enum Joined {
    /// Nothing happened since: it is live.
    Live(WatcherId),
    /// Its queue fills from the revision after `upto` on; history up to there is short, and read by the watcher.
    After { id: WatcherId, upto: Revision },
    /// Too far back: read some history first.
    TooFar,
    /// The store is closed.
    Closed,
}

/// History that is short enough to be read while the queue fills.
const SHORT: i64 = 1000;

impl Hub {
    pub fn new(limits: QueueLimits, published: Revision) -> Hub {
        Hub {
            limits,
            state: Mutex::new(State {
                published,
                closed: false,
                next_id: 0,
                watchers: HashMap::new(),
                keys: HashMap::new(),
                ranges: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds the hub's lock")
    }

    pub fn published(&self) -> Revision {
        self.state().published
    }

    pub fn watchers(&self) -> u64 {
        self.state().watchers.len() as u64
    }

    /// Registers a watcher of everything after now; answers from which revision on.
    pub fn join_now(
        &self,
        bounds: &Bounds,
        prev_kv: bool,
        queue: &Arc<Queue>,
    ) -> Result<(WatcherId, Revision), WatchError> {
        let mut state = self.state();
        if state.closed {
            return Err(WatchError::Closed);
        }
        let from = state.published.next();
        Ok((state.add(bounds, prev_kv, from, queue), from))
    }

    /// Registers a watcher that wants everything from `from` on, if history leaves little to read.
    pub fn join(
        &self,
        bounds: &Bounds,
        prev_kv: bool,
        from: Revision,
        queue: &Arc<Queue>,
    ) -> Joined {
        let mut state = self.state();
        if state.closed {
            return Joined::Closed;
        }
        let upto = state.published;
        if from > upto {
            Joined::Live(state.add(bounds, prev_kv, from, queue))
        } else if upto.0 - from.0 < SHORT {
            let id = state.add(bounds, prev_kv, upto.next(), queue);
            Joined::After { id, upto }
        } else {
            Joined::TooFar
        }
    }

    pub fn leave(&self, id: WatcherId) {
        self.state().remove(id);
    }

    /// Ends every watch.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for slot in state.watchers.values() {
            slot.queue.end(WatchError::Closed);
        }
        state.watchers.clear();
        state.keys.clear();
        state.ranges.clear();
    }

    /// Hands a committed batch to whom it concerns. `previous` reads what an entry superseded, and is called only
    /// for watchers that want it.
    pub fn publish(
        &self,
        changes: &[LogRow],
        revision: Revision,
        previous: impl Fn(EntryId) -> Result<Option<KeyValue>, EngineError>,
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        let mut batches = BTreeMap::<WatcherId, Vec<WatchBatch>>::new();
        for change in changes {
            let mut prev = None;
            let exact = state.keys.get(&change.kv.key).into_iter().flatten();
            for id in exact.chain(&state.ranges) {
                let slot = &state.watchers[id];
                if change.kv.mod_revision < slot.from || !slot.bounds.contains(&change.kv.key) {
                    continue;
                }
                let prev_kv = if slot.prev_kv {
                    if prev.is_none() {
                        prev = Some(previous(change.prev)?);
                    }
                    prev.clone().flatten()
                } else {
                    None
                };
                let event = read::event(change.clone(), prev_kv);
                read::push_event(batches.entry(*id).or_default(), event);
            }
        }
        state.published = revision;
        for (id, batches) in batches {
            if !state.watchers[&id].queue.push(batches, self.limits) {
                state.remove(id);
            }
        }
        Ok(())
    }

    /// The revision up to which a watcher has seen everything, if nothing waits in its queue.
    pub fn progress(&self, queue: &Queue) -> Option<Revision> {
        let state = self.state();
        queue.is_empty().then_some(state.published)
    }
}

impl State {
    fn add(
        &mut self,
        bounds: &Bounds,
        prev_kv: bool,
        from: Revision,
        queue: &Arc<Queue>,
    ) -> WatcherId {
        let id = self.next_id;
        self.next_id += 1;
        match bounds.single() {
            Some(key) => self.keys.entry(key.clone()).or_default().push(id),
            None => self.ranges.push(id),
        }
        let slot = Slot {
            bounds: bounds.clone(),
            prev_kv,
            from,
            queue: queue.clone(),
        };
        self.watchers.insert(id, slot);
        id
    }

    fn remove(&mut self, id: WatcherId) {
        let Some(slot) = self.watchers.remove(&id) else {
            return;
        };
        match slot.bounds.single() {
            Some(key) => {
                if let Some(ids) = self.keys.get_mut(key) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            None => self.ranges.retain(|other| *other != id),
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state
            .lock()
            .expect("no code panics while it holds a queue's lock")
    }

    /// False if the watcher has been cut off.
    fn push(&self, batches: Vec<WatchBatch>, limits: QueueLimits) -> bool {
        let mut state = self.state();
        for batch in batches {
            state.events += batch.events.len();
            state.bytes += weight(&batch);
            state.batches.push_back(batch);
        }
        // One batch alone is always taken, however large: a transaction can't be split.
        let fits = state.batches.len() == 1
            || (state.events <= limits.events && state.bytes <= limits.bytes);
        if !fits {
            *state = QueueState {
                end: Some(WatchError::Lagged),
                ..QueueState::default()
            };
        }
        drop(state);
        self.changed.notify_one();
        fits
    }

    pub fn take(&self) -> Taken {
        let mut state = self.state();
        match state.batches.pop_front() {
            Some(batch) => {
                state.events -= batch.events.len();
                state.bytes -= weight(&batch);
                Taken::Batch(batch)
            }
            None => match &state.end {
                Some(end) => Taken::End(end.clone()),
                None => Taken::Nothing,
            },
        }
    }

    fn is_empty(&self) -> bool {
        let state = self.state();
        state.batches.is_empty() && state.end.is_none()
    }

    /// What waits is still given out; then comes the end.
    fn end(&self, error: WatchError) {
        self.state().end = Some(error);
        self.changed.notify_one();
    }
}

fn weight(batch: &WatchBatch) -> usize {
    let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
    batch
        .events
        .iter()
        .map(|event| of(&event.kv) + event.prev_kv.as_ref().map_or(0, of))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::rows::EntryKind;

    const LIMITS: QueueLimits = QueueLimits {
        events: 3,
        bytes: 1000,
    };

    fn put(key: &'static str, revision: i64) -> LogRow {
        LogRow {
            kind: EntryKind::Put,
            prev: EntryId::NONE,
            kv: KeyValue {
                key: key.into(),
                mod_revision: Revision(revision),
                ..KeyValue::default()
            },
        }
    }

    fn publish(hub: &Hub, changes: &[LogRow]) {
        let revision = changes.last().unwrap().kv.mod_revision;
        hub.publish(changes, revision, |_| Ok(None)).unwrap();
    }

    #[test]
    fn a_full_queue_cuts_its_watcher_off_and_no_other() {
        let hub = Hub::new(LIMITS, Revision(1));
        let (slow, fast) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        let all = Bounds::new(&"a".into(), Some(&"z".into()));
        hub.join_now(&all, false, &slow).unwrap();
        hub.join_now(&all, false, &fast).unwrap();
        for revision in 2..10 {
            publish(&hub, &[put("k", revision)]);
            assert!(matches!(fast.take(), Taken::Batch(batch) if batch.revision.0 == revision));
        }
        assert!(matches!(slow.take(), Taken::End(WatchError::Lagged)));
        assert_eq!(hub.watchers(), 1);
    }

    #[test]
    fn one_key_and_ranges_hear_what_is_theirs() {
        let hub = Hub::new(LIMITS, Revision(1));
        let (one, range) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        hub.join_now(&Bounds::new(&"b".into(), None), false, &one)
            .unwrap();
        let (id, from) = hub
            .join_now(&Bounds::new(&"a".into(), Some(&"b".into())), false, &range)
            .unwrap();
        assert_eq!(from, Revision(2));
        publish(&hub, &[put("a", 2), put("b", 2), put("c", 3)]);
        assert!(matches!(one.take(), Taken::Batch(batch) if batch.events[0].kv.key == "b"));
        assert!(matches!(range.take(), Taken::Batch(batch) if batch.events[0].kv.key == "a"));
        assert!(matches!(one.take(), Taken::Nothing));
        assert_eq!(hub.progress(&one), Some(Revision(3)));
        hub.leave(id);
        publish(&hub, &[put("a", 4)]);
        assert!(matches!(range.take(), Taken::Nothing));
        hub.close();
        assert!(matches!(one.take(), Taken::End(WatchError::Closed)));
    }

    #[test]
    fn joining_depends_on_how_far_back() {
        let hub = Hub::new(LIMITS, Revision(5000));
        let queue = Arc::new(Queue::default());
        let key = Bounds::new(&"k".into(), None);
        assert!(matches!(
            hub.join(&key, false, Revision(5001), &queue),
            Joined::Live(_)
        ));
        assert!(matches!(
            hub.join(&key, false, Revision(4900), &queue),
            Joined::After {
                upto: Revision(5000),
                ..
            }
        ));
        assert!(matches!(
            hub.join(&key, false, Revision(2), &queue),
            Joined::TooFar
        ));
    }
}
