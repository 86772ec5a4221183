//! The store's vocabulary: what is asked of it and what it answers, in etcd's words.
//!
//! Ranges follow etcd: no `range_end` is the one key, a `range_end` of one zero byte is everything from `key` on,
//! anything else is the half-open interval. [`prefix_end`] makes the end of a prefix.

use std::{fmt, time::Duration};

use bytes::Bytes;

/// A key as clients write it; any bytes but none at all.
pub type Key = Bytes;

/// A point in the store's history. Every transaction that changes something makes the next one; a fresh store
/// stands at 1, and its first write is 2.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl Revision {
    /// "No such key" in a compare, and "now" where a revision is optional in etcd's API.
    pub const ZERO: Revision = Revision(0);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease's id. Zero is "no lease".
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease.
    pub const NONE: LeaseId = LeaseId(0);
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, its value and its history in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value; empty when only keys were asked for, and for a deletion.
    pub value: Bytes,
    /// The revision that created the key (since its last deletion).
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// Writes since the creation, the creation included.
    pub version: i64,
    /// The lease that the key ends with.
    pub lease: LeaseId,
}

/// The end of the range of keys that start with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    // Nothing but 0xff, or nothing at all: everything from the prefix on.
    Bytes::from_static(b"\0")
}

/// A read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub key: Key,
    /// See the module's text.
    pub range_end: Option<Key>,
    /// Read as of this revision; the newest without.
    pub revision: Option<Revision>,
    /// At most so many keys; no limit with 0.
    pub limit: usize,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
}

impl Range {
    /// One key.
    pub fn key(key: impl Into<Key>) -> Range {
        Range {
            key: key.into(),
            ..Range::default()
        }
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Key>) -> Range {
        let key = prefix.into();
        let (key, end) = if key.is_empty() {
            (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
        } else {
            let end = prefix_end(&key);
            (key, end)
        };
        Range {
            key,
            range_end: Some(end),
            ..Range::default()
        }
    }

    /// The same read at a revision.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Range {
        self.revision = Some(revision);
        self
    }

    /// The same read, at most `limit` keys.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Range {
        self.limit = limit;
        self
    }
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when the read was made (not the one asked for).
    pub revision: Revision,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// The limit left keys out.
    pub more: bool,
    /// How many keys the range has, whatever the limit.
    pub count: u64,
}

/// A write of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The lease to end with.
    pub lease: LeaseId,
    /// Answer with what was there.
    pub prev_kv: bool,
    /// Keep the value that is there (which must exist); `value` must be empty.
    pub ignore_value: bool,
    /// Keep the lease that is there (the key must exist); `lease` must be none.
    pub ignore_lease: bool,
}

impl Put {
    /// Writes `value` without a lease.
    pub fn new(key: impl Into<Key>, value: impl Into<Bytes>) -> Put {
        Put {
            key: key.into(),
            value: value.into(),
            ..Put::default()
        }
    }

    /// The same write, ending with `lease`.
    #[must_use]
    pub fn lease(mut self, lease: LeaseId) -> Put {
        self.lease = lease;
        self
    }
}

/// A deletion of a key or a range of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// The first key.
    pub key: Key,
    /// See the module's text.
    pub range_end: Option<Key>,
    /// Answer with what was there.
    pub prev_kv: bool,
}

impl Delete {
    /// One key.
    pub fn key(key: impl Into<Key>) -> Delete {
        Delete {
            key: key.into(),
            ..Delete::default()
        }
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Key>) -> Delete {
        let Range { key, range_end, .. } = Range::prefix(prefix);
        Delete {
            key,
            range_end,
            prev_kv: false,
        }
    }
}

/// What a compare looks at, with the value it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// [`KeyValue::version`]; 0 for a key that isn't there.
    Version(i64),
    /// [`KeyValue::create_revision`]; 0 for a key that isn't there.
    Create(Revision),
    /// [`KeyValue::mod_revision`]; 0 for a key that isn't there.
    Mod(Revision),
    /// [`KeyValue::value`]; false for a key that isn't there, whatever the operator.
    Value(Bytes),
    /// [`KeyValue::lease`]; 0 for a key that isn't there.
    Lease(LeaseId),
}

/// How the stored side stands to the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// stored == given
    Equal,
    /// stored != given
    NotEqual,
    /// stored > given
    Greater,
    /// stored < given
    Less,
}

/// One condition of a [`Txn`]; with a range, every key in it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The first key.
    pub key: Key,
    /// See the module's text.
    pub range_end: Option<Key>,
    /// What is compared, and with what.
    pub target: CompareTarget,
    /// How.
    pub op: CompareOp,
}

impl Compare {
    /// The key was last written by `revision` (0: the key isn't there).
    pub fn mod_revision(key: impl Into<Key>, revision: Revision) -> Compare {
        Compare {
            key: key.into(),
            range_end: None,
            target: CompareTarget::Mod(revision),
            op: CompareOp::Equal,
        }
    }

    /// The key isn't there.
    pub fn absent(key: impl Into<Key>) -> Compare {
        Compare::mod_revision(key, Revision::ZERO)
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read; it sees the writes before it in the same transaction.
    Range(Range),
    /// A write.
    Put(Put),
    /// A deletion.
    Delete(Delete),
    /// A transaction inside this one; its compares see the state before the outermost one's writes.
    Txn(Txn),
}

/// All compares hold → `success`, else `failure`; either way in one step and, if anything changed, one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none always holds.
    pub compares: Vec<Compare>,
    /// Then.
    pub success: Vec<Op>,
    /// Else.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Unconditional writes.
    pub fn of(ops: impl IntoIterator<Item = Op>) -> Txn {
        Txn {
            success: ops.into_iter().collect(),
            ..Txn::default()
        }
    }
}

/// The answer to a [`Put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// What was there, if it was asked for.
    pub prev_kv: Option<KeyValue>,
}

/// The answer to a [`Delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResponse {
    /// How many keys went.
    pub deleted: u64,
    /// What was there, if it was asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer to an [`Op`], in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// To [`Op::Range`].
    Range(RangeResponse),
    /// To [`Op::Put`].
    Put(PutResponse),
    /// To [`Op::Delete`].
    Delete(DeleteResponse),
    /// To [`Op::Txn`].
    Txn(TxnResponse),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// The store's revision after the transaction: its own if it changed something.
    pub revision: Revision,
    /// Which branch ran.
    pub succeeded: bool,
    /// One answer an op of that branch.
    pub responses: Vec<OpResponse>,
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The first key.
    pub key: Key,
    /// See the module's text.
    pub range_end: Option<Key>,
    /// The first revision to hear of; without, the one after the store's revision now.
    pub start_revision: Option<Revision>,
    /// Put what was there before into each event.
    pub prev_kv: bool,
    /// Send an empty batch at the start, when history has been replayed, and from time to time when the store went on without
    /// an event for this watcher: everything up to the batch's revision has been seen.
    pub progress: bool,
}

impl Watch {
    /// Every key that starts with `prefix`, from now on.
    pub fn prefix(prefix: impl Into<Key>) -> Watch {
        let Range { key, range_end, .. } = Range::prefix(prefix);
        Watch {
            key,
            range_end,
            ..Watch::default()
        }
    }

    /// The same watch from `revision` on (inclusive).
    #[must_use]
    pub fn from(mut self, revision: Revision) -> Watch {
        self.start_revision = Some(revision);
        self
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Written; created if `kv.create_revision == kv.mod_revision`.
    Put,
    /// Deleted; `kv` has only the key and the deletion's revision as `mod_revision`.
    Delete,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after it.
    pub kv: KeyValue,
    /// The key before it, if the watch asked for it and there was one.
    pub prev_kv: Option<KeyValue>,
}

/// All events of one revision that a watch covers; none is progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision of the events; for progress, the revision up to which the watcher has seen everything.
    pub revision: Revision,
    /// In the order of the transaction's steps.
    pub events: Vec<Event>,
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its id.
    pub id: LeaseId,
    /// What it was granted.
    pub granted: Duration,
    /// What is left of it.
    pub remaining: Duration,
    /// The keys that end with it.
    pub keys: Vec<Key>,
}

/// Figures about the store. What an engine can't say is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// The newest revision.
    pub revision: Revision,
    /// Reads below it are refused.
    pub compacted: Revision,
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Bytes of it that hold nothing.
    pub free_bytes: u64,
    /// Bytes of the write-ahead log.
    pub log_bytes: u64,
    /// Keys now.
    pub keys: u64,
    /// Open watchers.
    pub watchers: u64,
    /// Leases now.
    pub leases: u64,
    /// Batches committed (each one sync) since the start.
    pub batches: u64,
    /// Transactions answered since the start.
    pub transactions: u64,
}
