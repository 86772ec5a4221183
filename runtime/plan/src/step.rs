//! The steps of a pod's life: every action that touches the kernel or the API stands here by name.
//!
//! [`StepKind::ALL`] comes from the same macro as [`Step`] itself, so a step can't be added without
//! appearing in it; the fault test kills the agent and the shim at each of them and matches
//! exhaustively on `StepKind`, so a new step without its test doesn't compile.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};

use crate::{ContainerId, Exit, FailureReason, ImageFound, cgroup::PodCgroup};

macro_rules! steps {
    ($( $(#[$doc:meta])* $name:ident $({ $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)? })? ),* $(,)?) => {
        /// One action of the node for one pod. All steps of one plan may run at the same time.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Step { $( $(#[$doc])* $name $({ $( $(#[$fdoc])* $field: $ty ),* })? ),* }

        /// [`Step`] without its data.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum StepKind { $( $(#[$doc])* $name ),* }

        impl StepKind {
            /// Every kind of step, in the order of a pod's life.
            pub const ALL: &'static [StepKind] = &[ $( StepKind::$name ),* ];

            /// The step's name, as fault tests and logs write it.
            pub fn name(self) -> &'static str {
                match self { $( StepKind::$name => stringify!($name) ),* }
            }
        }

        impl Step {
            pub fn kind(&self) -> StepKind {
                match self { $( Step::$name { .. } => StepKind::$name ),* }
            }
        }
    };
}

steps! {
    /// The pod's folder below the data folder and its log folder.
    MakeFolders,
    /// The pod's cgroup with its limits, in every hierarchy.
    MakeCgroup { cgroup: PodCgroup },
    /// The pod's shim process.
    SpawnShim,
    /// The pod's namespaces, held by the shim.
    CreateSandbox,
    /// The pod's addresses and routes.
    AttachNetwork,
    /// A volume's content, ready to be mounted into containers.
    MountVolume { volume: String },
    /// A mounted volume's content brought up to date.
    RefreshVolume { volume: String },
    /// The image found locally, its layers ready.
    ResolveImage { container: String, image: String, policy: PullPolicy },
    /// The container's root, mounts and process, stopped before its first instruction.
    CreateContainer {
        container: String,
        attempt: u32,
        /// The running container whose process namespace an ephemeral one joins.
        target: Option<ContainerId>,
        /// What it gets; the spec may ask for what the node doesn't have.
        resources: Box<ResourceRequirements>,
    },
    StartContainer { container: String, id: ContainerId },
    RunPostStart { container: String, id: ContainerId },
    RunPreStop { container: String, id: ContainerId, reason: KillReason, kill_at: Timestamp, limit: Duration },
    /// New limits for the pod's cgroup and for those of running containers.
    ResizePod { cgroup: PodCgroup, containers: Vec<(String, ContainerId, ResourceRequirements)> },
    /// The container's stop signal; it then has until `kill_at`.
    SignalContainer { container: String, id: ContainerId, reason: KillReason, kill_at: Timestamp },
    /// SIGKILL to everything in the container's cgroup.
    KillContainer { container: String, id: ContainerId, reason: KillReason },
    /// An ended container's root and records taken away.
    RemoveContainer { container: String, id: ContainerId },
    /// SIGKILL to everything in the pod's cgroup.
    KillPod,
    DetachNetwork,
    UnmountVolumes,
    /// The shim told to leave, and its process gone.
    EndShim,
    RemoveCgroup,
    /// The pod's folder and logs.
    RemoveFolders,
    /// The status patched into the API.
    ReportStatus { status: Box<PodStatus> },
    /// The object deleted with grace 0: the last thing of a pod.
    DeleteFromApi,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Why a container is ended; the text is the `Killing` event's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    PodDeleted,
    DeadlineExceeded,
    LivenessFailed,
    StartupFailed,
    PostStartFailed,
    DefinitionChanged,
    /// Its resources have changed, and its resizePolicy asks for a restart.
    Resized,
    /// All main containers of the pod have ended for good: its sidecars follow.
    PodFinished,
    NodeStops,
}

impl KillReason {
    /// The `Killing` event's message, as upstream words it.
    pub fn message(self, container: &str) -> String {
        match self {
            Self::PodDeleted | Self::DeadlineExceeded | Self::PodFinished | Self::NodeStops => {
                format!("Stopping container {container}")
            }
            Self::LivenessFailed => {
                format!("Container {container} failed liveness probe, will be restarted")
            }
            Self::StartupFailed => {
                format!("Container {container} failed startup probe, will be restarted")
            }
            Self::PostStartFailed => "FailedPostStartHook".to_owned(),
            Self::Resized => format!("Container {container} resize requires restart"),
            Self::DefinitionChanged => {
                format!("Container {container} definition changed, will be restarted")
            }
        }
    }
}

/// What a step that went well brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    Nothing,
    Attached {
        ips: Vec<std::net::IpAddr>,
    },
    /// `refresh_at`: when the content must be renewed even though nothing changed (tokens).
    Mounted {
        refresh_at: Option<Timestamp>,
    },
    Image(ImageFound),
    /// The status was written, as this version of the object.
    Reported {
        version: Option<u64>,
    },
    Created {
        id: ContainerId,
    },
    Started {
        at: Timestamp,
    },
    /// The container had ended before the step reached it.
    AlreadyEnded(Exit),
}

/// Why a step failed: `reason` becomes the status' reason, `message` its message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    pub reason: FailureReason,
    pub message: String,
}

pub type Outcome = Result<Done, StepError>;
