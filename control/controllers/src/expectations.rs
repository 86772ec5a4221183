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

/// A controller's own writes to objects that it counts in its next turn, until the store shows
/// them: a turn on older copies would give out the same room twice.
#[derive(Default)]
pub(crate) struct Writes(Mutex<HashMap<ObjectKey, Unseen>>);

struct Unseen {
    versions: HashMap<String, u64>,
    since: Instant,
}

fn version(resource_version: Option<&str>) -> u64 {
    resource_version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Writes {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Unseen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `owner` wrote the object `name`, which has this version since.
    pub(crate) fn written(&self, owner: &ObjectKey, name: &str, resource_version: Option<&str>) {
        let mut all = self.lock();
        let unseen = all.entry(owner.clone()).or_insert_with(|| Unseen {
            versions: HashMap::new(),
            since: Instant::now(),
        });
        unseen
            .versions
            .insert(name.to_owned(), version(resource_version));
        unseen.since = Instant::now();
    }

    /// How long to wait for the writes that `seen` (an object's version in the store) lacks;
    /// `None` when all are there, or have been missing for so long that something ate them.
    pub(crate) fn unseen(
        &self,
        owner: &ObjectKey,
        seen: impl Fn(&str) -> Option<String>,
    ) -> Option<Duration> {
        let mut all = self.lock();
        let unseen = all.get_mut(owner)?;
        unseen
            .versions
            .retain(|name, written| version(seen(name).as_deref()) < *written);
        let left = GIVEN_UP_AFTER.checked_sub(unseen.since.elapsed());
        if unseen.versions.is_empty() || left.is_none() {
            all.remove(owner);
            return None;
        }
        left
    }

    /// The object is gone: its writes won't be seen any more.
    pub(crate) fn gone(&self, owner: &ObjectKey, name: &str) {
        if let Some(unseen) = self.lock().get_mut(owner) {
            unseen.versions.remove(name);
        }
    }

    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.lock().remove(owner);
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
