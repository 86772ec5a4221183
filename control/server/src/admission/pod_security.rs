//! PodSecurity: the level that a namespace's labels enforce on pods, and warn of in what makes pods.

use std::collections::{BTreeMap, HashSet};

use kernelet_api::{
    ApiError, Value, meta,
    podsecurity::{Level, LevelVersion, Policy, Subject, details, evaluate, reasons},
};

use super::{Operation, Request};

/// So many pods are looked at when a namespace's level is raised.
const MAX_PODS: usize = 3000;

pub fn validate(
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if request.operation == Operation::Delete {
        return Ok(());
    }
    if request.is("", "namespaces") {
        return match request.subresource {
            "" => namespace(request, object, old),
            _ => Ok(()),
        };
    }
    if request.is("", "pods") {
        return pod(request, object, old);
    }
    if let Some(template) = template(request, object) {
        let policy = policy(request)?;
        warn(request, policy.warn, &Subject::of(template));
    }
    Ok(())
}

/// The template of an object that makes pods.
fn template<'v>(request: &Request<'_>, object: &'v Value) -> Option<&'v Value> {
    if !request.subresource.is_empty() {
        return None;
    }
    let resource = (
        request.resource.group.as_str(),
        request.resource.plural.as_str(),
    );
    let pointer = match resource {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(pointer)
}

fn policy(request: &Request<'_>) -> Result<Policy, ApiError> {
    let namespaces = request.state.cache.resource("namespaces");
    let namespace = namespaces.and_then(|cache| cache.get(request.namespace));
    let namespace = namespace.ok_or_else(|| {
        ApiError::internal(format!(
            "failed to lookup namespace {:?}",
            request.namespace
        ))
    })?;
    Ok(Policy::of(&namespace.tree()).0)
}

fn warn(request: &Request<'_>, policy: LevelVersion, subject: &Subject<'_>) {
    let findings = evaluate(policy, subject);
    if !findings.is_empty() {
        let what = details(&findings);
        request.warn(format!("would violate PodSecurity \"{policy}\": {what}"));
    }
}

fn pod(request: &Request<'_>, pod: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    const IGNORED: [&str; 8] = [
        "exec",
        "attach",
        "binding",
        "eviction",
        "log",
        "portforward",
        "proxy",
        "status",
    ];
    if IGNORED.contains(&request.subresource) {
        return Ok(());
    }
    if old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    let policy = policy(request)?;
    let subject = Subject::of(pod);
    let findings = evaluate(policy.enforce, &subject);
    if !findings.is_empty() {
        let why = format!(
            "violates PodSecurity \"{}\": {}",
            policy.enforce,
            details(&findings)
        );
        return Err(request.forbidden(meta::name(pod), why));
    }
    warn(request, policy.warn, &subject);
    Ok(())
}

/// Whether an update changes what containers run.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let list = |object: &'_ Value, field: &str| -> Vec<(Value, Value)> {
        let containers = object.pointer("/spec").and_then(|spec| spec.get(field));
        let containers = containers.and_then(Value::as_array);
        containers
            .into_iter()
            .flatten()
            .map(|container| (container["name"].clone(), container["image"].clone()))
            .collect()
    };
    let images = |object: &Value, field: &str| -> Vec<Value> {
        let list = list(object, field);
        list.into_iter().map(|(_, image)| image).collect()
    };
    ["containers", "initContainers"]
        .iter()
        .any(|field| images(pod, field) != images(old, field))
        || {
            let known = list(old, "ephemeralContainers");
            list(pod, "ephemeralContainers")
                .iter()
                .any(|container| !known.contains(container))
        }
}

/// Labels must say something; a stricter level tells which pods it would not let in.
fn namespace(
    request: &Request<'_>,
    namespace: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let name = meta::name(namespace);
    let (policy, errors) = Policy::of(namespace);
    let before = old.map(Policy::of);
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, known)| *known != errors) {
        return Err(ApiError::invalid("", "Namespace", name, &errors));
    }
    let Some((before, _)) = before else {
        return Ok(());
    };
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    for warning in violations(request, name, new) {
        request.warn(warning);
    }
    Ok(())
}

fn violations(request: &Request<'_>, namespace: &str, policy: LevelVersion) -> Vec<String> {
    let inside = Request {
        namespace,
        ..*request
    };
    let pods = super::listed(&inside, "pods");
    let total = pods.len();
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let ordered = prioritized(pods);
    for pod in ordered.iter().take(MAX_PODS) {
        let findings = evaluate(policy, &Subject::of(pod));
        if findings.is_empty() {
            continue;
        }
        let name = meta::name(pod);
        let entry = found.entry(reasons(&findings));
        let (first, count) = entry.or_insert_with(|| (name.to_owned(), 0));
        if name < first.as_str() {
            name.clone_into(first);
        }
        *count += 1;
    }
    let mut warnings = Vec::new();
    if total > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {total} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            many => format!("{name} (and {} other pods): {reasons}", many - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

/// Of each controller's pods one comes first: the others are like it.
fn prioritized(pods: Vec<Value>) -> Vec<Value> {
    let mut seen: HashSet<String> = HashSet::new();
    let (mut first, others): (Vec<Value>, Vec<Value>) = pods.into_iter().partition(|pod| {
        let owners = meta::owner_references(pod);
        let controller = owners.iter().find(|owner| owner["controller"] == true);
        controller.is_none_or(|owner| seen.insert(owner["uid"].to_string()))
    });
    first.extend(others);
    first
}
