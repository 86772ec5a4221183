//! Which resources of a quota an object counts for, and how much.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{
    list::{ResourceList, add},
    pod::{Figure, Source, is_set_for_pod, pod_resources},
};
use crate::{
    Value, meta,
    quantity::Canonical,
    validate::{
        qos_class,
        quota::{is_extended, is_native},
    },
};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// A quota of one of these makes every container say it.
const DEMANDED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const POD: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// Counts the objects of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    how: How,
    /// `count/deployments.apps`, and the short name that a few have.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Pod,
    Service,
    Claim,
    Object,
}

impl Counter {
    /// `None` for what is never counted: reviews, bindings and events.
    pub fn of(group: &str, plural: &str) -> Option<Counter> {
        let ignored = matches!(group, "authentication.k8s.io" | "authorization.k8s.io")
            || matches!(
                (group, plural),
                ("", "bindings" | "events" | "componentstatuses") | ("events.k8s.io", "events")
            );
        if ignored {
            return None;
        }
        let how = match (group, plural) {
            ("", "pods") => How::Pod,
            ("", "services") => How::Service,
            ("", "persistentvolumeclaims") => How::Claim,
            _ => How::Object,
        };
        let mut names = vec![match group {
            "" => format!("count/{plural}"),
            group => format!("count/{plural}.{group}"),
        }];
        let short = [
            "configmaps",
            "resourcequotas",
            "replicationcontrollers",
            "secrets",
        ];
        if group.is_empty() && short.contains(&plural) {
            names.push(plural.to_owned());
        }
        Some(Counter { how, names })
    }

    /// Whether a quota may be charged for this write. `subresource` is empty for the object itself; `old` is there
    /// for updates.
    pub fn handles(&self, subresource: &str, new: &Value, old: Option<&Value>) -> bool {
        match (self.how, subresource, old) {
            (How::Pod, "", Some(old)) => is_terminating(old) != is_terminating(new),
            (How::Pod, "resize", old) => old.is_some(),
            (How::Service | How::Claim, "", _) => true,
            (How::Claim, "status", Some(old)) => {
                let allocated = "/status/allocatedResources/storage";
                old.pointer(allocated) != new.pointer(allocated)
            }
            (_, "", None) => true,
            _ => false,
        }
    }

    /// Whether the number of objects tells all: each of them counts the same.
    pub fn needs_only_numbers(&self) -> bool {
        self.how == How::Object
    }

    /// Of those resources the ones that this counts, sorted.
    pub fn matching<'n>(&self, names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
        names
            .filter(|name| self.counts(name))
            .map(str::to_owned)
            .collect()
    }

    fn counts(&self, name: &str) -> bool {
        match self.how {
            How::Pod => {
                POD.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || name.strip_prefix("requests.").is_some_and(|rest| {
                        !is_native(name) || rest.starts_with("deviceclass.resource.kubernetes.io/")
                    })
            }
            How::Service => matches!(
                name,
                "count/services" | "services" | "services.nodeports" | "services.loadbalancers"
            ),
            How::Claim => {
                let plain = name
                    .split_once(STORAGE_CLASS)
                    .map_or(name, |(_, rest)| rest);
                name == "count/persistentvolumeclaims"
                    || matches!(plain, "persistentvolumeclaims" | "requests.storage")
            }
            How::Object => self.names.iter().any(|own| own == name),
        }
    }

    /// Whether the object is in the scope that a requirement names.
    fn in_scope(&self, requirement: &Requirement<'_>, object: &Value) -> bool {
        match self.how {
            How::Pod => pod_in_scope(requirement, object),
            How::Claim if requirement.scope == "VolumeAttributesClass" => {
                let class = |path: &str| object.pointer(path).and_then(Value::as_str);
                let names: BTreeSet<&str> = [
                    "/spec/volumeAttributesClassName",
                    "/status/currentVolumeAttributesClassName",
                    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                ]
                .into_iter()
                .filter_map(class)
                .filter(|name| !name.is_empty())
                .collect();
                match names.is_empty() {
                    true => requirement.holds(None),
                    false => names.into_iter().any(|name| requirement.holds(Some(name))),
                }
            }
            _ => false,
        }
    }

    /// Whether the quota counts the object: something of it, and within its scopes.
    pub fn matches(&self, quota: &Value, object: &Value) -> bool {
        let hard = quota.pointer("/status/hard").and_then(Value::as_object);
        let any = hard
            .into_iter()
            .flatten()
            .any(|(name, _)| self.counts(name));
        any && scopes_match(self, quota, object)
    }

    /// What the object must say for a quota of those resources, and doesn't.
    pub(super) fn missing(&self, required: &BTreeSet<String>, object: &Value) -> Option<String> {
        if self.how != How::Pod || is_set_for_pod(object) {
            return None;
        }
        let required: Vec<&String> = required
            .iter()
            .filter(|name| DEMANDED.contains(&name.as_str()))
            .collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let lists = ["containers", "initContainers"].into_iter();
        let containers = lists.filter_map(|list| object.pointer("/spec")?.get(list)?.as_array());
        for container in containers.flatten() {
            let figure = |field: &str| {
                super::resource_list(container.get("resources").and_then(|r| r.get(field)))
            };
            let usage = compute(&figure("requests"), &figure("limits"));
            for name in required.iter().filter(|name| !usage.contains_key(**name)) {
                let container = container.get("name").and_then(Value::as_str);
                missing
                    .entry(name)
                    .or_default()
                    .insert(container.unwrap_or_default());
            }
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| {
                let containers: Vec<&str> = containers.into_iter().collect();
                format!("{name} for: {}", containers.join(","))
            })
            .collect();
        (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
    }

    /// What the object counts for.
    pub fn usage(&self, object: &Value, now: Timestamp) -> ResourceList {
        match self.how {
            How::Pod => pod_usage(object, now),
            How::Service => service_usage(object),
            How::Claim => claim_usage(object),
            How::Object => self
                .names
                .iter()
                .map(|name| (name.clone(), Canonical::from_value(1)))
                .collect(),
        }
    }
}

/// Whether the object is in every scope of the quota.
pub fn scopes_match(counter: &Counter, quota: &Value, object: &Value) -> bool {
    let list = |pointer: &str| {
        quota
            .pointer(pointer)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let plain = list("/spec/scopes").iter().map(|scope| Requirement {
        scope: scope.as_str().unwrap_or_default(),
        operator: "Exists",
        values: &[],
    });
    let selected = list("/spec/scopeSelector/matchExpressions")
        .iter()
        .map(|requirement| Requirement {
            scope: requirement["scopeName"].as_str().unwrap_or_default(),
            operator: requirement["operator"].as_str().unwrap_or_default(),
            values: requirement
                .get("values")
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice),
        });
    plain
        .chain(selected)
        .all(|requirement| counter.in_scope(&requirement, object))
}

struct Requirement<'a> {
    scope: &'a str,
    operator: &'a str,
    values: &'a [Value],
}

impl Requirement<'_> {
    /// Whether a name (or none) satisfies it.
    fn holds(&self, name: Option<&str>) -> bool {
        let listed = |name: &str| self.values.iter().any(|value| value == name);
        match self.operator {
            "In" => name.is_some_and(listed),
            "NotIn" => !name.is_some_and(listed),
            "Exists" => name.is_some(),
            "DoesNotExist" => name.is_none(),
            _ => false,
        }
    }
}

/// Its own end is set.
fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|seconds| seconds >= 0)
}

fn pod_in_scope(requirement: &Requirement<'_>, pod: &Value) -> bool {
    let best_effort = || qos_class(pod) == "BestEffort";
    match requirement.scope {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = pod.pointer("/spec/priorityClassName");
            requirement.holds(class.and_then(Value::as_str).filter(|c| !c.is_empty()))
        }
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        _ => false,
    }
}

fn reaches_other_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        let named = term.get("namespaces").and_then(Value::as_array);
        named.is_some_and(|list| !list.is_empty())
            || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = pod
            .pointer("/spec/affinity")
            .and_then(|affinity| affinity.get(kind));
        let list = |field: &str| {
            affinity
                .and_then(|affinity| affinity.get(field))
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice)
        };
        list("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(crosses))
    })
}

/// Neither ended nor past its grace.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return false;
    }
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let deletion: Option<Timestamp> = meta::deletion_timestamp(pod).parse().ok();
    let (Some(grace), Some(deletion)) = (grace, deletion) else {
        return true;
    };
    deletion
        .checked_add(SignedDuration::from_secs(grace))
        .map_or(true, |end| now <= end)
}

fn one() -> Canonical {
    Canonical::from_value(1)
}

fn pod_usage(pod: &Value, now: Timestamp) -> ResourceList {
    let mut usage = ResourceList::from([("count/pods".to_owned(), one())]);
    if is_charged(pod, now) {
        let requests = pod_resources(pod, Figure::Requests, Source::SpecAndStatus);
        let limits = pod_resources(pod, Figure::Limits, Source::SpecAndStatus);
        add(&mut usage, &compute(&requests, &limits));
    }
    usage
}

/// Under the names that quotas use.
fn compute(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut usage = ResourceList::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            usage.insert(name.to_owned(), *request);
            usage.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            usage.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        let huge = name.starts_with("hugepages-");
        if huge {
            usage.insert(name.clone(), *request);
        }
        if huge || is_extended(name) || name.starts_with("deviceclass.resource.kubernetes.io/") {
            usage.insert(format!("requests.{name}"), *request);
        }
    }
    usage
}

fn service_usage(service: &Value) -> ResourceList {
    let spec = service.get("spec");
    let ports = spec
        .and_then(|spec| spec.get("ports"))
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let all = i64::try_from(ports.len()).unwrap_or(i64::MAX);
    let (node_ports, balancers) = match service.pointer("/spec/type").and_then(Value::as_str) {
        Some("NodePort") => (all, 0),
        Some("LoadBalancer") => {
            let allocates = service.pointer("/spec/allocateLoadBalancerNodePorts");
            let chosen = || {
                let given = ports.iter().filter(|port| {
                    port.get("nodePort")
                        .and_then(Value::as_i64)
                        .is_some_and(|port| port != 0)
                });
                i64::try_from(given.count()).unwrap_or(i64::MAX)
            };
            let none = allocates.and_then(Value::as_bool) == Some(false);
            (if none { chosen() } else { all }, 1)
        }
        _ => (0, 0),
    };
    ResourceList::from([
        ("count/services".to_owned(), one()),
        ("services".to_owned(), one()),
        (
            "services.nodeports".to_owned(),
            Canonical::from_value(node_ports),
        ),
        (
            "services.loadbalancers".to_owned(),
            Canonical::from_value(balancers),
        ),
    ])
}

fn claim_usage(claim: &Value) -> ResourceList {
    let mut usage = ResourceList::from([
        ("persistentvolumeclaims".to_owned(), one()),
        ("count/persistentvolumeclaims".to_owned(), one()),
    ]);
    const BETA: &str = "volume.beta.kubernetes.io/storage-class";
    let class = meta::annotations(claim)
        .and_then(|annotations| annotations.get(BETA))
        .or_else(|| claim.pointer("/spec/storageClassName"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let figure = |pointer: &str| Some(Canonical::of(Some(claim.pointer(pointer)?)));
    let requested = figure("/spec/resources/requests/storage").map(|requested| {
        match figure("/status/allocatedResources/storage") {
            Some(allocated) if allocated.number > requested.number => allocated,
            _ => requested,
        }
        .rounded_to_whole()
    });
    if let Some(storage) = requested {
        usage.insert("requests.storage".to_owned(), storage);
    }
    if !class.is_empty() {
        usage.insert(
            format!("{class}{STORAGE_CLASS}persistentvolumeclaims"),
            one(),
        );
        if let Some(storage) = requested {
            usage.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
        }
    }
    usage
}
