//! What must hold before anything is made; errors name the field.

use std::path::{Component, Path};

use crate::{ContainerPlan, NamespaceOf, Rootfs, SandboxPlan};

/// The first thing wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PlanError {
    pub field: String,
    pub reason: String,
}

fn err(field: impl Into<String>, reason: impl Into<String>) -> Result<(), PlanError> {
    Err(PlanError {
        field: field.into(),
        reason: reason.into(),
    })
}

/// Absolute and without `..`: a `..` in a destination is a mistake or an attack, never a wish.
fn check_path(field: impl Into<String>, path: &Path) -> Result<(), PlanError> {
    if !path.is_absolute() {
        return err(field, format!("{} is not absolute", path.display()));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return err(field, format!("{} contains ..", path.display()));
    }
    check_text(field, &path.to_string_lossy())
}

fn check_text(field: impl Into<String>, text: &str) -> Result<(), PlanError> {
    if text.contains('\0') {
        return err(field, "contains a NUL byte");
    }
    Ok(())
}

/// A name of dotted or slashed parts, each harmless in a path below `/proc/sys`.
pub(crate) fn check_sysctl(field: &str, name: &str, value: &str) -> Result<(), PlanError> {
    let field = format!("{field}[{name:?}]");
    let harmless = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    if !name.split(['.', '/']).all(harmless) {
        return err(field, "is no sysctl's name");
    }
    if value.contains(['\n', '\0']) {
        return err(field, "its value contains a separator");
    }
    Ok(())
}

/// Which namespace a sysctl belongs to; `None`: the whole host's, which no container may set. `name` has
/// dots as separators.
fn sysctl_namespace(name: &str) -> Option<Owner> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if name.starts_with("net.") {
        Some(Owner::Net)
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Owner::Ipc)
    } else if name == "kernel.domainname" {
        Some(Owner::Uts)
    } else if name.starts_with("user.") {
        Some(Owner::User)
    } else {
        None
    }
}

/// With dots as separators: the first separator says which of the two is one, and the other is itself.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

enum Owner {
    Net,
    Ipc,
    Uts,
    User,
}

/// Which namespaces are not the host's.
#[derive(Clone, Copy)]
struct Own {
    net: bool,
    ipc: bool,
    uts: bool,
    user: bool,
}

/// Checks a container's plan.
pub fn validate(plan: &ContainerPlan) -> Result<(), PlanError> {
    #[cfg(feature = "weakened")]
    if crate::weakened::is_out(crate::weakened::Defence::Plan) {
        return Ok(());
    }
    let process = &plan.process;
    if process.args.is_empty() || process.args[0].is_empty() {
        return err("process.args", "is empty");
    }
    for (i, arg) in process.args.iter().enumerate() {
        check_text(format!("process.args[{i}]"), arg)?;
    }
    for (i, var) in process.env.iter().enumerate() {
        check_text(format!("process.env[{i}]"), var)?;
        if !var.contains('=') || var.starts_with('=') {
            return err(
                format!("process.env[{i}]"),
                format!("{var:?} is not NAME=value"),
            );
        }
    }
    check_path("process.cwd", &process.cwd)?;
    if let Some(adj) = process.oom_score_adj
        && !(-1000..=1000).contains(&adj)
    {
        return err(
            "process.oomScoreAdj",
            format!("{adj} is not in -1000..=1000"),
        );
    }
    for (i, limit) in process.rlimits.iter().enumerate() {
        if limit.soft > limit.hard {
            return err(
                format!("process.rlimits[{i}]"),
                "its soft limit is above its hard limit",
            );
        }
        if process.rlimits[..i]
            .iter()
            .any(|other| other.name == limit.name)
        {
            return err(
                format!("process.rlimits[{i}]"),
                format!("{} is there twice", limit.name),
            );
        }
    }
    match &plan.rootfs {
        Rootfs::Path(path) => check_path("root.path", path)?,
        Rootfs::Overlay {
            lower,
            upper,
            work,
            ids,
        } => {
            if ids.is_some() && upper.parent() != work.parent() {
                return err("root.upper", "is not beside root.work");
            }
            if lower.is_empty() {
                return err("root.lower", "is empty");
            }
            for (i, path) in lower.iter().enumerate() {
                check_path(format!("root.lower[{i}]"), path)?;
            }
            check_path("root.upper", upper)?;
            check_path("root.work", work)?;
        }
    }
    for (i, mount) in plan.mounts.iter().enumerate() {
        check_path(format!("mounts[{i}].destination"), &mount.destination)?;
        let remount = matches!(mount.source, crate::MountSource::Remount { .. });
        if mount.destination == Path::new("/") && !remount {
            return err(format!("mounts[{i}].destination"), "is the root itself");
        }
        // Anything but procfs at /proc could fake what the runtime reads and writes there.
        let below = mount.destination.strip_prefix("/proc");
        let is_proc = match &mount.source {
            crate::MountSource::Proc => true,
            crate::MountSource::Filesystem { fs_type, .. } => fs_type == "proc",
            _ => false,
        };
        if matches!(&below, Ok(rest) if rest.as_os_str().is_empty())
            && !is_proc
            && !is_host_proc(mount)
        {
            return err(
                format!("mounts[{i}].destination"),
                "only procfs can be mounted at /proc",
            );
        }
        const LXCFS: [&str; 10] = [
            "cpuinfo",
            "diskstats",
            "meminfo",
            "stat",
            "swaps",
            "uptime",
            "loadavg",
            "slabinfo",
            "sys/kernel/ns_last_pid",
            "sys/crypto/fips_enabled",
        ];
        if let Ok(rest) = below
            && !rest.as_os_str().is_empty()
            && !LXCFS.iter().any(|name| rest == Path::new(name))
        {
            return err(
                format!("mounts[{i}].destination"),
                "nothing can be mounted there, inside /proc",
            );
        }
    }
    for (i, path) in plan.masked_paths.iter().enumerate() {
        check_path(format!("linux.maskedPaths[{i}]"), path)?;
    }
    for (i, path) in plan.readonly_paths.iter().enumerate() {
        check_path(format!("linux.readonlyPaths[{i}]"), path)?;
    }
    for (i, device) in plan.devices.iter().enumerate() {
        check_path(format!("linux.devices[{i}].path"), &device.path)?;
        if device.path == Path::new("/") {
            return err(format!("linux.devices[{i}].path"), "is the root itself");
        }
    }
    check_path("linux.cgroupsPath", Path::new(&plan.cgroup))?;
    if let Some(name) = &plan.hostname {
        if plan.namespaces.uts == NamespaceOf::Host {
            return err(
                "hostname",
                "unable to set hostname without a private UTS namespace",
            );
        }
        if name.is_empty() || name.len() > 64 {
            return err("hostname", "is not 1 to 64 bytes long");
        }
    }
    if plan.domainname.is_some() && plan.namespaces.uts == NamespaceOf::Host {
        return err(
            "domainname",
            "unable to set domainname without a private UTS namespace",
        );
    }
    let own = |of: &NamespaceOf| *of != NamespaceOf::Host;
    check_sysctls(
        &plan.sysctls,
        Own {
            net: own(&plan.namespaces.net),
            ipc: own(&plan.namespaces.ipc),
            uts: own(&plan.namespaces.uts),
            user: own(&plan.namespaces.user),
        },
    )?;
    if let Some(log) = &plan.log {
        let stays = log
            .path
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if log.path.as_os_str().is_empty() || !stays {
            return err("log.path", "must be relative, without ..");
        }
        if log.max_files == 0 {
            return err("log.maxFiles", "is 0");
        }
    }
    Ok(())
}

/// `hostPID` containers bind the host's `/proc` in some bundles; that is procfs, too.
fn is_host_proc(mount: &crate::MountPlan) -> bool {
    matches!(&mount.source, crate::MountSource::Host { path, sub_path: None, .. } if path == Path::new("/proc"))
}

/// Checks a pod's sandbox.
pub fn validate_sandbox(plan: &SandboxPlan) -> Result<(), PlanError> {
    if !plan.host_network && (plan.hostname.is_empty() || plan.hostname.len() > 64) {
        return err("hostname", "is not 1 to 64 bytes long");
    }
    check_text("hostname", &plan.hostname)?;
    check_sysctls(
        &plan.sysctls,
        Own {
            net: !plan.host_network,
            ipc: !plan.host_ipc,
            uts: !plan.host_network,
            user: false,
        },
    )
}

fn check_sysctls(
    sysctls: &std::collections::BTreeMap<String, String>,
    own: Own,
) -> Result<(), PlanError> {
    for (name, value) in sysctls {
        check_sysctl("linux.sysctl", name, value)?;
        let name = dotted(name);
        let field = format!("linux.sysctl[{name:?}]");
        let host = match sysctl_namespace(&name) {
            Some(Owner::Net) if !own.net => "not allowed in host network namespace",
            Some(Owner::Ipc) if !own.ipc => "is not allowed in the hosts ipc namespace",
            Some(Owner::User) if !own.user => {
                let reason =
                    format!("setting ucounts without a user namespace not allowed: {name}");
                return err(field, reason);
            }
            Some(Owner::Uts) if !own.uts => "is not in a separate kernel namespace",
            Some(_) => continue,
            None if name == "kernel.hostname" && own.uts => {
                "is not allowed as it conflicts with the OCI \"hostname\" field"
            }
            None => "is not in a separate kernel namespace",
        };
        return err(field, format!("sysctl {name:?} {host}"));
    }
    Ok(())
}
