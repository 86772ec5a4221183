//! ResourceQuota: a write is charged to its namespace's quotas in the transaction that stores it.
//!
//! ```text
//! lock the namespace → read its quotas from the store → room? → one transaction: the quotas are as they were read,
//! their usage goes up, the object is stored → unlock
//! ```
//!
//! So no two writes ever share the same room, and a write that fails costs nothing; upstream writes the usage first
//! and has its controller take back what was never stored. The lock is only for speed: the transaction's compares
//! are what keeps other servers and the quota controller out, and without the lock parallel creations would mostly
//! make each other try again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use jiff::Timestamp;
use kernelet_api::{
    ApiError, Value,
    quota::{self, Change, Counter},
};
use kernelet_store::{Compare, Key, Op, Put, Range, Revision, Txn};
use tokio::sync::OwnedMutexGuard;

use crate::{
    cache::{self, CachedObject, KeyRange},
    handler::{WriteRequest, store_error},
    registry::Stored,
};

type Turn = tokio::sync::Mutex<()>;

/// Whose turn it is to be charged, a lock for each namespace with quotas.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Weak<Turn>>>);

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match turns.get(namespace).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    turns.retain(|_, turn| turn.strong_count() > 0);
                    let turn = Arc::new(Turn::default());
                    turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

/// What a write costs: the quotas as they were read and as they are to be.
#[derive(Debug, Default)]
pub struct Charges {
    quotas: Vec<Charged>,
    _turn: Option<OwnedMutexGuard<()>>,
}

#[derive(Debug)]
struct Charged {
    key: Key,
    read: Revision,
    bytes: Vec<u8>,
}

impl Charges {
    /// Refuses the write when a quota has no room for it. `old` is there for updates.
    pub async fn of(
        request: &WriteRequest<'_>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<Charges, ApiError> {
        let (group, plural) = request.served.names();
        let Some(counter) = Counter::of(group, plural).filter(|_| !request.namespace.is_empty())
        else {
            return Ok(Charges::default());
        };
        let change = Change {
            subresource: request.subresource.unwrap_or_default(),
            new,
            old,
            now: Timestamp::now(),
        };
        if !counter.handles(change.subresource, new, old) {
            return Ok(Charges::default());
        }
        let Some(served) = request.snapshot.get("", "resourcequotas") else {
            return Ok(Charges::default());
        };
        let Some(stored) = &served.stored else {
            return Ok(Charges::default());
        };
        let range = KeyRange {
            namespace: request.namespace,
            after: "",
        };
        let (known, _) = stored.cache.list(range, 0, |_| true);
        if known.is_empty() {
            return Ok(Charges::default());
        }
        let turn = request.state.quota_turns.take(request.namespace).await;
        let mut read: Vec<Arc<CachedObject>> = Vec::new();
        for quota in known {
            let key = stored.store_key(&quota.key);
            let store = &request.state.store;
            let answer = store.range(Range::key(key)).await.map_err(store_error)?;
            let kv = answer.kvs.first();
            read.extend(kv.and_then(|kv| cache::from_kv(kv, &quota.key, &stored.indexer)));
        }
        let trees: Vec<Value> = read.iter().map(|quota| quota.tree()).collect();
        let refs: Vec<&Value> = trees.iter().collect();
        let charged = quota::charge(&refs, &counter, change).map_err(|why| {
            ApiError::forbidden(group, plural, kernelet_api::meta::name(new), why)
        })?;
        if charged.is_empty() {
            return Ok(Charges::default());
        }
        let writer = WriteRequest {
            state: request.state,
            snapshot: request.snapshot,
            served,
            version: "v1",
            user: request.user,
            namespace: request.namespace,
            subresource: Some("status"),
            dry_run: request.dry_run,
            manager: String::new(),
            pipeline: request.pipeline,
            notes: None,
        };
        let mut charges = Charges {
            quotas: Vec::new(),
            _turn: Some(turn),
        };
        for (place, used) in charged {
            let mut tree = trees[place].clone();
            tree["status"]["used"] = quota::to_value(&used);
            charges.quotas.push(Charged {
                key: store_key(stored, &read[place]),
                read: Revision(read[place].revision),
                bytes: writer.stored_bytes(tree)?,
            });
        }
        Ok(charges)
    }

    /// Adds the charges to the write's transaction.
    pub fn add_to(&self, txn: &mut Txn) {
        for quota in &self.quotas {
            let (key, bytes) = (quota.key.clone(), quota.bytes.clone());
            txn.compares
                .push(Compare::mod_revision(key.clone(), quota.read));
            txn.success.push(Op::Put(Put::new(key, bytes)));
        }
    }
}

fn store_key(stored: &Stored, quota: &CachedObject) -> Key {
    stored.store_key(&quota.key)
}
