//! Security contexts of pods and containers.

use super::super::{
    names,
    node::{Errors, Node},
};
use crate::FieldError;
use std::collections::BTreeSet;

fn id(node: &Node<'_>, errors: &mut Errors) {
    if node
        .int()
        .is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n))
    {
        errors.push(node.invalid(names::range(0, i32::MAX.into())));
    }
}

pub(super) fn pod(spec: &Node<'_>, errors: &mut Errors) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(field), errors);
    }
    for group in context.get("supplementalGroups").each() {
        id(&group, errors);
    }
    let shared = spec.get("shareProcessNamespace");
    if shared.is_true() && spec.get("hostPID").is_true() {
        // Upstream's internal form keeps the field in the security context.
        let path = context.path.child("shareProcessNamespace");
        errors.push(FieldError::invalid(
            &path,
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    sysctls(spec, &context.get("sysctls"), errors);
    for (field, values) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ] {
        let policy = context.get(field);
        if policy.is_set() && !values.contains(&policy.text()) {
            errors.push(policy.not_supported(values));
        }
    }
    profile(
        &context.get("seccompProfile"),
        "seccomp",
        "seccompProfile",
        errors,
    );
    profile(
        &context.get("appArmorProfile"),
        "AppArmor",
        "appArmorProfile",
        errors,
    );
}

const SYSCTL_PATTERN: &str =
    "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn sysctl_shape(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b))
        })
}

fn sysctls(spec: &Node<'_>, list: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for sysctl in list.each() {
        let name = sysctl.get("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !sysctl_shape(name.text()) {
            errors.push(name.invalid(format!(
                "must have at most 253 characters and match regex {SYSCTL_PATTERN}"
            )));
        } else if seen.contains(name.text()) {
            errors.push(name.duplicate());
        }
        seen.insert(name.text());
        let dotted = name.text().replace('/', ".");
        if spec.get("hostNetwork").is_true() && dotted.starts_with("net.") {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if spec.get("hostIPC").is_true() && ipc.iter().any(|p| dotted.starts_with(p)) {
            errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
        }
    }
}

fn profile(profile: &Node<'_>, what: &str, field: &str, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let (ty, local) = (profile.get("type"), profile.get("localhostProfile"));
    match ty.text() {
        "Localhost" => {
            if !local.is_set() || (what == "AppArmor" && local.text().trim().is_empty()) {
                errors.push(local.required(format!("must be set when {what} type is Localhost")));
            } else if what == "AppArmor" {
                if local.text().trim() != local.text() {
                    errors.push(local.invalid("must not be padded with whitespace"));
                }
            } else {
                if local.text().starts_with('/') {
                    errors.push(local.invalid("must be a relative path"));
                }
                if local.text().split('/').any(|part| part == "..") {
                    errors.push(local.invalid("must not contain '..'"));
                }
            }
        }
        "" => errors.push(ty.required(format!("type is required when {field} is set"))),
        "RuntimeDefault" | "Unconfined" => {}
        _ => errors.push(ty.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
    if ty.text() != "Localhost" && local.is_set() {
        errors.push(local.invalid(format!("can only be set when {what} type is Localhost")));
    }
}

pub(super) fn container(spec: &Node<'_>, context: &Node<'_>, errors: &mut Errors) {
    if !context.is_set() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    let proc_mount = context.get("procMount");
    if proc_mount.is_set() {
        if !matches!(proc_mount.text(), "Default" | "Unmasked") {
            errors.push(proc_mount.not_supported(&["Default", "Unmasked"]));
        }
        if proc_mount.text() == "Unmasked" && spec.get("hostUsers").value.as_bool() != Some(false) {
            errors.push(proc_mount.invalid("`hostUsers` must be false to use `Unmasked`"));
        }
    }
    profile(
        &context.get("seccompProfile"),
        "seccomp",
        "seccompProfile",
        errors,
    );
    if context.get("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if context.get("privileged").is_true() {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if context
            .get("capabilities")
            .get("add")
            .each()
            .any(|c| c.text() == "CAP_SYS_ADMIN")
        {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    profile(
        &context.get("appArmorProfile"),
        "AppArmor",
        "appArmorProfile",
        errors,
    );
}

/// A pod with a user namespace of its own can't have the host's others.
pub(super) fn host_users(spec: &Node<'_>, errors: &mut Errors) {
    if spec.get("hostUsers").value.as_bool() != Some(false) {
        return;
    }
    for (field, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.get(field).is_true() {
            errors.push(FieldError::forbidden(
                spec.path.child(shown),
                "when `hostUsers` is false",
            ));
        }
    }
}
