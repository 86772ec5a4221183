//! `stats/summary`: what node, pods and containers use now, as the metrics server reads it.

use std::path::Path;

use jiff::Timestamp;
use kernelet_pod_plan::{NodeFacts, Wanted, cgroup::PodCgroup};
use kernelet_sys::cgroup::Stats;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::{
    context::Context,
    facts::{Disk, meminfo},
    worker::View,
};

pub(super) fn summary(ctx: &Context, views: &[View]) -> Value {
    let now = whole(Timestamp::now());
    let pods: Vec<Value> = views
        .iter()
        .filter(|v| v.status.phase.as_deref() == Some("Running"))
        .map(|v| pod(ctx, v, &now))
        .collect();
    let total = meminfo("MemTotal:").unwrap_or(0);
    let available = meminfo("MemAvailable:").unwrap_or(0);
    let node_cpu = cpu_seconds_of_machine().map(|s| (s * 1e9).round());
    let disk = Disk::of(&ctx.config.data_dir).map(|d| disk_json(&d, &now));
    json!({
        "node": {
            "nodeName": ctx.config.node_name,
            "startTime": boot_time(),
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu},
            "memory": {"time": now, "availableBytes": available, "usageBytes": total - available.min(total), "workingSetBytes": total - available.min(total)},
            "fs": disk,
            "runtime": {"imageFs": disk},
        },
        "pods": pods,
    })
}

fn whole(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

fn disk_json(disk: &Disk, now: &str) -> Value {
    json!({
        "time": now,
        "availableBytes": disk.available,
        "capacityBytes": disk.total,
        "usedBytes": disk.total - disk.available.min(disk.total),
        "inodes": disk.inodes,
        "inodesFree": disk.inodes_free,
    })
}

fn pod(ctx: &Context, view: &View, now: &str) -> Value {
    let group = pod_group(ctx, &ctx.facts, view);
    let stats = ctx.layout.group(&group.path).stats().unwrap_or_default();
    let containers: Vec<Value> = view
        .containers
        .iter()
        .filter(|(name, _)| is_running(view, name))
        .map(|(name, (id, _))| {
            let stats = ctx.layout.group(&group.container(id)).stats().unwrap_or_default();
            let started = started_at(view, name);
            json!({"name": name, "startTime": started, "cpu": cpu(&stats, now), "memory": memory(&stats, now)})
        })
        .collect();
    json!({
        "podRef": {"name": view.pod.name_any(), "namespace": view.pod.namespace(), "uid": view.pod.uid()},
        "startTime": view.status.start_time,
        "containers": containers,
        "cpu": cpu(&stats, now),
        "memory": memory(&stats, now),
        "process_stats": {"process_count": stats.pids},
        "ephemeral-storage": {"time": now, "usedBytes": used_below(&ctx.pod_dir(&view.pod.uid().unwrap_or_default()))},
    })
}

pub(super) fn pod_group(ctx: &Context, facts: &Arc<NodeFacts>, view: &View) -> PodCgroup {
    let wanted = Wanted::new(view.pod.clone(), facts.clone());
    PodCgroup::of(&ctx.config.cgroup_root, &wanted)
}

pub(super) fn is_running(view: &View, container: &str) -> bool {
    let statuses = view
        .status
        .container_statuses
        .iter()
        .chain(&view.status.init_container_statuses)
        .chain(&view.status.ephemeral_container_statuses)
        .flatten();
    let mut named = statuses.filter(|s| s.name == container);
    named
        .next()
        .and_then(|s| s.state.as_ref())
        .is_some_and(|s| s.running.is_some())
}

pub(super) fn started_at(view: &View, container: &str) -> Option<Timestamp> {
    let statuses = view
        .status
        .container_statuses
        .iter()
        .chain(&view.status.init_container_statuses)
        .chain(&view.status.ephemeral_container_statuses)
        .flatten();
    let mut named = statuses.filter(|s| s.name == container);
    Some(
        named
            .next()?
            .state
            .as_ref()?
            .running
            .as_ref()?
            .started_at
            .as_ref()?
            .0,
    )
}

fn cpu(stats: &Stats, now: &str) -> Value {
    json!({"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns})
}

fn memory(stats: &Stats, now: &str) -> Value {
    json!({
        "time": now,
        "usageBytes": stats.memory_usage_bytes,
        "workingSetBytes": stats.memory_working_set_bytes,
        "rssBytes": stats.memory_rss_bytes,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
        "availableBytes": stats.memory_limit_bytes.zip(stats.memory_working_set_bytes).map(|(l, w)| l.saturating_sub(w)),
    })
}

/// What container roots and volumes take on disk; links counted where they stand.
fn used_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    total
}

/// Seconds of CPU that the machine has spent not idling, since its boot.
pub(super) fn cpu_seconds_of_machine() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest times are in user already.
    let busy: f64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|i| ticks.get(*i))
        .sum();
    Some(busy / 100.0)
}

fn boot_time() -> Option<String> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(Timestamp::from_second(seconds).ok()?.to_string())
}
