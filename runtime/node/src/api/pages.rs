//! The pages that monitoring reads: statistics, metrics, the configuration in force.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Api, json_answer, metrics, metrics_answer, query, summary, text};
use crate::{
    NodeConfig,
    stats::{Depth, Look},
};

impl Api {
    /// `parts`: the path's segments, the first of them `stats`, `metrics` or `configz`.
    pub(super) async fn page(&self, parts: &[&str], asked: Option<&str>) -> Answer {
        match parts {
            ["stats", "summary"] => {
                let only = query(asked);
                let only = only.get("only_cpu_and_memory").is_some_and(|v| v == "true");
                let depth = match only {
                    true => Depth::CpuAndMemory,
                    false => Depth::Whole,
                };
                let write = move |api: &Api, look: &Look| {
                    json_answer(&summary::summary(&api.ctx, look, depth))
                };
                self.looked(depth, write).await
            }
            ["metrics"] => metrics_answer(metrics::node(&self.ctx, &self.views())),
            ["metrics", "probes"] => metrics_answer(metrics::probes(&self.ctx)),
            ["metrics", "resource"] => {
                let write = |_: &Api, look: &Look| metrics_answer(metrics::resource(look));
                self.looked(Depth::CpuAndMemory, write).await
            }
            ["metrics", "cadvisor"] => {
                let write =
                    |api: &Api, look: &Look| metrics_answer(metrics::cadvisor(&api.ctx, look));
                self.looked(Depth::Whole, write).await
            }
            ["configz"] => json_answer(&configuration(&self.ctx.config)),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// Looks, and writes what was seen, on a thread that may wait for files.
    async fn looked(
        &self,
        depth: Depth,
        write: impl FnOnce(&Api, &Look) -> Answer + Send + 'static,
    ) -> Answer {
        let api = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let look = Look::take(&api.ctx, &api.views(), depth);
            write(&api, &look)
        });
        task.await
            .unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

/// KubeletConfiguration, as far as this node has such settings; what it has no choice in is told, too.
fn configuration(config: &NodeConfig) -> Value {
    json!({"kubeletconfig": {
        "address": config.node_ips.first(),
        "port": config.kubelet_port,
        "authentication": {
            "x509": {},
            "webhook": {"enabled": true},
            "anonymous": {"enabled": false},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "cgroupRoot": config.cgroup_root,
        "cgroupDriver": "cgroupfs",
        "maxPods": config.max_pods,
        "podPidsLimit": crate::facts::POD_PIDS,
        "failSwapOn": false,
    }})
}
