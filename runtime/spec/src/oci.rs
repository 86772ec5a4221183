//! A bundle's `config.json` as a plan. What isn't supported is an error that names the field; nothing
//! is passed over in silence.

mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType, Spec};

use crate::{ContainerId, ContainerPlan, DeviceKind, DeviceNode, Rootfs};

/// A field that can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {reason}")]
pub struct FromOciError {
    pub field: String,
    pub reason: String,
}

pub use process::process_of;
pub use resources::resources as oci_resources;

type Result<T> = std::result::Result<T, FromOciError>;

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
    Err(FromOciError {
        field: field.into(),
        reason: reason.into(),
    })
}

/// A wish of the bundle's that must not be dropped silently.
fn unsupported<T>(field: &str, wish: &Option<T>) -> Result<()> {
    match wish {
        None => Ok(()),
        Some(_) => refuse(field, "is not supported"),
    }
}

/// The plan for a bundle. `bundle` is absolute; paths of the configuration are relative to it.
pub fn from_oci(spec: &Spec, id: ContainerId, bundle: &Path) -> Result<ContainerPlan> {
    let Some(process) = spec.process() else {
        return refuse("process", "is missing");
    };
    let Some(root) = spec.root() else {
        return refuse("root", "is missing");
    };
    let Some(linux) = spec.linux() else {
        return refuse("linux", "is missing");
    };
    check_linux(linux)?;
    let mounts = mounts::mounts(spec.mounts().as_deref().unwrap_or_default(), bundle)?;
    let paths =
        |list: &Option<Vec<String>>| list.iter().flatten().map(PathBuf::from).collect::<Vec<_>>();
    let sysctls = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(ContainerPlan {
        process: process::process_of(process, linux)?,
        rootfs: Rootfs::Path(bundle.join(root.path())),
        read_only_rootfs: root.readonly().unwrap_or(false),
        mounts,
        devices: devices(linux)?,
        masked_paths: paths(linux.masked_paths()),
        readonly_paths: paths(linux.readonly_paths()),
        namespaces: namespaces::namespaces(linux)?,
        cgroup: cgroup(linux, &id)?,
        resources: resources::resources(linux.resources().as_ref())?,
        hostname: spec.hostname().clone(),
        domainname: spec.domainname().clone(),
        sysctls,
        log: None,
        stdin: true,
        terminal: process.terminal().unwrap_or(false),
        annotations: spec
            .annotations()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        id,
    })
}

fn check_linux(linux: &Linux) -> Result<()> {
    unsupported("linux.intelRdt", linux.intel_rdt())?;
    unsupported("linux.memoryPolicy", linux.memory_policy())?;
    unsupported("linux.personality", linux.personality())?;
    unsupported("linux.timeOffsets", linux.time_offsets())?;
    unsupported("linux.netDevices", linux.net_devices())?;
    for (field, mappings) in [
        ("linux.uidMappings", linux.uid_mappings()),
        ("linux.gidMappings", linux.gid_mappings()),
    ] {
        unsupported(field, &mappings.as_ref().filter(|m| !m.is_empty()))?;
    }
    unsupported(
        "linux.mountLabel",
        &linux.mount_label().as_ref().filter(|l| !l.is_empty()),
    )?;
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "slave" | "rslave") => Ok(()),
        Some(other) => refuse(
            "linux.rootfsPropagation",
            format!("{other} is not supported: the root is always private"),
        ),
    }
}

/// Numbers beyond 31 bits are refused: somebody would read them as negative, and one of those is root.
fn id(field: &str, id: u32) -> Result<u32> {
    match i32::try_from(id) {
        Ok(_) => Ok(id),
        Err(_) => refuse(field, format!("{id} is beyond 2147483647")),
    }
}

fn cgroup(linux: &Linux, id: &ContainerId) -> Result<String> {
    let Some(path) = linux
        .cgroups_path()
        .as_ref()
        .filter(|p| !p.as_os_str().is_empty())
    else {
        return Ok(format!("/kernelet-oci-{id}"));
    };
    let text = path.to_string_lossy();
    if text.matches(':').count() == 2 && !text.starts_with('/') {
        return refuse(
            "linux.cgroupsPath",
            "systemd's slice:prefix:name is not supported: use the cgroupfs driver",
        );
    }
    Ok(format!("/{}", text.trim_matches('/')))
}

fn devices(linux: &Linux) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = format!("linux.devices[{index}]");
        let number = |n: i64| {
            u32::try_from(n).or_else(|_| refuse(&field, format!("{n} is no device number")))
        };
        let kind = match device.typ() {
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => return refuse(field, "a node can't be of all types"),
        };
        nodes.push(DeviceNode {
            path: device.path().clone(),
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: id(&field, device.uid().unwrap_or(0))?,
            gid: id(&field, device.gid().unwrap_or(0))?,
        });
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests;
