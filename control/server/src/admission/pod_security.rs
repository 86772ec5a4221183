//! PodSecurity: the level that a namespace's labels enforce on pods, and warn of in what makes pods.

use std::collections::{BTreeMap, HashSet};

use kernelet_api::{
    ApiError, FieldError, Value, meta,
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
    if let Some(template) = template(request, object)
        && !exempt(request)
    {
        let (policy, errors) = policy(request)?;
        if !errors.is_empty() || !policy.is_privileged() {
            let subject = Subject::of(template);
            // A template is never refused; its pods are.
            let _ = judge(request, &policy, &errors, &subject, Mode::Tell);
        }
    }
    Ok(())
}

/// Whether a refusal is one, or only told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Enforce,
    Tell,
}

/// Upstream's key of the audit log.
macro_rules! annotation {
    ($name:literal) => {
        concat!("pod-security.kubernetes.io/", $name)
    };
}

const EXEMPT: &str = annotation!("exempt");

/// Nothing is asked in this namespace, or of this user; the audit log says why.
fn exempt(request: &Request<'_>) -> bool {
    let config = &request.state.config.pod_security;
    let why = if exempt_namespace(request, request.namespace) {
        "namespace"
    } else if config.usernames.contains(&request.user.name) {
        "user"
    } else {
        return false;
    };
    request.annotate(EXEMPT, why.to_owned());
    true
}

fn exempt_namespace(request: &Request<'_>, namespace: &str) -> bool {
    let exempt = &request.state.config.pod_security.namespaces;
    exempt.iter().any(|name| name == namespace)
}

fn exempt_runtime_class(request: &Request<'_>, spec: &Value) -> bool {
    let class = spec.get("runtimeClassName").and_then(Value::as_str);
    let exempt = &request.state.config.pod_security.runtime_classes;
    class.is_some_and(|class| exempt.iter().any(|name| name == class))
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

fn policy(request: &Request<'_>) -> Result<(Policy, Vec<FieldError>), ApiError> {
    let namespaces = request.state.cache.resource("namespaces");
    let namespace = namespaces.and_then(|cache| cache.get(request.namespace));
    let namespace = namespace.ok_or_else(|| {
        ApiError::internal(format!(
            "failed to lookup namespace {:?}",
            request.namespace
        ))
    })?;
    Ok(policy_of(request, &namespace.tree()))
}

fn policy_of(request: &Request<'_>, namespace: &Value) -> (Policy, Vec<FieldError>) {
    Policy::of(namespace, request.state.config.pod_security.defaults)
}

/// Judges a pod or a template by each mode of the policy; the error says why it is refused.
fn judge(
    request: &Request<'_>,
    policy: &Policy,
    errors: &[FieldError],
    subject: &Subject<'_>,
    mode: Mode,
) -> Result<(), String> {
    if exempt_runtime_class(request, subject.spec) {
        request.annotate(EXEMPT, "runtimeClass".to_owned());
        return Ok(());
    }
    if !errors.is_empty() {
        let told = errors.iter().map(ToString::to_string).collect();
        let told = format!("Failed to parse policy: {}", super::aggregate(told));
        request.annotate(annotation!("error"), told);
    }
    let violated = |policy: LevelVersion| {
        let findings = evaluate(policy, subject);
        (!findings.is_empty()).then(|| format!("PodSecurity \"{policy}\": {}", details(&findings)))
    };
    let mut refused = None;
    if mode == Mode::Enforce {
        request.annotate(annotation!("enforce-policy"), policy.enforce.to_string());
        refused = violated(policy.enforce);
    }
    if let Some(what) = violated(policy.audit) {
        request.annotate(
            annotation!("audit-violations"),
            format!("would violate {what}"),
        );
    }
    if let Some(why) = refused {
        return Err(format!("violates {why}"));
    }
    if let Some(what) = violated(policy.warn) {
        request.warn(format!("would violate {what}"));
    }
    Ok(())
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
    if exempt(request) {
        return Ok(());
    }
    let (policy, errors) = policy(request)?;
    if errors.is_empty() && policy.is_privileged() {
        let all = Policy::NONE.enforce.to_string();
        request.annotate(annotation!("enforce-policy"), all);
        return Ok(());
    }
    if old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    judge(request, &policy, &errors, &Subject::of(pod), Mode::Enforce)
        .map_err(|why| request.forbidden(meta::name(pod), why))
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
    let (policy, errors) = policy_of(request, namespace);
    let before = old.map(|old| policy_of(request, old));
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, known)| *known != errors) {
        return Err(ApiError::invalid("", "Namespace", name, &errors));
    }
    let Some((before, _)) = before else {
        if exempt_namespace(request, name) {
            ignored(request, namespace, &policy);
        }
        return Ok(());
    };
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    if exempt_namespace(request, name) {
        ignored(request, namespace, &policy);
        return Ok(());
    }
    for warning in violations(request, name, new) {
        request.warn(warning);
    }
    Ok(())
}

/// Warns that labels of an exempt namespace count for nothing.
fn ignored(request: &Request<'_>, namespace: &Value, policy: &Policy) {
    let defaults = request.state.config.pod_security.defaults;
    if policy.is_privileged() || *policy == defaults {
        return;
    }
    let labels = meta::labels(namespace);
    let has = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
    let told: Vec<String> = [
        ("enforce", policy.enforce),
        ("audit", policy.audit),
        ("warn", policy.warn),
    ]
    .into_iter()
    .filter(|(mode, what)| {
        let key = format!("{}{mode}", annotation!(""));
        what.level != Level::Privileged && (has(&key) || has(&format!("{key}-version")))
    })
    .map(|(mode, what)| format!("{mode}={what}"))
    .collect();
    request.warn(format!(
        "namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored",
        meta::name(namespace),
        told.join(", ")
    ));
}

fn violations(request: &Request<'_>, namespace: &str, policy: LevelVersion) -> Vec<String> {
    let inside = Request {
        namespace,
        ..*request
    };
    let pods = super::listed(&inside, "pods");
    let total = pods.len();
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let judged = pods
        .into_iter()
        .filter(|pod| !exempt_runtime_class(request, pod.get("spec").unwrap_or(&Value::Null)));
    let ordered = prioritized(judged.collect());
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
