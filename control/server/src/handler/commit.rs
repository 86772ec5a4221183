//! Between the pipeline and the store: an object's stored form, its newest state, and what became of a write.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use kernelet_api::{ApiError, Value, meta, prune};
use kernelet_store::{LeaseId, OpResponse, Range, Revision, TxnResponse};

use super::{read::store_error, write::Request};
use crate::{
    cache::{self, CachedObject},
    registry::Stored,
};

/// An answered write is in the cache, unless that takes longer than this.
const CATCH_UP: Duration = Duration::from_secs(2);

impl Request<'_> {
    /// Notes what the client should be told.
    pub(super) fn warn<W>(&self, about: impl FnOnce() -> W)
    where
        W: IntoIterator<Item = String>,
    {
        // Whoever isn't told may still have done something with the object.
        let told = about();
        if let Some(notes) = self.notes {
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.warnings.extend(told);
        }
    }

    /// An object's stored form.
    pub(crate) fn stored_bytes(&self, object: Value) -> Result<Vec<u8>, ApiError> {
        let stored = self.stored()?;
        let mut object = self
            .served
            .resource
            .convert(object, &stored.gvk)
            .map_err(ApiError::internal)?;
        let schema = &self.snapshot.api.schema;
        if let Some(ty) = schema.by_gvk(&stored.gvk) {
            prune::canonicalize(schema, ty, &mut object);
            prune::write_nulls(schema, ty, &mut object);
        }
        meta::set_gvk(&mut object, &stored.gvk);
        meta::set(&mut object, "resourceVersion", "");
        Ok(kernelet_api::codec::encode_json(&object))
    }

    /// The object as the store has it now.
    pub(super) async fn live(&self, key: &str) -> Result<Option<Arc<CachedObject>>, ApiError> {
        let stored = self.stored()?;
        let response = self
            .state
            .store
            .range(Range::key(stored.store_key(key)))
            .await
            .map_err(store_error)?;
        match response.kvs.first() {
            None => Ok(None),
            Some(kv) => cache::from_kv(kv, key, &stored.indexer)
                .map(Some)
                .ok_or_else(|| {
                    ApiError::internal(format!("the stored object {key:?} is unreadable"))
                }),
        }
    }

    /// What was written, from the cache if it has it: whoever reads next reads it too.
    pub(super) async fn committed(
        &self,
        stored: &Stored,
        key: &str,
        bytes: &[u8],
        revision: Revision,
        lease: LeaseId,
    ) -> Result<Arc<CachedObject>, ApiError> {
        self.caught_up(revision).await;
        match stored
            .cache
            .get(key)
            .filter(|object| object.revision == revision.0)
        {
            Some(object) => Ok(object),
            None => self.object(stored, key, bytes, revision.0, lease),
        }
    }

    /// Waits until whoever reads next reads what was written.
    pub(super) async fn caught_up(&self, revision: Revision) {
        if self.state.cache.wait(revision.0, CATCH_UP).await.is_err() {
            tracing::warn!(%revision, "the watch cache is behind a write");
        }
    }

    pub(super) fn transient(
        &self,
        stored: &Stored,
        key: &str,
        bytes: &[u8],
    ) -> Result<Arc<CachedObject>, ApiError> {
        self.transient_at(stored, key, bytes, self.state.cache.applied())
    }

    /// An object as it would be at that revision, which isn't written.
    pub(super) fn transient_at(
        &self,
        stored: &Stored,
        key: &str,
        bytes: &[u8],
        revision: i64,
    ) -> Result<Arc<CachedObject>, ApiError> {
        self.object(stored, key, bytes, revision, LeaseId::NONE)
    }

    fn object(
        &self,
        stored: &Stored,
        key: &str,
        bytes: &[u8],
        revision: i64,
        lease: LeaseId,
    ) -> Result<Arc<CachedObject>, ApiError> {
        CachedObject::from_stored(key.into(), bytes, revision, lease.0, |json| {
            (stored.indexer)(json)
        })
        .map(Arc::new)
        .map_err(ApiError::internal)
    }

    pub(super) fn conflict(&self, name: &str, why: impl std::fmt::Display) -> ApiError {
        let (group, plural) = self.served.names();
        ApiError::conflict(group, plural, name, why)
    }

    /// Events end by themselves.
    pub(super) async fn lease(&self) -> Result<LeaseId, ApiError> {
        if self.served.resource.kind != "Event" {
            return Ok(LeaseId::NONE);
        }
        self.state
            .event_leases
            .current(&self.state.store)
            .await
            .map_err(store_error)
    }
}

/// The kv that a lost compare answered with.
pub(super) fn live_of(response: &TxnResponse) -> Option<&kernelet_store::KeyValue> {
    match response.responses.first() {
        Some(OpResponse::Range(range)) => range.kvs.first(),
        _ => None,
    }
}
