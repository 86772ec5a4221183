//! A group's figures in the form of `runc events --stats`, whose readers know its names.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use kernelet_sys::cgroup::Group;
use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    data: Stats,
}

fn zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Default, Serialize)]
struct Stats {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Huge>,
    intel_rdt: BTreeMap<String, String>,
    network_interfaces: Option<()>,
}

#[derive(Default, Serialize)]
struct Cpu {
    usage: Usage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Value>,
}

/// Nanoseconds.
#[derive(Default, Serialize)]
struct Usage {
    #[serde(skip_serializing_if = "zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "zero")]
    periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_time: u64,
}

#[derive(Default, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u64>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u64>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Default, Serialize)]
struct Entry {
    limit: u64,
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "zero")]
    cache: u64,
    usage: Entry,
    swap: Entry,
    kernel: Entry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Entry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Value>,
}

#[derive(Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "zero")]
    current: u64,
    #[serde(skip_serializing_if = "zero")]
    limit: u64,
}

#[derive(Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "zero")]
    major: u64,
    #[serde(skip_serializing_if = "zero")]
    minor: u64,
    op: String,
    #[serde(skip_serializing_if = "zero")]
    value: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Value>,
}

#[derive(Serialize)]
struct Huge {
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

/// One line of `events`.
pub fn line(id: &str, group: &Group<'_>) -> Result<String> {
    let mut stats = Stats::default();
    let v2 = group.v2_dir().filter(|dir| dir.is_dir());
    let v1 = |controller: &str| group.v1_dir(controller).filter(|dir| dir.is_dir());
    cpu(&mut stats.cpu, v1("cpuacct"), v1("cpu"), v2.as_deref());
    if let Some(dir) = v1("cpuset") {
        stats.cpuset = cpuset(&dir);
    }
    match (v1("memory"), v2.as_deref()) {
        (Some(dir), _) => stats.memory = memory_v1(&dir),
        (None, Some(dir)) => stats.memory = memory_v2(dir),
        _ => {}
    }
    if let Some(dir) = v1("pids").or_else(|| v2.clone()) {
        // `max` is no limit, which is 0.
        stats.pids = Pids {
            current: number(&dir.join("pids.current")),
            limit: number(&dir.join("pids.max")),
        };
    }
    match (v1("blkio"), v2.as_deref()) {
        (Some(dir), _) => stats.blkio = blkio_v1(&dir),
        (None, Some(dir)) => stats.blkio = blkio_v2(dir),
        _ => {}
    }
    if let Some(dir) = v1("hugetlb").or_else(|| v2.clone()) {
        stats.hugetlb = hugetlb(&dir);
    }
    let event = Event {
        kind: "stats",
        id,
        data: stats,
    };
    Ok(serde_json::to_string(&event)?)
}

/// Empty where the file isn't there.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &Path) -> u64 {
    text(path).trim().parse().unwrap_or(0)
}

/// `name value` lines.
fn fields(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn field(fields: &BTreeMap<String, u64>, name: &str) -> u64 {
    fields.get(name).copied().unwrap_or(0)
}

fn cpu(cpu: &mut Cpu, cpuacct: Option<PathBuf>, v1: Option<PathBuf>, v2: Option<&Path>) {
    const TICK_NS: u64 = 10_000_000;
    match (&cpuacct, v2) {
        (Some(dir), _) => {
            let ticks = fields(&text(&dir.join("cpuacct.stat")));
            let list = |name: &str| -> Vec<u64> {
                text(&dir.join(name))
                    .split_whitespace()
                    .filter_map(|n| n.parse().ok())
                    .collect()
            };
            cpu.usage = Usage {
                total: number(&dir.join("cpuacct.usage")),
                percpu: list("cpuacct.usage_percpu"),
                percpu_kernel: list("cpuacct.usage_percpu_sys"),
                percpu_user: list("cpuacct.usage_percpu_user"),
                kernel: field(&ticks, "system") * TICK_NS,
                user: field(&ticks, "user") * TICK_NS,
            };
        }
        (None, Some(dir)) => {
            let us = fields(&text(&dir.join("cpu.stat")));
            cpu.usage = Usage {
                total: field(&us, "usage_usec") * 1000,
                kernel: field(&us, "system_usec") * 1000,
                user: field(&us, "user_usec") * 1000,
                ..Usage::default()
            };
        }
        _ => {}
    }
    let (stat, time, unit) = match (&v1, v2) {
        (Some(dir), _) => (dir.join("cpu.stat"), "throttled_time", 1),
        (None, Some(dir)) => (dir.join("cpu.stat"), "throttled_usec", 1000),
        _ => return,
    };
    let stat = fields(&text(&stat));
    cpu.throttling = Throttling {
        periods: field(&stat, "nr_periods"),
        throttled_periods: field(&stat, "nr_throttled"),
        throttled_time: field(&stat, time) * unit,
    };
    if v1.is_none() {
        cpu.psi = v2.and_then(|dir| pressure(&dir.join("cpu.pressure")));
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path)
        .ok()
        .filter(|text| !text.is_empty())?;
    let mut all = serde_json::Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next()?;
        let mut one = serde_json::Map::new();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = match name {
                "total" => value.parse::<u64>().ok()?.into(),
                _ => value.parse::<f64>().ok()?.into(),
            };
            one.insert(name.to_owned(), value);
        }
        all.insert(kind.to_owned(), one.into());
    }
    Some(all.into())
}

fn cpuset(dir: &Path) -> Cpuset {
    let n = |name: &str| number(&dir.join(format!("cpuset.{name}")));
    Cpuset {
        cpus: range(&text(&dir.join("cpuset.cpus"))),
        cpu_exclusive: n("cpu_exclusive"),
        mems: range(&text(&dir.join("cpuset.mems"))),
        mem_hardwall: n("mem_hardwall"),
        mem_exclusive: n("mem_exclusive"),
        memory_migrate: n("memory_migrate"),
        memory_spread_page: n("memory_spread_page"),
        memory_spread_slab: n("memory_spread_slab"),
        memory_pressure: n("memory_pressure"),
        sched_load_balance: n("sched_load_balance"),
        sched_relax_domain_level: text(&dir.join("cpuset.sched_relax_domain_level"))
            .trim()
            .parse()
            .unwrap_or(0),
    }
}

/// `0-2,5` as numbers.
fn range(text: &str) -> Vec<u64> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) {
            all.extend(first..=last);
        }
    }
    all
}

fn memory_v1(dir: &Path) -> Memory {
    let entry = |name: &str| {
        let n = |file: &str| number(&dir.join(format!("memory.{name}{file}")));
        Entry {
            limit: n("limit_in_bytes"),
            usage: n("usage_in_bytes"),
            max: n("max_usage_in_bytes"),
            failcnt: n("failcnt"),
        }
    };
    let raw = fields(&text(&dir.join("memory.stat")));
    Memory {
        cache: field(&raw, "cache"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        raw,
        psi: None,
    }
}

fn memory_v2(dir: &Path) -> Memory {
    let raw = fields(&text(&dir.join("memory.stat")));
    let limit = |name: &str| match text(&dir.join(name)).trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    };
    let events = fields(&text(&dir.join("memory.events")));
    let (usage, swap) = (
        number(&dir.join("memory.current")),
        number(&dir.join("memory.swap.current")),
    );
    let (max, swap_max) = (limit("memory.max"), limit("memory.swap.max"));
    Memory {
        cache: field(&raw, "file"),
        usage: Entry {
            limit: max,
            usage,
            max: number(&dir.join("memory.peak")),
            failcnt: field(&events, "max"),
        },
        // Both together, as v1 counts.
        swap: Entry {
            limit: max.saturating_add(swap_max),
            usage: usage + swap,
            ..Entry::default()
        },
        psi: pressure(&dir.join("memory.pressure")),
        raw,
        ..Memory::default()
    }
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn blkio_v1(dir: &Path) -> Blkio {
    // `8:0 Read 4096`; the sum over devices has no number.
    let entries = |name: &str| {
        let text = text(&dir.join(format!("blkio.throttle.{name}")));
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (major, minor) = device(words.next()?)?;
            Some(BlkioEntry {
                major,
                minor,
                op: words.next()?.to_owned(),
                value: words.next()?.parse().ok()?,
            })
        };
        text.lines().filter_map(entry).collect()
    };
    Blkio {
        io_service_bytes_recursive: entries("io_service_bytes_recursive"),
        io_serviced_recursive: entries("io_serviced_recursive"),
        psi: None,
    }
}

fn blkio_v2(dir: &Path) -> Blkio {
    let mut blkio = Blkio {
        psi: pressure(&dir.join("io.pressure")),
        ..Blkio::default()
    };
    for line in text(&dir.join("io.stat")).lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (op, list) = match name {
                "rbytes" => ("Read", &mut blkio.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut blkio.io_service_bytes_recursive),
                "rios" => ("Read", &mut blkio.io_serviced_recursive),
                "wios" => ("Write", &mut blkio.io_serviced_recursive),
                _ => continue,
            };
            list.push(BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value: value.parse().unwrap_or(0),
            });
        }
    }
    blkio
}

/// By page size, as the kernel names its files.
fn hugetlb(dir: &Path) -> BTreeMap<String, Huge> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((size, kind)) = name
            .strip_prefix("hugetlb.")
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let n = |file: &str| number(&dir.join(format!("hugetlb.{size}.{file}")));
        let huge = match kind {
            "usage_in_bytes" => Huge {
                usage: n("usage_in_bytes"),
                max: n("max_usage_in_bytes"),
                failcnt: n("failcnt"),
            },
            "current" => Huge {
                usage: n("current"),
                max: 0,
                failcnt: field(
                    &fields(&text(&dir.join(format!("hugetlb.{size}.events")))),
                    "max",
                ),
            },
            _ => continue,
        };
        all.insert(size.to_owned(), huge);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_group_is_told_in_runcs_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 1\nthrottled_usec 5\n",
            ),
            (
                "cpu.pressure",
                "some avg10=0.50 avg60=0.00 avg300=0.00 total=7\n",
            ),
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "file 5\nanon 6\n"),
            ("memory.events", "max 3\noom_kill 1\n"),
            (
                "io.stat",
                "8:16 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0\n",
            ),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut one = Cpu::default();
        cpu(&mut one, None, None, Some(dir.path()));
        let shown = serde_json::to_value(&one).unwrap();
        assert_eq!(
            shown["usage"],
            serde_json::json!({"total": 30_000, "kernel": 20_000, "user": 10_000})
        );
        assert_eq!(
            shown["throttling"],
            serde_json::json!({"periods": 4, "throttledPeriods": 1, "throttledTime": 5000})
        );
        assert_eq!(shown["psi"]["some"]["total"], 7);
        let memory = serde_json::to_value(memory_v2(dir.path())).unwrap();
        assert_eq!(
            memory["usage"],
            serde_json::json!({"limit": u64::MAX, "usage": 100, "failcnt": 3})
        );
        assert_eq!(memory["raw"], serde_json::json!({"file": 5, "anon": 6}));
        let io = serde_json::to_value(blkio_v2(dir.path())).unwrap();
        assert_eq!(
            io["ioServiceBytesRecursive"][0],
            serde_json::json!({"major": 8, "minor": 16, "op": "Read", "value": 4096})
        );
        assert_eq!(range("0-2,5\n"), [0, 1, 2, 5]);
    }
}
