//! The handle that everybody holds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    LeaseId, LeaseStatus, OpenError, Range, RangeResponse, Revision, Stats, StoreError, Txn,
    TxnResponse, Watch, WatchError, Watcher,
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
pub struct Store {}

impl Store {
    /// Opens the embedded engine. Blocks for the time of opening (milliseconds).
    pub fn open(options: Options) -> Result<Store, OpenError> {
        let _ = options;
        todo!()
    }

    /// Connects to an etcd cluster: `etcd://host:port,host:port`, or `etcds://…` for TLS.
    pub async fn connect(url: &str) -> Result<Store, OpenError> {
        let _ = url;
        todo!()
    }

    /// Runs a transaction; the answer comes after the sync.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let _ = txn;
        todo!()
    }

    /// Reads. Linearizable: it sees every write answered before it was called.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, StoreError> {
        let _ = range;
        todo!()
    }

    /// Starts a watch. Nothing that happens after the return is missed. A start revision below the floor fails in
    /// the watcher's first `next`.
    pub fn watch(&self, watch: Watch) -> Result<Watcher, WatchError> {
        let _ = watch;
        todo!()
    }

    /// Forgets what was superseded before `revision`; space is given back in the background.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let _ = revision;
        todo!()
    }

    /// Makes a lease; without an id the store chooses one.
    pub async fn lease_grant(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        let _ = (id, ttl);
        todo!()
    }

    /// Gives a lease its full time again, which is the answer.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        let _ = id;
        todo!()
    }

    /// Ends a lease and deletes its keys, in one revision.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision, StoreError> {
        let _ = id;
        todo!()
    }

    /// How a lease stands.
    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus, StoreError> {
        let _ = id;
        todo!()
    }

    /// Every lease's id.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        todo!()
    }

    /// The newest durable revision. The embedded engine answers from memory; with a cluster this is a request.
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        todo!()
    }

    /// Figures.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        todo!()
    }

    /// Writes a consistent copy of the store to the new file `path` while it runs.
    pub async fn backup(&self, path: &Path) -> Result<Stats, StoreError> {
        let _ = path;
        todo!()
    }

    /// Checks the files and the store's own invariants; the answer is what is wrong.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// Makes a data folder from a backup. The folder must hold no store.
    pub fn restore(backup: &Path, dir: &Path) -> Result<(), OpenError> {
        let _ = (backup, dir);
        todo!()
    }

    /// Ends the writer after what is queued, and waits for it. Handles that are left answer `Stopped`.
    pub async fn close(&self) {
        todo!()
    }
}
