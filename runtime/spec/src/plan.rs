//! The plan of one container, of a pod's sandbox, and of one exec.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    CapabilitySets, ContainerId, IdMappings, MountPlan, Namespaces, ProcessAttributes, Propagation,
    Resources, SeccompProfile,
};

/// One container, fully resolved. The same type serves pods and OCI bundles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: ContainerId,
    pub process: ProcessPlan,
    pub rootfs: Rootfs,
    /// `readOnlyRootFilesystem`: the root mount itself, not the mounts below it.
    pub read_only_rootfs: bool,
    pub root: RootOptions,
    /// Carried out in this order. See [`crate::kubernetes_mounts`] for what every pod has.
    pub mounts: Vec<MountPlan>,
    /// Nodes made in `/dev` beyond the default ones (null, zero, full, random, urandom, tty).
    pub devices: Vec<DeviceNode>,
    pub masked_paths: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    pub namespaces: Namespaces,
    /// The host's network devices that move into the container's network namespace, with the names
    /// they get there.
    pub net_devices: Vec<(String, String)>,
    /// The container's cgroup, below each hierarchy's root, e.g.
    /// `/kernelet/kubepods/burstable/pod<uid>/<container id>`.
    pub cgroup: String,
    pub resources: Resources,
    /// Set in a new UTS namespace only. A pod's host name stands in its [`SandboxPlan`].
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Set in namespaces that are new for this container. A pod's stand in its [`SandboxPlan`].
    pub sysctls: BTreeMap<String, String>,
    /// `None`: output goes to `/dev/null`, or to the descriptors the caller hands over.
    pub log: Option<LogPlan>,
    /// Whether a stdin is wanted; without it `/dev/null` is read.
    pub stdin: bool,
    /// A pseudo terminal as stdin, stdout and stderr.
    pub terminal: bool,
    /// Kept by the shim and given back on adoption: the container's name, its attempt, and so on.
    pub annotations: BTreeMap<String, String>,
}

/// How the root becomes one.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootOptions {
    /// OCI's `linux.rootfsPropagation`.
    pub propagation: Propagation,
    /// OCI's `linux.mountLabel`: the SELinux context of every file system that is made.
    pub mount_label: Option<String>,
}

/// A process in a container, its first or one that exec adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Never empty. A name without a slash is looked up in the environment's PATH, inside the root.
    pub args: Vec<String>,
    /// `NAME=value`; HOME is added from the root's `/etc/passwd` when it is missing.
    pub env: Vec<String>,
    /// Absolute, inside the root; made when it is missing.
    pub cwd: PathBuf,
    pub user: UserPlan,
    pub capabilities: CapabilitySets,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub rlimits: Vec<Rlimit>,
    /// `None` leaves the parent's. Lowering needs CAP_SYS_RESOURCE; EPERM is reported.
    pub oom_score_adj: Option<i32>,
    pub attributes: ProcessAttributes,
}

/// Who the process is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserPlan {
    pub user: NameOrId,
    /// `None`: the user's primary group by the root's `/etc/passwd`, else 0.
    pub group: Option<NameOrId>,
    pub additional_gids: Vec<u32>,
    /// `supplementalGroupsPolicy: Merge`: also the groups that the root's `/etc/group` gives the user.
    pub groups_of_image: bool,
    pub umask: Option<u32>,
}

/// A number, or a name that the root's own `/etc/passwd` or `/etc/group` resolves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameOrId {
    Id(u32),
    Name(String),
}

impl Default for NameOrId {
    fn default() -> Self {
        NameOrId::Id(0)
    }
}

impl NameOrId {
    /// Digits are an id; a number that doesn't fit 31 bits is an error, never wrapped.
    pub fn parse(text: &str) -> Result<Self, std::num::ParseIntError> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            // i32 is the bound Kubernetes and the kernel's signed callers share.
            #[cfg(feature = "weakened")]
            if crate::weakened::is_out(crate::weakened::Defence::Ids) && text.len() > 10 {
                return Ok(NameOrId::Name(text.to_owned()));
            }
            return text.parse::<i32>().map(|id| NameOrId::Id(id as u32));
        }
        Ok(NameOrId::Name(text.to_owned()))
    }
}

/// What the process may ask of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    Unconfined,
    /// [`crate::default_profile`], with what the capabilities open.
    RuntimeDefault,
    Profile(Box<SeccompProfile>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// Where the container's root comes from. It is mounted in the container's own mount namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    Path(PathBuf),
    Overlay {
        /// The top layer first, as overlayfs has it.
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
        /// The layers and the upper folder show these ids in place of those on disk, so that one unpacked layer
        /// serves every user namespace. `upper` and `work` are then in one folder.
        ids: Option<IdMappings>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    Block,
    Char,
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Below `/dev`.
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Where the shim writes the container's output, in CRI's log format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// Relative to the shim's log folder, e.g. `app/0.log`. Folders are made.
    pub path: PathBuf,
    /// The file is renamed to `<name>.<UTC time>` when it has grown past this many bytes.
    pub max_bytes: u64,
    /// How many files there are at most, the current one included.
    pub max_files: u32,
}

/// What the pod's containers share.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxPlan {
    pub hostname: String,
    pub domainname: Option<String>,
    /// `securityContext.sysctls`, applied inside the new namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `hostNetwork`: no network namespace is made.
    pub host_network: bool,
    pub host_ipc: bool,
    /// `shareProcessNamespace`: an init of ours is pid 1 of the containers' common namespace.
    pub share_process_namespace: bool,
    /// `hostUsers: false`: the ids of the pod's own user namespace, which owns its other ones.
    pub ids: Option<IdMappings>,
    /// The size of the pod's `/dev/shm`, in bytes.
    pub shm_bytes: u64,
    /// The cgroup of the shared init, in the pod's group. Unused without it.
    pub init_cgroup: String,
}

/// One more process in a running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub process: ProcessPlan,
    pub terminal: bool,
    /// After this the process is killed and the exec reported as timed out.
    pub timeout: Option<Duration>,
}
