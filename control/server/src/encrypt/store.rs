//! The store as everything in this crate sees it: sealing what goes in, opening what comes out.

use std::{sync::Arc, time::Duration};

use kernelet_store::{
    KeyValue, LeaseId, LeaseStatus, Op, OpResponse, Range, RangeResponse, Revision, Store,
    StoreError, Txn, TxnResponse, Watch, WatchBatch, WatchError, Watcher,
};

use super::Encryption;

/// A [`Store`] whose secret values are sealed. Without keys it passes everything through.
#[derive(Clone)]
pub struct SealedStore {
    store: Store,
    keys: Option<Arc<Encryption>>,
}

/// A watcher of it.
pub struct SealedWatcher {
    watcher: Watcher,
    keys: Option<Arc<Encryption>>,
}

impl SealedStore {
    pub fn new(store: Store, keys: Option<Arc<Encryption>>) -> SealedStore {
        SealedStore { store, keys }
    }

    /// See [`Store::range`]. A value that can't be opened fails the whole read.
    pub async fn range(&self, range: Range) -> Result<RangeResponse, StoreError> {
        let mut response = self.store.range(range).await?;
        self.open_all(&mut response.kvs)?;
        Ok(response)
    }

    /// The same as it is stored: sealed.
    pub(super) async fn range_sealed(&self, range: Range) -> Result<RangeResponse, StoreError> {
        self.store.range(range).await
    }

    /// See [`Store::txn`].
    pub async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, StoreError> {
        let Some(keys) = &self.keys else {
            return self.store.txn(txn).await;
        };
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            seal(keys, op)?;
        }
        let mut response = self.store.txn(txn).await?;
        for answer in &mut response.responses {
            match answer {
                OpResponse::Range(range) => self.open_all(&mut range.kvs)?,
                OpResponse::Put(put) => {
                    if let Some(kv) = &mut put.prev_kv {
                        self.open(kv)?;
                    }
                }
                OpResponse::Delete(delete) => self.open_all(&mut delete.prev_kvs)?,
                // Nothing that this crate writes nests transactions.
                _ => {}
            }
        }
        Ok(response)
    }

    /// See [`Store::watch`].
    pub fn watch(&self, watch: Watch) -> Result<SealedWatcher, WatchError> {
        Ok(SealedWatcher {
            watcher: self.store.watch(watch)?,
            keys: self.keys.clone(),
        })
    }

    /// See [`Store::compact`].
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }

    /// See [`Store::lease_grant`].
    pub async fn lease_grant(
        &self,
        id: Option<LeaseId>,
        life: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        self.store.lease_grant(id, life).await
    }

    /// See [`Store::revision`].
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    pub(super) fn keys(&self) -> Option<&Arc<Encryption>> {
        self.keys.as_ref()
    }

    fn open_all(&self, kvs: &mut [KeyValue]) -> Result<(), StoreError> {
        kvs.iter_mut().try_for_each(|kv| self.open(kv))
    }

    pub(super) fn open(&self, kv: &mut KeyValue) -> Result<(), StoreError> {
        match &self.keys {
            Some(keys) => {
                open(keys, kv).map_err(|error| StoreError::Read(error.to_string().into()))
            }
            None => Ok(()),
        }
    }
}

impl SealedWatcher {
    /// See [`Watcher::next`]. A value that can't be opened stays sealed, and is then unreadable to whoever gets it:
    /// other values must not wait for a key that another server was given before this one.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        let mut batch = self.watcher.next().await?;
        if let Some(keys) = &self.keys {
            for event in &mut batch.events {
                let kvs = [Some(&mut event.kv), event.prev_kv.as_mut()];
                for kv in kvs.into_iter().flatten() {
                    if let Err(error) = open(keys, kv) {
                        tracing::error!(%error, "a value that changed can't be read");
                    }
                }
            }
        }
        Ok(batch)
    }
}

fn open(keys: &Encryption, kv: &mut KeyValue) -> Result<(), super::EncryptionError> {
    // Whatever is sealed is opened: the list of what is to be may have been longer once.
    if let Some(plain) = keys.open(&kv.key, &kv.value)? {
        kv.value = plain.into();
    }
    Ok(())
}

fn seal(keys: &Encryption, op: &mut Op) -> Result<(), StoreError> {
    if let Op::Put(put) = op
        && keys.covers(&put.key)
    {
        let sealed = keys
            .seal(&put.key, &put.value)
            .map_err(|error| StoreError::Read(error.to_string().into()))?;
        put.value = sealed.into();
    }
    Ok(())
}
