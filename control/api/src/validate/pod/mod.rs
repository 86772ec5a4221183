//! Pods and the templates that pods are made from.

mod container;
mod ephemeral;
mod handlers;
mod resize;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
#[cfg(test)]
mod updated;
mod volume;

pub(crate) use resize::prepare as prepare_resize;
pub use resources::qos_class;

use super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};

pub(super) use handlers::port_or_name;
pub(super) use scheduling::taint_effect;

/// A new pod.
pub fn pod(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    pod_and_spec(&root, &mut errors);
    let ephemeral = root.get("spec").get("ephemeralContainers");
    if ephemeral.len() > 0 {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    let (node, gates) = (
        root.get("spec").get("nodeName"),
        root.get("spec").get("schedulingGates"),
    );
    if node.len() > 0 && gates.len() > 0 {
        errors.push(node.forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    errors.into_vec()
}

/// A pod's rules that hold on create and on update.
fn pod_and_spec(root: &Node<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    annotations(&root.get("metadata").get("annotations"), &spec, errors);
    pod_spec(&spec, Holder::Pod, errors);
    if spec.get("serviceAccountName").text().is_empty() {
        for volume in spec.get("volumes").each() {
            for source in volume.get("projected").get("sources").each() {
                let token = source.get("serviceAccountToken");
                if token.is_set() {
                    errors.push(
                        token.forbidden("must not be specified when serviceAccountName is not set"),
                    );
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).each() {
            container::image_without_spaces(&container, errors);
        }
    }
}

/// Annotations that mean something to the control plane.
fn annotations(annotations: &Node<'_>, spec: &Node<'_>, errors: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let invalid = |key: &str, value: &Value, why| {
        FieldError::invalid(annotations.path.key(key), value.clone(), why)
    };
    if let Some(value) = annotations.value.get(MIRROR)
        && spec.get("nodeName").len() == 0
    {
        errors.push(invalid(
            MIRROR,
            value,
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    if let Some(value) = annotations.value.get(COST) {
        let text = value.as_str().unwrap_or_default();
        // Upstream takes no sign of plus and no leading zeros.
        if text.parse::<i32>().map(|n| n.to_string()).ok().as_deref() != Some(text) {
            errors.push(invalid(COST, value, "must be a 32bit integer"));
        }
    }
}

pub fn pod_update(new: &Value, old: &Value) -> Vec<FieldError> {
    update::pod(&Node::root(new), &Node::root(old))
}

/// An update through a subresource that writes pods.
pub fn pod_status_update(new: &Value, old: &Value, subresource: &str) -> Vec<FieldError> {
    let (new, old) = (Node::root(new), Node::root(old));
    match subresource {
        "ephemeralcontainers" => ephemeral::update(&new, &old),
        "resize" => resize::update(&new, &old),
        _ => status::pod(&new, &old),
    }
}

/// The template of a Deployment or ReplicaSet.
pub(super) fn template(template: &Node<'_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    super::meta::labels(&metadata.get("labels"), errors);
    super::meta::annotations(&metadata.get("annotations"), errors);
    let spec = template.get("spec");
    annotations(&metadata.get("annotations"), &spec, errors);
    pod_spec(&spec, Holder::Template, errors);
    let ephemeral = spec.get("ephemeralContainers");
    if ephemeral.len() > 0 {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Who holds a pod spec: some rules are looser for templates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Pod,
    Template,
}

fn pod_spec(spec: &Node<'_>, holder: Holder, errors: &mut Errors) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        errors.push(grace.required(""));
    }
    let volumes = volume::volumes(&spec.get("volumes"), errors);
    container::containers(spec, &volumes, errors);
    host_network_ports(spec, holder, errors);
    errors.one_of(
        &spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of(
        &spec.get("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    super::meta::labels(&spec.get("nodeSelector"), errors);
    security::pod(spec, errors);
    scheduling::affinity(&spec.get("affinity"), errors);
    dns_config(spec, errors);
    for gate in spec.get("readinessGates").each() {
        let ty = gate.get("conditionType");
        errors.messages(&ty, names::qualified_name(ty.text()));
    }
    scheduling::gates(&spec.get("schedulingGates"), errors);
    scheduling::spread(&spec.get("topologySpreadConstraints"), errors);
    security::host_users(spec, errors);
    hostname_override(spec, errors);
    for (field, check) in [
        (
            "serviceAccountName",
            names::dns_subdomain as fn(&str) -> names::Messages,
        ),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("priorityClassName", names::dns_subdomain),
    ] {
        let node = spec.get(field);
        if !node.text().is_empty() {
            errors.messages(&node, check(node.text()));
        }
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline
        .int()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        errors.push(deadline.invalid(names::range(1, i32::MAX.into())));
    }
    scheduling::tolerations(&spec.get("tolerations"), errors);
    for alias in spec.get("hostAliases").each() {
        let ip = alias.get("ip");
        errors.messages(&ip, names::ip(ip.text()));
        for name in alias.get("hostnames").each() {
            errors.messages(&name, names::dns_subdomain(name.text()));
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        errors.one_of(&preemption, &["PreemptLowerPriority", "Never"]);
    }
    let os = spec.get("os");
    if os.is_set() {
        errors.one_of(&os.get("name"), &["linux", "windows"]);
    }
}

fn host_network_ports(spec: &Node<'_>, holder: Holder, errors: &mut Errors) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.get("containers").each() {
        for port in container.get("ports").each() {
            let host = port.get("hostPort");
            let number = host.int().unwrap_or(0);
            if (holder == Holder::Pod || number != 0)
                && number != port.get("containerPort").int().unwrap_or(0)
            {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&host.path, number, detail));
            }
        }
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

fn dns_config(spec: &Node<'_>, errors: &mut Errors) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            return errors
                .push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        if servers.len() == 0 {
            return errors
                .push(servers.required(
                    "must provide at least one DNS nameserver when `dnsPolicy` is None",
                ));
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.push(servers.invalid(format!(
            "must not have more than {MAX_NAMESERVERS} nameservers"
        )));
    }
    for server in servers.each() {
        errors.messages(&server, names::ip(server.text()));
    }
    let searches = config.get("searches");
    if searches.len() > MAX_SEARCHES {
        errors.push(searches.invalid(format!(
            "must not have more than {MAX_SEARCHES} search paths"
        )));
    }
    let length: usize = searches.each().map(|s| s.len() + 1).sum();
    if length > MAX_SEARCH_CHARACTERS + 1 {
        errors.push(searches.invalid(format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        )));
    }
    for search in searches.each().filter(|s| s.text() != ".") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        for message in names::dns_subdomain_with_underscore(name) {
            errors.push(FieldError::invalid(&search.path, name, message));
        }
    }
    for option in config.get("options").each() {
        if option.get("name").text().is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

fn hostname_override(spec: &Node<'_>, errors: &mut Errors) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if spec.get("setHostnameAsFQDN").is_true() {
        errors.push(name.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.get("hostNetwork").is_true() {
        errors.push(name.forbidden("may not be specified when hostNetwork is true"));
    }
    if name.len() > 64 {
        errors.push(FieldError::too_long(&name.path, 64));
    }
    errors.messages(&name, names::dns_subdomain(name.text()));
}
