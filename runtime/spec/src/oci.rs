//! A bundle's `config.json` as a plan. What isn't supported is an error that names the field; nothing
//! is passed over in silence.

mod attributes;
mod mount_options;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod root;
mod seccomp;

use std::path::Path;

use oci_spec::runtime::{Linux, Spec};

use crate::{ContainerId, ContainerPlan, Rootfs};

/// A field that can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {reason}")]
pub struct FromOciError {
    pub field: String,
    pub reason: String,
}

pub use mount_options::MOUNT_OPTIONS;
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
    let namespaces = namespaces::namespaces(linux)?;
    let rootfs = mounts::clean(&bundle.join(root.path()));
    let around = mounts::Around {
        bundle,
        rootfs: &rootfs,
        user: root::user_namespace(&namespaces),
    };
    let mounts = mounts::mounts(spec.mounts().as_deref().unwrap_or_default(), &around)?;
    let sysctls = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(ContainerPlan {
        process: process::process_of(process, linux)?,
        rootfs: Rootfs::Path(rootfs),
        read_only_rootfs: root.readonly().unwrap_or(false),
        root: root::options(linux)?,
        mounts,
        devices: root::devices(linux)?,
        masked_paths: root::paths(linux.masked_paths()),
        readonly_paths: root::paths(linux.readonly_paths()),
        namespaces,
        net_devices: namespaces::net_devices_of(linux),
        cgroup: cgroup(linux, &id)?,
        resources: resources::resources(linux.resources().as_ref())?,
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
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
    unsupported("linux.intelRdt", linux.intel_rdt())
}

/// Numbers beyond 31 bits are refused: somebody would read them as negative, and one of those is root.
fn id(field: &str, id: u32) -> Result<u32> {
    #[cfg(feature = "weakened")]
    if crate::weakened::is_out(crate::weakened::Defence::Ids) {
        return Ok(id);
    }
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
        return Ok(format!("/{id}"));
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

#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod tests;
