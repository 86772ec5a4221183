//! What the node agent may write into a pod's status.

use super::{
    super::{
        names,
        node::{Errors, Node},
    },
    handlers,
};
use crate::FieldError;
use std::collections::BTreeSet;

pub(super) fn pod(new: &Node<'_>, old: &Node<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (status, before) = (new.get("status"), old.get("status"));
    for condition in status.get("conditions").each() {
        let observed = condition.get("observedGeneration");
        if observed.int().is_some_and(|n| n < 0) {
            errors.push(observed.invalid("must be a non-negative integer"));
        }
        let ty = condition.get("type");
        if !matches!(ty.text(), "PodScheduled" | "Ready" | "Initialized") {
            for message in names::qualified_name(ty.text()) {
                errors.push(FieldError::invalid(
                    condition.path.child("Type"),
                    ty.text(),
                    message,
                ));
            }
        }
    }
    let nominated = status.get("nominatedNodeName");
    if nominated.len() > 0 && nominated.value != before.get("nominatedNodeName").value {
        errors.messages(&nominated, names::dns_subdomain(nominated.text()));
        if old.get("spec").get("nodeName").len() > 0 {
            errors.push(
                nominated.forbidden("may not be set on pods that are already bound to a node"),
            );
        }
    }
    let observed = status.get("observedGeneration");
    if observed.int().is_some_and(|n| n < 0) {
        errors.push(observed.invalid("must be a non-negative integer"));
    }
    if before.get("qosClass").is_set() {
        errors.immutable(&status.get("qosClass"), &before.get("qosClass"));
    }
    ended_containers_stay_ended(new, old, &mut errors);
    ended_ephemeral_containers_stay_ended(new, old, &mut errors);
    addresses(&status.get("podIPs"), &mut errors);
    addresses(&status.get("hostIPs"), &mut errors);
    errors.into_vec()
}

/// Where the restart policy does not start a container again, its end is final.
fn ended_containers_stay_ended(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    let spec = old.get("spec");
    let statuses = new.get("status").get("containerStatuses");
    for (i, old) in old
        .get("status")
        .get("containerStatuses")
        .each()
        .enumerate()
    {
        let (terminated, name) = (old.get("state").get("terminated"), old.get("name"));
        let Some(container) = spec
            .get("containers")
            .each()
            .find(|c| c.get("name").text() == name.text())
        else {
            continue;
        };
        let code = terminated.get("exitCode").int().unwrap_or(0);
        if !terminated.is_set() || handlers::restarts(&spec, &container, code) {
            continue;
        }
        let same = statuses
            .each()
            .find(|s| s.get("name").text() == name.text());
        if same.is_some_and(|s| !s.get("state").get("terminated").is_set()) {
            let path = statuses.path.index(i).child("state");
            errors.push(FieldError::forbidden(
                path,
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}

/// An ephemeral container never runs again.
fn ended_ephemeral_containers_stay_ended(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    let list = "ephemeralContainerStatuses";
    let now = new.get("status").get(list);
    for (i, was) in old.get("status").get(list).each().enumerate() {
        let runs = |s: &Node<'_>| !s.get("state").get("terminated").is_set();
        let name = was.get("name").text();
        let again = now.each().any(|s| s.get("name").text() == name && runs(&s));
        if !runs(&was) && again {
            let path = now.path.index(i).child("state");
            let why = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(path, why));
        }
    }
}

/// Well-formed, no repetition, at most one of each family.
fn addresses(list: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for item in list.each() {
        let ip = item.get("ip");
        for message in names::ip(ip.text()) {
            errors.push(FieldError::invalid(&item.path, ip.text(), message));
        }
        if !seen.insert(ip.text()) {
            errors.push(FieldError::duplicate(&item.path, item.value.clone()));
        }
    }
    let v6 = list
        .each()
        .filter(|item| item.get("ip").text().contains(':'))
        .count();
    if list.len() > 2 || (list.len() == 2 && v6 != 1) {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
}
