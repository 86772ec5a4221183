//! The keyed work queue between watches and reconciles.
//!
//! ```text
//! add ─→ dirty ─→ next() ─→ processing ─→ drop(Item) ─→ gone, or ready again if added meanwhile
//! add_after / retry ─→ delayed ─→ (time) ─→ dirty
//! ```
//! A key is handed out to one worker at a time; adds while it is being worked on are merged into
//! one more turn. Time is tokio's, so that tests can pause it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The pause after a key's n-th failure in a row: `first · 2ⁿ⁻¹`, at most `longest`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(5),
            longest: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    processing: HashSet<K>,
    failures: HashMap<K, u32>,
    /// Earliest due time per key; the heap may hold stale entries, the map decides.
    due: HashMap<K, Instant>,
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    heap_keys: HashMap<u64, K>,
    sequence: u64,
    closed: bool,
}

/// A queue of keys; clones are handles on the same queue.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
    backoff: Backoff,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            wake: self.wake.clone(),
            backoff: self.backoff,
        }
    }
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub fn new(backoff: Backoff) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                failures: HashMap::new(),
                due: HashMap::new(),
                heap: BinaryHeap::new(),
                heap_keys: HashMap::new(),
                sequence: 0,
                closed: false,
            })),
            wake: Arc::new(Notify::new()),
            backoff,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key needs a look now.
    pub fn add(&self, key: K) {
        if self.state().add(key) {
            self.wake.notify_one();
        }
    }

    /// The key needs a look after `delay`, or earlier if an earlier look was asked for already.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let now = Instant::now();
        let wake = {
            let mut state = self.state();
            // What is due already doesn't count as an earlier look: it is ready.
            state.release(now);
            state.delay(key, now + delay) || !state.ready.is_empty()
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// The key failed: look again after its back-off, which doubles with each failure.
    pub fn retry(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let pause = self.backoff.pause(failures);
        self.add_after(key, pause);
        pause
    }

    /// The key succeeded: its next failure starts with the first pause again.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// How often in a row the key has failed.
    pub fn failures(&self, key: &K) -> u32 {
        self.state().failures.get(key).copied().unwrap_or_default()
    }

    /// Keys that wait for a worker now.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more keys are handed out: every `next` answers `None`.
    pub fn close(&self) {
        self.state().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// The next key; nobody else gets it until the returned guard is dropped. `None` once closed.
    pub async fn next(&self) -> Option<Item<K>> {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut state = self.state();
                if state.closed {
                    // The next waiting worker has to learn it, too.
                    self.wake.notify_one();
                    return None;
                }
                state.release(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(Item {
                        key,
                        queue: self.clone(),
                    });
                }
                state.heap.peek().map(|Reverse((due, _))| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => notified.await,
            }
        }
    }

    fn done(&self, key: &K) {
        let mut state = self.state();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// True when a worker should be woken.
    fn add(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// True when the new entry is the earliest, so that sleepers must look again.
    fn delay(&mut self, key: K, due: Instant) -> bool {
        if self.closed || self.due.get(&key).is_some_and(|known| *known <= due) {
            return false;
        }
        let earliest = self
            .heap
            .peek()
            .is_none_or(|Reverse((first, _))| due < *first);
        self.due.insert(key.clone(), due);
        self.sequence += 1;
        self.heap.push(Reverse((due, self.sequence)));
        self.heap_keys.insert(self.sequence, key);
        earliest
    }

    /// Moves what is due to the ready keys.
    fn release(&mut self, now: Instant) {
        while let Some(Reverse((due, id))) = self.heap.peek().copied() {
            if due > now {
                break;
            }
            self.heap.pop();
            let Some(key) = self.heap_keys.remove(&id) else {
                continue;
            };
            if self.due.get(&key) == Some(&due) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }
}

/// A key being worked on. Dropping it lets the key be handed out again.
pub struct Item<K: Clone + Eq + Hash> {
    key: K,
    queue: Queue<K>,
}

impl<K: Clone + Eq + Hash> std::ops::Deref for Item<K> {
    type Target = K;
    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash> Drop for Item<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    async fn taken(queue: &Queue<&'static str>) -> Option<&'static str> {
        tokio::time::timeout(Duration::from_millis(1), queue.next())
            .await
            .ok()
            .flatten()
            .map(|item| *item)
    }

    #[tokio::test(start_paused = true)]
    async fn equal_keys_are_merged_and_never_run_twice_at_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        let item = queue.next().await.expect("open");
        assert_eq!(taken(&queue).await, None, "merged while it waited");
        queue.add("a");
        assert_eq!(taken(&queue).await, None, "it is being worked on");
        drop(item);
        assert_eq!(
            taken(&queue).await,
            Some("a"),
            "added meanwhile: one more turn"
        );
        assert_eq!(taken(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_wins_and_an_add_does_not_wait() {
        let queue = Queue::default();
        let begun = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        queue.add_after("b", Duration::from_secs(7));
        assert_eq!(queue.next().await.map(|item| *item), Some("a"));
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert_eq!(queue.next().await.map(|item| *item), Some("b"));
        assert_eq!(begun.elapsed().as_secs(), 7);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(
            taken(&queue).await,
            None,
            "the later delays of one key are void"
        );
        queue.add_after("a", Duration::from_secs(60));
        queue.add("a");
        assert_eq!(taken(&queue).await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_key_waits_twice_as_long_each_time() {
        let queue = Queue::new(Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(5),
        });
        let pauses: Vec<_> = (0..4).map(|_| queue.retry("a").as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5]);
        queue.forget(&"a");
        assert_eq!(queue.retry("a").as_secs(), 1);
        assert_eq!(queue.failures(&"a"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_worker() {
        let queue: Queue<&str> = Queue::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await.is_none() })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in waiting {
            assert!(worker.await.expect("no panic"));
        }
        queue.add("a");
        assert_eq!(taken(&queue).await, None);
    }

    /// What the queue must do, as simply as it can be said.
    #[derive(Default)]
    struct Model {
        ready: VecDeque<u8>,
        working: BTreeMap<u8, bool>,
        due: BTreeMap<u8, u64>,
        now: u64,
    }

    impl Model {
        fn add(&mut self, key: u8) {
            if let Some(again) = self.working.get_mut(&key) {
                *again = true;
            } else if !self.ready.contains(&key) {
                self.ready.push_back(key);
            }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += seconds;
            let mut due: Vec<_> = self.due.iter().map(|(k, at)| (*at, *k)).collect();
            due.sort_unstable();
            due.retain(|(at, _)| *at <= self.now);
            for (_, key) in due {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_queue_behaves_like_its_model(steps in proptest::collection::vec((0_u8..5, 0_u8..4, 1_u64..9), 0..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let queue: Queue<u8> = Queue::default();
                let mut model = Model::default();
                let mut working: HashMap<u8, Item<u8>> = HashMap::new();
                for (kind, key, seconds) in steps {
                    match kind {
                        0 => {
                            queue.add(key);
                            model.add(key);
                        }
                        1 => {
                            queue.add_after(key, Duration::from_secs(seconds));
                            let at = model.now + seconds;
                            let due = model.due.entry(key).or_insert(at);
                            *due = at.min(*due);
                        }
                        2 => {
                            tokio::time::advance(Duration::from_secs(seconds)).await;
                            model.pass(seconds);
                        }
                        3 => {
                            let next = tokio::time::timeout(Duration::ZERO, queue.next()).await;
                            let next = next.ok().flatten();
                            let keys: Vec<_> = model.ready.iter().copied().collect();
                            match next {
                                Some(item) => {
                                    // Keys that fell due in one step may come in any order.
                                    let at = keys.iter().position(|k| *k == *item);
                                    let at = at.expect("only ready keys are handed out");
                                    model.ready.remove(at);
                                    model.working.insert(*item, false);
                                    let twice = working.insert(*item, item).is_some();
                                    assert!(!twice, "a key runs twice at once");
                                }
                                None => assert!(keys.is_empty(), "{keys:?} wait"),
                            }
                        }
                        _ => {
                            if working.remove(&key).is_some() && model.working.remove(&key) == Some(true) {
                                model.add(key);
                            }
                        }
                    }
                }
            });
        }
    }
}
