//! What makes no sense whatever the store holds, refused before it is queued. The texts are etcd's.

use bytes::Bytes;

use crate::{Compare, CompareTarget, Delete, Op, Put, Range, StoreError, Txn};

const EMPTY_KEY: StoreError = StoreError::Invalid("key is not provided");
const DUPLICATE: StoreError = StoreError::Invalid("duplicate key given in txn request");

/// Transactions inside transactions, at most so deep.
const MAX_DEPTH: usize = 8;

/// Checks a transaction.
pub(crate) fn txn(txn: &Txn, max_bytes: usize) -> Result<(), StoreError> {
    let bytes = size(txn);
    if bytes > max_bytes {
        return Err(StoreError::TooLarge {
            bytes,
            limit: max_bytes,
        });
    }
    let mut writes = Writes::default();
    for branch in [&txn.success, &txn.failure] {
        let mut own = Writes::default();
        ops(branch, &mut own, 0)?;
        writes.merge(own);
    }
    compares(&txn.compares)
}

/// Checks a read.
pub(crate) fn range(range: &Range) -> Result<(), StoreError> {
    if range.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    Ok(())
}

fn compares(compares: &[Compare]) -> Result<(), StoreError> {
    if compares.iter().any(|compare| compare.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    Ok(())
}

/// Keys that a branch writes and ranges that it deletes: no key may be written twice or written and deleted, because
/// a revision holds one entry a key.
#[derive(Default)]
struct Writes {
    puts: std::collections::BTreeSet<Bytes>,
    deletes: Vec<crate::embedded::Bounds>,
}

impl Writes {
    fn put(&mut self, put: &Put) -> Result<(), StoreError> {
        if !self.puts.insert(put.key.clone())
            || self.deletes.iter().any(|range| range.contains(&put.key))
        {
            return Err(DUPLICATE);
        }
        Ok(())
    }

    fn delete(&mut self, delete: &Delete) -> Result<(), StoreError> {
        let bounds = crate::embedded::Bounds::new(&delete.key, delete.range_end.as_ref());
        if self
            .puts
            .range(delete.key.clone()..)
            .next()
            .is_some_and(|key| bounds.contains(key))
        {
            return Err(DUPLICATE);
        }
        self.deletes.push(bounds);
        Ok(())
    }

    /// What either branch may write, for the transaction around them.
    fn merge(&mut self, other: Writes) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }

    fn overlaps(&self, other: &Writes) -> bool {
        other.puts.iter().any(|key| {
            self.puts.contains(key) || self.deletes.iter().any(|range| range.contains(key))
        }) || self
            .puts
            .iter()
            .any(|key| other.deletes.iter().any(|range| range.contains(key)))
    }
}

fn ops(ops: &[Op], writes: &mut Writes, depth: usize) -> Result<(), StoreError> {
    for op in ops {
        match op {
            Op::Range(read) => range(read)?,
            Op::Put(put) => {
                if put.key.is_empty() {
                    return Err(EMPTY_KEY);
                }
                if put.ignore_value && !put.value.is_empty() {
                    return Err(StoreError::Invalid("value is provided"));
                }
                if put.ignore_lease && put.lease.0 != 0 {
                    return Err(StoreError::Invalid("lease is provided"));
                }
                writes.put(put)?;
            }
            Op::Delete(delete) => {
                if delete.key.is_empty() {
                    return Err(EMPTY_KEY);
                }
                writes.delete(delete)?;
            }
            Op::Txn(inner) => {
                if depth == MAX_DEPTH {
                    return Err(StoreError::Invalid("transactions are nested too deeply"));
                }
                compares(&inner.compares)?;
                let mut both = Writes::default();
                for branch in [&inner.success, &inner.failure] {
                    let mut own = Writes::default();
                    self::ops(branch, &mut own, depth + 1)?;
                    both.merge(own);
                }
                if writes.overlaps(&both) {
                    return Err(DUPLICATE);
                }
                writes.merge(both);
            }
        }
    }
    Ok(())
}

/// Bytes of keys and values.
pub(crate) fn size(txn: &Txn) -> usize {
    let compared: usize = txn
        .compares
        .iter()
        .map(|compare| {
            compare.key.len()
                + match &compare.target {
                    CompareTarget::Value(value) => value.len(),
                    _ => 8,
                }
        })
        .sum();
    let ops: usize = txn
        .success
        .iter()
        .chain(&txn.failure)
        .map(|op| match op {
            Op::Range(range) => range.key.len(),
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::Delete(delete) => delete.key.len(),
            Op::Txn(txn) => size(txn),
        })
        .sum();
    compared + ops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ops: Vec<Op>) -> Result<(), StoreError> {
        txn(&Txn::of(ops), 1 << 20)
    }

    fn put(key: &'static str) -> Op {
        Op::Put(Put::new(key, "v"))
    }

    #[test]
    fn a_key_can_be_written_only_once_in_a_transaction() {
        check(vec![put("a"), put("b"), Op::Delete(Delete::prefix("c"))]).unwrap();
        check(vec![put("a"), put("a")]).unwrap_err();
        check(vec![put("a"), Op::Delete(Delete::key("a"))]).unwrap_err();
        check(vec![Op::Delete(Delete::prefix("a")), put("ab")]).unwrap_err();
        check(vec![put("ab"), put("zz"), Op::Delete(Delete::prefix("a"))]).unwrap_err();
        let inner = |key| {
            Op::Txn(Txn {
                compares: vec![],
                success: vec![put(key)],
                failure: vec![put(key)],
            })
        };
        check(vec![put("a"), inner("b")]).unwrap();
        check(vec![put("a"), inner("a")]).unwrap_err();
        check(vec![inner("a"), inner("a")]).unwrap_err();
        check(vec![inner("a"), Op::Delete(Delete::prefix("a"))]).unwrap_err();
    }

    #[test]
    fn empty_keys_and_large_transactions_are_refused() {
        check(vec![put("")]).unwrap_err();
        check(vec![Op::Delete(Delete::key(""))]).unwrap_err();
        check(vec![Op::Range(Range::key(""))]).unwrap_err();
        let large = Txn::of([Op::Put(Put::new("k", vec![0; 100]))]);
        txn(&large, 101).unwrap();
        assert!(matches!(txn(&large, 100), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn nesting_has_an_end() {
        let mut inner = Txn::of([put("a")]);
        for _ in 0..=MAX_DEPTH {
            inner = Txn::of([Op::Txn(inner)]);
        }
        txn(&inner, 1 << 20).unwrap_err();
    }
}
