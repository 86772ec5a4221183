//! The little that the store asks of a database: ordered maps of bytes, atomic batches, and a commit that is
//! durable when it returns. Everything that makes it a *revisioned* store is built on this, in `mvcc` and `read`.

/// The maps. Each orders its keys as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// Entry id (8 bytes) → what happened: the history, and the only place that holds values.
    Log,
    /// Key → its newest entry.
    Current,
    /// (key, entry id) → whether the entry is a tombstone; entries that aren't the newest of their key.
    Superseded,
    /// Lease id (8 bytes) → its times.
    Leases,
    /// (lease id, key) → nothing.
    LeaseKeys,
    /// The store's own numbers.
    Meta,
}

/// Where a scan stops: after `entries`, or once it has `bytes` (it always gives at least one entry).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub entries: usize,
    pub bytes: usize,
}

impl Budget {
    /// Small enough to hold a read transaction only for a moment.
    pub const CHUNK: Budget = Budget {
        entries: 512,
        bytes: 1 << 20,
    };
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// A consistent view of the maps.
pub(crate) trait Reader {
    fn get(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Entries from `start` (included) to `end` (not included; none is the map's end), in order. Fewer than the
    /// budget means that there are no more.
    fn scan(
        &self,
        map: Map,
        start: &[u8],
        end: Option<&[u8]>,
        budget: Budget,
    ) -> Result<Scan, EngineError>;

    /// The map's last key.
    fn last_key(&self, map: Map) -> Result<Option<Vec<u8>>, EngineError>;

    fn count(&self, map: Map, start: &[u8], end: Option<&[u8]>) -> Result<u64, EngineError>;
}

/// What a scan found, and whether the budget cut it off.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub pairs: Vec<Pair>,
    pub more: bool,
}

/// The one writer. Its own reads see what it has written in the open batch.
pub(crate) trait Engine: Reader + Send {
    fn begin(&self) -> Result<(), EngineError>;
    fn put(&self, map: Map, key: &[u8], value: &[u8]) -> Result<(), EngineError>;
    fn remove(&self, map: Map, key: &[u8]) -> Result<(), EngineError>;

    /// Makes the batch durable, whole or not at all.
    fn commit(&self) -> Result<(), EngineError>;

    /// Drops the open batch.
    fn rollback(&self);

    /// Gives some unused space back to the file system, outside a batch; true if there is more to give.
    fn shrink(&self) -> Result<bool, EngineError>;

    /// Called between batches when the engine may do what its file needs now and then.
    fn tidy(&self) -> Result<(), EngineError>;

    /// From here on nothing may be written or synced any more, closing included.
    fn abandon(&self);
}

/// How a database fails.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// No space. The open batch can be rolled back, and is not durable.
    #[error("no space left")]
    Full,
    /// Anything else: what is on the disk is not known any more.
    #[error("{0}")]
    Fatal(String),
}
