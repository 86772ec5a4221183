//! The consumer's end of a watch.

use crate::{WatchBatch, WatchError, cluster::ClusterWatcher, embedded::EmbeddedWatcher};

/// A stream of batches, one a revision, in order and without gaps. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher(pub(crate) Inner);

#[derive(Debug)]
pub(crate) enum Inner {
    Embedded(Box<EmbeddedWatcher>),
    Cluster(Box<ClusterWatcher>),
}

impl Watcher {
    /// The next batch. Safe to cancel: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        match &mut self.0 {
            Inner::Embedded(watcher) => watcher.next().await,
            Inner::Cluster(watcher) => watcher.next().await,
        }
    }

    /// Asks for an empty batch that says up to where the watcher has seen everything, as soon as it has caught up. An
    /// etcd cluster older than 3.4.31 or 3.5.13 doesn't answer.
    pub async fn request_progress(&mut self) {
        match &mut self.0 {
            Inner::Embedded(watcher) => watcher.request_progress(),
            Inner::Cluster(watcher) => watcher.request_progress().await,
        }
    }
}
