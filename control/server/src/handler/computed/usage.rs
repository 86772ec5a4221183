//! `metrics.k8s.io`: what nodes and pods use, as metrics-server tells it.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use kernelet_api::{
    ApiError, Value,
    quantity::{Canonical, Quantity},
};
use serde_json::{Map, json};

use super::{Call, Filter, Source, read};
use crate::{
    cache::{CachedObject, KeyRange},
    registry::Stored,
    usage::{Sample, Sampler, Usage},
};

pub struct Nodes;
pub struct Pods;

impl Source for Nodes {
    fn get<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Value, ApiError>> {
        one(call, "nodes", node).boxed()
    }

    fn list<'a>(
        &'a self,
        call: &'a Call,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        all(call, "nodes", filter, node).boxed()
    }
}

impl Source for Pods {
    fn get<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Value, ApiError>> {
        one(call, "pods", pod).boxed()
    }

    fn list<'a>(
        &'a self,
        call: &'a Call,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        all(call, "pods", filter, pod).boxed()
    }
}

type Measure = fn(&Sampler, &CachedObject) -> Option<Value>;

/// The core resource that is measured.
fn stored<'a>(call: &'a Call, plural: &str) -> Result<&'a Stored, ApiError> {
    let served = call.snapshot.get("", plural);
    let stored = served.and_then(|served| served.stored.as_ref());
    stored.ok_or_else(ApiError::page_not_found)
}

async fn one(call: &Call, plural: &str, measure: Measure) -> Result<Value, ApiError> {
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let key = Stored::cache_key(namespace, name);
    let object = stored(call, plural)?.cache.get(&key);
    let object = object.ok_or_else(|| ApiError::not_found("", plural, name))?;
    Sampler::ask(&call.state).await;
    measure(&call.state.usage, &object).ok_or_else(|| {
        // metrics-server's words.
        let measured = format!("{}metrics", plural.trim_end_matches('s'));
        ApiError::not_found("metrics.k8s.io", &measured, &key)
    })
}

async fn all(
    call: &Call,
    plural: &str,
    filter: &Filter,
    measure: Measure,
) -> Result<Vec<Value>, ApiError> {
    let applied = call.state.cache.applied();
    let range = KeyRange {
        namespace: &filter.namespace,
        after: "",
    };
    let cache = &stored(call, plural)?.cache;
    let (objects, _) = cache.list(range, applied, |object| filter.matches(object));
    Sampler::ask(&call.state).await;
    Ok(objects
        .iter()
        .filter_map(|object| measure(&call.state.usage, object))
        .collect())
}

fn node(sampler: &Sampler, object: &CachedObject) -> Option<Value> {
    let sample = sampler.node(object.name())?;
    let mut value = measured(object, &sample)?;
    value["usage"] = amounts(&sample.usage);
    Some(value)
}

fn pod(sampler: &Sampler, object: &CachedObject) -> Option<Value> {
    let (sample, containers) = sampler.pod(object.namespace(), object.name())?;
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, usage)| json!({"name": name, "usage": amounts(usage)}))
        .collect();
    let mut value = measured(object, &sample)?;
    value["containers"] = containers.into();
    Some(value)
}

/// Metadata and times.
fn measured(object: &CachedObject, sample: &Sample) -> Option<Value> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), object.name().into());
    if !object.namespace().is_empty() {
        metadata.insert("namespace".to_owned(), object.namespace().into());
    }
    metadata.insert("creationTimestamp".to_owned(), read::now_text().into());
    if let Some(labels) = object.tree().pointer("/metadata/labels") {
        metadata.insert("labels".to_owned(), labels.clone());
    }
    let at = Timestamp::from_second(sample.at_ms.div_euclid(1000)).ok()?;
    Some(json!({
        "metadata": metadata,
        "timestamp": at.to_string(),
        "window": duration(sample.window_ms),
    }))
}

fn amounts(usage: &Usage) -> Value {
    let cpu = Quantity::parse(&format!("{}n", usage.cpu_nano)).unwrap_or_default();
    let bytes = usage.memory_bytes;
    let memory = if bytes.is_multiple_of(1024) {
        Canonical::parse(&format!("{}Ki", bytes / 1024))
            .map_or_else(|_| bytes.to_string(), |memory| memory.to_string())
    } else {
        bytes.to_string()
    };
    json!({"cpu": cpu.to_string(), "memory": memory})
}

/// As Go prints durations: `1.002s`, `2m0.5s`.
fn duration(ms: i64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (seconds, rest) = (ms / 1000, ms % 1000);
    let fraction = format!(".{rest:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (ms, expect) in [
            (0, "0ms"),
            (250, "250ms"),
            (1000, "1s"),
            (15_032, "15.032s"),
            (60_500, "1m0.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(ms), expect);
        }
    }

    #[test]
    fn amounts_are_quantities_in_their_shortest_form() {
        let text = |cpu_nano, memory_bytes| {
            let amounts = amounts(&Usage {
                cpu_nano,
                memory_bytes,
            });
            format!(
                "{} {}",
                amounts["cpu"].as_str().unwrap(),
                amounts["memory"].as_str().unwrap()
            )
        };
        assert_eq!(text(1_234_567, 12_345_344), "1234567n 12056Ki");
        assert_eq!(text(2_000_000, 1 << 20), "2m 1Mi");
        assert_eq!(text(0, 1000), "0 1000");
    }
}
