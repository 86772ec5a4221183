//! The writer's side of the maps: a deterministic `apply` of ordered entries.
//!
//! ```text
//! entries + time → apply → answers, changes        (inside one batch of the engine)
//! ```
//! Time comes in as an argument and expiry is an entry like any other, so that the same entries always give the
//! same store. It never decides when to sync, and knows no threads: that is `writer`.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    engine::{Budget, Engine, EngineError, Map},
    read::{self, Bounds, CLOCK, FLOOR, Failure, SWEPT},
    rows::{
        CurrentRow, EntryId, EntryKind, LeaseRow, LogRow, MAX_ENTRIES, lease_key, superseded_key,
    },
};
use crate::{
    Compare, CompareOp, CompareTarget, Delete, DeleteResponse, KeyValue, LeaseId, LeaseStatus, Op,
    OpResponse, Put, PutResponse, Revision, StoreError, Txn, TxnResponse,
};

/// How much later than it says the stored clock may be: what a restart adds to a lease at most.
const CLOCK_STEP_MS: i64 = 60_000;

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Txn(Txn),
    Grant {
        id: LeaseId,
        ttl: Duration,
    },
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    /// Ends a lease if its time is over.
    Expire(LeaseId),
    /// Makes a revision the oldest that can be read.
    Compact(Revision),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Txn(TxnResponse),
    Lease(LeaseStatus),
    KeptAlive(Duration),
    Revision(Revision),
}

/// What a batch did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub answers: Vec<Result<Answer, StoreError>>,
    /// For the watchers, in order.
    pub changes: Vec<LogRow>,
    /// There is something to commit.
    pub written: bool,
}

/// The store's state as the writer keeps it in memory; all of it can be read again from the engine.
pub(crate) struct Mvcc<E> {
    pub engine: E,
    pub revision: Revision,
    pub floor: Revision,
    /// Superseded entries below the floor have been removed up to here.
    swept: EntryId,
    /// The store's clock when it was last written.
    pub clock_ms: i64,
    /// Every lease by the time it ends.
    deadlines: BTreeSet<(i64, LeaseId)>,
}

impl<E: Engine> Mvcc<E> {
    pub fn load(engine: E) -> Result<Mvcc<E>, EngineError> {
        let mut mvcc = Mvcc {
            engine,
            revision: Revision::ZERO,
            floor: Revision::ZERO,
            swept: EntryId::NONE,
            clock_ms: 0,
            deadlines: BTreeSet::new(),
        };
        mvcc.reload()?;
        Ok(mvcc)
    }

    /// Takes everything from the engine again, after a batch was rolled back.
    pub fn reload(&mut self) -> Result<(), EngineError> {
        self.revision = read::revision(&self.engine)?;
        self.floor = read::floor(&self.engine)?;
        self.swept = EntryId(read::meta(&self.engine, SWEPT)?.unwrap_or(0));
        self.clock_ms = read::meta(&self.engine, CLOCK)?.unwrap_or(0);
        self.deadlines.clear();
        let mut start = Vec::new();
        loop {
            let scan = self.engine.scan(Map::Leases, &start, None, Budget::CHUNK)?;
            for (key, row) in &scan.pairs {
                let id = LeaseId(super::rows::number(key)?);
                self.deadlines
                    .insert((LeaseRow::decode(row)?.deadline_ms, id));
            }
            match scan.pairs.last() {
                Some((last, _)) if scan.more => start = [last, [0].as_slice()].concat(),
                _ => return Ok(()),
            }
        }
    }

    /// When the next lease ends, on the store's clock.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases that have ended by `now_ms`, at most `limit`.
    pub fn expired(&self, now_ms: i64, limit: usize) -> Vec<Entry> {
        self.deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now_ms)
            .take(limit)
            .map(|(_, id)| Entry::Expire(*id))
            .collect()
    }

    /// Carries out `entries` in order, within the engine's open batch. On an error the batch must be rolled back and
    /// the state loaded again; an entry that is refused has changed nothing.
    pub fn apply(&mut self, now_ms: i64, entries: &[Entry]) -> Result<Applied, EngineError> {
        let mut applied = Applied::default();
        for entry in entries {
            let answer = match self.entry(now_ms, entry, &mut applied) {
                Ok(answer) => Ok(answer),
                Err(Failure::Refused(error)) => Err(error),
                Err(Failure::Engine(error)) => return Err(error),
            };
            applied.answers.push(answer);
        }
        if applied.written && now_ms - self.clock_ms >= CLOCK_STEP_MS {
            self.write_clock(now_ms)?;
        }
        Ok(applied)
    }

    fn entry(
        &mut self,
        now_ms: i64,
        entry: &Entry,
        applied: &mut Applied,
    ) -> Result<Answer, Failure> {
        match entry {
            Entry::Txn(txn) => Ok(Answer::Txn(self.txn(txn, applied)?)),
            Entry::Grant { id, ttl } => {
                let granted = self.grant(now_ms, *id, *ttl)?;
                applied.written = true;
                Ok(Answer::Lease(granted))
            }
            Entry::KeepAlive(id) => {
                let mut row = self.lease(*id)?;
                self.deadlines.remove(&(row.deadline_ms, *id));
                row.deadline_ms = now_ms.saturating_add(row.ttl_ms);
                self.deadlines.insert((row.deadline_ms, *id));
                self.engine
                    .put(Map::Leases, &id.0.to_be_bytes(), &row.encode())?;
                self.write_clock(now_ms)?;
                applied.written = true;
                Ok(Answer::KeptAlive(ms(row.ttl_ms)))
            }
            Entry::Revoke(id) => {
                let row = self.lease(*id)?;
                self.end_lease(*id, row, applied)?;
                Ok(Answer::Revision(self.revision))
            }
            Entry::Expire(id) => {
                let row = self.lease(*id)?;
                // Kept alive by an entry before this one?
                if row.deadline_ms <= now_ms {
                    self.end_lease(*id, row, applied)?;
                }
                Ok(Answer::Revision(self.revision))
            }
            Entry::Compact(to) => {
                if *to > self.revision {
                    return Err(StoreError::FutureRevision {
                        requested: *to,
                        current: self.revision,
                    }
                    .into());
                }
                if *to <= self.floor {
                    return Err(StoreError::Compacted {
                        requested: *to,
                        floor: self.floor,
                    }
                    .into());
                }
                // Only the floor now. Removing what is below it comes in later batches, so that no read at a
                // revision that still counts as readable ever misses something.
                self.engine.put(Map::Meta, FLOOR, &to.0.to_be_bytes())?;
                self.swept = self.swept.min(EntryId::first_of(self.floor));
                self.floor = *to;
                applied.written = true;
                Ok(Answer::Revision(*to))
            }
        }
    }

    fn txn(&mut self, txn: &Txn, applied: &mut Applied) -> Result<TxnResponse, Failure> {
        let mut path = Vec::new();
        self.decide(txn, &mut path)?;
        self.admit(txn, &mut path.iter().copied())?;
        let mut step = Step {
            revision: self.revision.next(),
            sub: 0,
            changes: &mut applied.changes,
        };
        let response = self.execute(txn, &mut path.into_iter(), &mut step)?;
        if step.sub > 0 {
            self.revision = step.revision;
            applied.written = true;
        }
        Ok(response)
    }

    /// Which branch each transaction in `txn` takes, outermost first, all judged before the first write.
    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) -> Result<(), EngineError> {
        let mut holds = true;
        for compare in &txn.compares {
            holds = holds && self.holds(compare)?;
        }
        path.push(holds);
        for op in branch(txn, holds) {
            if let Op::Txn(inner) = op {
                self.decide(inner, path)?;
            }
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> Result<bool, EngineError> {
        let bounds = Bounds::new(&compare.key, compare.range_end.as_ref());
        if let Some(key) = bounds.single() {
            let row = read::current(&self.engine, key)?;
            return self.row_holds(row.as_ref(), compare);
        }
        let mut start = bounds.start.to_vec();
        let mut any = false;
        loop {
            let scan =
                self.engine
                    .scan(Map::Current, &start, bounds.end.as_deref(), Budget::CHUNK)?;
            for (_, row) in &scan.pairs {
                any = true;
                if !self.row_holds(Some(&CurrentRow::decode(row)?), compare)? {
                    return Ok(false);
                }
            }
            match scan.pairs.last() {
                Some((last, _)) if scan.more => start = [last, [0].as_slice()].concat(),
                _ => break,
            }
        }
        if any {
            Ok(true)
        } else {
            self.row_holds(None, compare)
        }
    }

    fn row_holds(&self, row: Option<&CurrentRow>, compare: &Compare) -> Result<bool, EngineError> {
        let order = match (&compare.target, row) {
            (CompareTarget::Value(_), None) => return Ok(false),
            (CompareTarget::Value(value), Some(row)) => {
                read::entry(&self.engine, row.id)?.kv.value.cmp(value)
            }
            (CompareTarget::Version(to), row) => row.map_or(0, |row| row.version).cmp(to),
            (CompareTarget::Create(to), row) => {
                row.map_or(Revision::ZERO, |row| row.create).cmp(to)
            }
            (CompareTarget::Mod(to), row) => {
                row.map_or(Revision::ZERO, |row| row.id.revision()).cmp(to)
            }
            (CompareTarget::Lease(to), row) => row.map_or(LeaseId::NONE, |row| row.lease).cmp(to),
        };
        Ok(match compare.op {
            CompareOp::Equal => order.is_eq(),
            CompareOp::NotEqual => order.is_ne(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::Less => order.is_lt(),
        })
    }

    /// Everything that could make a step fail, judged before the first write: a transaction is refused whole.
    fn admit(&self, txn: &Txn, path: &mut dyn Iterator<Item = bool>) -> Result<(), Failure> {
        let mut deletions = 0;
        let mut puts = 0;
        self.admit_branch(txn, path, &mut puts, &mut deletions)?;
        if puts + deletions >= MAX_ENTRIES as u64 {
            return Err(StoreError::Invalid("too many changes in one transaction").into());
        }
        Ok(())
    }

    fn admit_branch(
        &self,
        txn: &Txn,
        path: &mut dyn Iterator<Item = bool>,
        puts: &mut u64,
        deletions: &mut u64,
    ) -> Result<(), Failure> {
        for op in branch(txn, next(path)) {
            match op {
                Op::Range(range) => {
                    if let Some(at) = range.revision {
                        read::readable(at, self.revision, self.floor)?;
                    }
                }
                Op::Put(put) => {
                    *puts += 1;
                    if put.lease != LeaseId::NONE {
                        self.lease(put.lease)?;
                    }
                    if (put.ignore_value || put.ignore_lease)
                        && read::current(&self.engine, &put.key)?.is_none()
                    {
                        return Err(StoreError::Invalid("key not found").into());
                    }
                }
                Op::Delete(delete) if delete.range_end.is_none() => *deletions += 1,
                Op::Delete(delete) => {
                    let bounds = Bounds::new(&delete.key, delete.range_end.as_ref());
                    *deletions +=
                        self.engine
                            .count(Map::Current, &bounds.start, bounds.end.as_deref())?;
                }
                Op::Txn(inner) => self.admit_branch(inner, path, puts, deletions)?,
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        txn: &Txn,
        path: &mut dyn Iterator<Item = bool>,
        step: &mut Step<'_>,
    ) -> Result<TxnResponse, Failure> {
        let succeeded = next(path);
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Range(range) => {
                    let now = if step.sub > 0 {
                        step.revision
                    } else {
                        self.revision
                    };
                    OpResponse::Range(read::range(&self.engine, range, now, self.floor)?)
                }
                Op::Put(put) => OpResponse::Put(self.put(put, step)?),
                Op::Delete(delete) => OpResponse::Delete(self.delete(delete, step)?),
                Op::Txn(inner) => OpResponse::Txn(self.execute(inner, path, step)?),
            });
        }
        Ok(TxnResponse {
            revision: if step.sub > 0 {
                step.revision
            } else {
                self.revision
            },
            succeeded,
            responses,
        })
    }

    fn put(&mut self, put: &Put, step: &mut Step<'_>) -> Result<PutResponse, EngineError> {
        let before = read::current(&self.engine, &put.key)?;
        let before_kv = match &before {
            Some(row) if put.prev_kv || put.ignore_value => {
                Some(read::entry(&self.engine, row.id)?.kv)
            }
            _ => None,
        };
        let old_lease = before.map_or(LeaseId::NONE, |row| row.lease);
        let row = CurrentRow {
            id: step.next_id(),
            create: before.map_or(step.revision, |row| row.create),
            version: before.map_or(0, |row| row.version) + 1,
            lease: if put.ignore_lease {
                old_lease
            } else {
                put.lease
            },
        };
        let mut kv = row.key_value(put.key.clone());
        kv.value = match &before_kv {
            Some(before) if put.ignore_value => before.value.clone(),
            _ => put.value.clone(),
        };
        if let Some(before) = &before {
            self.supersede(&put.key, before.id, EntryKind::Put)?;
        }
        if row.lease != old_lease {
            if old_lease != LeaseId::NONE {
                self.engine
                    .remove(Map::LeaseKeys, &lease_key(old_lease, &put.key))?;
            }
            if row.lease != LeaseId::NONE {
                self.engine
                    .put(Map::LeaseKeys, &lease_key(row.lease, &put.key), b"")?;
            }
        }
        self.engine.put(Map::Current, &put.key, &row.encode())?;
        let prev = before.map_or(EntryId::NONE, |row| row.id);
        self.log(
            row.id,
            LogRow {
                kind: EntryKind::Put,
                prev,
                kv,
            },
            step,
        )?;
        Ok(PutResponse {
            prev_kv: before_kv.filter(|_| put.prev_kv),
        })
    }

    fn delete(
        &mut self,
        delete: &Delete,
        step: &mut Step<'_>,
    ) -> Result<DeleteResponse, EngineError> {
        let bounds = Bounds::new(&delete.key, delete.range_end.as_ref());
        let mut response = DeleteResponse::default();
        if bounds.is_empty() {
            return Ok(response);
        }
        // What a chunk deleted is gone, so the next chunk starts where the first did.
        loop {
            let scan = self.engine.scan(
                Map::Current,
                &bounds.start,
                bounds.end.as_deref(),
                Budget::CHUNK,
            )?;
            for (key, row) in scan.pairs {
                let row = CurrentRow::decode(&row)?;
                if delete.prev_kv {
                    response
                        .prev_kvs
                        .push(read::entry(&self.engine, row.id)?.kv);
                }
                self.remove(key.into(), &row, step)?;
                response.deleted += 1;
            }
            if !scan.more {
                return Ok(response);
            }
        }
    }

    fn remove(
        &mut self,
        key: Bytes,
        row: &CurrentRow,
        step: &mut Step<'_>,
    ) -> Result<(), EngineError> {
        let id = step.next_id();
        self.supersede(&key, row.id, EntryKind::Put)?;
        self.supersede(&key, id, EntryKind::Tombstone)?;
        if row.lease != LeaseId::NONE {
            self.engine
                .remove(Map::LeaseKeys, &lease_key(row.lease, &key))?;
        }
        self.engine.remove(Map::Current, &key)?;
        let kv = KeyValue {
            key,
            mod_revision: step.revision,
            ..KeyValue::default()
        };
        let tombstone = LogRow {
            kind: EntryKind::Tombstone,
            prev: row.id,
            kv,
        };
        self.log(id, tombstone, step)
    }

    fn supersede(&self, key: &[u8], id: EntryId, kind: EntryKind) -> Result<(), EngineError> {
        let flag = match kind {
            EntryKind::Put => 0,
            EntryKind::Tombstone => 1,
        };
        self.engine
            .put(Map::Superseded, &superseded_key(key, id), &[flag])
    }

    fn log(&self, id: EntryId, row: LogRow, step: &mut Step<'_>) -> Result<(), EngineError> {
        self.engine.put(Map::Log, &id.to_key(), &row.encode())?;
        step.changes.push(row);
        Ok(())
    }

    fn lease(&self, id: LeaseId) -> Result<LeaseRow, Failure> {
        match self.engine.get(Map::Leases, &id.0.to_be_bytes())? {
            Some(row) => Ok(LeaseRow::decode(&row)?),
            None => Err(StoreError::LeaseNotFound(id).into()),
        }
    }

    fn grant(&mut self, now_ms: i64, id: LeaseId, ttl: Duration) -> Result<LeaseStatus, Failure> {
        let key = id.0.to_be_bytes();
        if self.engine.get(Map::Leases, &key)?.is_some() {
            return Err(StoreError::LeaseExists(id).into());
        }
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        let row = LeaseRow {
            ttl_ms,
            deadline_ms: now_ms.saturating_add(ttl_ms),
        };
        self.engine.put(Map::Leases, &key, &row.encode())?;
        self.write_clock(now_ms)?;
        self.deadlines.insert((row.deadline_ms, id));
        Ok(LeaseStatus {
            id,
            granted: ttl,
            remaining: ttl,
            keys: Vec::new(),
        })
    }

    /// Deletes a lease's keys in one revision (more only when they are too many for one), and the lease.
    fn end_lease(
        &mut self,
        id: LeaseId,
        row: LeaseRow,
        applied: &mut Applied,
    ) -> Result<(), EngineError> {
        let start = id.0.to_be_bytes();
        let end = crate::prefix_end(&start);
        let end = (end.as_ref() != [0]).then_some(end);
        loop {
            let mut step = Step {
                revision: self.revision.next(),
                sub: 0,
                changes: &mut applied.changes,
            };
            let mut more = true;
            while more && step.sub + Budget::CHUNK.entries < MAX_ENTRIES {
                let scan =
                    self.engine
                        .scan(Map::LeaseKeys, &start, end.as_deref(), Budget::CHUNK)?;
                more = scan.more;
                for (hold, _) in scan.pairs {
                    let key = Bytes::copy_from_slice(&hold[start.len()..]);
                    let row = read::current(&self.engine, &key)?
                        .ok_or_else(|| super::rows::broken("lease's key"))?;
                    self.remove(key, &row, &mut step)?;
                }
            }
            if step.sub > 0 {
                self.revision = step.revision;
            }
            if !more {
                break;
            }
        }
        self.engine.remove(Map::Leases, &start)?;
        self.deadlines.remove(&(row.deadline_ms, id));
        applied.written = true;
        Ok(())
    }

    pub fn write_clock(&mut self, now_ms: i64) -> Result<(), EngineError> {
        self.engine.put(Map::Meta, CLOCK, &now_ms.to_be_bytes())?;
        self.clock_ms = now_ms;
        Ok(())
    }

    /// There are entries below the floor to remove.
    pub fn sweep_due(&self) -> bool {
        self.floor > Revision::ZERO && self.swept < EntryId::first_of(self.floor.next())
    }

    /// Removes some of what no revision from the floor on can see, within the engine's open batch: whatever an entry
    /// up to the floor superseded, and the tombstones below it. Doing a piece twice changes nothing.
    ///
    /// Entries *of* the floor's revision stay, tombstones included: a watch may start there.
    pub fn sweep(&mut self) -> Result<(), EngineError> {
        let end = EntryId::first_of(self.floor.next());
        let scan = self.engine.scan(
            Map::Log,
            &self.swept.to_key(),
            Some(&end.to_key()),
            SWEEP_BUDGET,
        )?;
        for (key, row) in &scan.pairs {
            let id = EntryId::from_key(key)?;
            let row = LogRow::decode(id, row.clone())?;
            if row.prev != EntryId::NONE {
                self.forget(&row.kv.key, row.prev)?;
            }
            if row.kind == EntryKind::Tombstone && id.revision() < self.floor {
                self.forget(&row.kv.key, id)?;
            }
        }
        let reached = match scan.pairs.last() {
            Some((last, _)) if scan.more => EntryId(EntryId::from_key(last)?.0 + 1),
            _ => end,
        };
        // The next compaction has to look at the floor's own revision again, for its tombstones.
        self.engine.put(
            Map::Meta,
            SWEPT,
            &reached.min(EntryId::first_of(self.floor)).0.to_be_bytes(),
        )?;
        self.swept = reached;
        Ok(())
    }

    fn forget(&self, key: &[u8], id: EntryId) -> Result<(), EngineError> {
        self.engine.remove(Map::Log, &id.to_key())?;
        self.engine
            .remove(Map::Superseded, &superseded_key(key, id))
    }
}

/// A sweep shares its batch with clients' writes, so it takes little at a time.
const SWEEP_BUDGET: Budget = Budget {
    entries: 256,
    bytes: 1 << 20,
};

/// A revision in the making.
struct Step<'a> {
    revision: Revision,
    sub: usize,
    changes: &'a mut Vec<LogRow>,
}

impl Step<'_> {
    fn next_id(&mut self) -> EntryId {
        let id = EntryId::new(self.revision, self.sub);
        self.sub += 1;
        id
    }
}

fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

fn next(path: &mut dyn Iterator<Item = bool>) -> bool {
    path.next().expect("decide went the same way")
}

pub(crate) fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
