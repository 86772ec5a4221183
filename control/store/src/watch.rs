//! The consumer's end of a watch.

use crate::{WatchBatch, WatchError};

/// A stream of batches, one a revision, in order and without gaps. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next batch. Safe to cancel: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        todo!()
    }
}
