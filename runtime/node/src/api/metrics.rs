//! Prometheus texts: the node's own figures, and the usage of node, pods and containers under upstream's names.

use std::fmt::Write;

use kernelet_sys::cgroup::Stats;
use kube::ResourceExt;

use super::summary::{cpu_seconds_of_machine, is_running, pod_group, started_at};
use crate::{context::Context, facts::meminfo, worker::View};

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(k, v)| {
                format!(
                    "{k}=\"{}\"",
                    v.replace('\\', "\\\\")
                        .replace('"', "\\\"")
                        .replace('\n', "\\n")
                )
            })
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' values are doubles")]
fn float(n: u64) -> f64 {
    n as f64
}

/// `/metrics`.
pub(super) fn node(ctx: &Context, views: &[View]) -> String {
    let mut text = Text(String::new());
    text.family(
        "kubelet_node_name",
        "gauge",
        "The node's name. The count is always 1.",
    );
    text.sample("kubelet_node_name", &[("node", &ctx.config.node_name)], 1.0);
    text.family(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    let running = views
        .iter()
        .filter(|v| v.status.phase.as_deref() == Some("Running"))
        .count();
    text.sample("kubelet_running_pods", &[], float(running as u64));
    text.family(
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    let containers = views
        .iter()
        .map(|v| {
            v.containers
                .keys()
                .filter(|name| is_running(v, name))
                .count()
        })
        .sum::<usize>();
    text.sample(
        "kubelet_running_containers",
        &[("container_state", "running")],
        float(containers as u64),
    );
    text.family(
        "kubelet_desired_pods",
        "gauge",
        "The number of pods the kubelet is being instructed to run",
    );
    text.sample(
        "kubelet_desired_pods",
        &[("static", "")],
        float(views.len() as u64),
    );
    text.0
}

struct Usage {
    namespace: String,
    pod: String,
    container: Option<String>,
    stats: Stats,
    started: Option<f64>,
}

fn usages(ctx: &Context, views: &[View]) -> Vec<Usage> {
    let mut all = Vec::new();
    for view in views
        .iter()
        .filter(|v| v.status.phase.as_deref() == Some("Running"))
    {
        let group = pod_group(ctx, &ctx.facts, view);
        let (namespace, pod) = (
            view.pod.namespace().unwrap_or_default(),
            view.pod.name_any(),
        );
        for (name, (id, _)) in view
            .containers
            .iter()
            .filter(|(name, _)| is_running(view, name))
        {
            all.push(Usage {
                namespace: namespace.clone(),
                pod: pod.clone(),
                container: Some(name.clone()),
                stats: ctx
                    .layout
                    .group(&group.container(id))
                    .stats()
                    .unwrap_or_default(),
                started: started_at(view, name).map(|t| t.as_duration().as_secs_f64()),
            });
        }
        let stats = ctx.layout.group(&group.path).stats().unwrap_or_default();
        all.push(Usage {
            namespace,
            pod,
            container: None,
            stats,
            started: None,
        });
    }
    all
}

/// `/metrics/resource`.
pub(super) fn resource(ctx: &Context, views: &[View]) -> String {
    let usages = usages(ctx, views);
    let mut text = Text(String::new());
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    if let Some(seconds) = cpu_seconds_of_machine() {
        text.sample("node_cpu_usage_seconds_total", &[], seconds);
    }
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    let used = meminfo("MemTotal:")
        .zip(meminfo("MemAvailable:"))
        .map(|(total, free)| total.saturating_sub(free));
    text.sample(
        "node_memory_working_set_bytes",
        &[],
        float(used.unwrap_or(0)),
    );
    let cpu = |u: &Usage| u.stats.cpu_usage_ns.map(|ns| float(ns) / 1e9);
    let memory = |u: &Usage| u.stats.memory_working_set_bytes.map(float);
    let mut family = |name: &str,
                      kind: &str,
                      help: &str,
                      of_pod: bool,
                      value: &dyn Fn(&Usage) -> Option<f64>| {
        text.family(name, kind, help);
        for usage in usages.iter().filter(|u| u.container.is_none() == of_pod) {
            let Some(value) = value(usage) else { continue };
            let mut labels = vec![
                ("namespace", usage.namespace.as_str()),
                ("pod", usage.pod.as_str()),
            ];
            if let Some(container) = &usage.container {
                labels.insert(0, ("container", container));
            }
            text.sample(name, &labels, value);
        }
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        false,
        &cpu,
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        false,
        &memory,
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        false,
        &|u| u.started,
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        true,
        &cpu,
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        true,
        &memory,
    );
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample("resource_scrape_error", &[], 0.0);
    text.0
}

/// `/metrics/cadvisor`: of cAdvisor's many families those that the usual dashboards read.
pub(super) fn containers(ctx: &Context, views: &[View]) -> String {
    let usages = usages(ctx, views);
    let mut text = Text(String::new());
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Usage) -> Option<f64>| {
        text.family(name, kind, help);
        for usage in &usages {
            let Some(value) = value(usage) else { continue };
            let labels = [
                ("container", usage.container.as_deref().unwrap_or_default()),
                ("namespace", &usage.namespace),
                ("pod", &usage.pod),
            ];
            text.sample(name, &labels, value);
        }
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        &|u| u.stats.cpu_usage_ns.map(|ns| float(ns) / 1e9),
    );
    family(
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        &|u| u.stats.cpu_throttled_ns.map(|ns| float(ns) / 1e9),
    );
    family(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory.",
        &|u| u.stats.memory_usage_bytes.map(float),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        &|u| u.stats.memory_working_set_bytes.map(float),
    );
    family(
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        &|u| u.stats.memory_rss_bytes.map(float),
    );
    family(
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed.",
        &|u| u.stats.oom_kills.map(float),
    );
    family(
        "container_processes",
        "gauge",
        "Number of processes running inside the container.",
        &|u| u.stats.pids.map(float),
    );
    text.0
}
