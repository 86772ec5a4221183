//! The handle that everybody holds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    LeaseId, LeaseStatus, OpenError, Range, RangeResponse, Revision, Stats, StoreError, Txn,
    TxnResponse, Watch, WatchError, Watcher, cluster::Cluster, embedded::Embedded, watch,
};

/// How to open the embedded engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made if it isn't there. The store's files are all in it, and it is the store's alone.
    pub dir: PathBuf,
    /// The largest transaction, in bytes of keys and values.
    pub max_txn_bytes: usize,
    /// What may wait for one watcher before it is cut off, in events.
    pub watch_queue_events: usize,
    /// The same in bytes of keys and values.
    pub watch_queue_bytes: usize,
}

impl Options {
    /// Defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            max_txn_bytes: 8 << 20,
            watch_queue_events: 16 << 10,
            watch_queue_bytes: 32 << 20,
        }
    }
}

/// A store; cloning gives another handle to the same one. It closes when the last handle goes.
#[derive(Clone, Debug)]
pub struct Store(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Embedded(Arc<Embedded>),
    Cluster(Cluster),
}

impl Store {
    /// Opens the embedded engine. Blocks for the time of opening (milliseconds).
    pub fn open(options: Options) -> Result<Store, OpenError> {
        Ok(Store(Inner::Embedded(Arc::new(Embedded::open(&options)?))))
    }

    /// Connects to an etcd cluster: `etcd://host:port,host:port`, or with TLS
    /// `etcds://host:port,…?ca=FILE&cert=FILE&key=FILE`.
    pub async fn connect(url: &str) -> Result<Store, OpenError> {
        Ok(Store(Inner::Cluster(Cluster::connect(url).await?)))
    }

    /// Runs a transaction; the answer comes after the sync.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.txn(txn).await,
            Inner::Cluster(store) => store.txn(txn).await,
        }
    }

    /// Reads. Linearizable: it sees every write answered before it was called.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.range(range).await,
            Inner::Cluster(store) => store.range(range).await,
        }
    }

    /// Starts a watch. Nothing that happens after the return is missed. A start revision below the floor fails in
    /// the watcher's first `next`.
    pub fn watch(&self, watch: Watch) -> Result<Watcher, WatchError> {
        Ok(Watcher(match &self.0 {
            Inner::Embedded(store) => watch::Inner::Embedded(Box::new(store.watch(watch)?)),
            Inner::Cluster(store) => watch::Inner::Cluster(Box::new(store.watch(watch))),
        }))
    }

    /// Makes `revision` the oldest that can be read; space is given back in the background.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.compact(revision).await,
            Inner::Cluster(store) => store.compact(revision).await,
        }
    }

    /// Compacts every `every` to what was the newest revision one interval before, until dropped. An error ends it
    /// only when the store has stopped.
    pub async fn compact_periodically(&self, every: Duration) -> StoreError {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut target = None;
        loop {
            interval.tick().await;
            if let Some(revision) = target {
                match self.compact(revision).await {
                    // Nothing was written since, or somebody else compacted.
                    Ok(()) | Err(StoreError::Compacted { .. }) => {}
                    Err(error @ StoreError::Stopped(_)) => return error,
                    Err(error) => tracing::warn!(%error, %revision, "can't compact the store"),
                }
            }
            target = self.revision().await.ok();
        }
    }

    /// Makes a lease; without an id the store chooses one.
    pub async fn lease_grant(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.lease_grant(id, ttl).await,
            Inner::Cluster(store) => store.lease_grant(id, ttl).await,
        }
    }

    /// Gives a lease its full time again, which is the answer.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.lease_keep_alive(id).await,
            Inner::Cluster(store) => store.lease_keep_alive(id).await,
        }
    }

    /// Ends a lease and deletes its keys, in one revision, which is the answer.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.lease_revoke(id).await,
            Inner::Cluster(store) => store.lease_revoke(id).await,
        }
    }

    /// How a lease stands.
    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.lease_time_to_live(id).await,
            Inner::Cluster(store) => store.lease_time_to_live(id).await,
        }
    }

    /// Every lease's id.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.leases().await,
            Inner::Cluster(store) => store.leases().await,
        }
    }

    /// The newest durable revision. The embedded engine answers from memory; with a cluster this is a request.
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => Ok(store.revision()),
            Inner::Cluster(store) => store.revision().await,
        }
    }

    /// Figures.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.stats().await,
            Inner::Cluster(store) => store.stats().await,
        }
    }

    /// Writes a consistent copy of the store to the new file `path` while it runs.
    pub async fn backup(&self, path: &Path) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.backup(path).await,
            Inner::Cluster(_) => Err(StoreError::Invalid(
                "an etcd cluster does this with its own tools",
            )),
        }
    }

    /// Checks the files and the store's own invariants; the answer is what is wrong.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        match &self.0 {
            Inner::Embedded(store) => store.check().await,
            Inner::Cluster(_) => Err(StoreError::Invalid(
                "an etcd cluster does this with its own tools",
            )),
        }
    }

    /// Makes a data folder from a backup. The folder must hold no store.
    pub fn restore(backup: &Path, dir: &Path) -> Result<(), OpenError> {
        Embedded::restore(backup, dir)
    }

    /// Waits until the store stops because it can't promise durability any more, and says why; being closed is no
    /// such reason, and a cluster has none.
    pub async fn failed(&self) -> Arc<str> {
        match &self.0 {
            Inner::Embedded(store) => store.failed().await,
            Inner::Cluster(_) => std::future::pending().await,
        }
    }

    /// Ends the writer after what is queued, and waits for it. Handles that are left answer `Stopped`.
    pub async fn close(&self) {
        match &self.0 {
            Inner::Embedded(store) => {
                let store = store.clone();
                // Only fails when the runtime shuts down, and then dropping the handles closes it.
                let _ = tokio::task::spawn_blocking(move || store.close()).await;
            }
            // The connection goes with the last handle.
            Inner::Cluster(_) => {}
        }
    }
}
