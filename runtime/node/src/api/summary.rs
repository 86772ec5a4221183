//! `stats/summary`: what node, pods and containers use now, in the kubelet's form.
//!
//! Source: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`.

use std::fs;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub(super) use crate::stats::is_running;
use crate::{
    context::Context,
    facts::Disk,
    stats::{Depth, Interface, Look, PodUse, Use, Used, disk, interfaces_of_machine},
};

/// With `Depth::CpuAndMemory`, nothing but those.
pub(super) fn summary(ctx: &Context, look: &Look, depth: Depth) -> Value {
    let now = whole(look.at);
    let disk = disk(ctx);
    let writer = Writer {
        now: &now,
        disk,
        depth,
    };
    let mut node = json!({
        "nodeName": ctx.config.node_name,
        "systemContainers": look.system.iter().map(|system| {
            let mut entry = writer.usage(&system.usage);
            entry.insert("name".to_owned(), system.name.into());
            entry.insert("startTime".to_owned(), json!(system.started.map(whole)));
            Value::Object(entry)
        }).collect::<Vec<_>>(),
        "startTime": look.booted.map(whole),
    });
    let mut usage = writer.usage(&look.node);
    if let Some(memory) = usage.get_mut("memory") {
        memory["availableBytes"] = look.memory_available.into();
    }
    if let Some(swap) = usage.get_mut("swap") {
        swap["swapAvailableBytes"] = look.swap_free.into();
    }
    if let Some(node) = node.as_object_mut() {
        node.append(&mut usage);
        if depth == Depth::Whole {
            node.insert(
                "network".to_owned(),
                writer.network(&interfaces_of_machine()),
            );
            if let Some(disk) = &disk {
                let whole = writer.file_system(disk, None);
                node.insert("fs".to_owned(), whole.clone());
                let runtime = json!({"imageFs": whole, "containerFs": whole});
                node.insert("runtime".to_owned(), runtime);
            }
            node.insert("rlimit".to_owned(), processes(&now));
        }
    }
    let pods: Vec<Value> = look.pods.iter().map(|pod| writer.pod(pod)).collect();
    json!({"node": node, "pods": pods})
}

fn whole(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

struct Writer<'a> {
    now: &'a str,
    disk: Option<Disk>,
    depth: Depth,
}

impl Writer<'_> {
    fn pod(&self, pod: &PodUse) -> Value {
        let containers: Vec<Value> = pod
            .containers
            .iter()
            .map(|container| {
                let mut entry = self.usage(&container.usage);
                entry.insert("name".to_owned(), container.name.as_str().into());
                entry.insert("startTime".to_owned(), json!(container.started.map(whole)));
                if self.depth == Depth::Whole {
                    entry.insert("rootfs".to_owned(), self.used(container.rootfs));
                    entry.insert("logs".to_owned(), self.used(container.logs));
                }
                Value::Object(entry)
            })
            .collect();
        let mut entry = self.usage(&pod.usage);
        let reference = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
        entry.insert("podRef".to_owned(), reference);
        entry.insert("startTime".to_owned(), json!(pod.started.map(whole)));
        entry.insert("containers".to_owned(), containers.into());
        if self.depth == Depth::Whole {
            if !pod.interfaces.is_empty() {
                entry.insert("network".to_owned(), self.network(&pod.interfaces));
            }
            let volumes: Vec<Value> = pod
                .volumes
                .iter()
                .map(|(name, used)| {
                    let mut volume = self.used(*used);
                    volume["name"] = name.as_str().into();
                    volume
                })
                .collect();
            if !volumes.is_empty() {
                entry.insert("volume".to_owned(), volumes.into());
            }
            entry.insert("ephemeral-storage".to_owned(), self.used(pod.ephemeral()));
            let processes = json!({"process_count": pod.usage.stats.pids});
            entry.insert("process_stats".to_owned(), processes);
        }
        Value::Object(entry)
    }

    /// CPU, memory and swap; what the kernel doesn't tell is left out.
    fn usage(&self, usage: &Use) -> Map<String, Value> {
        let (stats, now) = (&usage.stats, self.now);
        let available = stats
            .memory_limit_bytes
            .zip(stats.memory_working_set_bytes)
            .map(|(limit, used)| limit.saturating_sub(used));
        let parts = [
            (
                "cpu",
                vec![
                    ("usageNanoCores", usage.nano_cores),
                    ("usageCoreNanoSeconds", stats.cpu_usage_ns),
                ],
            ),
            (
                "memory",
                vec![
                    ("availableBytes", available),
                    ("usageBytes", stats.memory_usage_bytes),
                    ("workingSetBytes", stats.memory_working_set_bytes),
                    ("rssBytes", stats.memory_rss_bytes),
                    ("pageFaults", stats.page_faults),
                    ("majorPageFaults", stats.major_page_faults),
                ],
            ),
            (
                "swap",
                vec![("swapUsageBytes", usage.detail.memory_swap_bytes)],
            ),
        ];
        let mut all = Map::new();
        for (name, figures) in parts {
            let mut part = Map::new();
            part.insert("time".to_owned(), now.into());
            for (key, value) in figures {
                if let Some(value) = value {
                    part.insert(key.to_owned(), value.into());
                }
            }
            all.insert(name.to_owned(), part.into());
        }
        all
    }

    /// What something takes of the node's disk.
    fn used(&self, used: Used) -> Value {
        match &self.disk {
            Some(disk) => self.file_system(disk, Some(used)),
            None => json!({"time": self.now, "usedBytes": used.bytes, "inodesUsed": used.inodes}),
        }
    }

    fn file_system(&self, disk: &Disk, used: Option<Used>) -> Value {
        let used = used.unwrap_or(Used {
            bytes: disk.total.saturating_sub(disk.available),
            inodes: disk.inodes.saturating_sub(disk.inodes_free),
        });
        json!({
            "time": self.now,
            "availableBytes": disk.available,
            "capacityBytes": disk.total,
            "usedBytes": used.bytes,
            "inodesFree": disk.inodes_free,
            "inodes": disk.inodes,
            "inodesUsed": used.inodes,
        })
    }

    /// The first interface, and all of them.
    fn network(&self, interfaces: &[Interface]) -> Value {
        let figures = |interface: &Interface| {
            json!({
                "name": interface.name,
                "rxBytes": interface.rx_bytes,
                "rxErrors": interface.rx_errors,
                "txBytes": interface.tx_bytes,
                "txErrors": interface.tx_errors,
            })
        };
        let mut network = interfaces.first().map_or_else(|| json!({}), figures);
        network["time"] = self.now.into();
        network["interfaces"] = interfaces.iter().map(figures).collect();
        network
    }
}

/// How many tasks there are and may be.
fn processes(now: &str) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let most: Option<u64> = read("/proc/sys/kernel/pid_max").trim().parse().ok();
    let running: Option<u64> = read("/proc/loadavg")
        .split_whitespace()
        .nth(3)
        .and_then(|tasks| tasks.split_once('/')?.1.parse().ok());
    json!({"time": now, "maxpid": most, "curproc": running})
}
