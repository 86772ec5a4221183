//! How soon a failed pod may be replaced: a DaemonSet whose pods a node refuses must not fight with it.

use jiff::Timestamp;
use std::{collections::HashMap, time::Duration};

use crate::common::since;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

struct Entry {
    pause: Duration,
    since: Timestamp,
}

/// Pauses by what is paused: a DaemonSet's generation on a node.
#[derive(Default)]
pub(super) struct FailedPods(HashMap<String, Entry>);

impl FailedPods {
    /// Whether the next failed pod may go now, which makes the next pause twice as long; or how long to wait.
    pub(super) fn ask(&mut self, key: &str, now: Timestamp) -> Result<(), Duration> {
        self.0
            .retain(|_, entry| since(entry.since, now) <= LONGEST * 2);
        match self.0.get_mut(key) {
            Some(entry) => {
                let passed = since(entry.since, now);
                if passed < entry.pause {
                    return Err(entry.pause - passed);
                }
                entry.pause = (entry.pause * 2).min(LONGEST);
                entry.since = now;
            }
            None => {
                let entry = Entry {
                    pause: FIRST,
                    since: now,
                };
                self.0.insert(key.to_owned(), entry);
            }
        }
        Ok(())
    }
}
