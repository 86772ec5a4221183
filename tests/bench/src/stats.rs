//! Percentiles, memory, servers to be measured, and work on a thread that is in a machine's network.

use std::{
    fs::{self, File},
    future::Future,
    path::PathBuf,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use kernelet_scenarios::Machine;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

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

/// A process's proportional set size, KiB.
pub fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?
        .lines()
        .find_map(|line| {
            let text = line.strip_prefix("Pss:")?;
            text.split_whitespace().next()?.parse().ok()
        })
        .context("the proportional set size")
}

/// A control plane of its own on a machine, ended with this.
pub struct Served {
    child: Child,
    kubeconfig: PathBuf,
}

impl Served {
    pub fn start(machine: &Machine, without: &str) -> anyhow::Result<Served> {
        Ok(Served {
            child: machine
                .kernelet_command(&["server", "--without", without])
                .spawn()?,
            kubeconfig: machine.kubeconfig(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client, as soon as the server answers; to be called inside the machine's network.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(client) = kernelet_client::from_kubeconfig(&self.kubeconfig).await
                && client.apiserver_version().await.is_ok()
            {
                return Ok(client);
            }
            anyhow::ensure!(Instant::now() < until, "the server did not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(
                Pid::from_raw(i32::try_from(self.child.id())?),
                Signal::SIGTERM,
            )?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
