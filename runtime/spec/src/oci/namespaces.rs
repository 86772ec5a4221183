//! `linux.namespaces`, the mappings of a user namespace, the offsets of a time namespace.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::{Result, refuse};
use crate::{IdMapping, IdMappings, NamespaceOf, Namespaces, TimeOffsets};

const FIELD: &str = "linux.namespaces";

pub(super) fn namespaces(linux: &Linux) -> Result<Namespaces> {
    let mut of = Namespaces::host();
    let mut mount = false;
    let mut seen = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            let name = serde_json::to_value(kind).unwrap_or_default();
            let path = namespace.path().clone().unwrap_or_default();
            return refuse(
                FIELD,
                format!("malformed spec file: duplicated ns {{{name} {path:?}}}"),
            );
        }
        seen.push(kind);
        let wish = match namespace.path() {
            // An empty path is none, as in Go's zero value.
            Some(path) if !path.as_os_str().is_empty() => {
                check_path(path)?;
                NamespaceOf::Path(path.clone())
            }
            _ => NamespaceOf::New,
        };
        match kind {
            LinuxNamespaceType::Pid => of.pid = wish,
            LinuxNamespaceType::Network => of.net = wish,
            LinuxNamespaceType::Ipc => of.ipc = wish,
            LinuxNamespaceType::Uts => of.uts = wish,
            LinuxNamespaceType::Cgroup => of.cgroup = wish,
            LinuxNamespaceType::User => of.user = wish,
            LinuxNamespaceType::Time => of.time = wish,
            LinuxNamespaceType::Mount => {
                mount = true;
                of.mount = wish;
            }
        }
    }
    if !mount {
        return refuse(FIELD, "a mount namespace is required");
    }
    user(linux, &mut of)?;
    time(linux, &mut of)?;
    net_devices(linux, &of)?;
    Ok(of)
}

fn check_path(path: &Path) -> Result<()> {
    match path.is_absolute() {
        true => Ok(()),
        false => refuse(FIELD, format!("namespace path {path:?} is not absolute")),
    }
}

fn user(linux: &Linux, of: &mut Namespaces) -> Result<()> {
    let uids = mappings(linux.uid_mappings());
    let gids = mappings(linux.gid_mappings());
    let any = !uids.is_empty() || !gids.is_empty();
    match &of.user {
        NamespaceOf::New if !any => refuse(
            FIELD,
            "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
        ),
        NamespaceOf::New => {
            contains_root("linux.uidMappings", "uid", &uids)?;
            contains_root("linux.gidMappings", "gid", &gids)?;
            of.mappings = Some(IdMappings { uids, gids });
            Ok(())
        }
        // Both are allowed when they say the same, which who joins it finds out.
        NamespaceOf::Path(_) => {
            of.mappings = any.then_some(IdMappings { uids, gids });
            Ok(())
        }
        _ if any => refuse(
            if linux.uid_mappings().iter().flatten().next().is_some() {
                "linux.uidMappings"
            } else {
                "linux.gidMappings"
            },
            "user namespace mappings specified, but user namespace isn't enabled in the config",
        ),
        _ => Ok(()),
    }
}

fn mappings(list: &Option<Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    let convert = |mapping: &LinuxIdMapping| IdMapping {
        container_id: mapping.container_id(),
        host_id: mapping.host_id(),
        size: mapping.size(),
    };
    list.iter().flatten().map(convert).collect()
}

/// What the container's root is on the host: without it nothing could be made for the container.
fn contains_root(field: &str, kind: &str, list: &[IdMapping]) -> Result<()> {
    if list.is_empty() {
        return refuse(
            field,
            format!("user namespaces enabled, but no {kind} mappings found"),
        );
    }
    if IdMappings::to_host(list, 0).is_none() {
        let what = format!("user namespaces enabled, but no mapping found for {kind} 0");
        return refuse(field, what);
    }
    Ok(())
}

fn time(linux: &Linux, of: &mut Namespaces) -> Result<()> {
    const FIELD: &str = "linux.timeOffsets";
    let Some(offsets) = linux.time_offsets() else {
        return Ok(());
    };
    match of.time {
        NamespaceOf::New => {}
        NamespaceOf::Path(_) => {
            return refuse(
                FIELD,
                "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one",
            );
        }
        _ => {
            return refuse(
                FIELD,
                "time namespace offsets specified, but time namespace isn't enabled in the config",
            );
        }
    }
    let mut plan = TimeOffsets::default();
    for (clock, offset) in offsets {
        let value = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        match clock.as_str() {
            "monotonic" => plan.monotonic = Some(value),
            "boottime" => plan.boottime = Some(value),
            other => return refuse(FIELD, format!("{other:?} is no clock of a time namespace")),
        }
        if value.1 > 999_999_999 {
            return refuse(
                FIELD,
                format!("{clock}: {} nanoseconds are a second", value.1),
            );
        }
    }
    of.time_offsets = plan;
    Ok(())
}

/// The host's devices and the names they get.
pub(super) fn net_devices_of(linux: &Linux) -> Vec<(String, String)> {
    let mut devices: Vec<(String, String)> = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(name, device)| {
            let new = device.name().clone().filter(|new| !new.is_empty());
            (name.clone(), new.unwrap_or_else(|| name.clone()))
        })
        .collect();
    devices.sort();
    devices
}

fn net_devices(linux: &Linux, of: &Namespaces) -> Result<()> {
    const FIELD: &str = "linux.netDevices";
    let devices = net_devices_of(linux);
    if !devices.is_empty() && of.net == NamespaceOf::Host {
        return refuse(
            FIELD,
            "unable to move network devices without a NET namespace",
        );
    }
    for name in devices.iter().flat_map(|(old, new)| [old, new]) {
        let valid = !name.is_empty()
            && name.len() < 16
            && name != "."
            && name != ".."
            && !name.contains(['/', ':', ' ', '\0']);
        if !valid {
            return refuse(FIELD, format!("invalid network device name {name:?}"));
        }
    }
    Ok(())
}
