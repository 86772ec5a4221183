//! What happened since this process started: requests, starts, probes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kernelet_pod_plan::{
    Outcome, Role, Step, Wanted,
    probe::{ProbeAnswer, ProbeKind},
};

use super::text::{Text, float};

/// Upstream's buckets of `kubelet_pod_start_duration_seconds`.
const POD_START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// client_golang's default buckets.
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Roots of paths that are counted by name.
const PATHS: [&str; 12] = [
    "attach",
    "configz",
    "containerLogs",
    "exec",
    "healthz",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "runningpods",
    "stats",
];

/// A request as it is counted: method, path, whether it is a session.
type RequestKey = (String, &'static str, bool);
/// A probe: pod's uid, container, kind.
type ProbeKey = (String, String, &'static str);

#[derive(Debug, Default)]
struct Histogram {
    /// How many values were at most the bucket's bound.
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.buckets.resize(bounds.len(), 0);
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            *bucket += u64::from(value <= *bound);
        }
        self.sum += value;
        self.count += 1;
    }

    fn write(&self, text: &mut Text, name: &str, bounds: &[f64], labels: &[(&str, &str)]) {
        let series = format!("{name}_bucket");
        let mut bucket = |bound: &str, count: u64| {
            let mut all = labels.to_vec();
            all.push(("le", bound));
            text.sample(&series, &all, float(count));
        };
        for (i, bound) in bounds.iter().enumerate() {
            let count = self.buckets.get(i).copied().unwrap_or(0);
            bucket(&bound.to_string(), count);
        }
        bucket("+Inf", self.count);
        text.sample(&format!("{name}_sum"), labels, self.sum);
        text.sample(&format!("{name}_count"), labels, float(self.count));
    }
}

#[derive(Debug, Default)]
struct Probed {
    namespace: String,
    pod: String,
    successes: u64,
    failures: u64,
}

#[derive(Debug, Default)]
struct Inner {
    requests: BTreeMap<RequestKey, u64>,
    request_seconds: BTreeMap<RequestKey, Histogram>,
    inflight: BTreeMap<RequestKey, u64>,
    started_pods: u64,
    failed_pods: u64,
    started_containers: BTreeMap<&'static str, u64>,
    failed_containers: BTreeMap<(&'static str, String), u64>,
    pod_starts: Histogram,
    probes: BTreeMap<ProbeKey, Probed>,
}

/// The node's counters.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Inner>);

/// How long a pod takes from when the node first sees it until all of it runs. A pod that runs already was started by
/// an earlier process, and isn't counted.
#[derive(Debug)]
pub(crate) struct PodStart {
    seen: Instant,
    published: bool,
    told: bool,
}

impl Default for PodStart {
    fn default() -> Self {
        Self {
            seen: Instant::now(),
            published: false,
            told: false,
        }
    }
}

impl PodStart {
    /// The pod's status was published.
    pub fn published(&mut self, phase: Option<&str>, counters: &Counters) {
        let runs = !matches!(phase, None | Some("Pending" | "Unknown"));
        if runs && !self.told {
            self.told = true;
            if self.published {
                let took = self.seen.elapsed().as_secs_f64();
                counters.lock().pod_starts.observe(POD_START, took);
            }
        }
        self.published = true;
    }
}

/// A request that is being answered.
pub(crate) struct Request<'a> {
    counters: &'a Counters,
    key: RequestKey,
    began: Instant,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        let mut inner = self.counters.lock();
        if let Some(open) = inner.inflight.get_mut(&self.key) {
            *open = open.saturating_sub(1);
        }
        let seconds = inner.request_seconds.entry(self.key.clone()).or_default();
        seconds.observe(SECONDS, took);
    }
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request until the answer is dropped.
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let two = parts.get(..2).map(|two| two.join("/"));
        let of = |name: &str| PATHS.iter().find(|known| **known == name).copied();
        let path = two
            .and_then(|two| of(&two))
            .or_else(|| of(parts.first().copied().unwrap_or_default()))
            .unwrap_or("other");
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = known.into_iter().find(|m| *m == method).unwrap_or("other");
        let long = matches!(path, "exec" | "attach" | "containerLogs");
        let key = (method.to_owned(), path, long);
        let mut inner = self.lock();
        *inner.requests.entry(key.clone()).or_default() += 1;
        *inner.inflight.entry(key.clone()).or_default() += 1;
        Request {
            counters: self,
            key,
            began: Instant::now(),
        }
    }

    /// A step of a pod has ended.
    pub fn step(&self, wanted: &Wanted, step: &Step, outcome: &Outcome) {
        match step {
            Step::CreateSandbox => {
                let mut inner = self.lock();
                match outcome {
                    Ok(_) => inner.started_pods += 1,
                    Err(_) => inner.failed_pods += 1,
                }
            }
            Step::StartContainer { container, .. } => {
                let kind = container_type(wanted, container);
                let mut inner = self.lock();
                match outcome {
                    Ok(_) => *inner.started_containers.entry(kind).or_default() += 1,
                    Err(error) => {
                        let code = format!("{:?}", error.reason);
                        *inner.failed_containers.entry((kind, code)).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// A probe was answered. `pod`: namespace, name, uid.
    pub fn probe(
        &self,
        pod: (&str, &str, &str),
        container: &str,
        kind: ProbeKind,
        answer: ProbeAnswer,
    ) {
        let (namespace, name, uid) = pod;
        let kind = match kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        };
        let key = (uid.to_owned(), container.to_owned(), kind);
        let mut inner = self.lock();
        let probed = inner.probes.entry(key).or_insert_with(|| Probed {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            ..Probed::default()
        });
        match answer {
            ProbeAnswer::Success => probed.successes += 1,
            _ => probed.failures += 1,
        }
    }

    /// The pod is gone, and its series with it.
    pub fn forget(&self, uid: &str) {
        self.lock().probes.retain(|(of, ..), _| of != uid);
    }

    /// The families of `/metrics` that are counted here.
    pub fn write(&self, text: &mut Text) {
        let inner = self.lock();
        let request = |text: &mut Text, name: &str, key: &RequestKey, value: u64| {
            let (method, path, long) = key;
            let labels = [
                ("long_running", if *long { "true" } else { "false" }),
                ("method", method.as_str()),
                ("path", path),
                ("server_type", "readwrite"),
            ];
            text.sample(name, &labels, float(value));
        };
        let name = "kubelet_http_requests_total";
        text.family(
            name,
            "counter",
            "Number of the http requests received since the server started",
        );
        for (key, count) in &inner.requests {
            request(text, name, key, *count);
        }
        let name = "kubelet_http_inflight_requests";
        text.family(name, "gauge", "Number of the inflight http requests");
        for (key, count) in &inner.inflight {
            request(text, name, key, *count);
        }
        let name = "kubelet_http_requests_duration_seconds";
        text.family(
            name,
            "histogram",
            "Duration in seconds to serve http requests",
        );
        for ((method, path, long), histogram) in &inner.request_seconds {
            let labels = [
                ("long_running", if *long { "true" } else { "false" }),
                ("method", method.as_str()),
                ("path", path),
                ("server_type", "readwrite"),
            ];
            histogram.write(text, name, SECONDS, &labels);
        }
        text.one(
            "kubelet_started_pods_total",
            "counter",
            "Cumulative number of pods started",
            float(inner.started_pods),
        );
        text.one(
            "kubelet_started_pods_errors_total",
            "counter",
            "Cumulative number of errors when starting pods",
            float(inner.failed_pods),
        );
        let name = "kubelet_started_containers_total";
        text.family(name, "counter", "Cumulative number of containers started");
        for (kind, count) in &inner.started_containers {
            text.sample(name, &[("container_type", kind)], float(*count));
        }
        let name = "kubelet_started_containers_errors_total";
        text.family(
            name,
            "counter",
            "Cumulative number of errors when starting containers",
        );
        for ((kind, code), count) in &inner.failed_containers {
            text.sample(
                name,
                &[("code", code), ("container_type", kind)],
                float(*count),
            );
        }
        let name = "kubelet_pod_start_duration_seconds";
        text.family(
            name,
            "histogram",
            "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
        );
        inner.pod_starts.write(text, name, POD_START, &[]);
    }

    /// `/metrics/probes`.
    pub fn write_probes(&self, text: &mut Text) {
        let inner = self.lock();
        let name = "prober_probe_total";
        text.family(
            name,
            "counter",
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        for ((uid, container, kind), probed) in &inner.probes {
            for (result, count) in [
                ("failed", probed.failures),
                ("successful", probed.successes),
            ] {
                if count == 0 {
                    continue;
                }
                let labels = [
                    ("container", container.as_str()),
                    ("namespace", &probed.namespace),
                    ("pod", &probed.pod),
                    ("pod_uid", uid),
                    ("probe_type", kind),
                    ("result", result),
                ];
                text.sample(name, &labels, float(count));
            }
        }
    }
}

fn container_type(wanted: &Wanted, container: &str) -> &'static str {
    match wanted.container(container).map(|(role, _)| role) {
        Some(Role::Init | Role::Sidecar) => "init_container",
        Some(Role::Ephemeral) => "ephemeral_container",
        _ => "container",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told() {
        let counters = Counters::default();
        drop(counters.request("GET", "/metrics/cadvisor"));
        drop(counters.request("BREW", "/nowhere/at/all"));
        let open = counters.request("POST", "/exec/a/b/c");
        let pod = ("d", "p", "u");
        counters.probe(pod, "c", ProbeKind::Liveness, ProbeAnswer::Success);
        counters.probe(pod, "c", ProbeKind::Liveness, ProbeAnswer::Failure);
        let mut start = PodStart::default();
        for phase in [Some("Pending"), Some("Running"), Some("Running")] {
            start.published(phase, &counters);
        }
        // One that runs at first sight was started by somebody else.
        PodStart::default().published(Some("Running"), &counters);
        let mut text = Text::default();
        counters.write(&mut text);
        counters.write_probes(&mut text);
        let text = text.finish();
        for line in [
            r#"kubelet_http_requests_total{long_running="false",method="GET",path="metrics/cadvisor",server_type="readwrite"} 1"#,
            r#"kubelet_http_requests_total{long_running="false",method="other",path="other",server_type="readwrite"} 1"#,
            r#"kubelet_http_inflight_requests{long_running="true",method="POST",path="exec",server_type="readwrite"} 1"#,
            r#"kubelet_http_requests_duration_seconds_bucket{long_running="false",method="GET",path="metrics/cadvisor",server_type="readwrite",le="+Inf"} 1"#,
            "kubelet_pod_start_duration_seconds_count 1",
            r#"kubelet_pod_start_duration_seconds_bucket{le="0.5"} 1"#,
            r#"prober_probe_total{container="c",namespace="d",pod="p",pod_uid="u",probe_type="Liveness",result="failed"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        drop(open);
        counters.forget("u");
        let mut text = Text::default();
        counters.write_probes(&mut text);
        assert!(!text.finish().contains("container="));
    }
}
