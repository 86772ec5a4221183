//! Mounts of a container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute inside the container; walked in its root, made when it is missing.
    pub destination: PathBuf,
    pub source: MountSource,
    pub flags: MountFlags,
    pub propagation: Propagation,
}

impl MountPlan {
    /// A bind of a host's file or folder, the way most volumes come.
    pub fn bind(
        source: impl Into<PathBuf>,
        destination: impl Into<PathBuf>,
        read_only: bool,
    ) -> Self {
        MountPlan {
            destination: destination.into(),
            source: MountSource::Host {
                path: source.into(),
                sub_path: None,
                recursive: true,
            },
            flags: MountFlags {
                read_only,
                ..MountFlags::default()
            },
            propagation: Propagation::Private,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path on the host. `sub_path` (Kubernetes' `subPath`) is walked with `RESOLVE_IN_ROOT` below
    /// `path`, so that a symlink in a volume never leads out of it.
    Host {
        path: PathBuf,
        sub_path: Option<PathBuf>,
        recursive: bool,
    },
    /// A tmpfs that the pod's shim holds (see `CreateVolume`).
    Volume {
        name: String,
        sub_path: Option<PathBuf>,
    },
    /// The pod's `/dev/shm`, which the shim holds with its IPC namespace.
    PodShm,
    Proc,
    Sysfs,
    /// The container's view of its cgroups, v1 or v2 as the host has it.
    Cgroup,
    Mqueue,
    Devpts,
    /// A tmpfs with the default device nodes and symlinks.
    Dev,
    Tmpfs {
        /// `None`: the kernel's default, half of the memory.
        size_bytes: Option<u64>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Any other file system of an OCI bundle, its data as given.
    Filesystem {
        fs_type: String,
        source: String,
        options: Vec<(String, Option<String>)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountFlags {
    pub read_only: bool,
    /// Read-only for the mounts below it, too (`recursiveReadOnly`, OCI's `rro`).
    pub recursive_read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    pub no_exec: bool,
    pub no_atime: bool,
    pub rel_atime: bool,
    pub strict_atime: bool,
    pub no_dir_atime: bool,
    pub no_sym_follow: bool,
}

impl MountFlags {
    /// nosuid, nodev, noexec: for file systems of the kernel's own.
    pub const KERNEL: MountFlags = MountFlags {
        read_only: false,
        recursive_read_only: false,
        no_suid: true,
        no_dev: true,
        no_exec: true,
        no_atime: false,
        rel_atime: false,
        strict_atime: false,
        no_dir_atime: false,
        no_sym_follow: false,
    };
}

/// `mountPropagation`; OCI's `rprivate`, `rslave`, `rshared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}
