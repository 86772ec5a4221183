//! What the server counts, under upstream's names and with its labels.
//!
//! Source: `apiserver/pkg/endpoints/metrics` of Kubernetes 1.35. Only what is truly measured is told; a dashboard shows
//! a gap for the rest, and not a zero.

mod labels;
mod page;
mod process;

pub use labels::RequestLabels;
use labels::{DurationLabels, KindLabels, LongLabels, ResourceLabels};

use std::{fmt::Write, time::Duration};

use crate::flow::FlowMetrics;
use http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge as PromGauge, histogram::Histogram},
    registry::Registry,
};

/// Upstream's buckets, in seconds.
const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    git_version: &'static str,
    platform: String,
}

/// All of the server's metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    long_running: Family<LongLabels, PromGauge>,
    inflight: Family<KindLabels, PromGauge>,
    objects: Family<ResourceLabels, PromGauge>,
    revision: PromGauge,
    /// Priority and fairness.
    pub flow: FlowMetrics,
}

/// Counts one while it lives.
pub struct Gauge(PromGauge);

impl Gauge {
    fn of(gauge: PromGauge) -> Gauge {
        gauge.inc();
        Gauge(gauge)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code",
            requests.clone(),
        );
        let durations =
            Family::<DurationLabels, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component; watches are not in it",
            durations.clone(),
        );
        let long_running = Family::<LongLabels, PromGauge>::default();
        registry.register(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way",
            long_running.clone(),
        );
        let inflight = Family::<KindLabels, PromGauge>::default();
        registry.register(
            "apiserver_current_inflight_requests",
            "Number of requests being answered per request kind",
            inflight.clone(),
        );
        for kind in [KindLabels::READ_ONLY, KindLabels::MUTATING] {
            drop(inflight.get_or_create(&kind));
        }
        let objects = Family::<ResourceLabels, PromGauge>::default();
        registry.register(
            "apiserver_storage_objects",
            "Number of stored objects at the time of last check split by kind",
            objects.clone(),
        );
        let revision = <PromGauge>::default();
        registry.register(
            "kernelet_watch_cache_revision",
            "The revision up to which the watch cache is current",
            revision.clone(),
        );
        let build = Family::<BuildLabels, PromGauge>::default();
        registry.register(
            "kubernetes_build_info",
            "A metric with a constant '1' value labeled by the version and platform that Kubernetes was built for",
            build.clone(),
        );
        let labels = BuildLabels {
            git_version: crate::meta_api::GIT_VERSION,
            platform: format!("linux/{}", std::env::consts::ARCH),
        };
        build.get_or_create(&labels).set(1);
        let flow = FlowMetrics::register(&mut registry);
        Metrics {
            flow,
            registry,
            requests,
            durations,
            long_running,
            inflight,
            objects,
            revision,
        }
    }

    /// A watch, a followed log, a session or a proxied request has begun.
    pub fn long_running(&self, labels: &RequestLabels) -> Gauge {
        let labels = LongLabels::of(labels);
        Gauge::of(self.long_running.get_or_create(&labels).clone())
    }

    pub fn request_started(&self, method: &Method) -> Gauge {
        let kind = if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            KindLabels::READ_ONLY
        } else {
            KindLabels::MUTATING
        };
        Gauge::of(self.inflight.get_or_create(&kind).clone())
    }

    pub fn request_done(&self, labels: RequestLabels, took: Duration) {
        // What is open for as long as its client likes tells nothing of the server.
        if !matches!(labels.verb, "WATCH" | "CONNECT") {
            self.durations
                .get_or_create(&DurationLabels::of(&labels))
                .observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// The page that Prometheus reads (text format 0.0.4), with the levels that are read when asked for.
    pub fn render(&self, objects: impl Iterator<Item = (String, usize)>, revision: i64) -> String {
        for (resource, count) in objects {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects
                .get_or_create(&ResourceLabels { resource })
                .set(count);
        }
        self.revision.set(revision);
        let mut open_metrics = String::new();
        let mut text = match text::encode(&mut open_metrics, &self.registry) {
            Ok(()) => page::text(&open_metrics),
            Err(error) => format!("# {error}\n"),
        };
        if let Some(process) = process::Process::look() {
            let _ = write!(text, "{process}");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::new();
        let labels = RequestLabels {
            verb: "GET",
            version: "v1".into(),
            resource: "pods".into(),
            scope: "resource",
            code: 200,
            ..RequestLabels::default()
        };
        let open = metrics.long_running(&labels);
        let running = metrics.request_started(&Method::POST);
        metrics.request_done(labels, Duration::from_millis(3));
        let text = metrics.render([("pods".to_owned(), 2)].into_iter(), 7);
        for line in [
            r#"apiserver_request_total{verb="GET",dry_run="",group="",version="v1",resource="pods",subresource="",scope="resource",component="apiserver",code="200"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{le="0.005",verb="GET",dry_run="",group="",version="v1",resource="pods",subresource="",scope="resource",component="apiserver"} 1"#,
            r#"apiserver_longrunning_requests{verb="GET",group="",version="v1",resource="pods",subresource="",scope="resource",component="apiserver"} 1"#,
            r#"apiserver_current_inflight_requests{request_kind="mutating"} 1"#,
            r#"apiserver_current_inflight_requests{request_kind="readOnly"} 0"#,
            r#"apiserver_storage_objects{resource="pods"} 2"#,
            "# TYPE apiserver_request_total counter",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        drop((open, running));
        let text = metrics.render(std::iter::empty(), 7);
        assert!(text.contains(r#"request_kind="mutating"} 0"#), "{text}");
    }
}
