//! The smaller kinds of the core group, and leases.

use super::{
    names,
    node::{Errors, Node},
    pod,
};
use crate::{FieldError, Gvk, Value, convert, field::Path, quantity::Quantity};
use std::{borrow::Cow, cmp::Ordering, collections::BTreeSet};

/// What all values of a ConfigMap or Secret may hold together.
const MAX_DATA: usize = 1 << 20;

/// The bytes that a base64 text stands for.
fn decoded_len(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count()
}

pub fn config_map(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let (data, binary) = (root.get("data"), root.get("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        let invalid = |why: String| FieldError::invalid(&value.path, key, why);
        errors.extend(names::config_key(key).into_iter().map(invalid));
        if binary.value.get(key).is_some() {
            errors.push(FieldError::invalid(
                &value.path,
                key,
                "duplicate of key present in binaryData",
            ));
        }
        size += value.len();
    }
    for (key, value) in binary.entries() {
        errors.extend(
            names::config_key(key)
                .into_iter()
                .map(|why| FieldError::invalid(&value.path, key, why)),
        );
        size += decoded_len(value.text());
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long(Path::root(), MAX_DATA));
    }
    errors.into_vec()
}

pub fn config_map_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    once_immutable(new, old, &["data", "binaryData"], &mut errors);
    errors.extend(config_map(new));
    errors.into_vec()
}

/// `immutable: true` can't be taken back, and fixes the data.
fn once_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    let (new, old) = (Node::root(new), Node::root(old));
    if !old.get("immutable").is_true() {
        return;
    }
    if !new.get("immutable").is_true() {
        errors.push(new.get("immutable").forbidden(WHY));
    }
    for field in fields {
        if new.get(field).value != old.get(field).value {
            errors.push(new.get(field).forbidden(WHY));
        }
    }
}

pub fn secret(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let data = root.get("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        errors.extend(
            names::config_key(key)
                .into_iter()
                .map(|why| FieldError::invalid(&value.path, key, why)),
        );
        size += decoded_len(value.text());
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long(&data.path, MAX_DATA));
    }
    let has = |key: &str| data.value.get(key).is_some();
    let missing = |key: &str| FieldError::required(data.path.key(key), "");
    match root.get("type").text() {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let annotations = root.get("metadata").get("annotations");
            if annotations
                .value
                .get(ACCOUNT)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                errors.push(FieldError::required(annotations.path.key(ACCOUNT), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&data, ".dockercfg", &mut errors),
        "kubernetes.io/dockerconfigjson" => docker_config(&data, ".dockerconfigjson", &mut errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.push(missing("username"));
            errors.push(missing("password"));
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").len() == 0 => {
            errors.push(missing("ssh-privatekey"))
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)) {
                errors.push(missing(key));
            }
        }
        _ => {}
    }
    errors.into_vec()
}

fn docker_config(data: &Node<'_>, key: &str, errors: &mut Errors) {
    let path = data.path.key(key);
    let Some(value) = data.value.get(key).and_then(Value::as_str) else {
        return errors.push(FieldError::required(path, ""));
    };
    let decoded = crate::codec::decode_base64(value).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        let why = if decoded.is_empty() {
            "unexpected end of JSON input".to_owned()
        } else {
            why.to_string()
        };
        errors.push(FieldError::invalid(path, "<secret contents redacted>", why));
    }
}

pub fn secret_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.immutable(&Node::root(new).get("type"), &Node::root(old).get("type"));
    once_immutable(new, old, &["data"], &mut errors);
    errors.extend(secret(new));
    errors.into_vec()
}

pub fn namespace(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let finalizers = Node::root(object).get("spec").get("finalizers");
    for finalizer in finalizers.each() {
        let name = finalizer.text();
        for message in names::qualified_name(name) {
            errors.push(FieldError::invalid(&finalizers.path, name, message));
        }
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&finalizers.path, name, detail));
        }
    }
    errors.into_vec()
}

/// `finalize` writes the finalizers, `status` the phase.
pub fn namespace_status(new: &Value, old: &Value, subresource: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if subresource == "finalize" {
        errors.extend(namespace(new));
    } else {
        let (new, old) = (Node::root(new), Node::root(old));
        let phase = new.get("status").get("phase");
        let deleted = new.get("metadata").get("deletionTimestamp").is_set();
        if !deleted && phase.text() != "Active" {
            errors.push(phase.invalid("may only be 'Active' if `deletionTimestamp` is empty"));
        }
        if deleted
            && phase.text() != "Terminating"
            && old.get("status").get("phase").text() == "Terminating"
        {
            errors.push(
                phase.invalid("may only be 'Terminating' if `deletionTimestamp` is not empty"),
            );
        }
    }
    errors.into_vec()
}

pub fn node(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    taints(&root, &mut errors);
    node_resources(&root, &mut errors);
    let cidrs = root.get("spec").get("podCIDRs");
    for cidr in cidrs.each() {
        errors.messages(&cidr, names::cidr(cidr.text()));
    }
    let v6 = cidrs.each().filter(|c| c.text().contains(':')).count();
    if cidrs.len() > 2 || (cidrs.len() == 2 && v6 != 1) {
        errors.push(cidrs.invalid("may specify no more than one CIDR for each IP family"));
    }
    errors.into_vec()
}

fn taints(root: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    // Upstream reports taints below metadata.
    let path = root.get("metadata").path.child("taints");
    for taint in Node::at(root.get("spec").get("taints").value, path).each() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        errors.messages(&key, names::qualified_name(key.text()));
        let messages = names::label_value(value.text());
        if !messages.is_empty() {
            errors.push(value.invalid(messages.join(";")));
        }
        pod::taint_effect(&effect, errors);
        if !seen.insert((key.text(), effect.text())) {
            let mut error = taint.duplicate();
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn node_resources(root: &Node<'_>, errors: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        let resources = root.get("status").get(list);
        for (name, value) in resources.entries() {
            if Quantity::of(Some(value.value)).sign() == Ordering::Less {
                let path = resources.path.child(name);
                errors.push(FieldError::invalid(
                    path,
                    value.value.clone(),
                    "must be greater than or equal to 0",
                ));
            }
        }
    }
}

pub fn node_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (new, old) = (Node::root(new), Node::root(old));
    node_resources(&new, &mut errors);
    let mut seen = BTreeSet::new();
    for address in new.get("status").get("addresses").each() {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            errors.push(address.duplicate());
        }
    }
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let (cidrs, had) = (spec.get("podCIDRs"), before.get("podCIDRs"));
    // The first of the list and the single field are one thing.
    let (cidr, had_cidr) = (spec.get("podCIDR").text(), before.get("podCIDR").text());
    if (had.len() > 0 && cidrs.value != had.value) || (!had_cidr.is_empty() && cidr != had_cidr) {
        errors
            .push(cidrs.forbidden("node updates may not change podCIDR except from \"\" to valid"));
    }
    let (provider, had) = (spec.get("providerID"), before.get("providerID"));
    if had.len() > 0 && provider.value != had.value {
        errors.push(
            provider.forbidden("node updates may not change providerID except from \"\" to valid"),
        );
    }
    taints(&new, &mut errors);
    if spec.get("externalID").value != before.get("externalID").value {
        errors.push(spec.get("externalID").forbidden("may not be updated"));
    }
    errors.into_vec()
}

/// A Node's status is checked as the node is.
pub fn node_status(new: &Value, old: &Value, _: &str) -> Vec<FieldError> {
    node_update(new, old)
}

/// The body of `pods/binding`.
pub fn binding(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let target = Node::root(object).get("target");
    let kind = target.get("kind");
    if !matches!(kind.text(), "" | "Node") {
        errors.push(kind.not_supported(&["Node", "<empty>"]));
    }
    errors.require(&target.get("name"));
    errors.into_vec()
}

const MAX_EVENT_WORD: usize = 128;
const MAX_EVENT_NOTE: usize = 1024;

/// An event in core's form; upstream names fields as core does, whatever group the event came through.
fn core_form(object: &Value) -> Cow<'_, Value> {
    let core = Gvk::new("", "v1", "Event");
    match crate::meta::gvk(object) {
        Some(gvk) if gvk.group == "events.k8s.io" => {
            match convert::event(&gvk, &core, object.clone()) {
                Ok(converted) => Cow::Owned(converted),
                Err(_) => Cow::Borrowed(object),
            }
        }
        _ => Cow::Borrowed(object),
    }
}

pub fn event(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let own = root.get("metadata").get("namespace");
    let involved = root.get("involvedObject").get("namespace");
    let mismatch = || involved.invalid("does not match event.namespace");
    if !root.get("eventTime").is_set() {
        let fits = match involved.text() {
            "" => matches!(own.text(), "" | "default"),
            namespace => own.text() == namespace,
        };
        if !fits {
            errors.push(mismatch());
        }
    } else {
        if involved.text().is_empty() && !matches!(own.text(), "default" | "kube-system") {
            errors.push(mismatch());
        }
        let component = root.get("reportingComponent");
        errors.require(&component);
        errors.messages(&component, names::qualified_name(component.text()));
        for field in ["reportingInstance", "action", "reason"] {
            let node = root.get(field);
            errors.require(&node);
            at_most(&node, MAX_EVENT_WORD, &mut errors);
        }
        at_most(&root.get("message"), MAX_EVENT_NOTE, &mut errors);
    }
    for message in names::dns_subdomain(own.text()) {
        errors.push(FieldError::invalid("namespace", own.text(), message));
    }
    errors.into_vec()
}

fn at_most(node: &Node<'_>, max: usize, errors: &mut Errors) {
    if node.len() > max {
        errors.push(FieldError::invalid(
            &node.path,
            "",
            format!("can have at most {max} characters"),
        ));
    }
}

pub fn event_update(new: &Value, _: &Value) -> Vec<FieldError> {
    event(new)
}

/// An event that came in through `events.k8s.io`, which asks for more.
pub fn new_event(object: &Value) -> Vec<FieldError> {
    let object = &*core_form(object);
    let mut errors = Errors::default();
    errors.extend(event(object).into_iter().map(named_as_in_the_new_group));
    let root = Node::root(object);
    series(&root, &mut errors);
    let time = root.get("eventTime");
    if !time.is_set() {
        errors.push(time.required(""));
    }
    let ty = root.get("type");
    if !matches!(ty.text(), "Normal" | "Warning") {
        errors.push(FieldError::invalid(
            &ty.path,
            "",
            format!("has invalid value: {}", ty.text()),
        ));
    }
    let source = root.get("source");
    for (field, set) in [
        ("firstTimestamp", root.get("firstTimestamp").is_set()),
        ("lastTimestamp", root.get("lastTimestamp").is_set()),
        ("count", root.get("count").int().unwrap_or(0) != 0),
        (
            "source",
            source.get("component").len() + source.get("host").len() > 0,
        ),
    ] {
        if set {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
    errors.into_vec()
}

fn named_as_in_the_new_group(mut error: FieldError) -> FieldError {
    if error.path == "reportingComponent" {
        error.path = "reportingController".to_owned();
    }
    error
}

fn series(root: &Node<'_>, errors: &mut Errors) {
    let series = root.get("series");
    if !series.is_set() {
        return;
    }
    let (count, last) = (series.get("count"), series.get("lastObservedTime"));
    if count.int().unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&count.path, "", "should be at least 2"));
    }
    if !last.is_set() {
        errors.push(last.required(""));
    }
}

/// In the newer group an event only grows its series.
pub fn new_event_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (&*core_form(new), &*core_form(old));
    let mut errors = Errors::default();
    errors.extend(event(new).into_iter().map(named_as_in_the_new_group));
    let (new, old) = (Node::root(new), Node::root(old));
    if new.get("series").value != old.get("series").value {
        series(&new, &mut errors);
    }
    for (field, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let value = new.get(field).value;
        errors.immutable(&Node::at(value, Path::new(shown)), &old.get(field));
    }
    errors.into_vec()
}

pub fn lease(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    let (duration, transitions) = (
        spec.get("leaseDurationSeconds"),
        spec.get("leaseTransitions"),
    );
    if duration.int().is_some_and(|n| n <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    errors.non_negative(&transitions);
    let strategy = spec.get("strategy");
    if strategy.is_set() {
        let path = strategy.path.child("strategy");
        if strategy.text().contains('/') {
            for message in names::qualified_name(strategy.text()) {
                errors.push(FieldError::invalid(&path, strategy.text(), message));
            }
        } else if strategy.text() != "OldestEmulationVersion" {
            errors.push(FieldError::not_supported(
                &path,
                strategy.text(),
                &["OldestEmulationVersion"],
            ));
        }
    }
    let preferred = spec.get("preferredHolder");
    if preferred.len() > 0 && strategy.len() == 0 {
        errors.push(preferred.forbidden("may only be specified if `strategy` is defined"));
    }
    errors.into_vec()
}

pub fn lease_update(new: &Value, _: &Value) -> Vec<FieldError> {
    lease(new)
}
