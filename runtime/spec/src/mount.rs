//! Mounts of a container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{IdMapping, IdMappings};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute inside the container; walked in its root, made when it is missing.
    pub destination: PathBuf,
    pub source: MountSource,
    pub flags: MountFlags,
    pub propagation: Propagation,
    pub extra: MountExtra,
}

/// What few mounts ask for.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountExtra {
    pub id_map: Option<IdMap>,
    /// `tmpcopyup`: what the root has at the destination is copied into the new tmpfs.
    pub copy_up: bool,
    pub source_link: SourceLink,
    /// `dest-nofollow`: a symlink at the destination is mounted over, not followed.
    pub destination_no_follow: bool,
}

/// What is made of a bind's source that is a symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SourceLink {
    #[default]
    Followed,
    /// `src-nofollow`: the symlink itself is mounted.
    Mounted,
    /// `copy-symlink`: the container gets a symlink with the same text.
    Copied,
}

/// Whose ids files show through a mount. Kernel 5.12.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub ids: IdMapSource,
    /// `ridmap`: the mounts below, too.
    pub recursive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdMapSource {
    /// An id in the file system (`container_id`) shows as `host_id`.
    Mappings {
        uids: Vec<IdMapping>,
        gids: Vec<IdMapping>,
    },
    /// Those of an existing user namespace.
    Namespace(PathBuf),
}

impl IdMapSource {
    /// As a user namespace with these tables shows ids.
    pub fn of(ids: &IdMappings) -> Self {
        IdMapSource::Mappings {
            uids: ids.uids.clone(),
            gids: ids.gids.clone(),
        }
    }
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
            extra: MountExtra::default(),
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
    /// A place in the container's own root, as the mounts before this one have made it: a bind whose
    /// source lies below the bundle's root folder.
    Root {
        path: PathBuf,
        recursive: bool,
    },
    /// OCI's `remount`: other attributes for the mount that is at the destination already, and (without
    /// `bind`) other options for its file system.
    Remount {
        bind: bool,
        options: Vec<(String, Option<String>)>,
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
    /// For a bind: what is not asked for is taken away, as OCI runtimes and `mount --bind -o` have it.
    /// Without this, flags come on top of those that the source has.
    pub replace: bool,
    /// Asked to be absent by name (`rw`, `suid`, …): an error where the kernel locks them.
    pub cleared: Attributes,
    /// Set on the mount and all below (`rnosuid`, …).
    pub recursive_set: Attributes,
    /// Taken away there (`rsuid`, …); with an access time among the set ones, all of [`Attributes::ATIME`].
    pub recursive_clear: Attributes,
    pub file_system: FileSystemFlags,
}

impl MountFlags {
    /// nosuid, nodev, noexec: for file systems of the kernel's own.
    pub const KERNEL: MountFlags = MountFlags {
        no_suid: true,
        no_dev: true,
        no_exec: true,
        ..MountFlags::NONE
    };

    /// As [`Default`], for constants.
    pub const NONE: MountFlags = MountFlags {
        read_only: false,
        recursive_read_only: false,
        no_suid: false,
        no_dev: false,
        no_exec: false,
        no_atime: false,
        rel_atime: false,
        strict_atime: false,
        no_dir_atime: false,
        no_sym_follow: false,
        replace: false,
        cleared: Attributes::NONE,
        recursive_set: Attributes::NONE,
        recursive_clear: Attributes::NONE,
        file_system: FileSystemFlags {
            sync: false,
            dir_sync: false,
            mand: false,
            lazy_time: false,
            i_version: false,
        },
    };

    /// What is set on the mount itself.
    pub fn set(&self) -> Attributes {
        let atime = if self.no_atime {
            Attributes::NO_ATIME
        } else if self.strict_atime {
            Attributes::STRICT_ATIME
        } else {
            Attributes::NONE
        };
        [
            (
                self.read_only || self.recursive_read_only,
                Attributes::READ_ONLY,
            ),
            (self.no_suid, Attributes::NO_SUID),
            (self.no_dev, Attributes::NO_DEV),
            (self.no_exec, Attributes::NO_EXEC),
            (self.no_dir_atime, Attributes::NO_DIR_ATIME),
            (self.no_sym_follow, Attributes::NO_SYM_FOLLOW),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(atime, |all, (_, one)| all.with(*one))
    }

    /// Whether an access time is spoken of.
    pub fn has_atime(&self) -> bool {
        self.no_atime || self.strict_atime || self.rel_atime || self.no_dir_atime
    }
}

/// Attributes of a mount, numbered as in `mount_setattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes(pub u32);

impl Attributes {
    pub const NONE: Attributes = Attributes(0);
    pub const READ_ONLY: Attributes = Attributes(0x1);
    pub const NO_SUID: Attributes = Attributes(0x2);
    pub const NO_DEV: Attributes = Attributes(0x4);
    pub const NO_EXEC: Attributes = Attributes(0x8);
    /// All bits of the access time, which is one of relatime (none), noatime and strictatime.
    pub const ATIME: Attributes = Attributes(0x70);
    pub const NO_ATIME: Attributes = Attributes(0x10);
    pub const STRICT_ATIME: Attributes = Attributes(0x20);
    pub const NO_DIR_ATIME: Attributes = Attributes(0x80);
    pub const NO_SYM_FOLLOW: Attributes = Attributes(0x20_0000);

    pub fn with(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }

    pub fn without(self, other: Attributes) -> Attributes {
        Attributes(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Of a file system, not of one mount of it. `silent` and `loud` aren't here: messages of a mount come to
/// us and never stand in the kernel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileSystemFlags {
    pub sync: bool,
    pub dir_sync: bool,
    pub mand: bool,
    pub lazy_time: bool,
    pub i_version: bool,
}

/// `mountPropagation`; OCI's `rprivate`, `rslave`, `rshared` and the others. Those named `Top` are of the
/// mount alone; what is below it is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
    /// `runbindable`.
    Unbindable,
    /// `rslave` and `rshared`: receives from the host, and is shared inside.
    SlaveShared,
    /// `slave`.
    TopSlave,
    /// `shared`.
    TopShared,
    /// `unbindable`.
    TopUnbindable,
}
