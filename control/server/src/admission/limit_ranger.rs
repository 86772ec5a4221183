//! LimitRanger: what a namespace's LimitRanges give to containers that say nothing, and what they refuse.

use kernelet_api::{
    ApiError, Value, meta,
    quantity::{Canonical, Quantity},
    quota::{Figure, ResourceList, Source, pod_resources, resource_list},
};
use serde_json::json;

use super::{Operation, Request};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Upstream compares in thousandths only up to this.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// Sets the default limits and requests.
pub fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if !is_about(request, old) || !request.is("", "pods") {
        return Ok(());
    }
    for range in ranges(request) {
        give_defaults(&range, object);
    }
    Ok(())
}

/// Refuses what is outside of the bounds.
pub fn validate(
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if !is_about(request, old) {
        return Ok(());
    }
    for range in ranges(request) {
        let errors = if request.is("", "pods") {
            pod_errors(&range, object)
        } else {
            claim_errors(&range, object)
        };
        if !errors.is_empty() {
            return Err(request.forbidden(meta::name(object), super::aggregate(errors)));
        }
    }
    Ok(())
}

/// New pods and those that are resized, and claims; nothing that is being deleted.
fn is_about(request: &Request<'_>, old: Option<&Value>) -> bool {
    if old.is_some_and(|old| !meta::deletion_timestamp(old).is_empty()) {
        return false;
    }
    match (request.operation, request.subresource) {
        (Operation::Create, "") => {
            request.is("", "pods") || request.is("", "persistentvolumeclaims")
        }
        (Operation::Update, "") => request.is("", "persistentvolumeclaims"),
        (Operation::Update, "resize") => request.is("", "pods"),
        _ => false,
    }
}

fn ranges(request: &Request<'_>) -> Vec<Value> {
    super::listed(request, "limitranges")
}

fn items<'v>(range: &'v Value, ty: &str) -> impl Iterator<Item = &'v Value> {
    let list = range.pointer("/spec/limits").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(move |item| item["type"] == ty)
}

fn give_defaults(range: &Value, pod: &mut Value) {
    let (mut limits, mut requests) = (ResourceList::new(), ResourceList::new());
    for item in items(range, "Container") {
        requests.extend(resource_list(item.get("defaultRequest")));
        limits.extend(resource_list(item.get("default")));
    }
    let mut told = Vec::new();
    let spec = meta::child_mut(pod, "spec");
    for (field, what) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mut given = |field: &str, defaults: &ResourceList| {
                let resources = meta::child_mut(container, "resources");
                let list = resources.entry(field).or_insert_with(|| json!({}));
                let Some(list) = list.as_object_mut() else {
                    return;
                };
                let missing: Vec<&str> = defaults
                    .iter()
                    .filter(|(name, _)| !list.contains_key(*name))
                    .map(|(name, _)| name.as_str())
                    .collect();
                for name in &missing {
                    list.insert((*name).to_owned(), defaults[*name].to_string().into());
                }
                if list.is_empty() {
                    resources.remove(field);
                }
                if !missing.is_empty() {
                    let name = container["name"].as_str().unwrap_or_default();
                    let kind = field.trim_end_matches('s');
                    told.push(format!("{} {kind} for {what} {name}", missing.join(", ")));
                }
            };
            given("requests", &requests);
            given("limits", &limits);
        }
    }
    if !told.is_empty() {
        let annotations = meta::metadata_mut(pod)
            .entry("annotations")
            .or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            let text = format!("LimitRanger plugin set: {}", told.join("; "));
            annotations.insert(ANNOTATION.to_owned(), text.into());
        }
    }
}

fn pod_errors(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let list = range.pointer("/spec/limits").and_then(Value::as_array);
    for item in list.into_iter().flatten() {
        match item["type"].as_str() {
            Some("Container") => {
                for field in ["containers", "initContainers"] {
                    let containers = pod.pointer("/spec").and_then(|spec| spec.get(field));
                    for container in containers.and_then(Value::as_array).into_iter().flatten() {
                        let figure = |field: &str| {
                            resource_list(container.pointer(&format!("/resources/{field}")))
                        };
                        let (requests, limits) = (figure("requests"), figure("limits"));
                        bounds(item, "Container", &requests, &limits, &mut errors);
                    }
                }
            }
            Some("Pod") => {
                let requests = pod_resources(pod, Figure::Requests, Source::Spec);
                let limits = pod_resources(pod, Figure::Limits, Source::Spec);
                bounds(item, "Pod", &requests, &limits, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

fn bounds(
    item: &Value,
    ty: &str,
    requests: &ResourceList,
    limits: &ResourceList,
    errors: &mut Vec<String>,
) {
    type Check = fn(&str, &Bound, &ResourceList, &ResourceList) -> Option<String>;
    let checks: [(&str, Check); 3] = [
        ("min", below_min),
        ("max", above_max),
        ("maxLimitRequestRatio", above_ratio),
    ];
    for (field, check) in checks {
        for (name, enforced) in resource_list(item.get(field)) {
            let bound = Bound { name, enforced };
            errors.extend(check(ty, &bound, requests, limits));
        }
    }
}

fn claim_errors(range: &Value, claim: &Value) -> Vec<String> {
    const TYPE: &str = "PersistentVolumeClaim";
    let requests = resource_list(claim.pointer("/spec/resources/requests"));
    let mut errors = Vec::new();
    for item in items(range, TYPE) {
        for (name, enforced) in resource_list(item.get("min")) {
            let bound = Bound { name, enforced };
            errors.extend(below_min(TYPE, &bound, &requests, &ResourceList::new()));
        }
        for (name, enforced) in resource_list(item.get("max")) {
            let request = requests.get(&name);
            let begin = format!("maximum {name} usage per {TYPE} is {enforced}");
            match request {
                None => errors.push(format!("{begin}.  No request is specified")),
                Some(request) if is_more(*request, enforced) => {
                    errors.push(format!("{begin}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

struct Bound {
    name: String,
    enforced: Canonical,
}

/// In whole units where thousandths would overflow.
fn is_more(a: Canonical, b: Canonical) -> bool {
    let (a, b) = (a.number, b.number);
    if a.value() <= MAX_MILLI && b.value() <= MAX_MILLI {
        a.milli_value() > b.milli_value()
    } else {
        a.value() > b.value()
    }
}

fn below_min(
    ty: &str,
    Bound { name, enforced }: &Bound,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let begin = format!("minimum {name} usage per {ty} is {enforced}");
    let Some(request) = requests.get(name) else {
        return Some(format!("{begin}.  No request is specified"));
    };
    if is_more(*enforced, *request) {
        return Some(format!("{begin}, but request is {request}"));
    }
    let limit = limits.get(name)?;
    is_more(*enforced, *limit).then(|| format!("{begin}, but limit is {limit}"))
}

fn above_max(
    ty: &str,
    Bound { name, enforced }: &Bound,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let begin = format!("maximum {name} usage per {ty} is {enforced}");
    let Some(limit) = limits.get(name) else {
        return Some(format!("{begin}.  No limit is specified"));
    };
    if is_more(*limit, *enforced) {
        return Some(format!("{begin}, but limit is {limit}"));
    }
    let request = requests.get(name)?;
    is_more(*request, *enforced).then(|| format!("{begin}, but request is {request}"))
}

fn above_ratio(
    ty: &str,
    Bound { name, enforced }: &Bound,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let begin = format!("{name} max limit to request ratio per {ty} is {enforced}");
    let figure = |list: &ResourceList| list.get(name).filter(|q| !q.number.is_zero()).copied();
    let Some(request) = figure(requests) else {
        return Some(format!(
            "{begin}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = figure(limits) else {
        return Some(format!("{begin}, but no limit is specified or limit is 0"));
    };
    let all = [request, limit, *enforced].map(|q| q.number);
    let small = all.iter().all(|q| q.value() <= MAX_MILLI);
    let of = |q: Quantity| if small { q.milli_value() } else { q.value() };
    // As floats, which is how upstream compares and prints.
    let ratio = of(limit.number) as f64 / of(request.number) as f64;
    let most = if enforced.number.value() <= MAX_MILLI {
        enforced.number.milli_value() as f64 / 1000.0
    } else {
        enforced.number.value() as f64
    };
    (ratio > most).then(|| format!("{begin}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    #[test]
    fn containers_get_what_they_do_not_say_and_the_pod_tells_so() {
        let defaults = range(json!({"type": "Container",
            "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m", "memory": "512Mi"}}));
        let mut object = json!({"spec": {
            "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "2Gi"}}}],
            "initContainers": [{"name": "i"}],
        }});
        give_defaults(&defaults, &mut object);
        let all = json!({"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(object["spec"]["containers"][0]["resources"], all);
        assert_eq!(object["spec"]["initContainers"][0]["resources"], all);
        assert_eq!(
            object["spec"]["containers"][1]["resources"],
            json!({"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}})
        );
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; \
             memory request for container b; cpu, memory request for init container i; cpu, memory limit for init container i"
        );
    }

    #[test]
    fn a_range_without_defaults_leaves_no_trace() {
        let mut object = json!({"spec": {"containers": [{"name": "a", "resources": {}}]}});
        let before = object.clone();
        give_defaults(
            &range(json!({"type": "Pod", "max": {"cpu": "1"}})),
            &mut object,
        );
        assert_eq!(object, before);
    }

    #[test]
    fn bounds_are_refused_in_upstreams_words() {
        for (item, resources, expect) in [
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but request is 2",
            ),
            (
                json!({"type": "Container", "min": {"memory": "1Gi"}}),
                json!({"requests": {"memory": "512Mi"}}),
                "minimum memory usage per Container is 1Gi, but request is 512Mi",
            ),
            (
                json!({"type": "Container", "min": {"memory": "1Gi"}}),
                json!({}),
                "minimum memory usage per Container is 1Gi.  No request is specified",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}),
                "minimum cpu usage per Container is 1, but limit is 500m",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Pod is 1, but limit is 2",
            ),
        ] {
            assert_eq!(pod_errors(&range(item), &pod(resources)), [expect]);
        }
        let fine = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
        let item = json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(pod_errors(&range(item), &pod(fine)), [""; 0]);
    }

    #[test]
    fn claims_are_bounded_by_their_requests() {
        let item = range(
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}),
        );
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert_eq!(
            claim_errors(&item, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            claim_errors(&item, &claim("1Mi")),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
        assert_eq!(claim_errors(&item, &claim("2Gi")), [""; 0]);
    }
}
