//! Revisioned key-value store with etcd's semantics.
//!
//! One handle, [`Store`], over two engines: an embedded one (SQLite, one writer thread with group commit) and an
//! etcd cluster. What both must do is written down once, as [`conformance`].
//!
//! **Invariant:** the only write is [`Txn`] (and the lease calls); there is no closure and no await inside a
//! transaction. An answer and a watch event leave only after the sync that makes them durable.

mod cluster;
pub mod conformance;
mod embedded;
mod error;
mod store;
mod types;
pub mod v3;
mod validate;
mod watch;

pub use error::{OpenError, StoreError, WatchError};
pub use store::{Options, Store};
pub use types::{
    Compare, CompareOp, CompareTarget, Delete, DeleteResponse, Event, EventKind, Key, KeyValue,
    LeaseId, LeaseStatus, Op, OpResponse, Put, PutResponse, Range, RangeResponse, Revision, Stats,
    Txn, TxnResponse, Watch, WatchBatch, prefix_end,
};
pub use watch::Watcher;
