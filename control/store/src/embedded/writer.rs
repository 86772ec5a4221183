//! The one thread that writes, and the one that checkpoints.
//!
//! ```text
//! requests ─► queue ─► [everything that waits] ─► apply ─► commit (sync) ─► publish ─► answers
//!                              ▲                                  │
//!                        leases that ended, a piece of the sweep  └─► checkpointer
//! ```
//! Group commit: whatever queued up during one sync is the next batch, so that its answers share the next sync.
//! A sync that fails is never retried: the kernel may have dropped what it couldn't write and report success the
//! next time. The store stops, and says why.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Shared,
    engine::{Engine, EngineError},
    mvcc::{Answer, Entry, Mvcc, ms},
    read,
    sqlite::{Checkpointer, SqliteEngine},
};
use crate::{StoreError, validate};

/// A batch ends when it has so many entries, or so many bytes of keys and values.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
/// Leases ended in one batch.
const EXPIRIES: usize = 64;

/// Something to do, and where its answer goes. The permit is a place in the queue.
#[derive(Debug)]
pub(crate) struct Request {
    pub entry: Entry,
    pub reply: oneshot::Sender<Result<Answer, StoreError>>,
    pub _place: OwnedSemaphorePermit,
}

/// What the writer owns.
pub(crate) struct Writer {
    pub mvcc: Mvcc<SqliteEngine>,
    pub shared: Arc<Shared>,
    pub requests: Receiver<Request>,
    pub checkpoint: SyncSender<()>,
}

impl Writer {
    /// Until every handle is gone.
    pub fn run(mut self) {
        while let Some(batch) = self.collect() {
            if let Some(reason) = self.shared.stopped() {
                self.mvcc.engine.abandon();
                refuse(batch, &StoreError::Stopped(reason));
                continue;
            }
            self.commit(batch);
            self.keep_house();
        }
        self.end();
    }

    /// Everything that waits, after waiting for something: a request, the end of a lease, or nothing when there is
    /// house to keep. None when there will be no more.
    fn collect(&mut self) -> Option<Vec<Request>> {
        let mut batch = Vec::new();
        let patience = if self.shared.stopped().is_some() {
            Duration::MAX
        } else if self.mvcc.sweep_due() || self.shared.shrinking() {
            Duration::ZERO
        } else {
            match self.mvcc.next_deadline_ms() {
                Some(deadline) => ms(deadline - self.shared.clock.now_ms()),
                None => Duration::MAX,
            }
        };
        match self
            .requests
            .recv_timeout(patience.min(Duration::from_secs(1 << 30)))
        {
            Ok(request) => batch.push(request),
            Err(RecvTimeoutError::Timeout) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        let mut bytes = weight(&batch[0].entry);
        while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
            match self.requests.try_recv() {
                Ok(request) => {
                    bytes += weight(&request.entry);
                    batch.push(request);
                }
                Err(_) => break,
            }
        }
        Some(batch)
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let now_ms = self.shared.clock.now_ms();
        let (mut entries, mut replies) = (Vec::new(), Vec::new());
        for request in batch {
            entries.push(request.entry);
            replies.push((request.reply, request._place));
        }
        entries.extend(self.mvcc.expired(now_ms, EXPIRIES));
        match self.write(now_ms, &entries) {
            Ok(answers) => {
                self.shared.count_transactions(replies.len());
                for ((reply, _place), answer) in replies.into_iter().zip(answers) {
                    // Whoever asked may have gone; what it asked for is done.
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                let error = self.failed(error);
                for (reply, _place) in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn write(
        &mut self,
        now_ms: i64,
        entries: &[Entry],
    ) -> Result<Vec<Result<Answer, StoreError>>, EngineError> {
        let sweep = self.mvcc.sweep_due();
        if entries.is_empty() && !sweep {
            return Ok(Vec::new());
        }
        self.mvcc.engine.begin()?;
        let applied = self.mvcc.apply(now_ms, entries)?;
        if sweep {
            self.mvcc.sweep()?;
        }
        if applied.written || sweep {
            self.mvcc.engine.commit()?;
            self.shared.count_batch();
        } else {
            // Only reads and refusals: nothing to make durable.
            self.mvcc.engine.rollback();
        }
        if !applied.changes.is_empty() {
            let engine = &self.mvcc.engine;
            self.shared
                .publish(&applied.changes, self.mvcc.revision, |prev| {
                    read::previous(engine, prev)
                })?;
        }
        if sweep && !self.mvcc.sweep_due() {
            self.shared.set_shrinking(true);
        }
        Ok(applied.answers)
    }

    /// What a failed batch means for its requests and for the store.
    fn failed(&mut self, error: EngineError) -> StoreError {
        self.mvcc.engine.rollback();
        let error = match error {
            EngineError::Full => match self.mvcc.reload() {
                Ok(()) => {
                    tracing::error!("no space left in the store's folder: a write was refused");
                    // The log's space may be used again once it has been copied into the file.
                    self.request_checkpoint();
                    return StoreError::DiskFull;
                }
                Err(error) => error,
            },
            error => error,
        };
        // Nothing more is written or synced, not even when the connection closes.
        self.mvcc.engine.abandon();
        StoreError::Stopped(self.shared.stop(format!("a write failed: {error}")))
    }

    fn keep_house(&mut self) {
        let kept = self.mvcc.engine.tidy().and_then(|()| {
            if self.shared.shrinking() && !self.mvcc.sweep_due() {
                let more = self.mvcc.engine.shrink()?;
                self.shared.set_shrinking(more);
            }
            Ok(())
        });
        match kept {
            Ok(()) => {}
            // Nothing was asked for, so nobody is told; there is another time.
            Err(EngineError::Full) => self.shared.set_shrinking(false),
            Err(error) => {
                self.failed(error);
            }
        }
        if self.mvcc.engine.checkpoint_due() {
            self.request_checkpoint();
        }
    }

    fn request_checkpoint(&self) {
        match self.checkpoint.try_send(()) {
            // One is asked for already, or its thread has ended with the store's failure.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// The clock is written down, so that leases don't gain by an orderly restart.
    fn end(mut self) {
        if self.shared.stopped().is_some() {
            self.mvcc.engine.abandon();
            return;
        }
        let now_ms = self.shared.clock.now_ms();
        if self.mvcc.next_deadline_ms().is_some() && now_ms > self.mvcc.clock_ms {
            let written = self
                .mvcc
                .engine
                .begin()
                .and_then(|()| self.mvcc.write_clock(now_ms))
                .and_then(|()| self.mvcc.engine.commit());
            if let Err(error) = written {
                self.failed(error);
            }
        }
    }
}

/// Copies the write-ahead log into the file whenever it is asked to.
pub(crate) fn checkpoint_loop(
    checkpointer: &Checkpointer,
    shared: &Shared,
    requests: &Receiver<()>,
) {
    while requests.recv().is_ok() {
        if shared.stopped().is_some() {
            break;
        }
        match checkpointer.run() {
            Ok(()) => {}
            // The log still has everything; there will be another request.
            Err(EngineError::Full) => tracing::warn!("no space left to checkpoint the store"),
            Err(error) => {
                checkpointer.abandon();
                shared.stop(format!("a checkpoint failed: {error}"));
            }
        }
    }
    if shared.stopped().is_some() {
        checkpointer.abandon();
    }
}

fn refuse(batch: Vec<Request>, error: &StoreError) {
    for request in batch {
        let _ = request.reply.send(Err(error.clone()));
    }
}

fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Txn(txn) => validate::size(txn),
        _ => 16,
    }
}
