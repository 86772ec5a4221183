//! One watch on a cluster, reopened where it stood when its stream breaks.

use std::{collections::VecDeque, time::Duration};

use etcd_client::{WatchResponse, WatchStream};

use super::{Cluster, MAX_ANSWER, convert};
use crate::{Revision, Watch, WatchBatch, WatchError, embedded::push_event};

/// How often a watcher asks for progress, where the cluster's answer can be believed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Between attempts to reopen, and how many there are: a minute, which outlasts an election.
const REOPEN_EVERY: Duration = Duration::from_millis(500);
const REOPEN: u32 = 120;

#[derive(Debug)]
pub(crate) struct ClusterWatcher {
    cluster: Cluster,
    watch: Watch,
    /// The watch asked for "from now on", so it may start later than it knew.
    from_now: bool,
    /// The first revision that hasn't been given out.
    next: Revision,
    seen: Revision,
    stream: Option<WatchStream>,
    attempts: u32,
    ready: VecDeque<WatchBatch>,
    ended: Option<WatchError>,
}

impl ClusterWatcher {
    pub fn new(cluster: Cluster, watch: Watch) -> ClusterWatcher {
        let start = watch.start_revision.filter(|start| *start > Revision::ZERO);
        ClusterWatcher {
            from_now: start.is_none(),
            // Whatever this handle has had an answer to is before it.
            next: start.unwrap_or_else(|| cluster.seen().next()),
            cluster,
            watch,
            seen: Revision::ZERO,
            stream: None,
            attempts: 0,
            ready: VecDeque::new(),
            ended: None,
        }
    }

    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.seen = batch.revision;
                return Ok(batch);
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            let asks = self.watch.progress && self.cluster.shared.progress;
            let Some(stream) = &mut self.stream else {
                self.open().await;
                continue;
            };
            tokio::select! {
                // Cancelled: a message is taken from the stream whole or not at all.
                message = stream.message() => match message {
                    Ok(Some(message)) => self.take(&message).await,
                    Ok(None) => self.stream = None,
                    Err(error) => {
                        tracing::warn!(%error, "a watch on the etcd cluster broke");
                        self.stream = None;
                    }
                },
                // Cancelled: starts anew, which only delays progress.
                () = tokio::time::sleep(PROGRESS_EVERY), if asks => {
                    self.request_progress().await;
                }
            }
        }
    }

    /// Asks for a batch that says how far the watch has come. Nothing happens where the answer couldn't be believed.
    pub async fn request_progress(&mut self) {
        if let Some(stream) = &mut self.stream
            && self.cluster.shared.progress
            && stream.request_progress().await.is_err()
        {
            self.stream = None;
        }
    }

    async fn open(&mut self) {
        let options = convert::watch_options(
            self.watch.range_end.as_ref(),
            self.watch.prev_kv,
            self.next,
            self.watch.progress,
        );
        // etcd has no empty key; the first one stands for it.
        let key = if self.watch.key.is_empty() {
            vec![0]
        } else {
            self.watch.key.to_vec()
        };
        let mut client = self
            .cluster
            .shared
            .client
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER);
        match client.watch(key, Some(options)).await {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => {
                self.attempts += 1;
                if self.attempts > REOPEN {
                    tracing::error!(%error, "a watch on the etcd cluster can't be opened");
                    self.ended = Some(WatchError::Closed);
                    return;
                }
                tokio::time::sleep(REOPEN_EVERY).await;
            }
        }
    }

    async fn take(&mut self, message: &WatchResponse) {
        if message.canceled() {
            let floor = Revision(message.compact_revision());
            self.stream = None;
            if floor > Revision::ZERO {
                if self.from_now {
                    self.next = floor;
                } else {
                    self.ended = Some(WatchError::Compacted { floor });
                }
            } else {
                tracing::warn!(
                    reason = message.cancel_reason(),
                    "the etcd cluster ended a watch"
                );
                self.ended = Some(WatchError::Closed);
            }
            return;
        }
        if message.created() {
            self.attempts = 0;
            if self.watch.progress {
                self.request_progress().await;
            }
            return;
        }
        let revision = self.cluster.see(message.header());
        if message.events().is_empty() {
            // Progress, the server's own or on request.
            if self.watch.progress && revision >= self.next.max(self.seen) {
                self.ready.push_back(WatchBatch {
                    revision,
                    events: Vec::new(),
                });
                self.next = self.next.max(revision.next());
                self.from_now = false;
            }
            return;
        }
        let mut batches = Vec::new();
        for event in message.events().iter().filter_map(convert::event) {
            push_event(&mut batches, event);
        }
        if let Some(last) = batches.last() {
            self.next = last.revision.next();
            self.from_now = false;
        }
        self.ready.extend(batches);
    }
}
