//! What a controller has asked for and not yet seen in its watches.
//!
//! A controller counts pods in a store that lags behind its own writes. Until the store shows what
//! was created and deleted, counting would create and delete again. What never shows (a lost
//! event) is given up after five minutes, as upstream does.

use kernelet_client::ObjectKey;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

const GIVEN_UP_AFTER: Duration = Duration::from_secs(300);

struct Pending {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<ObjectKey, Pending>>);

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call before the first request is sent: its event may be faster than its answer.
    pub(crate) fn expect(
        &self,
        key: &ObjectKey,
        creations: usize,
        deletions: impl IntoIterator<Item = String>,
    ) {
        let pending = Pending {
            creations,
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.lock().insert(key.clone(), pending);
    }

    /// A creation was seen, or won't come.
    pub(crate) fn created(&self, key: &ObjectKey, count: usize) {
        if let Some(pending) = self.lock().get_mut(key) {
            pending.creations = pending.creations.saturating_sub(count);
        }
    }

    /// A deletion was seen, or won't come.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) {
        if let Some(pending) = self.lock().get_mut(key) {
            pending.deletions.remove(uid);
        }
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    /// How long to wait for what is missing; `None` when everything was seen.
    pub(crate) fn missing(&self, key: &ObjectKey) -> Option<Duration> {
        let mut all = self.lock();
        let pending = all.get(key)?;
        let left = GIVEN_UP_AFTER.checked_sub(pending.since.elapsed());
        match left {
            Some(left) if pending.creations > 0 || !pending.deletions.is_empty() => Some(left),
            _ => {
                all.remove(key);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_is_waited_for_until_seen_or_given_up() {
        let expectations = Expectations::default();
        let key = ObjectKey::new("default", "rs");
        assert!(expectations.missing(&key).is_none());
        expectations.expect(&key, 2, ["uid".to_owned()]);
        expectations.created(&key, 1);
        expectations.deleted(&key, "uid");
        assert!(expectations.missing(&key).is_some());
        expectations.created(&key, 1);
        assert!(expectations.missing(&key).is_none());
        expectations.expect(&key, 1, []);
        tokio::time::advance(GIVEN_UP_AFTER + Duration::from_secs(1)).await;
        assert!(expectations.missing(&key).is_none());
    }
}
