//! What the level `baseline` forbids: the known ways to more privileges.

use std::collections::BTreeSet;

use super::{Finding, Subject, containers, finding, flag, name, plural, quoted, setters, text};
use crate::Value;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn app_armor(pod: &Subject<'_>) -> Option<Finding> {
    const FIELD: &str = "/securityContext/appArmorProfile";
    let mut values: BTreeSet<&str> = BTreeSet::new();
    let own = bad_type(pod.at(FIELD));
    values.extend(own);
    let bad = pod.bad(|container| {
        let ty = bad_type(container.pointer(FIELD));
        values.extend(ty);
        ty.is_some()
    });
    let mut who: Vec<String> = setters(own.is_some(), &bad).into_iter().collect();
    let allowed = |profile: &str| {
        profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
    };
    let annotations: Vec<String> = pod
        .annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = values
        .into_iter()
        .chain(annotations.iter().map(String::as_str))
        .collect();
    let reason = plural(
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
        all.len(),
    );
    finding(
        reason,
        format!(
            "{} must not set AppArmor profile type to {}",
            who.join(" and "),
            quoted(all)
        ),
    )
}

/// The type of a profile that is set and is none of the two good ones.
fn bad_type(profile: Option<&Value>) -> Option<&str> {
    let profile = profile.filter(|profile| profile.is_object())?;
    let ty = text(profile, "/type").unwrap_or_default();
    (!matches!(ty, "RuntimeDefault" | "Localhost")).then_some(ty)
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The texts of a list of capabilities.
pub(super) fn capability_list<'a>(
    container: &'a Value,
    field: &str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let list = container
        .pointer("/securityContext/capabilities")
        .and_then(|capabilities| capabilities.get(field)?.as_array());
    list.into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn capabilities(pod: &Subject<'_>) -> Option<Finding> {
    let mut forbidden: BTreeSet<&str> = BTreeSet::new();
    let bad = pod.bad(|container| {
        let added: Vec<&str> = capability_list(container, "add")
            .filter(|capability| !CAPABILITIES.contains(capability))
            .collect();
        forbidden.extend(&added);
        !added.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    finding(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&bad),
            quoted(forbidden)
        ),
    )
}

pub(super) fn privileged(pod: &Subject<'_>) -> Option<Finding> {
    let bad = pod.bad(|c| flag(c, "/securityContext/privileged") == Some(true));
    if bad.is_empty() {
        return None;
    }
    let who = containers(&bad);
    finding(
        "privileged",
        format!("{who} must not set securityContext.privileged=true"),
    )
}

pub(super) fn proc_mount(pod: &Subject<'_>) -> Option<Finding> {
    let mut types: BTreeSet<&str> = BTreeSet::new();
    let bad = pod.bad(
        |container| match text(container, "/securityContext/procMount") {
            None | Some("Default") => false,
            Some(other) => {
                types.insert(other);
                true
            }
        },
    );
    if bad.is_empty() {
        return None;
    }
    finding(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            containers(&bad),
            quoted(types)
        ),
    )
}

pub(super) fn proc_mount_unless_own_users(pod: &Subject<'_>) -> Option<Finding> {
    proc_mount(pod).filter(|_| !pod.has_own_users())
}

pub(super) fn selinux(pod: &Subject<'_>) -> Option<Finding> {
    selinux_of(
        pod,
        &["", "container_t", "container_init_t", "container_kvm_t"],
    )
}

pub(super) fn selinux_with_engine(pod: &Subject<'_>) -> Option<Finding> {
    selinux_of(
        pod,
        &[
            "",
            "container_t",
            "container_init_t",
            "container_kvm_t",
            "container_engine_t",
        ],
    )
}

fn selinux_of(pod: &Subject<'_>, allowed: &[&str]) -> Option<Finding> {
    const FIELD: &str = "/securityContext/seLinuxOptions";
    let mut types: BTreeSet<&str> = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let own = pod.at(FIELD);
    let all = own
        .into_iter()
        .chain(pod.containers().filter_map(|c| c.pointer(FIELD)));
    let set = |options: &Value, field: &str| text(options, field).is_some_and(|t| !t.is_empty());
    for options in all {
        let ty = text(options, "/type").unwrap_or_default();
        if !allowed.contains(&ty) {
            types.insert(ty);
        }
        user |= set(options, "/user");
        role |= set(options, "/role");
    }
    let is_bad = |options: Option<&Value>| {
        options.is_some_and(|options| {
            !allowed.contains(&text(options, "/type").unwrap_or_default())
                || set(options, "/user")
                || set(options, "/role")
        })
    };
    let bad = pod.bad(|container| is_bad(container.pointer(FIELD)));
    let who = setters(is_bad(own), &bad)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        let word = plural("type", "types", types.len());
        what.push(format!("{word} {}", quoted(types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    finding(
        "seLinuxOptions",
        format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            what.join("; ")
        ),
    )
}

pub(super) fn seccomp_annotations(pod: &Subject<'_>) -> Option<Finding> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = pod
        .containers()
        .map(|container| format!("{CONTAINER}{}", name(container)));
    let forbidden: BTreeSet<String> = std::iter::once(POD.to_owned())
        .chain(keys)
        .filter_map(|key| {
            let value = pod.annotations?.get(&key)?.as_str()?;
            let fine = matches!(value, "runtime/default" | "docker/default")
                || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", forbidden.len());
    let list: Vec<String> = forbidden.into_iter().collect();
    finding(
        "seccompProfile",
        format!("forbidden {word} {}", list.join(", ")),
    )
}

pub(super) const SECCOMP: &str = "/securityContext/seccompProfile";

/// Pod or containers that set a seccomp profile that isn't one.
pub(super) fn seccomp(pod: &Subject<'_>) -> Option<Finding> {
    let mut values: BTreeSet<&str> = BTreeSet::new();
    let own = bad_type(pod.at(SECCOMP));
    values.extend(own);
    let bad = pod.bad(|container| {
        let ty = bad_type(container.pointer(SECCOMP));
        values.extend(ty);
        ty.is_some()
    });
    let who = setters(own.is_some(), &bad)?;
    finding(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted(values)
        ),
    )
}

/// The sysctls that are each pod's own, and since which version they are known to be.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn sysctls(pod: &Subject<'_>, minor: u32) -> Option<Finding> {
    let list = pod.at("/securityContext/sysctls").and_then(Value::as_array);
    let bad: Vec<&str> = list
        .into_iter()
        .flatten()
        .map(name)
        .filter(|sysctl| {
            let known = |(name, since): &(&str, u32)| name == sysctl && *since <= minor;
            !SYSCTLS.iter().any(known)
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    finding("forbidden sysctls", bad.join(", "))
}
