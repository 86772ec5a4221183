//! `/metrics/resource`: CPU and memory of node, pods and containers, each with the time of its measurement.
//!
//! Source: `pkg/kubelet/metrics/collectors/resource_metrics.go` of Kubernetes 1.35.

use crate::stats::{ContainerUse, Look, PodUse, Text, Use, float};

type Value = fn(&Use) -> Option<f64>;

fn cpu(usage: &Use) -> Option<f64> {
    Some(float(usage.stats.cpu_usage_ns?) / 1e9)
}

fn memory(usage: &Use) -> Option<f64> {
    usage.stats.memory_working_set_bytes.map(float)
}

fn swap(usage: &Use) -> Option<f64> {
    usage.detail.memory_swap_bytes.map(float)
}

fn labels_of<'l>(pod: &'l PodUse, container: &'l ContainerUse) -> [(&'static str, &'l str); 3] {
    [
        ("container", &container.name),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ]
}

pub(in super::super) fn page(look: &Look) -> String {
    let mut text = Text::default();
    let at = Some(look.at.as_millisecond());
    let node: [(&str, &str, &str, Value); 3] = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            cpu,
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            memory,
        ),
        (
            "node_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            swap,
        ),
    ];
    for (name, kind, help, value) in node {
        text.family(name, kind, help);
        if let Some(value) = value(&look.node) {
            text.sample_at(name, &[], value, at);
        }
    }
    let containers: [(&str, &str, &str, Value); 3] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            cpu,
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            memory,
        ),
        (
            "container_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            swap,
        ),
    ];
    for (name, kind, help, value) in containers {
        text.family(name, kind, help);
        for pod in &look.pods {
            for container in &pod.containers {
                let labels = labels_of(pod, container);
                if let Some(value) = value(&container.usage) {
                    text.sample_at(name, &labels, value, at);
                }
            }
        }
    }
    let name = "container_start_time_seconds";
    text.family(
        name,
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for pod in &look.pods {
        for container in &pod.containers {
            let labels = labels_of(pod, container);
            if let Some(started) = container.started {
                text.sample(name, &labels, started.as_duration().as_secs_f64());
            }
        }
    }
    let pods: [(&str, &str, &str, Value); 3] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            cpu,
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the pod in bytes",
            memory,
        ),
        (
            "pod_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            swap,
        ),
    ];
    for (name, kind, help, value) in pods {
        text.family(name, kind, help);
        for pod in &look.pods {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.name)];
            if let Some(value) = value(&pod.usage) {
                text.sample_at(name, &labels, value, at);
            }
        }
    }
    for (name, stability) in [
        ("resource_scrape_error", "STABLE"),
        ("scrape_error", "ALPHA"),
    ] {
        let help = format!(
            "[{stability}] 1 if there was an error while getting container metrics, 0 otherwise"
        );
        // A pod that couldn't be measured would be one without any figure.
        let broken = look.pods.iter().any(|pod| cpu(&pod.usage).is_none());
        text.one(name, "gauge", &help, if broken { 1.0 } else { 0.0 });
    }
    text.finish()
}
