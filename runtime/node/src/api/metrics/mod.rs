//! Prometheus texts: the node's own figures here, usage under upstream's names in the two modules.

mod cadvisor;
mod resource;

pub(super) use cadvisor::page as cadvisor;
pub(super) use resource::page as resource;

use crate::{
    context::Context,
    stats::{Process, Text, float, is_running},
    worker::View,
};

/// `/metrics`.
pub(super) fn node(ctx: &Context, views: &[View]) -> String {
    let mut text = Text::default();
    text.family(
        "kubelet_node_name",
        "gauge",
        "The node's name. The count is always 1.",
    );
    text.sample("kubelet_node_name", &[("node", &ctx.config.node_name)], 1.0);
    let running = views
        .iter()
        .filter(|v| v.status.phase.as_deref() == Some("Running"));
    text.one(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
        float(running.count() as u64),
    );
    text.family(
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    let (mut runs, mut exited) = (0, 0);
    for view in views {
        for name in view.containers.keys() {
            match is_running(view, name) {
                true => runs += 1,
                false => exited += 1,
            }
        }
    }
    for (state, count) in [("exited", exited), ("running", runs)] {
        let labels = [("container_state", state)];
        text.sample("kubelet_running_containers", &labels, float(count));
    }
    for (name, help) in [
        (
            "kubelet_active_pods",
            "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
        ),
        (
            "kubelet_desired_pods",
            "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
        ),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[("static", "")], float(views.len() as u64));
    }
    ctx.counters.write(&mut text);
    text.family(
        "kubernetes_build_info",
        "gauge",
        "A metric with a constant '1' value labeled by the version and platform that Kubernetes was built for.",
    );
    let version = format!("v1.35.0+kernelet.{}", env!("CARGO_PKG_VERSION"));
    let platform = format!("linux/{}", crate::facts::go_architecture());
    text.sample(
        "kubernetes_build_info",
        &[("git_version", &version), ("platform", &platform)],
        1.0,
    );
    process(&mut text);
    text.finish()
}

/// `/metrics/probes`.
pub(super) fn probes(ctx: &Context) -> String {
    let mut text = Text::default();
    ctx.counters.write_probes(&mut text);
    if let Some(process) = Process::look() {
        text.one(
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            float(u64::try_from(process.started_ms).unwrap_or(0)) / 1e3,
        );
    }
    text.finish()
}

fn process(text: &mut Text) {
    if let Some(process) = Process::look() {
        process.write(text);
    }
}
