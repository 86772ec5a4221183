//! The root's propagation and label, device nodes, masked and read-only paths.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::{Result, id, mount_options, mounts::clean, refuse};
use crate::{
    DeviceKind, DeviceNode, IdMapSource, NamespaceOf, Namespaces, Propagation, RootOptions,
};

pub(super) fn options(linux: &Linux) -> Result<RootOptions> {
    let text = linux.rootfs_propagation().as_deref().unwrap_or_default();
    let propagation = match text {
        "" => Propagation::Private,
        text => match mount_options::propagation(text) {
            Some(propagation) => propagation,
            None => {
                let reason = format!("rootfsPropagation={text} is not supported");
                return refuse("linux.rootfsPropagation", reason);
            }
        },
    };
    Ok(RootOptions {
        propagation,
        mount_label: linux.mount_label().clone().filter(|l| !l.is_empty()),
    })
}

/// Whose ids an `idmap` without mappings takes.
pub(super) fn user_namespace(of: &Namespaces) -> Option<IdMapSource> {
    match (&of.user, &of.mappings) {
        (NamespaceOf::Path(path), _) => Some(IdMapSource::Namespace(path.clone())),
        (NamespaceOf::New, Some(ids)) => Some(IdMapSource::Mappings {
            uids: ids.uids.clone(),
            gids: ids.gids.clone(),
        }),
        _ => None,
    }
}

/// A list of paths, each once.
pub(super) fn paths(list: &Option<Vec<String>>) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::new();
    for text in list.iter().flatten() {
        let path = PathBuf::from(text);
        if !out.contains(&path) {
            out.push(path);
        }
    }
    out
}

pub(super) fn devices(linux: &Linux) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = format!("linux.devices[{index}]");
        let path = clean(device.path());
        // It is always a symlink to the container's own devpts, whoever asks for it.
        if path == std::path::Path::new("/dev/ptmx") {
            continue;
        }
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
            path,
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            // The type is given apart; some write it into the mode as well.
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: id(&field, device.uid().unwrap_or(0))?,
            gid: id(&field, device.gid().unwrap_or(0))?,
        });
    }
    Ok(nodes)
}
