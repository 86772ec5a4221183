//! Amounts of resources as integers: cpu in thousandths, everything else in whole units, rounded
//! up as upstream rounds. Strings are parsed once, when an object arrives.

use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::api::resource::Quantity};
use std::{collections::BTreeMap, sync::Arc};

/// Requests or capacity. `pods` is the number of pods, `scalars` holds extended resources and
/// huge pages by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    pub scalars: BTreeMap<Arc<str>, i64>,
}

/// What a container without requests counts as when nodes are compared (never when they are
/// filtered): a tenth of a core and 200 MB, so that such pods spread, too.
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Quantity>;

impl Resources {
    pub fn from_list(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => resources.milli_cpu = scaled(&quantity.0, 1000),
                "memory" => resources.memory = scaled(&quantity.0, 1),
                "ephemeral-storage" => resources.ephemeral_storage = scaled(&quantity.0, 1),
                "pods" => resources.pods = scaled(&quantity.0, 1),
                _ => {
                    let amount = scaled(&quantity.0, 1);
                    resources.scalars.insert(name.as_str().into(), amount);
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.scalars.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalars {
            let mine = self.scalars.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod needs at its highest: the running containers with all sidecars, or the init
/// container with the sidecars started before it that needs most; then what the pod states for
/// itself as a whole; then its overhead.
pub fn pod_requests(spec: &PodSpec) -> Resources {
    requests_with(spec, |list| {
        list.map(Resources::from_list).unwrap_or_default()
    })
}

/// Milli-cpu and memory for comparing nodes, with the assumed amounts where nothing is stated.
pub fn pod_weight(spec: &PodSpec) -> (i64, i64) {
    let total = requests_with(spec, |list| {
        let mut resources = list.map(Resources::from_list).unwrap_or_default();
        if !list.is_some_and(|list| list.contains_key("cpu")) {
            resources.milli_cpu = ASSUMED_MILLI_CPU;
        }
        if !list.is_some_and(|list| list.contains_key("memory")) {
            resources.memory = ASSUMED_MEMORY;
        }
        resources
    });
    (total.milli_cpu, total.memory)
}

fn requests_with(spec: &PodSpec, of: impl Fn(Option<&List>) -> Resources) -> Resources {
    let stated = |resources: &Option<k8s_openapi::api::core::v1::ResourceRequirements>| {
        of(resources.as_ref().and_then(|r| r.requests.as_ref()))
    };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&stated(&container.resources));
    }
    let mut sidecars = Resources::default();
    let mut highest_init = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = stated(&container.resources);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        highest_init.raise_to(&now);
    }
    running.raise_to(&highest_init);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let stated = Resources::from_list(whole);
        if whole.contains_key("cpu") {
            running.milli_cpu = stated.milli_cpu;
        }
        if whole.contains_key("memory") {
            running.memory = stated.memory;
        }
        running.scalars.extend(stated.scalars);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

/// `quantity · scale`, rounded up; what isn't a quantity (the server refuses those) counts as 0,
/// and what doesn't fit counts as the largest number.
fn scaled(quantity: &str, scale: i128) -> i64 {
    parse(quantity, scale).unwrap_or(0)
}

fn parse(quantity: &str, scale: i128) -> Option<i64> {
    let text = quantity.trim();
    let digits_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10_i128.checked_pow(power.unsigned_abs());
            match (power >= 0, ten) {
                (true, Some(ten)) => (ten, 1),
                (false, Some(ten)) => (1, ten),
                (true, None) => return Some(i64::MAX),
                (false, None) => return Some(0),
            }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let joined = format!("{}{fraction}", whole.trim_start_matches(['+', '-']));
    let digits: i128 = joined.parse().ok()?;
    let over = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let Some(top) = digits
        .checked_mul(numerator)
        .and_then(|top| top.checked_mul(scale))
    else {
        return Some(i64::MAX);
    };
    let bottom = denominator.checked_mul(over)?;
    let rounded_up = top / bottom + i128::from(top % bottom != 0);
    let value = i64::try_from(rounded_up).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_scaled_and_rounded_up() {
        for (text, scale, expected) in [
            ("100m", 1000, 100),
            ("0.1", 1000, 100),
            ("1", 1000, 1000),
            ("1.5", 1000, 1500),
            ("1u", 1000, 1),
            ("128974848", 1, 128_974_848),
            ("129e6", 1, 129_000_000),
            ("129M", 1, 129_000_000),
            ("123Mi", 1, 128_974_848),
            ("1.5Gi", 1, 1_610_612_736),
            ("0.5", 1, 1),
            ("100E", 1, i64::MAX),
            ("1e-3", 1000, 1),
            ("nonsense", 1, 0),
        ] {
            assert_eq!(scaled(text, scale), expected, "{text} × {scale}");
        }
    }

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).expect("a pod spec")
    }

    #[test]
    fn init_containers_count_by_their_maximum_and_sidecars_add_up() {
        let cpu = |amount: &str| serde_json::json!({"requests": {"cpu": amount}});
        let spec = spec(serde_json::json!({
            "containers": [
                {"name": "a", "resources": cpu("2")},
                {"name": "b", "resources": cpu("1")},
            ],
            "initContainers": [
                {"name": "first", "resources": cpu("5")},
                {"name": "sidecar", "restartPolicy": "Always", "resources": cpu("1")},
                {"name": "second", "resources": cpu("3500m")},
            ],
            "overhead": {"cpu": "250m"},
        }));
        // Running: 2 + 1 + sidecar 1; init: 5, then 3.5 + 1; the overhead comes on top.
        assert_eq!(pod_requests(&spec).milli_cpu, 5250);
    }

    #[test]
    fn a_pod_wide_request_replaces_the_containers_sum() {
        let spec = spec(serde_json::json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}],
            "resources": {"requests": {"cpu": "3"}},
        }));
        let requests = pod_requests(&spec);
        assert_eq!((requests.milli_cpu, requests.memory), (3000, 1 << 30));
    }

    #[test]
    fn a_container_without_requests_has_an_assumed_weight_only() {
        let spec = spec(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(pod_requests(&spec), Resources::default());
        assert_eq!(pod_weight(&spec), (ASSUMED_MILLI_CPU, ASSUMED_MEMORY));
    }
}
