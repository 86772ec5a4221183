//! The consumer's end of a watch.

use crate::{WatchBatch, WatchError, embedded::EmbeddedWatcher};

/// A stream of batches, one a revision, in order and without gaps. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher(pub(crate) Inner);

#[derive(Debug)]
pub(crate) enum Inner {
    Embedded(Box<EmbeddedWatcher>),
}

impl Watcher {
    /// The next batch. Safe to cancel: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        match &mut self.0 {
            Inner::Embedded(watcher) => watcher.next().await,
        }
    }
}
