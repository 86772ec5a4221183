//! Durable puts a second through the etcd v3 API, beside etcd with the same client on the same disk.

use std::{
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use etcd_client::Client;
use futures::future::join_all;

use crate::report::Report;

const OURS: &str = "127.0.0.1:23790";
const THEIRS: &str = "127.0.0.1:23792";

/// `kernelet-bench store-server DIR ADDRESS`: our store behind the etcd v3 API, in a process of its own.
pub fn serve(args: &[String]) -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let [dir, address] = args else {
            anyhow::bail!("usage: store-server DIR ADDRESS")
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let store = kernelet_store::Store::open(kernelet_store::Options::new(dir))?;
            let listener = tokio::net::TcpListener::bind(address).await?;
            kernelet_store::v3::serve(store, listener).await?;
            Ok(())
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = Command::new(std::env::current_exe()?)
        .args(["store-server"])
        .arg(dir.path().join("ours"))
        .arg(OURS)
        .spawn()
        .map(Ended)?;
    let theirs = Command::new("etcd")
        .args(["--data-dir".as_ref(), dir.path().join("theirs").as_os_str()])
        .args([
            "--listen-client-urls",
            &format!("http://{THEIRS}"),
            "--advertise-client-urls",
            &format!("http://{THEIRS}"),
        ])
        .args([
            "--listen-peer-urls",
            "http://127.0.0.1:23793",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:23793",
        ])
        .args(["--initial-cluster", "default=http://127.0.0.1:23793"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Ended)
        .context("etcd is not installed")?;
    let version = Command::new("etcd").arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .replace("etcd Version: ", "");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for clients in [1, 64] {
        let mut rates = [0.0; 2];
        let mut cpu = [0.0; 2];
        for (index, (address, process)) in
            [(OURS, &ours), (THEIRS, &theirs)].into_iter().enumerate()
        {
            let before = cpu_seconds(process.0.id());
            let (rate, puts) = runtime.block_on(puts(address, clients))?;
            rates[index] = rate;
            cpu[index] = (cpu_seconds(process.0.id()) - before) * 1e6 / puts as f64;
        }
        report.row(
            &format!("durable puts/s through the etcd v3 API, 1 KiB, {clients} clients"),
            format!("{:.0}/s, {:.2} × etcd {version} ({:.0}/s); server CPU {:.0} µs a put (etcd {:.0} µs)", rates[0], rates[0] / rates[1], rates[1], cpu[0], cpu[1]),
            if clients == 1 { "≥ 1 × etcd" } else { "≥ 3 × etcd" },
        );
    }
    Ok(())
}

async fn puts(address: &str, clients: usize) -> anyhow::Result<(f64, usize)> {
    let until = Instant::now() + Duration::from_secs(10);
    let client = loop {
        if let Ok(mut client) = Client::connect([address], None).await
            && client.get("x", None).await.is_ok()
        {
            break client;
        }
        anyhow::ensure!(Instant::now() < until, "{address} does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let value = vec![b'v'; 1024];
    let began = Instant::now();
    let end = began + Duration::from_secs(5);
    let counts = join_all((0..clients).map(|number| {
        let (mut client, value) = (client.clone(), value.clone());
        tokio::spawn(async move {
            let mut count = 0_usize;
            while Instant::now() < end {
                client
                    .put(
                        format!("key-{number}-{}", count % 1000),
                        value.clone(),
                        None,
                    )
                    .await?;
                count += 1;
            }
            anyhow::Ok(count)
        })
    }))
    .await;
    let mut total = 0;
    for count in counts {
        total += count??;
    }
    Ok((total as f64 / began.elapsed().as_secs_f64(), total))
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))
        .unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
