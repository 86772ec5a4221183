//! `/metrics/cadvisor`: groups under cAdvisor's names and labels.
//!
//! Source: `metrics/prometheus.go` and `prometheus_machine.go` of cAdvisor 0.53. A group is the machine (`/`), what all
//! pods share, a pod, or a container; only containers have a name and an image.

use crate::{
    context::Context,
    facts::{Machine, meminfo},
    stats::{Interface, Look, Text, Use, disk, float, interfaces_of_machine},
};
use kernelet_sys::cgroup::Io;

/// A group with its labels.
struct Row<'a> {
    container: &'a str,
    id: String,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
    usage: &'a Use,
}

impl Row<'_> {
    fn labels<'s>(&'s self, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        let mut labels = vec![
            ("container", self.container),
            ("id", self.id.as_str()),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        labels.extend_from_slice(more);
        labels.sort_unstable();
        labels
    }
}

fn rows(look: &Look) -> Vec<Row<'_>> {
    let shared = |usage, id: String| Row {
        container: "",
        id,
        image: "",
        name: "",
        namespace: "",
        pod: "",
        usage,
    };
    let mut rows = vec![shared(&look.node, "/".to_owned())];
    for system in look.system.iter().filter(|s| !s.usage.group.is_empty()) {
        rows.push(shared(&system.usage, format!("/{}", system.usage.group)));
    }
    for pod in &look.pods {
        rows.push(Row {
            namespace: &pod.namespace,
            pod: &pod.name,
            ..shared(&pod.usage, format!("/{}", pod.usage.group))
        });
        for container in &pod.containers {
            rows.push(Row {
                container: &container.name,
                image: &container.image,
                name: &container.id,
                namespace: &pod.namespace,
                pod: &pod.name,
                ..shared(&container.usage, format!("/{}", container.usage.group))
            });
        }
    }
    rows
}

type Value = fn(&Use) -> Option<u64>;

const SECONDS: [(&str, &str, Value); 3] = [
    (
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        |u| u.detail.cpu_user_ns,
    ),
    (
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        |u| u.detail.cpu_system_ns,
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |u| u.stats.cpu_throttled_ns,
    ),
];

const COUNTERS: [(&str, &str, Value); 4] = [
    (
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        |u| u.detail.cpu_periods,
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        |u| u.detail.cpu_throttled_periods,
    ),
    (
        "container_memory_failcnt",
        "Number of memory usage hits limits",
        |u| u.detail.memory_failures,
    ),
    (
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        |u| u.stats.oom_kills,
    ),
];

const GAUGES: [(&str, &str, Value); 16] = [
    (
        "container_memory_cache",
        "Number of bytes of page cache memory.",
        |u| u.detail.memory_cache_bytes,
    ),
    ("container_memory_rss", "Size of RSS in bytes.", |u| {
        u.stats.memory_rss_bytes
    }),
    (
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        |u| u.detail.memory_kernel_bytes,
    ),
    (
        "container_memory_mapped_file",
        "Size of memory mapped files in bytes.",
        |u| u.detail.memory_mapped_bytes,
    ),
    (
        "container_memory_swap",
        "Container swap usage in bytes.",
        |u| u.detail.memory_swap_bytes,
    ),
    (
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |u| u.stats.memory_usage_bytes,
    ),
    (
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        |u| u.detail.memory_max_usage_bytes,
    ),
    (
        "container_memory_working_set_bytes",
        "Current working set in bytes.",
        |u| u.stats.memory_working_set_bytes,
    ),
    (
        "container_memory_total_active_file_bytes",
        "Current total active file in bytes.",
        |u| u.detail.memory_active_file_bytes,
    ),
    (
        "container_memory_total_inactive_file_bytes",
        "Current total inactive file in bytes.",
        |u| u.detail.memory_inactive_file_bytes,
    ),
    (
        "container_processes",
        "Number of processes running inside the container.",
        |u| u.stats.pids,
    ),
    (
        "container_spec_cpu_period",
        "CPU period of the container.",
        |u| u.detail.cpu_period_us,
    ),
    (
        "container_spec_cpu_quota",
        "CPU quota of the container.",
        |u| u.detail.cpu_quota_us,
    ),
    (
        "container_spec_cpu_shares",
        "CPU share of the container.",
        |u| u.detail.cpu_shares,
    ),
    (
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        // Without a limit it is 0.
        |u| Some(u.stats.memory_limit_bytes.unwrap_or(0)),
    ),
    (
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        |_| Some(0),
    ),
];

type IoValue = fn(&Io) -> u64;
const IO: [(&str, &str, IoValue); 4] = [
    (
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read",
        |io| io.read_bytes,
    ),
    (
        "container_fs_reads_total",
        "Cumulative count of reads completed",
        |io| io.reads,
    ),
    (
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written",
        |io| io.write_bytes,
    ),
    (
        "container_fs_writes_total",
        "Cumulative count of writes completed",
        |io| io.writes,
    ),
];

type NetValue = fn(&Interface) -> u64;
const NETWORK: [(&str, &str, NetValue); 8] = [
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        |i| i.rx_bytes,
    ),
    (
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        |i| i.rx_packets,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.rx_dropped,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.rx_errors,
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        |i| i.tx_bytes,
    ),
    (
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        |i| i.tx_packets,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.tx_dropped,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.tx_errors,
    ),
];

pub(in super::super) fn page(ctx: &Context, look: &Look) -> String {
    let rows = rows(look);
    let mut text = Text::default();
    let at = Some(look.at.as_millisecond());
    usage(&mut text, &rows, at);
    io(&mut text, &rows, at);
    faults(&mut text, &rows, at);
    starts(&mut text, look, &rows);
    disks(&mut text, ctx, look, &rows, at);
    network(&mut text, look, &rows, at);
    machine(&mut text);
    text.one(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        0.0,
    );
    text.finish()
}

fn usage(text: &mut Text, rows: &[Row<'_>], at: Option<i64>) {
    let name = "container_cpu_usage_seconds_total";
    text.family(name, "counter", "Cumulative cpu time consumed in seconds.");
    for row in rows {
        if let Some(ns) = row.usage.stats.cpu_usage_ns {
            // The kubelet's cAdvisor doesn't tell CPUs apart either.
            text.sample_at(name, &row.labels(&[("cpu", "total")]), float(ns) / 1e9, at);
        }
    }
    for (name, help, value) in SECONDS {
        text.family(name, "counter", help);
        for row in rows {
            if let Some(ns) = value(row.usage) {
                text.sample_at(name, &row.labels(&[]), float(ns) / 1e9, at);
            }
        }
    }
    for (kind, families) in [("counter", &COUNTERS[..]), ("gauge", &GAUGES[..])] {
        for (name, help, value) in families {
            text.family(name, kind, help);
            for row in rows {
                if let Some(value) = value(row.usage) {
                    // Specifications don't change with time.
                    let at = at.filter(|_| !name.contains("_spec_"));
                    text.sample_at(name, &row.labels(&[]), float(value), at);
                }
            }
        }
    }
}

fn io(text: &mut Text, rows: &[Row<'_>], at: Option<i64>) {
    for (name, help, value) in IO {
        text.family(name, "counter", help);
        for row in rows {
            for (device, io) in &row.usage.detail.io {
                text.sample_at(
                    name,
                    &row.labels(&[("device", device)]),
                    float(value(io)),
                    at,
                );
            }
        }
    }
}

fn faults(text: &mut Text, rows: &[Row<'_>], at: Option<i64>) {
    let name = "container_memory_failures_total";
    text.family(
        name,
        "counter",
        "Cumulative count of memory allocation failures.",
    );
    for row in rows {
        let stats = &row.usage.stats;
        for (kind, count) in [
            ("pgfault", stats.page_faults),
            ("pgmajfault", stats.major_page_faults),
        ] {
            let Some(count) = count else { continue };
            // What a group and those below it had.
            let labels = row.labels(&[("failure_type", kind), ("scope", "hierarchy")]);
            text.sample_at(name, &labels, float(count), at);
        }
    }
}

fn starts(text: &mut Text, look: &Look, rows: &[Row<'_>]) {
    let seconds = |at: jiff::Timestamp| at.as_duration().as_secs_f64().trunc();
    let name = "container_last_seen";
    text.family(
        name,
        "gauge",
        "Last time a container was seen by the exporter",
    );
    for row in rows {
        text.sample(name, &row.labels(&[]), seconds(look.at));
    }
    let name = "container_start_time_seconds";
    text.family(
        name,
        "gauge",
        "Start time of the container since unix epoch in seconds.",
    );
    let pods = look.pods.iter().flat_map(|pod| {
        let containers = pod.containers.iter().map(|c| (&c.usage.group, c.started));
        containers.chain([(&pod.usage.group, pod.started)])
    });
    let system = look.system.iter().map(|s| (&s.usage.group, s.started));
    let started: std::collections::HashMap<_, _> = pods.chain(system).collect();
    for row in rows {
        let at = match row.id.as_str() {
            "/" => look.booted,
            _ => started.get(&row.usage.group).copied().flatten(),
        };
        if let Some(at) = at {
            text.sample(name, &row.labels(&[]), seconds(at));
        }
    }
}

fn disks(text: &mut Text, ctx: &Context, look: &Look, rows: &[Row<'_>], at: Option<i64>) {
    let used: std::collections::HashMap<&str, u64> = look
        .pods
        .iter()
        .flat_map(|pod| &pod.containers)
        .map(|c| (c.id.as_str(), c.rootfs.bytes + c.logs.bytes))
        .collect();
    let Some(disk) = disk(ctx) else { return };
    let device = ctx.config.data_dir.display().to_string();
    let label = [("device", device.as_str())];
    let name = "container_fs_usage_bytes";
    text.family(
        name,
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    for row in rows {
        let bytes = match row.id.as_str() {
            "/" => Some(disk.total.saturating_sub(disk.available)),
            _ => used.get(row.name).copied(),
        };
        if let Some(bytes) = bytes {
            text.sample_at(name, &row.labels(&label), float(bytes), at);
        }
    }
    let root = &rows[0];
    for (name, help, value) in [
        (
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem.",
            disk.total,
        ),
        (
            "container_fs_inodes_free",
            "Number of available Inodes",
            disk.inodes_free,
        ),
        ("container_fs_inodes_total", "Number of Inodes", disk.inodes),
    ] {
        text.family(name, "gauge", help);
        text.sample_at(name, &root.labels(&label), float(value), at);
    }
}

fn network(text: &mut Text, look: &Look, rows: &[Row<'_>], at: Option<i64>) {
    let machine = interfaces_of_machine();
    for (name, help, value) in NETWORK {
        text.family(name, "counter", help);
        for interface in &machine {
            let labels = rows[0].labels(&[("interface", &interface.name)]);
            text.sample_at(name, &labels, float(value(interface)), at);
        }
        for pod in &look.pods {
            let row = rows.iter().find(|row| row.usage.group == pod.usage.group);
            let Some(row) = row else { continue };
            for interface in &pod.interfaces {
                let labels = row.labels(&[("interface", &interface.name)]);
                text.sample_at(name, &labels, float(value(interface)), at);
            }
        }
    }
}

fn machine(text: &mut Text) {
    let machine = Machine::look();
    let labels = [
        ("boot_id", machine.info.boot_id.as_str()),
        ("machine_id", &machine.info.machine_id),
        ("system_uuid", &machine.info.system_uuid),
    ];
    for (name, help, value) in [
        (
            "machine_cpu_cores",
            "Number of logical CPU cores.",
            u64::from(machine.cpus),
        ),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            machine.memory_bytes,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            meminfo("SwapTotal:").unwrap_or(0),
        ),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &labels, float(value));
    }
}
