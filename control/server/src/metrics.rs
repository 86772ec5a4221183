//! What the server counts, under upstream's names where it has them.

use std::{fmt::Write, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge as PromGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub scope: &'static str,
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    pub verb: String,
    pub resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResourceLabels {
    pub resource: String,
}

/// All of the server's metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    watchers: PromGauge,
    inflight: PromGauge,
    objects: Family<ResourceLabels, PromGauge>,
    revision: PromGauge,
}

/// Counts one while it lives.
pub struct Gauge(PromGauge);

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
            "Requests by verb, resource and response code",
            requests.clone(),
        );
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
        });
        registry.register(
            "apiserver_request_duration_seconds",
            "Time until a request was answered; watches are not in it",
            durations.clone(),
        );
        let watchers = <PromGauge>::default();
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and followed logs that are open",
            watchers.clone(),
        );
        let inflight = <PromGauge>::default();
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being answered",
            inflight.clone(),
        );
        let objects = Family::<ResourceLabels, PromGauge>::default();
        registry.register(
            "apiserver_storage_objects",
            "Stored objects by resource",
            objects.clone(),
        );
        let revision = <PromGauge>::default();
        registry.register(
            "kernelet_watch_cache_revision",
            "The revision up to which the watch cache is current",
            revision.clone(),
        );
        Metrics {
            registry,
            requests,
            durations,
            watchers,
            inflight,
            objects,
            revision,
        }
    }

    pub fn watch_opened(&self) -> Gauge {
        self.watchers.inc();
        Gauge(self.watchers.clone())
    }

    pub fn request_started(&self) -> Gauge {
        self.inflight.inc();
        Gauge(self.inflight.clone())
    }

    pub fn request_done(&self, labels: RequestLabels, took: Duration) {
        if labels.verb != "watch" {
            let key = DurationLabels {
                verb: labels.verb.clone(),
                resource: labels.resource.clone(),
            };
            self.durations
                .get_or_create(&key)
                .observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// The exposition text, with the levels that are read when asked for.
    pub fn render(&self, objects: impl Iterator<Item = (String, usize)>, revision: i64) -> String {
        for (resource, count) in objects {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects
                .get_or_create(&ResourceLabels { resource })
                .set(count);
        }
        self.revision.set(revision);
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            let _ = writeln!(text, "# {error}");
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
            verb: "get".into(),
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            subresource: String::new(),
            scope: "resource",
            code: 200,
        };
        metrics.request_done(labels, Duration::from_millis(3));
        let open = metrics.watch_opened();
        let text = metrics.render([("pods".to_owned(), 2)].into_iter(), 7);
        assert!(
            text.contains("apiserver_request_total{verb=\"get\""),
            "{text}"
        );
        assert!(text.contains("apiserver_longrunning_requests 1"), "{text}");
        assert!(
            text.contains("apiserver_storage_objects{resource=\"pods\"} 2"),
            "{text}"
        );
        drop(open);
        assert!(
            metrics
                .render(std::iter::empty(), 7)
                .contains("apiserver_longrunning_requests 0")
        );
    }
}
