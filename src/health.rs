//! What runs in this process and how it is: filled by the supervisor, read by `kernelet status`.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time;
use tokio_util::sync::CancellationToken;

/// One part's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum PartHealth {
    Starting,
    Healthy,
    /// Runs, but not as it should.
    Unhealthy {
        reason: String,
    },
}

/// The parts by name; cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, PartHealth>>>,
}

impl Health {
    pub fn set(&self, part: &str, health: PartHealth) {
        self.parts
            .lock()
            .expect("nothing panics while it holds the lock")
            .insert(part.to_owned(), health);
    }

    pub fn snapshot(&self) -> BTreeMap<String, PartHealth> {
        self.parts
            .lock()
            .expect("nothing panics while it holds the lock")
            .clone()
    }

    /// Keeps a part running until `shutdown`: one that ends or panics is reported and started again, with
    /// a pause that doubles from 100 ms to 10 s and starts over once it has run for a minute.
    pub fn supervise<S, F, E>(
        &self,
        part: &'static str,
        shutdown: CancellationToken,
        start: S,
    ) -> tokio::task::JoinHandle<()>
    where
        S: Fn() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        let health = self.clone();
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(100);
            while !shutdown.is_cancelled() {
                health.set(part, PartHealth::Healthy);
                let began = time::Instant::now();
                let ended = tokio::spawn(start()).await;
                if shutdown.is_cancelled() {
                    break;
                }
                let reason = match ended {
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => format!("{:#}", error.into()),
                    Err(panic) => format!("it failed: {panic}"),
                };
                tracing::error!(part, reason, "a part ended and is started again");
                health.set(part, PartHealth::Unhealthy { reason });
                if began.elapsed() > Duration::from_secs(60) {
                    pause = Duration::from_millis(100);
                }
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_or_panics_is_reported_and_started_again() {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let starts = Arc::new(AtomicUsize::new(0));
        let (count, stop) = (starts.clone(), shutdown.clone());
        let task = health.supervise("part", shutdown.clone(), move || {
            let (count, stop) = (count.clone(), stop.clone());
            async move {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(anyhow::anyhow!("no luck")),
                    1 => panic!("at the disco"),
                    _ => {
                        stop.cancel();
                        Ok(())
                    }
                }
            }
        });
        task.await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!(health.snapshot()["part"], PartHealth::Healthy);
    }
}
