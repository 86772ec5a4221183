//! Where the programs for packets hang. On pods' links: a filter in `clsact`, made with the link. On
//! uplinks, which are up and busy: tcx, or on kernels before 6.6 a filter as well. The one place that
//! knows the difference.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use kernelet_link::{Clsact, LinkError, attach_filter, detach_filter};
use kernelet_maps::{DataPlane, PacketProgram, detach_tcx, has_tcx};

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("attach {program} to link {ifindex}")]
    Tcx {
        program: &'static str,
        ifindex: u32,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Filter(#[from] LinkError),
    #[error("record the clsact discipline of link {ifindex}")]
    Record {
        ifindex: u32,
        #[source]
        source: io::Error,
    },
}

/// Lets the program for packets from outside run on an uplink.
pub fn attach_uplink(plane: &DataPlane, ifindex: u32, run_dir: &Path) -> Result<(), HookError> {
    let program = PacketProgram::FromUplink;
    if has_tcx() {
        return plane
            .attach_tcx(ifindex, program)
            .map_err(|source| HookError::Tcx {
                program: program.name(),
                ifindex,
                source,
            });
    }
    if attach_filter(ifindex, plane.program(program), program.name())? == Clsact::Made {
        let mut links = recorded(run_dir);
        links.insert(ifindex);
        write(run_dir, &links).map_err(|source| HookError::Record { ifindex, source })?;
    }
    Ok(())
}

/// Lets the program for packets that leave a pod run on a pod's link that is there already, in the
/// place of an earlier agent's.
pub fn attach_pod(plane: &DataPlane, ifindex: u32) -> Result<(), HookError> {
    let program = PacketProgram::FromPod;
    attach_filter(ifindex, plane.program(program), program.name())?;
    Ok(())
}

/// Takes what `attach_uplink` put there off again.
pub fn detach_uplink(ifindex: u32, run_dir: &Path) -> Result<(), HookError> {
    if has_tcx() {
        return match detach_tcx(ifindex) {
            // It took the program along.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            result => result.map_err(|source| HookError::Tcx {
                program: PacketProgram::FromUplink.name(),
                ifindex,
                source,
            }),
        };
    }
    let mut links = recorded(run_dir);
    let clsact = if links.remove(&ifindex) {
        Clsact::Made
    } else {
        Clsact::WasThere
    };
    detach_filter(ifindex, clsact)?;
    write(run_dir, &links).map_err(|source| HookError::Record { ifindex, source })
}

fn record(run_dir: &Path) -> PathBuf {
    run_dir.join("net").join("clsact")
}

/// The links whose discipline was made by us, a line each.
fn recorded(run_dir: &Path) -> BTreeSet<u32> {
    fs::read_to_string(record(run_dir))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}

fn write(run_dir: &Path, links: &BTreeSet<u32>) -> io::Result<()> {
    let path = record(run_dir);
    if links.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let lines: Vec<String> = links.iter().map(u32::to_string).collect();
    fs::write(path, lines.join("\n"))
}
