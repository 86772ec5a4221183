//! Workers: take a key, reconcile it, decide when to look again.

use crate::{Queue, is_conflict};
use std::{fmt, future::Future, hash::Hash, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// When a reconciled key needs its next look, apart from changes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    OnChange,
    After(Duration),
}

/// Runs `workers` workers on the queue until shutdown. A failed key comes back after its
/// back-off; `name` says in the log whose work failed.
pub async fn reconcile_all<K, F, Fut, E>(
    name: &'static str,
    queue: Queue<K>,
    workers: usize,
    shutdown: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + fmt::Display + Send + Sync + 'static,
    F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut set = JoinSet::new();
    for _ in 0..workers {
        let queue = queue.clone();
        let reconcile = reconcile.clone();
        set.spawn(async move {
            while let Some(item) = queue.next().await {
                match reconcile(item.clone()).await {
                    Ok(next) => {
                        queue.forget(&item);
                        if let Next::After(delay) = next {
                            queue.add_after(item.clone(), delay);
                        }
                    }
                    Err(error) => {
                        let pause = queue.retry(item.clone());
                        let message = chain(&error);
                        // Losing a race is everyday life: the change that won is on its way.
                        if lost_a_race(&error) {
                            tracing::debug!(controller = name, key = %*item, ?pause, "{message}");
                        } else {
                            tracing::warn!(controller = name, key = %*item, ?pause, "{message}");
                        }
                    }
                }
            }
        });
    }
    shutdown.cancelled().await;
    queue.close();
    // A reconcile that is under way finishes: it is short, and what it began stays consistent.
    while set.join_next().await.is_some() {}
}

fn lost_a_race(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(error) = current {
        if error.downcast_ref::<kube::Error>().is_some_and(is_conflict) {
            return true;
        }
        current = error.source();
    }
    false
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(source) = current {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        current = source.source();
    }
    text
}
