//! Reading the maps as a revisioned store: ranges at any kept revision, and the history that watches replay.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use bytes::Bytes;

use super::{
    engine::{Budget, EngineError, Map, Pair, Reader},
    rows::{
        CurrentRow, EntryId, EntryKind, LogRow, broken, number, superseded_parts, superseded_start,
    },
};
use crate::{Event, EventKind, KeyValue, Range, RangeResponse, Revision, StoreError, WatchBatch};

/// Keys of [`Map::Meta`].
pub(crate) const FLOOR: &[u8] = b"floor";
pub(crate) const SWEPT: &[u8] = b"swept";
pub(crate) const CLOCK: &[u8] = b"clock";

/// Why a request wasn't carried out: the request's fault, or the database's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A range of keys as the maps want it: from (included), to (not included; none is everything after).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub start: Bytes,
    pub end: Option<Bytes>,
    single: bool,
}

impl Bounds {
    pub fn new(key: &Bytes, range_end: Option<&Bytes>) -> Bounds {
        match range_end {
            None => {
                let mut end = key.to_vec();
                end.push(0);
                Bounds {
                    start: key.clone(),
                    end: Some(end.into()),
                    single: true,
                }
            }
            Some(end) if end.as_ref() == [0] => Bounds {
                start: key.clone(),
                end: None,
                single: false,
            },
            Some(end) => Bounds {
                start: key.clone(),
                end: Some(end.clone()),
                single: false,
            },
        }
    }

    /// The one key of a range that is only that.
    pub fn single(&self) -> Option<&Bytes> {
        self.single.then_some(&self.start)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// No key is in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The newest revision.
pub(crate) fn revision(reader: &dyn Reader) -> Result<Revision, EngineError> {
    // The newest revision's entries are never swept, so the log's last key is the store's revision.
    Ok(match reader.last_key(Map::Log)? {
        Some(key) => EntryId::from_key(&key)?.revision(),
        None => Revision(1),
    })
}

/// The oldest revision that can be read.
pub(crate) fn floor(reader: &dyn Reader) -> Result<Revision, EngineError> {
    Ok(Revision(meta(reader, FLOOR)?.unwrap_or(0)))
}

pub(crate) fn meta(reader: &dyn Reader, key: &[u8]) -> Result<Option<i64>, EngineError> {
    reader
        .get(Map::Meta, key)?
        .map(|row| number(&row))
        .transpose()
}

pub(crate) fn current(reader: &dyn Reader, key: &[u8]) -> Result<Option<CurrentRow>, EngineError> {
    reader
        .get(Map::Current, key)?
        .map(|row| CurrentRow::decode(&row))
        .transpose()
}

/// An entry that something else says is there.
pub(crate) fn entry(reader: &dyn Reader, id: EntryId) -> Result<LogRow, EngineError> {
    match reader.get(Map::Log, &id.to_key())? {
        Some(row) => LogRow::decode(id, row),
        None => Err(broken("reference to the log")),
    }
}

/// The entry before another one, unless it was compacted away.
pub(crate) fn previous(
    reader: &dyn Reader,
    prev: EntryId,
) -> Result<Option<KeyValue>, EngineError> {
    if prev == EntryId::NONE {
        return Ok(None);
    }
    match reader.get(Map::Log, &prev.to_key())? {
        Some(row) => {
            let row = LogRow::decode(prev, row)?;
            Ok((row.kind == EntryKind::Put).then_some(row.kv))
        }
        None => Ok(None),
    }
}

/// Refuses a revision that can't be read.
pub(crate) fn readable(
    requested: Revision,
    current: Revision,
    floor: Revision,
) -> Result<(), StoreError> {
    if requested > current {
        Err(StoreError::FutureRevision { requested, current })
    } else if requested < floor {
        Err(StoreError::Compacted { requested, floor })
    } else {
        Ok(())
    }
}

/// Answers a range. `now` is what the answer is headed with.
pub(crate) fn range(
    reader: &dyn Reader,
    range: &Range,
    now: Revision,
    floor: Revision,
) -> Result<RangeResponse, Failure> {
    let bounds = Bounds::new(&range.key, range.range_end.as_ref());
    let mut response = RangeResponse {
        revision: now,
        ..RangeResponse::default()
    };
    let at = match range.revision {
        Some(at) if at > Revision::ZERO => {
            readable(at, now, floor)?;
            at
        }
        _ => now,
    };
    if bounds.is_empty() {
        return Ok(response);
    }
    let limit = if range.count_only {
        0
    } else if range.limit == 0 {
        usize::MAX
    } else {
        range.limit
    };
    let take = |key: Bytes, row: &CurrentRow, found: &mut Vec<KeyValue>| {
        found.push(if range.keys_only {
            row.key_value(key)
        } else {
            entry(reader, row.id)?.kv
        });
        Ok::<(), EngineError>(())
    };
    if at == now {
        if let Some(key) = bounds.single() {
            if let Some(row) = current(reader, key)? {
                response.count = 1;
                if limit > 0 {
                    take(key.clone(), &row, &mut response.kvs)?;
                }
            }
            return Ok(response);
        }
        let mut cursor = Cursor::new(reader, Map::Current, &bounds.start, bounds.end.as_deref());
        while response.kvs.len() < limit {
            let Some((key, row)) = cursor.next()? else {
                break;
            };
            take(key.into(), &CurrentRow::decode(&row)?, &mut response.kvs)?;
        }
        response.count = if cursor.finished()? {
            response.kvs.len() as u64
        } else {
            reader.count(Map::Current, &bounds.start, bounds.end.as_deref())?
        };
    } else {
        let mut past = Past::new(reader, &bounds, at);
        while let Some((key, found)) = past.next()? {
            response.count += 1;
            if response.kvs.len() < limit {
                match found {
                    Found::Current(row) => take(key, &row, &mut response.kvs)?,
                    Found::Superseded(id) => {
                        let mut kv = entry(reader, id)?.kv;
                        if range.keys_only {
                            kv.value = Bytes::new();
                        }
                        response.kvs.push(kv);
                    }
                }
            }
        }
    }
    response.more = !range.count_only && response.count > response.kvs.len() as u64;
    Ok(response)
}

/// A scan in chunks.
struct Cursor<'a> {
    reader: &'a dyn Reader,
    map: Map,
    next: Vec<u8>,
    end: Option<Vec<u8>>,
    chunk: VecDeque<Pair>,
    more: bool,
}

impl<'a> Cursor<'a> {
    fn new(reader: &'a dyn Reader, map: Map, start: &[u8], end: Option<&[u8]>) -> Cursor<'a> {
        Cursor {
            reader,
            map,
            next: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            chunk: VecDeque::new(),
            more: true,
        }
    }

    fn fill(&mut self) -> Result<(), EngineError> {
        if self.chunk.is_empty() && self.more {
            let scan =
                self.reader
                    .scan(self.map, &self.next, self.end.as_deref(), Budget::CHUNK)?;
            self.more = scan.more;
            self.chunk = scan.pairs.into();
            if let Some((last, _)) = self.chunk.back() {
                self.next = successor(self.map, last)?;
            }
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<&Pair>, EngineError> {
        self.fill()?;
        Ok(self.chunk.front())
    }

    fn next(&mut self) -> Result<Option<Pair>, EngineError> {
        self.fill()?;
        Ok(self.chunk.pop_front())
    }

    fn finished(&mut self) -> Result<bool, EngineError> {
        Ok(self.peek()?.is_none())
    }
}

/// The first possible key after `key`.
fn successor(map: Map, key: &[u8]) -> Result<Vec<u8>, EngineError> {
    if map == Map::Log {
        return Ok(EntryId(EntryId::from_key(key)?.0 + 1).to_key().to_vec());
    }
    let mut next = key.to_vec();
    next.push(0);
    Ok(next)
}

/// Where a key's state at a revision was found.
enum Found {
    Current(CurrentRow),
    Superseded(EntryId),
}

/// The keys of a range as they stood at a revision: the newest entries that are old enough, and for the others the
/// superseded entry that was the newest then.
struct Past<'a> {
    at: Revision,
    current: Cursor<'a>,
    superseded: Cursor<'a>,
}

impl<'a> Past<'a> {
    fn new(reader: &'a dyn Reader, bounds: &Bounds, at: Revision) -> Past<'a> {
        let start = superseded_start(&bounds.start);
        let end = bounds.end.as_ref().map(|end| superseded_start(end));
        Past {
            at,
            current: Cursor::new(reader, Map::Current, &bounds.start, bounds.end.as_deref()),
            superseded: Cursor::new(reader, Map::Superseded, &start, end.as_deref()),
        }
    }

    fn next(&mut self) -> Result<Option<(Bytes, Found)>, EngineError> {
        loop {
            let newest = self
                .current
                .peek()?
                .map(|(key, _)| Bytes::copy_from_slice(key));
            let older = match self.superseded.peek()? {
                Some((row_key, _)) => Some(superseded_parts(row_key)?.0),
                None => None,
            };
            let order = match (&newest, &older) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(newest), Some(older)) => newest.cmp(older),
            };
            let mut found = None;
            if order != Ordering::Less {
                found = self.newest_superseded(older.as_ref().expect("not less"))?;
            }
            if order != Ordering::Greater {
                let (_, row) = self.current.next()?.expect("it was peeked at");
                let row = CurrentRow::decode(&row)?;
                if row.id.revision() <= self.at {
                    found = Some(Found::Current(row));
                }
            }
            if let Some(found) = found {
                let key = if order == Ordering::Greater {
                    older
                } else {
                    newest
                };
                return Ok(Some((
                    key.expect("the side that was chosen has a key"),
                    found,
                )));
            }
        }
    }

    /// Takes every superseded entry of `key`, and gives the one that was the newest at the revision.
    fn newest_superseded(&mut self, key: &Bytes) -> Result<Option<Found>, EngineError> {
        let mut found = None;
        while let Some((row_key, kind)) = self.superseded.peek()? {
            let (of, id) = superseded_parts(row_key)?;
            if of != *key {
                break;
            }
            if id.revision() <= self.at {
                found = (kind.first() == Some(&0)).then_some(Found::Superseded(id));
            }
            self.superseded.next()?;
        }
        Ok(found)
    }
}

/// A piece of history.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub batches: Vec<WatchBatch>,
    /// Everything up to here is in it.
    pub upto: Revision,
    /// And that was the store's newest revision, or the one asked for.
    pub complete: bool,
}

/// What happened to `bounds` from `from` on, to `upto` at most; whole revisions, a chunk of them.
pub(crate) fn history(
    reader: &dyn Reader,
    bounds: &Bounds,
    prev_kv: bool,
    from: Revision,
    upto: Revision,
) -> Result<History, Failure> {
    let floor = floor(reader)?;
    if from < floor {
        return Err(Failure::Refused(StoreError::Compacted {
            requested: from,
            floor,
        }));
    }
    let newest = revision(reader)?.min(upto);
    let end = EntryId::first_of(newest.next()).to_key();
    let mut cursor = Cursor::new(
        reader,
        Map::Log,
        &EntryId::first_of(from).to_key(),
        Some(&end),
    );
    let mut history = History::default();
    let (mut scanned, mut bytes) = (0, 0);
    let mut last = from;
    while let Some((key, row)) = cursor.next()? {
        let id = EntryId::from_key(&key)?;
        if id.revision() != last
            && (scanned >= Budget::CHUNK.entries || bytes >= Budget::CHUNK.bytes)
        {
            history.upto = last;
            return Ok(history);
        }
        last = id.revision();
        scanned += 1;
        bytes += row.len();
        let row = LogRow::decode(id, row)?;
        if !bounds.contains(&row.kv.key) {
            continue;
        }
        let prev = if prev_kv {
            previous(reader, row.prev)?
        } else {
            None
        };
        push_event(&mut history.batches, event(row, prev));
    }
    history.upto = newest;
    history.complete = true;
    Ok(history)
}

/// A log entry as a watcher sees it.
pub(crate) fn event(row: LogRow, prev_kv: Option<KeyValue>) -> Event {
    Event {
        kind: match row.kind {
            EntryKind::Put => EventKind::Put,
            EntryKind::Tombstone => EventKind::Delete,
        },
        kv: row.kv,
        prev_kv,
    }
}

/// Adds an event to its revision's batch, which is the last one or a new one.
pub(crate) fn push_event(batches: &mut Vec<WatchBatch>, event: Event) {
    let revision = event.kv.mod_revision;
    match batches.last_mut() {
        Some(batch) if batch.revision == revision => batch.events.push(event),
        _ => batches.push(WatchBatch {
            revision,
            events: vec![event],
        }),
    }
}

/// The store's own invariants, which no integrity check of the file knows. What is wrong, a line each.
pub(crate) fn verify(reader: &dyn Reader) -> Result<Vec<String>, EngineError> {
    let mut wrong = Vec::new();
    let newest = revision(reader)?;
    let floor = floor(reader)?;
    if floor > newest {
        wrong.push(format!(
            "compacted to {floor}, but the newest revision is {newest}"
        ));
    }
    let mut leased = BTreeMap::<i64, u64>::new();
    let mut cursor = Cursor::new(reader, Map::Current, b"", None);
    while let Some((key, row)) = cursor.next()? {
        let row = CurrentRow::decode(&row)?;
        let shown = key.escape_ascii();
        match reader.get(Map::Log, &row.id.to_key())? {
            None => wrong.push(format!("key {shown} has no entry in the log")),
            Some(log) => {
                let log = LogRow::decode(row.id, log)?;
                let same = log.kind == EntryKind::Put
                    && log.kv.key == key
                    && log.kv.version == row.version
                    && log.kv.create_revision == row.create
                    && log.kv.lease == row.lease;
                if !same {
                    wrong.push(format!("key {shown} differs from its entry in the log"));
                }
            }
        }
        if row.lease.0 != 0 {
            *leased.entry(row.lease.0).or_default() += 1;
        }
    }
    let mut cursor = Cursor::new(reader, Map::Superseded, b"", None);
    while let Some((row_key, _)) = cursor.next()? {
        let (key, id) = superseded_parts(&row_key)?;
        if reader.get(Map::Log, &id.to_key())?.is_none() {
            wrong.push(format!(
                "an old version of key {} has no entry in the log",
                key.escape_ascii()
            ));
        }
    }
    for (lease, keys) in leased {
        let lease = lease.to_be_bytes();
        if reader.get(Map::Leases, &lease)?.is_none() {
            wrong.push(format!("{keys} keys hold a lease that isn't there"));
        }
        let end = crate::prefix_end(&lease);
        let end = (end.as_ref() != [0]).then_some(end.as_ref());
        if reader.count(Map::LeaseKeys, &lease, end)? != keys {
            wrong.push("a lease doesn't know all its keys".to_owned());
        }
    }
    Ok(wrong)
}
