//! Leases that Events end with: one lease serves all events of a minute, so that a burst costs one lease.

use std::time::{Duration, Instant};

use kernelet_store::{LeaseId, StoreError};
use tokio::sync::Mutex;

use crate::encrypt::SealedStore;

/// How long an Event is kept, upstream's figure.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// How long one lease takes further events.
const SHARED_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct EventLeases {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl EventLeases {
    /// The lease of an event that is written now.
    pub async fn current(&self, store: &SealedStore) -> Result<LeaseId, StoreError> {
        let mut current = self.current.lock().await;
        if let Some((lease, made)) = *current
            && made.elapsed() < SHARED_FOR
        {
            return Ok(lease);
        }
        let lease = store.lease_grant(None, EVENT_LIFE + SHARED_FOR).await?.id;
        *current = Some((lease, Instant::now()));
        Ok(lease)
    }
}
