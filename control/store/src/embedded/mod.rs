//! The embedded engine: one data folder, one writer thread, readers beside it.

mod engine;
mod folder;
mod hub;
mod mvcc;
mod read;
mod rows;
mod sqlite;
mod watcher;
mod writer;

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot, watch};

use self::{
    engine::{EngineError, Map, Reader},
    folder::Folder,
    hub::{Hub, QueueLimits},
    mvcc::{Answer, Entry, Mvcc},
    read::Failure,
    rows::{EntryId, LeaseRow, LogRow, number},
    sqlite::{Checkpointer, SqliteReader, file_in},
    writer::{Request, Writer},
};
pub(crate) use self::{
    read::{Bounds, push_event},
    watcher::EmbeddedWatcher,
};
use crate::{
    KeyValue, LeaseId, LeaseStatus, OpenError, Options, Range, RangeResponse, Revision, Stats,
    StoreError, Txn, TxnResponse, Watch, WatchError, validate,
};

/// Requests that may wait for the writer; more wait for a place.
const QUEUE: usize = 8192;
/// Reads at once, each with a connection of its own; connections beyond the first few are closed when idle.
const READERS: usize = 8;
const IDLE_READERS: usize = 2;

/// The open store. Dropping it ends the writer and gives the folder free.
#[derive(Debug)]
pub(crate) struct Embedded {
    shared: Arc<Shared>,
    max_txn_bytes: usize,
    queue: Arc<Semaphore>,
    /// None once it was closed.
    requests: Mutex<Option<Sender<Request>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held last: the lock goes when every connection has gone.
    _folder: Folder,
}

/// What the writer, the readers and the watchers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub hub: Hub,
    pub clock: Clock,
    file: std::path::PathBuf,
    idle: Mutex<Vec<SqliteReader>>,
    reading: Semaphore,
    stopped: watch::Sender<Option<Arc<str>>>,
    shrinking: AtomicBool,
    batches: AtomicU64,
    transactions: AtomicU64,
}

/// The store's clock: it goes on where the last run left it, with the monotonic clock, so that neither a jump of the
/// wall clock nor a time without power ends a lease.
#[derive(Debug)]
pub(crate) struct Clock {
    base_ms: i64,
    start: Instant,
}

impl Clock {
    pub fn now_ms(&self) -> i64 {
        self.base_ms
            .saturating_add(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(0))
    }
}

impl std::fmt::Debug for SqliteReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteReader")
    }
}

impl Shared {
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.stopped.borrow().clone()
    }

    /// Stops the store for good; the first reason stays.
    fn stop(&self, reason: String) -> Arc<str> {
        let reason: Arc<str> = reason.into();
        let mut first = reason.clone();
        self.stopped.send_if_modified(|stopped| match stopped {
            Some(earlier) => {
                first = earlier.clone();
                false
            }
            None => {
                tracing::error!(%reason, "the store stops");
                *stopped = Some(reason);
                true
            }
        });
        self.hub.close();
        first
    }

    pub fn shrinking(&self) -> bool {
        self.shrinking.load(Ordering::Relaxed)
    }

    pub fn set_shrinking(&self, on: bool) {
        self.shrinking.store(on, Ordering::Relaxed);
    }

    pub fn count_batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_transactions(&self, count: usize) {
        self.transactions.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn publish(
        &self,
        changes: &[LogRow],
        revision: Revision,
        previous: impl Fn(EntryId) -> Result<Option<KeyValue>, EngineError>,
    ) -> Result<(), EngineError> {
        self.hub.publish(changes, revision, previous)
    }

    /// Runs `read` on a consistent view. Blocks.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(reason) = self.stopped() {
            return Err(StoreError::Stopped(reason).into());
        }
        self.with_reader(|reader| {
            reader.snapshot(|reader| match read(reader) {
                Ok(value) => Ok(Ok(value)),
                Err(Failure::Refused(error)) => Ok(Err(Failure::Refused(error))),
                Err(Failure::Engine(error)) => Err(error),
            })?
        })
    }

    /// Lends one of the readers' connections. Blocks.
    fn with_reader<T>(
        &self,
        use_it: impl FnOnce(&SqliteReader) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let idle = || {
            self.idle
                .lock()
                .expect("no code panics while it holds the readers' lock")
        };
        let reader = idle().pop();
        let reader = match reader {
            Some(reader) => reader,
            None => SqliteReader::open(&self.file).map_err(sqlite::failed)?,
        };
        let result = use_it(&reader);
        // A connection that failed isn't used again.
        if !matches!(result, Err(Failure::Engine(_))) {
            let mut idle = idle();
            if idle.len() < IDLE_READERS {
                idle.push(reader);
            }
        }
        result
    }
}

impl Embedded {
    pub fn open(options: &Options) -> Result<Embedded, OpenError> {
        let mut folder = Folder::lock(&options.dir)?;
        let engine = folder.open()?;
        let file = file_in(&options.dir);
        let mvcc = Mvcc::load(engine).map_err(|error| folder.broken(error))?;
        let checkpointer = Checkpointer::open(&file).map_err(|error| folder.sql(error))?;
        let limits = QueueLimits {
            events: options.watch_queue_events,
            bytes: options.watch_queue_bytes,
        };
        let shared = Arc::new(Shared {
            hub: Hub::new(limits, mvcc.revision),
            clock: Clock {
                base_ms: mvcc.clock_ms,
                start: Instant::now(),
            },
            file,
            idle: Mutex::default(),
            reading: Semaphore::new(READERS),
            stopped: watch::Sender::new(None),
            shrinking: AtomicBool::new(true),
            batches: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
        });
        let (requests, queue) = std::sync::mpsc::channel();
        let (checkpoint, checkpoints) = sync_channel(1);
        let writer = Writer {
            mvcc,
            shared: shared.clone(),
            requests: queue,
            checkpoint,
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|source| OpenError::Io {
                    attempt: "start a thread for the store in",
                    path: options.dir.clone(),
                    source,
                })
        };
        let for_checkpoints = shared.clone();
        let threads = vec![
            spawn("store-writer", Box::new(move || writer.run()))?,
            spawn(
                "store-checkpoint",
                Box::new(move || {
                    writer::checkpoint_loop(&checkpointer, &for_checkpoints, &checkpoints);
                }),
            )?,
        ];
        Ok(Embedded {
            shared,
            max_txn_bytes: options.max_txn_bytes,
            queue: Arc::new(Semaphore::new(QUEUE)),
            requests: Mutex::new(Some(requests)),
            threads: Mutex::new(threads),
            _folder: folder,
        })
    }

    /// Queues an entry and waits for its answer.
    async fn submit(&self, entry: Entry) -> Result<Answer, StoreError> {
        let place = self
            .queue
            .clone()
            .acquire_owned()
            .await
            .expect("the queue's semaphore is never closed");
        let (reply, answer) = oneshot::channel();
        let request = Request {
            entry,
            reply,
            _place: place,
        };
        let sent = match &*self
            .requests
            .lock()
            .expect("no code panics while it holds this lock")
        {
            Some(requests) => requests.send(request).is_ok(),
            None => false,
        };
        if !sent {
            return Err(self.closed());
        }
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Why the store has stopped, once it has; never when it was closed.
    pub async fn failed(&self) -> Arc<str> {
        let mut stopped = self.shared.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().expect("waited for above"),
            // The sender is in `shared`, which this borrows; said without a panic all the same.
            Err(_) => std::future::pending().await,
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Stopped(
            self.shared
                .stopped()
                .unwrap_or_else(|| "it was closed".into()),
        )
    }

    /// Runs `read` on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(move |shared| shared.read(read)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self
            .shared
            .reading
            .acquire()
            .await
            .expect("the readers' semaphore is never closed");
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::Engine(error))) => Err(StoreError::Read(error.to_string().into())),
            Err(error) => Err(StoreError::Read(error.to_string().into())),
        }
    }

    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        validate::txn(&txn, self.max_txn_bytes)?;
        match self.submit(Entry::Txn(txn)).await? {
            Answer::Txn(response) => Ok(response),
            other => unreachable!("a transaction is answered with {other:?}"),
        }
    }

    pub async fn range(&self, range: Range) -> Result<RangeResponse, StoreError> {
        validate::range(&range)?;
        self.read(move |reader| {
            let now = read::revision(reader)?;
            read::range(reader, &range, now, read::floor(reader)?)
        })
        .await
    }

    pub fn watch(&self, watch: Watch) -> Result<EmbeddedWatcher, WatchError> {
        EmbeddedWatcher::start(self.shared.clone(), watch)
    }

    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.submit(Entry::Compact(revision)).await.map(|_| ())
    }

    pub async fn lease_grant(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        if ttl.is_zero() {
            return Err(StoreError::Invalid("a lease needs a time to live"));
        }
        let chosen = id.filter(|id| *id != LeaseId::NONE);
        loop {
            let id = chosen.unwrap_or_else(random_lease_id);
            match self.submit(Entry::Grant { id, ttl }).await {
                Ok(Answer::Lease(status)) => return Ok(status),
                Ok(other) => unreachable!("a grant is answered with {other:?}"),
                Err(StoreError::LeaseExists(_)) if chosen.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        match self.submit(Entry::KeepAlive(id)).await? {
            Answer::KeptAlive(ttl) => Ok(ttl),
            other => unreachable!("a keep-alive is answered with {other:?}"),
        }
    }

    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision, StoreError> {
        match self.submit(Entry::Revoke(id)).await? {
            Answer::Revision(revision) => Ok(revision),
            other => unreachable!("a revocation is answered with {other:?}"),
        }
    }

    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus, StoreError> {
        let now_ms = self.shared.clock.now_ms();
        self.read(move |reader| {
            let start = id.0.to_be_bytes();
            let row = match reader.get(Map::Leases, &start)? {
                Some(row) => LeaseRow::decode(&row)?,
                None => return Err(StoreError::LeaseNotFound(id).into()),
            };
            let end = crate::prefix_end(&start);
            let end = (end.as_ref() != [0]).then_some(end.as_ref());
            let all = engine::Budget {
                entries: usize::MAX - 1,
                bytes: usize::MAX,
            };
            let holds = reader.scan(Map::LeaseKeys, &start, end, all)?.pairs;
            Ok(LeaseStatus {
                id,
                granted: mvcc::ms(row.ttl_ms),
                remaining: mvcc::ms(row.deadline_ms - now_ms),
                keys: holds
                    .into_iter()
                    .map(|(hold, _)| hold[start.len()..].to_vec().into())
                    .collect(),
            })
        })
        .await
    }

    pub async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        self.read(|reader| {
            let all = engine::Budget {
                entries: usize::MAX - 1,
                bytes: usize::MAX,
            };
            let pairs = reader.scan(Map::Leases, b"", None, all)?.pairs;
            let ids: Result<_, EngineError> = pairs
                .iter()
                .map(|(key, _)| Ok(LeaseId(number(key)?)))
                .collect();
            Ok(ids?)
        })
        .await
    }

    pub fn revision(&self) -> Revision {
        self.shared.hub.published()
    }

    pub async fn stats(&self) -> Result<Stats, StoreError> {
        self.blocking(|shared| {
            let mut stats = shared.read(|reader| {
                Ok(Stats {
                    revision: read::revision(reader)?,
                    compacted: read::floor(reader)?,
                    keys: reader.count(Map::Current, b"", None)?,
                    leases: reader.count(Map::Leases, b"", None)?,
                    ..Stats::default()
                })
            })?;
            (stats.file_bytes, stats.free_bytes) =
                shared.with_reader(|reader| Ok(reader.sizes()?))?;
            stats.log_bytes =
                fs::metadata(shared.file.with_extension("db-wal")).map_or(0, |file| file.len());
            stats.watchers = shared.hub.watchers();
            stats.batches = shared.batches.load(Ordering::Relaxed);
            stats.transactions = shared.transactions.load(Ordering::Relaxed);
            Ok(stats)
        })
        .await
    }

    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let to = to.to_owned();
        self.blocking(move |shared| {
            let failed = |error: &dyn std::fmt::Display| {
                StoreError::Read(format!("can't write the backup {}: {error}", to.display()).into())
            };
            if to.exists() {
                return Err(failed(&"the file exists").into());
            }
            // Under another name first: what has the right name is whole.
            let part = to.with_added_extension("part");
            let copied = shared.with_reader(|reader| {
                if part.exists() {
                    fs::remove_file(&part).map_err(|error| failed(&error))?;
                }
                reader.backup(&part).map_err(|error| failed(&error))?;
                Ok(())
            });
            let placed =
                copied.and_then(|()| place(&part, &to).map_err(|error| failed(&error).into()));
            if placed.is_err() {
                // The error is what matters; a part that stays is overwritten the next time.
                let _ = fs::remove_file(&part);
            }
            placed
        })
        .await
    }

    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        self.blocking(|shared| {
            let mut wrong = shared.with_reader(|reader| Ok(reader.integrity()?))?;
            // With a damaged file, reading on only repeats it.
            if wrong.is_empty() {
                wrong = shared.read(|reader| Ok(read::verify(reader)?))?;
            }
            Ok(wrong)
        })
        .await
    }

    pub fn restore(backup: &Path, dir: &Path) -> Result<(), OpenError> {
        let mut folder = Folder::lock(dir)?;
        if folder.has_store() {
            return Err(folder.broken("there is a store already"));
        }
        let file = file_in(dir);
        let io = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io {
                attempt,
                path,
                source,
            }
        };
        let part = file.with_added_extension("part");
        fs::copy(backup, &part).map_err(io("copy the backup", backup))?;
        let checked = sqlite::SqliteEngine::identify(&part).map_err(|error| folder.sql(error))?;
        if checked.0 != sqlite::APPLICATION_ID {
            // Best effort: it is only our copy of somebody's file.
            let _ = fs::remove_file(&part);
            return Err(folder.broken("the backup is not one of a store"));
        }
        place(&part, &file).map_err(io("put the backup into place as", &file))?;
        // Opening it says whether it can be read, and marks the folder.
        let engine = folder.open()?;
        Mvcc::load(engine).map_err(|error| folder.broken(error))?;
        Ok(())
    }

    /// Ends the writer after what is queued, and waits for it. Blocks.
    pub fn close(&self) {
        let requests = self.requests.lock().map(|mut requests| requests.take());
        drop(requests);
        let threads = self
            .threads
            .lock()
            .map(|mut threads| std::mem::take(&mut *threads));
        for thread in threads.into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.shared.hub.close();
        if let Ok(mut idle) = self.shared.idle.lock() {
            idle.clear();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Syncs a file, renames it, and syncs its folder.
fn place(part: &Path, to: &Path) -> std::io::Result<()> {
    fs::File::open(part)?.sync_all()?;
    fs::rename(part, to)?;
    let dir = to
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::File::open(dir)?.sync_all()
}

/// Positive, as etcd's are.
fn random_lease_id() -> LeaseId {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(Instant::now());
    LeaseId((random >> 1) as i64 | 1)
}
