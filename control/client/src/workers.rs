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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;

    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_after_its_back_off_and_when_it_asks_to() {
        let queue: Queue<&'static str> = Queue::default();
        let shutdown = CancellationToken::new();
        let turns: Arc<Mutex<Vec<u128>>> = Arc::default();
        let begun = Instant::now();
        let (seen, stop) = (turns.clone(), shutdown.clone());
        queue.add("a");
        reconcile_all("test", queue, 3, shutdown, move |_| {
            let (seen, stop) = (seen.clone(), stop.clone());
            async move {
                let mut turns = seen.lock().expect("not poisoned");
                turns.push(begun.elapsed().as_millis());
                match turns.len() {
                    1 | 2 => Err(NotYet),
                    3 => Ok(Next::After(Duration::from_secs(60))),
                    4 => Err(NotYet),
                    _ => {
                        stop.cancel();
                        Ok(Next::OnChange)
                    }
                }
            }
        })
        .await;
        // 5 ms, then 10; a minute as asked; and a success makes the next failure the first again.
        let turns = turns.lock().expect("not poisoned").clone();
        assert_eq!(turns, [0, 5, 15, 60_015, 60_020]);
    }

    #[test]
    fn losing_a_race_is_told_from_other_failures_through_the_chain() {
        let conflict = |reason: &str| {
            let status = kube::core::Status::failure("x", reason).with_code(409);
            kube::Error::Api(status.boxed())
        };
        assert!(lost_a_race(&conflict("Conflict")));
        assert!(!lost_a_race(&conflict("AlreadyExists")));
        assert!(!lost_a_race(&NotYet));
        assert_eq!(chain(&NotYet), "not yet");
    }
}
