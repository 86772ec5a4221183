//! What nodes and containers use: two samples of each, taken from the nodes while somebody asks.
//!
//! ```text
//!   idle ──asked──► first sample ──FIRST_GAP──► second ──RESOLUTION──► next … ──nobody asked for IDLE──► idle
//! ```
//! CPU time only counts upwards, so that a usage is a difference of two samples; who asks first waits for the second.
//! A server that nobody asks samples nothing: an idle cluster isn't kept busy by its own measurement.
//!
//! The rules are metrics-server's (`pkg/storage`), so that its clients see what they know.

mod page;
mod points;

use points::{Batch, Points};
pub use points::{Sample, Usage};

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kernelet_api::ApiError;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    cache::KeyRange,
    kubelet::{self, Endpoint},
    state::State,
};

/// metrics-server's default.
const RESOLUTION: Duration = Duration::from_secs(15);
/// Between the first two samples: long enough for a figure, short enough to wait for.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// After this long without a question sampling ends.
const IDLE: Duration = Duration::from_secs(120);
/// A node that takes longer has no sample.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first to ask waits no longer than this for a node that doesn't answer.
const WAIT: Duration = Duration::from_secs(15);
/// Nodes that are asked at once.
const AT_ONCE: usize = 32;
/// 500 pods of three containers take 1 MiB.
const PAGE_BYTES: usize = 32 << 20;
const PATH: &str = "/metrics/resource";

/// The sampler; see the module.
pub struct Sampler {
    inner: Mutex<Inner>,
    /// How many samples were taken since sampling began.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    running: bool,
    asked: Option<Instant>,
    points: Points,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            inner: Mutex::default(),
            rounds: watch::Sender::new(0),
        }
    }
}

impl Sampler {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that there are samples; waits for the first two.
    pub async fn ask(state: &Arc<State>) {
        let sampler = &state.usage;
        let mut rounds = sampler.rounds.subscribe();
        {
            let mut inner = sampler.lock();
            inner.asked = Some(Instant::now());
            if !inner.running {
                inner.running = true;
                inner.points = Points::default();
                sampler.rounds.send_replace(0);
                tokio::spawn(run(state.clone()));
            }
        }
        // Whether they came or not: what there is is told.
        let _ = time::timeout(WAIT, rounds.wait_for(|rounds| *rounds >= 2)).await;
    }

    /// A node's usage, if it was sampled twice.
    pub fn node(&self, name: &str) -> Option<Sample> {
        self.lock().points.node(name)
    }

    /// The usage of a pod's containers, by name; `None` if one of them wasn't sampled twice.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<(Sample, Vec<(String, Usage)>)> {
        self.lock().points.pod(namespace, name)
    }
}

async fn run(state: Arc<State>) {
    loop {
        let batch = scrape(&state).await;
        state.usage.lock().points.store(batch, RESOLUTION);
        let mut round = 0;
        state.usage.rounds.send_modify(|rounds| {
            *rounds += 1;
            round = *rounds;
        });
        let gap = if round < 2 { FIRST_GAP } else { RESOLUTION };
        tokio::select! {
            () = state.shutdown.cancelled() => return,
            () = time::sleep(gap) => {}
        }
        let mut inner = state.usage.lock();
        if inner.asked.is_none_or(|asked| asked.elapsed() > IDLE) {
            *inner = Inner::default();
            return;
        }
    }
}

/// One sample of every node.
async fn scrape(state: &Arc<State>) -> Batch {
    let snapshot = state.registry.load_full();
    let stored = snapshot.get("", "nodes").and_then(|n| n.stored.as_ref());
    let everything = KeyRange {
        namespace: "",
        after: "",
    };
    let nodes: Vec<(String, Endpoint)> = stored
        .map(|stored| stored.cache.list(everything, 0, |_| true).0)
        .unwrap_or_default()
        .iter()
        .filter_map(|node| Some((node.name().to_owned(), Endpoint::of(&node.tree())?)))
        .collect();
    stream::iter(nodes)
        .map(|(name, endpoint)| async move {
            let read = time::timeout(NODE_TIMEOUT, page(state, endpoint)).await;
            let read = read.unwrap_or_else(|_| Err(ApiError::internal("timed out")));
            match read {
                Ok(text) => Some(page::parse(&text, &name, Timestamp::now())),
                Err(error) => {
                    tracing::debug!(node = name, error = %error.message, "a node's usage isn't known");
                    None
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|batch| async { batch })
        .fold(Batch::default(), |mut all, one| async {
            all.extend(one);
            all
        })
        .await
}

async fn page(state: &Arc<State>, endpoint: Endpoint) -> Result<String, ApiError> {
    let tls = state.config.kubelet_client.clone();
    let body = kubelet::get(tls, endpoint, PATH).await?;
    let bytes = body
        .map_err(ApiError::internal)
        .try_fold(BytesMut::new(), |mut all, piece| async move {
            if all.len() + piece.len() > PAGE_BYTES {
                return Err(ApiError::internal("the node's page is too long"));
            }
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
