//! How the maps' keys and rows look as bytes. Fixed layouts, big-endian, so that order as bytes is order in time.

use bytes::Bytes;

use super::engine::EngineError;
use crate::{KeyValue, LeaseId, Revision};

/// Entries of one revision that an id has room for.
const SUB_BITS: u32 = 20;
/// What one transaction may change at most.
pub(crate) const MAX_ENTRIES: usize = 1 << SUB_BITS;

/// An entry's place in history: its revision, and its step within it. Zero is "no entry".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId(pub i64);

impl EntryId {
    pub const NONE: EntryId = EntryId(0);

    pub fn new(revision: Revision, sub: usize) -> EntryId {
        debug_assert!(sub < MAX_ENTRIES, "the transaction's size was checked");
        EntryId(revision.0 << SUB_BITS | sub as i64)
    }

    /// The revision's first possible entry.
    pub fn first_of(revision: Revision) -> EntryId {
        EntryId(revision.0.saturating_mul(1 << SUB_BITS))
    }

    pub fn revision(self) -> Revision {
        Revision(self.0 >> SUB_BITS)
    }

    pub fn to_key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub fn from_key(key: &[u8]) -> Result<EntryId, EngineError> {
        Ok(EntryId(i64::from_be_bytes(
            key.try_into().map_err(|_| broken("entry id"))?,
        )))
    }
}

/// The newest entry of a key, with all that a compare or a list of keys needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CurrentRow {
    pub id: EntryId,
    pub create: Revision,
    pub version: i64,
    pub lease: LeaseId,
}

impl CurrentRow {
    pub fn encode(&self) -> [u8; 32] {
        let mut row = [0; 32];
        row[..8].copy_from_slice(&self.id.0.to_be_bytes());
        row[8..16].copy_from_slice(&self.create.0.to_be_bytes());
        row[16..24].copy_from_slice(&self.version.to_be_bytes());
        row[24..].copy_from_slice(&self.lease.0.to_be_bytes());
        row
    }

    pub fn decode(row: &[u8]) -> Result<CurrentRow, EngineError> {
        let [id, create, version, lease] = numbers(row, "current row")?;
        Ok(CurrentRow {
            id: EntryId(id),
            create: Revision(create),
            version,
            lease: LeaseId(lease),
        })
    }

    /// The key without its value.
    pub fn key_value(&self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            value: Bytes::new(),
            create_revision: self.create,
            mod_revision: self.id.revision(),
            version: self.version,
            lease: self.lease,
        }
    }
}

/// Whether an entry wrote or deleted its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Put,
    Tombstone,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRow {
    pub kind: EntryKind,
    /// The entry of the same key before this one; none for a creation.
    pub prev: EntryId,
    /// For a tombstone only `key` and `mod_revision` are set.
    pub kv: KeyValue,
}

const LOG_HEADER: usize = 1 + 4 * 8 + 4;

impl LogRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(LOG_HEADER + self.kv.key.len() + self.kv.value.len());
        row.push(match self.kind {
            EntryKind::Put => 0,
            EntryKind::Tombstone => 1,
        });
        row.extend(self.prev.0.to_be_bytes());
        row.extend(self.kv.create_revision.0.to_be_bytes());
        row.extend(self.kv.version.to_be_bytes());
        row.extend(self.kv.lease.0.to_be_bytes());
        let key_len = u32::try_from(self.kv.key.len()).expect("a transaction's size is limited");
        row.extend(key_len.to_be_bytes());
        row.extend_from_slice(&self.kv.key);
        row.extend_from_slice(&self.kv.value);
        row
    }

    pub fn decode(id: EntryId, row: Vec<u8>) -> Result<LogRow, EngineError> {
        let (kind, rest) = match row.split_first() {
            Some((0, rest)) => (EntryKind::Put, rest),
            Some((1, rest)) => (EntryKind::Tombstone, rest),
            _ => return Err(broken("log row")),
        };
        let header = rest.get(..32).ok_or_else(|| broken("log row"))?;
        let [prev, create, version, lease] = numbers(header, "log row")?;
        let key_len = rest
            .get(32..36)
            .and_then(|len| len.try_into().ok())
            .map(u32::from_be_bytes)
            .ok_or_else(|| broken("log row"))? as usize;
        if row.len() < LOG_HEADER + key_len {
            return Err(broken("log row"));
        }
        // Key and value share the row's allocation.
        let row = Bytes::from(row);
        Ok(LogRow {
            kind,
            prev: EntryId(prev),
            kv: KeyValue {
                key: row.slice(LOG_HEADER..LOG_HEADER + key_len),
                value: row.slice(LOG_HEADER + key_len..),
                create_revision: Revision(create),
                mod_revision: id.revision(),
                version,
                lease: LeaseId(lease),
            },
        })
    }
}

/// A lease's times, in milliseconds of the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub ttl_ms: i64,
    pub deadline_ms: i64,
}

impl LeaseRow {
    pub fn encode(&self) -> [u8; 16] {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&self.ttl_ms.to_be_bytes());
        row[8..].copy_from_slice(&self.deadline_ms.to_be_bytes());
        row
    }

    pub fn decode(row: &[u8]) -> Result<LeaseRow, EngineError> {
        let [ttl_ms, deadline_ms] = numbers(row, "lease")?;
        Ok(LeaseRow {
            ttl_ms,
            deadline_ms,
        })
    }
}

/// The key of a superseded entry. The user's key is escaped, so that no key's entries lie among another's: a zero
/// byte becomes `00 ff`, and `00 00` ends it.
pub(crate) fn superseded_key(key: &[u8], id: EntryId) -> Vec<u8> {
    let mut out = superseded_start(key);
    out.extend([0, 0]);
    out.extend(id.to_key());
    out
}

/// Where the entries of `key` and of everything after it start.
pub(crate) fn superseded_start(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 10);
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out
}

/// The user's key and the entry of a superseded row's key.
pub(crate) fn superseded_parts(row_key: &[u8]) -> Result<(Bytes, EntryId), EngineError> {
    let split = row_key
        .len()
        .checked_sub(10)
        .ok_or_else(|| broken("superseded row"))?;
    let id = EntryId::from_key(&row_key[split + 2..])?;
    let mut key = Vec::with_capacity(split);
    let mut escaped = row_key[..split].iter();
    while let Some(&byte) = escaped.next() {
        key.push(byte);
        if byte == 0 {
            escaped.next();
        }
    }
    Ok((key.into(), id))
}

/// The key of a lease's hold on a key.
pub(crate) fn lease_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend(lease.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// A number of the store's own.
pub(crate) fn number(row: &[u8]) -> Result<i64, EngineError> {
    Ok(i64::from_be_bytes(
        row.try_into().map_err(|_| broken("number"))?,
    ))
}

fn numbers<const N: usize>(row: &[u8], what: &str) -> Result<[i64; N], EngineError> {
    if row.len() != N * 8 {
        return Err(broken(what));
    }
    let mut out = [0; N];
    for (number, bytes) in out.iter_mut().zip(row.chunks_exact(8)) {
        *number = i64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
    }
    Ok(out)
}

pub(crate) fn broken(what: &str) -> EngineError {
    EngineError::Fatal(format!("a {what} in the database makes no sense"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went_in() {
        let id = EntryId::new(Revision(77), 3);
        let log = LogRow {
            kind: EntryKind::Put,
            prev: EntryId(5),
            kv: KeyValue {
                key: "k".into(),
                value: "v\0w".into(),
                create_revision: Revision(4),
                mod_revision: Revision(77),
                version: 9,
                lease: LeaseId(-3),
            },
        };
        assert_eq!(LogRow::decode(id, log.encode()).unwrap(), log);
        let current = CurrentRow {
            id,
            create: Revision(4),
            version: 9,
            lease: LeaseId(1),
        };
        assert_eq!(CurrentRow::decode(&current.encode()).unwrap(), current);
        for cut in 0..LOG_HEADER {
            assert!(LogRow::decode(id, log.encode()[..cut].to_vec()).is_err());
        }
    }

    #[test]
    fn superseded_keys_sort_by_key_then_entry() {
        let keys: [&[u8]; 6] = [b"a", b"a\0", b"a\0\0", b"a\0b", b"a\x01", b"b"];
        let mut last = Vec::new();
        for key in keys {
            for id in [1, 2] {
                let row = superseded_key(key, EntryId(id));
                assert!(row > last, "{key:?} {id}");
                assert_eq!(
                    superseded_parts(&row).unwrap(),
                    (Bytes::copy_from_slice(key), EntryId(id))
                );
                assert!(row >= superseded_start(key));
                last = row;
            }
        }
    }
}
