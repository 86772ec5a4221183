//! Percentiles, and work on a thread that is in a machine's network.

use std::{fs::File, future::Future, thread, time::Duration};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

/// The value at `percent` of the sorted samples.
pub fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples
        .get((samples.len() * percent / 100).min(samples.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

pub fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Runs `work` on a new thread inside the network namespace of that name, and waits for it.
pub fn inside<T: Send>(
    namespace: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let file =
        File::open(format!("/run/netns/{namespace}")).context("open the machine's namespace")?;
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("enter the machine's namespace")?;
                work()
            })
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the measuring thread failed"))
    })
}

/// The same with an async runtime of one thread.
pub fn inside_async<T, F>(namespace: &str, work: impl FnOnce() -> F + Send) -> anyhow::Result<T>
where
    T: Send,
    F: Future<Output = anyhow::Result<T>>,
{
    inside(namespace, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work())
    })
}
