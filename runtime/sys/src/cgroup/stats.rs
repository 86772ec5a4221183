//! What a group uses.

use std::path::Path;

use super::{Group, read};
use crate::error::Result;

/// `None`: the controller isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    pub cpu_usage_ns: Option<u64>,
    pub cpu_throttled_ns: Option<u64>,
    pub memory_usage_bytes: Option<u64>,
    /// Usage without the page cache that could be dropped at once: what eviction looks at.
    pub memory_working_set_bytes: Option<u64>,
    pub memory_rss_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub oom_kills: Option<u64>,
    pub pids: Option<u64>,
}

pub(super) fn read_stats(group: &Group<'_>) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(dir) = group.v1_dir("cpuacct") {
        stats.cpu_usage_ns = number(&dir.join("cpuacct.usage"))?;
        if let Some(dir) = group.v1_dir("cpu") {
            stats.cpu_throttled_ns = field(&read(&dir.join("cpu.stat"))?, "throttled_time");
        }
    } else if let Some(dir) = group.v2_dir() {
        let text = read(&dir.join("cpu.stat"))?;
        stats.cpu_usage_ns = field(&text, "usage_usec").map(|us| us * 1000);
        stats.cpu_throttled_ns = field(&text, "throttled_usec").map(|us| us * 1000);
    }
    if let Some(dir) = group.v1_dir("memory") {
        let text = read(&dir.join("memory.stat"))?;
        let usage = number(&dir.join("memory.usage_in_bytes"))?;
        fill_memory(
            &mut stats,
            &text,
            usage,
            "total_inactive_file",
            "total_rss",
            "total_pgfault",
            "total_pgmajfault",
        );
        // Without a limit v1 shows the largest page-aligned i64.
        stats.memory_limit_bytes = number(&dir.join("memory.limit_in_bytes"))?
            .filter(|limit| *limit < i64::MAX as u64 / 2);
        stats.oom_kills = field(&read(&dir.join("memory.oom_control"))?, "oom_kill");
    } else if group.layout().v2_controllers.iter().any(|c| c == "memory")
        && let Some(dir) = group.v2_dir()
        && dir.join("memory.current").exists()
    {
        let text = read(&dir.join("memory.stat"))?;
        let usage = number(&dir.join("memory.current"))?;
        fill_memory(
            &mut stats,
            &text,
            usage,
            "inactive_file",
            "anon",
            "pgfault",
            "pgmajfault",
        );
        stats.memory_limit_bytes = number(&dir.join("memory.max"))?;
        stats.oom_kills = field(&read(&dir.join("memory.events"))?, "oom_kill");
    }
    if let Some(dir) = group.v1_dir("pids").or_else(|| group.v2_dir()) {
        let file = dir.join("pids.current");
        if file.exists() {
            stats.pids = number(&file)?;
        }
    }
    Ok(stats)
}

fn fill_memory(
    stats: &mut Stats,
    text: &str,
    usage: Option<u64>,
    inactive: &str,
    rss: &str,
    faults: &str,
    major: &str,
) {
    stats.memory_usage_bytes = usage;
    let inactive = field(text, inactive).unwrap_or(0);
    stats.memory_working_set_bytes = usage.map(|usage| usage.saturating_sub(inactive));
    stats.memory_rss_bytes = field(text, rss);
    stats.page_faults = field(text, faults);
    stats.major_page_faults = field(text, major);
}

/// `max` is `None`.
fn number(path: &Path) -> Result<Option<u64>> {
    Ok(read(path)?.trim().parse().ok())
}

pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}
