//! Which namespaces a process gets, and what is written into new ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ContainerId;

/// Whose namespace a process gets.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceOf {
    /// No descriptor: the host's (`hostNetwork`, `hostPID`, `hostIPC`).
    Host,
    /// One that the pod's shim holds.
    Pod,
    #[default]
    New,
    /// OCI's `namespaces[].path`.
    Path(PathBuf),
    /// That of a running container of the same pod. Process namespaces only.
    Container(ContainerId),
}

/// One for each kind the kernel has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub pid: NamespaceOf,
    pub net: NamespaceOf,
    pub ipc: NamespaceOf,
    pub uts: NamespaceOf,
    pub cgroup: NamespaceOf,
    /// `New` or `Path`: never the host's, whose mounts nobody may change.
    pub mount: NamespaceOf,
    /// It owns every other namespace that is new. A pod's is held by its shim.
    pub user: NamespaceOf,
    pub time: NamespaceOf,
    /// Written into a new user namespace. Of a joined one: what it must have, if it is there.
    pub mappings: Option<IdMappings>,
    /// Written into a new time namespace.
    pub time_offsets: TimeOffsets,
}

impl Namespaces {
    /// The host's, but for the mounts.
    pub fn host() -> Self {
        Namespaces {
            pid: NamespaceOf::Host,
            net: NamespaceOf::Host,
            ipc: NamespaceOf::Host,
            uts: NamespaceOf::Host,
            cgroup: NamespaceOf::Host,
            mount: NamespaceOf::New,
            user: NamespaceOf::Host,
            time: NamespaceOf::Host,
            mappings: None,
            time_offsets: TimeOffsets::default(),
        }
    }

    /// A container of an ordinary pod: its own pid and cgroup namespaces, the pod's others.
    pub fn of_pod() -> Self {
        Namespaces {
            pid: NamespaceOf::New,
            net: NamespaceOf::Pod,
            ipc: NamespaceOf::Pod,
            uts: NamespaceOf::Pod,
            cgroup: NamespaceOf::New,
            ..Namespaces::host()
        }
    }
}

/// `container_id` and the `size - 1` ids after it are `host_id` and those after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdMapping {
    pub container_id: u32,
    pub host_id: u32,
    pub size: u32,
}

/// A user namespace's two tables.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IdMappings {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

impl IdMappings {
    /// What an id of the container is on the host.
    pub fn to_host(list: &[IdMapping], id: u32) -> Option<u32> {
        list.iter().find_map(|mapping| {
            let offset = id.checked_sub(mapping.container_id)?;
            (offset < mapping.size).then(|| mapping.host_id.checked_add(offset))?
        })
    }

    /// The kernel's text of one table.
    pub fn text(list: &[IdMapping]) -> String {
        let line = |m: &IdMapping| format!("{} {} {}\n", m.container_id, m.host_id, m.size);
        list.iter().map(line).collect()
    }
}

/// Seconds and nanoseconds added to a clock. The nanoseconds count upwards, whatever the seconds' sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TimeOffsets {
    pub monotonic: Option<(i64, u32)>,
    pub boottime: Option<(i64, u32)>,
}

impl TimeOffsets {
    /// The kernel's text; empty when nothing is shifted.
    pub fn text(&self) -> String {
        let clocks = [("monotonic", self.monotonic), ("boottime", self.boottime)];
        let line = |(name, offset): (&str, Option<(i64, u32)>)| {
            offset.map(|(seconds, nanos)| format!("{name} {seconds} {nanos}\n"))
        };
        clocks.into_iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_within_their_ranges() {
        let list = [
            IdMapping {
                container_id: 0,
                host_id: 1000,
                size: 1,
            },
            IdMapping {
                container_id: 1,
                host_id: 100_000,
                size: 10,
            },
            IdMapping {
                container_id: 50,
                host_id: u32::MAX,
                size: 10,
            },
        ];
        let host = |id| IdMappings::to_host(&list, id);
        assert_eq!(
            (host(0), host(10), host(11)),
            (Some(1000), Some(100_009), None)
        );
        assert_eq!((host(50), host(51)), (Some(u32::MAX), None));
        assert_eq!(IdMappings::text(&list[..2]), "0 1000 1\n1 100000 10\n");
    }

    #[test]
    fn offsets_are_the_kernels_lines() {
        let offsets = TimeOffsets {
            monotonic: Some((-5, 7)),
            boottime: Some((3600, 0)),
        };
        assert_eq!(offsets.text(), "monotonic -5 7\nboottime 3600 0\n");
        assert_eq!(TimeOffsets::default().text(), "");
    }
}
