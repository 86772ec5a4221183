//! What can go wrong, one enum an operation.

use std::{path::PathBuf, sync::Arc};

use crate::types::{LeaseId, Revision};

/// Opening a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another handle in this one) has it.
    #[error("the data folder {} is in use by another process", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A file or folder can't be made, read or written.
    #[error("can't {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is there is not a whole store.
    #[error("the store in {} is broken: {detail}; restore a backup or move the folder away", dir.display())]
    Broken {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// What is there was written by another release.
    #[error("the store in {} has format {found}, this program reads format {supported}", dir.display())]
    Format {
        /// The folder.
        dir: PathBuf,
        /// On disk.
        found: i64,
        /// Ours.
        supported: i64,
    },
    /// The disk has no room for the store's files.
    #[error("no space left to open the store in {}", dir.display())]
    DiskFull {
        /// The folder.
        dir: PathBuf,
    },
    /// The URL of an etcd cluster makes no sense.
    #[error("{url:?} is not a store: {detail}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The etcd cluster can't be reached.
    #[error("can't connect to the store {url}")]
    Connect {
        /// As given.
        url: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// Reading or writing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// That far back there is no history any more.
    #[error("revision {requested} has been compacted (oldest kept: {floor})")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        floor: Revision,
    },
    /// That revision is yet to come.
    #[error("revision {requested} is in the future (newest: {current})")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest.
        current: Revision,
    },
    /// No such lease, or it has ended.
    #[error("no lease {0}")]
    LeaseNotFound(LeaseId),
    /// The id is taken.
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    /// A transaction that makes no sense: its text says why.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// More than the store takes in one transaction.
    #[error("the transaction has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing was written, and nothing is damaged; it works again when there is space.
    #[error("no space left in the store's folder: nothing was written")]
    DiskFull,
    /// The store stopped because it can't promise durability any more. Only a new start helps.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<str>),
    /// The request was not carried out because the store failed to read its own data.
    #[error("the store can't read its data: {0}")]
    Read(Arc<str>),
    /// The etcd cluster failed; whether the write was made is unknown.
    #[error("the etcd cluster failed: {0}")]
    Cluster(Arc<str>),
}

/// Why a watch ended. A watcher that got an error gets nothing more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// History below `floor` is gone: list, and watch from there.
    #[error("the watch's revision has been compacted (oldest kept: {floor})")]
    Compacted {
        /// The oldest revision that a watch can start from.
        floor: Revision,
    },
    /// The watcher didn't keep up and was cut off. It may come back with the revision after its last batch.
    #[error("the watcher fell behind and was cut off")]
    Lagged,
    /// The store has stopped or was dropped.
    #[error("the store has closed")]
    Closed,
}
