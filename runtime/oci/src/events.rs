//! events: figures and out-of-memory kills, a JSON line each.

use std::{os::fd::AsFd, time::Duration};

use anyhow::Result;
use clap::Args;
use kernelet_sys::{
    cgroup::{Layout, Stats},
    process,
};
use serde_json::json;

use crate::{
    cli::{self, Global},
    state::{Folder, Saved},
};

#[derive(Args)]
pub struct EventsArgs {
    id: String,
    /// Print the figures once and end.
    #[arg(long)]
    stats: bool,
    /// Seconds between figures (with or without `s`).
    #[arg(long, default_value = "5")]
    interval: String,
}

pub fn events(global: &Global, args: &EventsArgs) -> Result<()> {
    let saved = Folder::of(global, &cli::id(&args.id)?).load()?;
    let layout = Layout::detect()?;
    let group = layout.group(&saved.cgroup);
    if args.stats {
        print_stats(&saved, &group.stats()?);
        return Ok(());
    }
    let seconds: u64 = args.interval.trim_end_matches('s').parse()?;
    let pidfd = saved.pidfd()?;
    let mut kills = 0;
    // Until the container ends.
    while !process::wait_ended(pidfd.as_fd(), Duration::from_secs(seconds.max(1)))? {
        let stats = group.stats()?;
        let now = stats.oom_kills.unwrap_or(0);
        if now > kills {
            println!("{}", json!({"type": "oom", "id": saved.id.as_str()}));
            kills = now;
        }
        print_stats(&saved, &stats);
    }
    Ok(())
}

fn print_stats(saved: &Saved, stats: &Stats) {
    let line = json!({
        "type": "stats",
        "id": saved.id.as_str(),
        "data": {
            "cpu": {
                "usage": {"total": stats.cpu_usage_ns},
                "throttling": {"throttledTime": stats.cpu_throttled_ns},
            },
            "memory": {
                "usage": {"usage": stats.memory_usage_bytes, "limit": stats.memory_limit_bytes},
                "workingSet": stats.memory_working_set_bytes,
                "raw": {"rss": stats.memory_rss_bytes, "pgfault": stats.page_faults, "pgmajfault": stats.major_page_faults},
            },
            "pids": {"current": stats.pids},
        },
    });
    println!("{line}");
}
