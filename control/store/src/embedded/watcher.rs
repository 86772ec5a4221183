//! One watch on the embedded engine: history first, then what the hub hands on.
//!
//! ```text
//! Replay ──(little left to read)──► Last ──► Live
//!    └──────(nothing left to read)──────────►
//! ```
//! Replay reads the engine when its consumer asks for more, so that a slow consumer of old history holds no memory.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::{
    Shared,
    hub::{Joined, Queue, Taken, WatcherId},
    read::{self, Bounds, Failure, History},
};
use crate::{Revision, StoreError, Watch, WatchBatch, WatchError};

/// How often a watcher that wants progress hears of revisions without an event for it.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct EmbeddedWatcher {
    shared: Arc<Shared>,
    bounds: Bounds,
    prev_kv: bool,
    progress: bool,
    /// Progress was asked for and has not been reported.
    progress_due: bool,
    phase: Phase,
    queue: Arc<Queue>,
    id: Option<WatcherId>,
    /// Read and not yet given out.
    ready: VecDeque<WatchBatch>,
    reading: Option<JoinHandle<Result<History, Failure>>>,
    /// Everything up to here has been given out.
    seen: Revision,
    ended: Option<WatchError>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Reads history from `next` on.
    Replay { next: Revision },
    /// Reads the last of it, while the queue fills with what comes after.
    Last { next: Revision, upto: Revision },
    /// Takes from the queue.
    Live,
}

impl EmbeddedWatcher {
    pub fn start(shared: Arc<Shared>, watch: Watch) -> Result<EmbeddedWatcher, WatchError> {
        let bounds = Bounds::new(&watch.key, watch.range_end.as_ref());
        let queue = Arc::new(Queue::default());
        let (phase, id, seen) = match watch.start_revision {
            Some(from) if from > Revision::ZERO => {
                (Phase::Replay { next: from }, None, Revision(from.0 - 1))
            }
            _ => {
                let (id, from) = shared.hub.join_now(&bounds, watch.prev_kv, &queue)?;
                (Phase::Live, Some(id), Revision(from.0 - 1))
            }
        };
        let mut ready = VecDeque::new();
        if watch.progress && id.is_some() {
            ready.push_back(WatchBatch {
                revision: seen,
                events: Vec::new(),
            });
        }
        Ok(EmbeddedWatcher {
            shared,
            bounds,
            prev_kv: watch.prev_kv,
            progress: watch.progress,
            progress_due: false,
            phase,
            queue,
            id,
            ready,
            reading: None,
            seen,
            ended: None,
        })
    }

    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.seen = batch.revision;
                return Ok(batch);
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            match self.phase {
                Phase::Replay { next } => self.replay(next).await,
                Phase::Last { next, upto } => self.read(next, upto).await,
                Phase::Live => match self.queue.take() {
                    Taken::Batch(batch) => self.ready.push_back(batch),
                    Taken::End(error) => self.end(error),
                    Taken::Nothing if self.progress_due => self.report_progress(),
                    Taken::Nothing => self.wait().await,
                },
            }
        }
    }

    async fn replay(&mut self, next: Revision) {
        // A read that a cancelled call began is finished first.
        if self.reading.is_none() {
            match self
                .shared
                .hub
                .join(&self.bounds, self.prev_kv, next, &self.queue)
            {
                Joined::Live(id) => {
                    self.id = Some(id);
                    return self.live();
                }
                Joined::After { id, upto } => {
                    self.id = Some(id);
                    self.phase = Phase::Last { next, upto };
                    return;
                }
                Joined::Closed => return self.end(WatchError::Closed),
                Joined::TooFar => {}
            }
        }
        self.read(next, Revision(i64::MAX)).await;
    }

    /// Reads a piece of history. Nothing is lost when the call is cancelled: the read goes on, and the next call
    /// takes its result.
    async fn read(&mut self, next: Revision, upto: Revision) {
        if self.reading.is_none() {
            let (shared, bounds) = (self.shared.clone(), self.bounds.clone());
            let prev_kv = self.prev_kv;
            self.reading = Some(tokio::task::spawn_blocking(move || {
                shared.read(|reader| read::history(reader, &bounds, prev_kv, next, upto))
            }));
        }
        let reading = self.reading.as_mut().expect("just made");
        let history = reading.await;
        self.reading = None;
        match history {
            Ok(Ok(history)) => {
                self.ready.extend(history.batches);
                let next = history.upto.next();
                match &mut self.phase {
                    Phase::Last { upto, .. } if history.upto >= *upto => self.live(),
                    Phase::Last { next: at, .. } | Phase::Replay { next: at } => *at = next,
                    Phase::Live => unreachable!("a live watcher reads no history"),
                }
            }
            Ok(Err(Failure::Refused(StoreError::Compacted { floor, .. }))) => {
                self.end(WatchError::Compacted { floor });
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a watch can't read the store's history");
                self.end(WatchError::Closed);
            }
            // The runtime is shutting down.
            Err(_) => self.end(WatchError::Closed),
        }
    }

    fn live(&mut self) {
        let caught_up = match self.phase {
            Phase::Replay { next } => Revision(next.0 - 1),
            Phase::Last { upto, .. } => upto,
            Phase::Live => return,
        };
        self.phase = Phase::Live;
        // Not for a start in the future: nothing up to there has been seen.
        if self.progress && caught_up <= self.shared.hub.published() {
            let past = self.ready.back().map_or(self.seen, |batch| batch.revision);
            self.ready.push_back(WatchBatch {
                revision: caught_up.max(past),
                events: Vec::new(),
            });
        }
    }

    /// As soon as nothing is left to read or to take, an empty batch says up to where.
    pub fn request_progress(&mut self) {
        self.progress_due = true;
    }

    fn report_progress(&mut self) {
        if let Some(revision) = self.shared.hub.progress(&self.queue) {
            self.progress_due = false;
            // A watch that starts in the future has seen nothing yet, but missed nothing either.
            self.ready.push_back(WatchBatch {
                revision: revision.max(self.seen),
                events: Vec::new(),
            });
        }
    }

    async fn wait(&mut self) {
        if !self.progress {
            return self.queue.changed.notified().await;
        }
        tokio::select! {
            // Cancelled: the queue keeps what it has, and a permit that is lost is made up for by `take` coming first.
            () = self.queue.changed.notified() => {}
            // Cancelled: starts anew, which only delays progress.
            () = tokio::time::sleep(PROGRESS_EVERY) => {
                if let Some(revision) = self.shared.hub.progress(&self.queue)
                    && revision > self.seen
                {
                    self.ready.push_back(WatchBatch { revision, events: Vec::new() });
                }
            }
        }
    }

    fn end(&mut self, error: WatchError) {
        self.ended = Some(error);
        self.leave();
    }

    fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.hub.leave(id);
        }
    }
}

impl Drop for EmbeddedWatcher {
    fn drop(&mut self) {
        self.leave();
    }
}
