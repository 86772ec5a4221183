//! Pods, and the templates they are made from.

use std::collections::BTreeSet;

use super::{addresses, ports, volumes};
use crate::{
    Value,
    quantity::Quantity,
    validate::{names, node::Node},
};

const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const NO_SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

fn deprecated_label(key: &str) -> Option<&'static str> {
    let known = NODE_LABELS.iter().find(|(label, _)| *label == key);
    known.map(|(_, message)| *message)
}

/// `pod` is a pod or a template; its path is what the fields' paths begin with.
pub(super) fn pod(pod: &Node<'_>, warnings: &mut Vec<String>) {
    let spec = pod.get("spec");
    if !spec.is_set() {
        return;
    }
    let annotations = pod.get("metadata").get("annotations");
    let containers: Vec<Node<'_>> = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| spec.get(list).each())
        .collect();
    placement(&spec, warnings);
    for (key, message) in ANNOTATIONS {
        if annotations.value.get(key).is_some() {
            warnings.push(format!("{}: {message}", annotations.path.key(key)));
        }
    }
    volumes::deprecated(&spec, warnings);
    volumes::overlapping(&spec, warnings);
    lists(&spec, warnings);
    for resource in ["memory", "ephemeral-storage"] {
        fraction(&spec.get("overhead"), resource, warnings);
    }
    let profiled = |context: &Node<'_>| context.get("seccompProfile").is_set();
    if !profiled(&spec.get("securityContext")) && annotations.value.get(SECCOMP_POD).is_some() {
        warnings.push(format!(
            "{}: {NO_SECCOMP}",
            annotations.path.key(SECCOMP_POD)
        ));
    }
    let is_template = !pod.path.as_str().is_empty();
    for container in &containers {
        let context = container.get("securityContext");
        let key = format!("{SECCOMP_CONTAINER}{}", container.get("name").text());
        if !profiled(&context) && annotations.value.get(&key).is_some() {
            warnings.push(format!("{}: {NO_SECCOMP}", annotations.path.key(&key)));
        }
        let key = format!("{APP_ARMOR}{}", container.get("name").text());
        if let Some(profile) = annotations.value.get(&key)
            && is_template
            && !context.get("appArmorProfile").is_set()
            && !says_the_same(&spec.get("securityContext").get("appArmorProfile"), profile)
        {
            warnings.push(format!(
                "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                annotations.path.key(&key)
            ));
        }
        let resources = container.get("resources");
        for resource in ["memory", "ephemeral-storage"] {
            fraction(&resources.get("limits"), resource, warnings);
            fraction(&resources.get("requests"), resource, warnings);
        }
        environment(container, warnings);
    }
    ports::ports(&containers, warnings);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path
        ));
    }
    affinity(&spec, warnings);
    for server in spec.get("dnsConfig").get("nameservers").each() {
        addresses::ip(&server, warnings);
    }
    for alias in spec.get("hostAliases").each() {
        addresses::ip(&alias.get("ip"), warnings);
    }
}

/// The pod's AppArmor profile is the one that an annotation asks for.
fn says_the_same(profile: &Node<'_>, annotation: &Value) -> bool {
    let annotation = annotation.as_str().unwrap_or_default();
    let local = profile.get("localhostProfile").text();
    match profile.get("type").text() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default",
        "Localhost" => annotation.strip_prefix("localhost/") == Some(local),
        _ => false,
    }
}

/// Labels of nodes that nobody sets any more.
fn placement(spec: &Node<'_>, warnings: &mut Vec<String>) {
    for (key, selector) in spec.get("nodeSelector").entries() {
        if let Some(message) = deprecated_label(key) {
            warnings.push(format!("{}: {message}", selector.path));
        }
    }
    let affinity = spec.get("affinity").get("nodeAffinity");
    let required = affinity
        .get("requiredDuringSchedulingIgnoredDuringExecution")
        .get("nodeSelectorTerms");
    for term in required.each() {
        selector_term(&term, false, warnings);
    }
    let preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution");
    for weighted in preferred.each() {
        selector_term(&weighted.get("preference"), true, warnings);
    }
    for constraint in spec.get("topologySpreadConstraints").each() {
        let key = constraint.get("topologyKey");
        if let Some(message) = deprecated_label(key.text()) {
            warnings.push(format!("{}: {} is {message}", key.path, key.text()));
        }
        no_selector(&constraint, warnings);
    }
}

fn selector_term(term: &Node<'_>, check_values: bool, warnings: &mut Vec<String>) {
    for expression in term.get("matchExpressions").each() {
        let key = expression.get("key");
        if let Some(message) = deprecated_label(key.text()) {
            warnings.push(format!("{}: {} is {message}", key.path, key.text()));
        }
        for value in expression.get("values").each().filter(|_| check_values) {
            for message in names::label_value(value.text()) {
                warnings.push(format!(
                    "{}: {} is invalid, {message}",
                    value.path,
                    value.text()
                ));
            }
        }
    }
}

fn no_selector(holder: &Node<'_>, warnings: &mut Vec<String>) {
    let selector = holder.get("labelSelector");
    if !selector.is_set() {
        warnings.push(format!(
            "{}: a null labelSelector results in matching no pod",
            selector.path
        ));
    }
}

fn affinity(spec: &Node<'_>, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.get("affinity").get(kind);
        let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution");
        for term in required.each() {
            no_selector(&term, warnings);
        }
        let preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution");
        for weighted in preferred.each() {
            no_selector(&weighted.get("podAffinityTerm"), warnings);
        }
    }
}

/// Lists in which a second entry of the same key is lost.
fn lists(spec: &Node<'_>, warnings: &mut Vec<String>) {
    let mut duplicates = |list: &str, key: &str| {
        let mut seen = BTreeSet::new();
        for item in spec.get(list).each() {
            let value = item.get(key);
            if !seen.insert(value.text().to_owned()) {
                warnings.push(format!(
                    "{}: duplicate {key} {:?}",
                    value.path,
                    value.text()
                ));
            }
        }
    };
    duplicates("hostAliases", "ip");
    duplicates("imagePullSecrets", "name");
    for secret in spec.get("imagePullSecrets").each() {
        let name = secret.get("name");
        if name.text().is_empty() {
            warnings.push(format!("{}: invalid empty name \"\"", name.path));
        }
    }
}

/// Bytes can't be divided.
fn fraction(list: &Node<'_>, resource: &str, warnings: &mut Vec<String>) {
    let Some(value) = list.value.get(resource) else {
        return;
    };
    if Quantity::of(Some(value)).milli_value() % 1000 != 0 {
        warnings.push(format!(
            "{}: fractional byte value {:?} is invalid, must be an integer",
            list.path.key(resource),
            value.as_str().unwrap_or_default()
        ));
    }
}

/// A variable that is set twice, unless the second builds on the first.
fn environment(container: &Node<'_>, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for variable in container.get("env").each() {
        let name = variable.get("name").text();
        if seen.insert(name) {
            continue;
        }
        let (value, reference) = (variable.get("value").text(), format!("$({name})"));
        let builds_on_it = value.contains(&reference) && value != reference;
        if variable.get("valueFrom").is_set() || !builds_on_it {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path
            ));
        }
    }
}
