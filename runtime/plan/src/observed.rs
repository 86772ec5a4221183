//! What the node has seen of one pod. States carry their data; a failed one names the step that failed.
//!
//! [`Observed`] changes only through [`Observed::begin`] and [`Observed::finish`] (in `life`) and the events
//! there: the node never writes a field of it otherwise.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};

use crate::{
    CrashBackOff, KillReason, RetryBackOff, StepKind, probe::ProbeState, resources::CgroupLimits,
};

/// A container's id: 64 hex digits, `kernelet://<id>` in the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A failed step: when it may be tried again follows from `back_off`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub step: StepKind,
    pub reason: FailureReason,
    pub message: String,
    pub at: Timestamp,
    pub back_off: RetryBackOff,
}

impl Failure {
    pub fn retry_at(&self) -> Timestamp {
        self.at + self.back_off.delay()
    }
}

/// The reasons that a status or an event shows, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    FailedCreatePodSandBox,
    FailedMount,
    ErrImageNeverPull,
    ErrImagePull,
    InvalidImageName,
    CreateContainerConfigError,
    CreateContainerError,
    RunContainerError,
    PostStartHookError,
    PreStopHookError,
    ResizeError,
    FailedKillPod,
    FailedToReport,
}

impl FailureReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailedCreatePodSandBox => "FailedCreatePodSandBox",
            Self::FailedMount => "FailedMount",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::ErrImagePull => "ErrImagePull",
            Self::InvalidImageName => "InvalidImageName",
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
            Self::PostStartHookError => "PostStartHookError",
            Self::PreStopHookError => "PreStopHookError",
            Self::ResizeError => "ResizeError",
            Self::FailedKillPod => "FailedKillPod",
            Self::FailedToReport => "FailedToReport",
        }
    }
}

/// One piece of a pod's ground: absent, being made, made, or failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Stage {
    #[default]
    Absent,
    /// `before`: the failure that this is another try after.
    Busy {
        before: Option<Box<Failure>>,
    },
    Done,
    Failed(Failure),
}

impl Stage {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// The last failure, also while another try runs.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Busy { before } => before.as_deref(),
            Self::Failed(failure) => Some(failure),
            Self::Absent | Self::Done => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum VolumeStage {
    #[default]
    Absent,
    Busy {
        before: Option<Box<Failure>>,
    },
    Mounted {
        refresh_at: Option<Timestamp>,
        /// The source changed since the content was written.
        stale: bool,
    },
    Refreshing {
        before: Option<Box<Failure>>,
    },
    /// `mounted`: the old content still stands and only its renewal failed.
    Failed {
        failure: Failure,
        mounted: bool,
    },
}

/// An image as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFound {
    /// As the pod asks for it.
    pub asked: String,
    /// In its full form: `status.image`.
    pub name: String,
    /// `status.imageID`.
    pub id: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ImageStage {
    #[default]
    Unknown,
    Busy {
        before: Option<Box<Failure>>,
    },
    Found(ImageFound),
    Failed(Failure),
}

/// How a container's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 128 + n after signal n.
    pub code: i32,
    pub oom_killed: bool,
    pub at: Timestamp,
}

/// An ended container, as `state.terminated` or `lastState.terminated` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub id: Option<ContainerId>,
    pub attempt: u32,
    pub exit_code: i32,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// How far the end of a running container has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    No,
    /// The hook runs; the container is signalled when it ends or `kill_at` comes.
    PreStop {
        reason: KillReason,
        kill_at: Timestamp,
        busy: bool,
    },
    Term {
        reason: KillReason,
        kill_at: Timestamp,
        sent: Stage,
    },
    /// `at`: when it was sent; sent again if the container is still there long after.
    Kill {
        reason: KillReason,
        at: Timestamp,
        sent: Stage,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Hook {
    #[default]
    Settled,
    /// To be run, if the container has one.
    Due,
    Busy,
    Failed,
}

/// A container's present run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Run {
    #[default]
    Never,
    Creating {
        attempt: u32,
        before: Option<Box<Failure>>,
    },
    /// Neither created nor started: `finished` is the run before, if any.
    Failed {
        attempt: u32,
        failure: Failure,
    },
    Created {
        id: ContainerId,
        attempt: u32,
        starting: bool,
    },
    Running {
        id: ContainerId,
        attempt: u32,
        started_at: Timestamp,
        post_start: Hook,
        stop: Stop,
    },
    Exited {
        finished: Finished,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedContainer {
    pub image: ImageStage,
    pub run: Run,
    /// The run before the present one.
    pub last: Option<Finished>,
    /// How often it was started again.
    pub restarts: u32,
    pub back_off: CrashBackOff,
    pub startup: ProbeState,
    pub readiness: ProbeState,
    pub liveness: ProbeState,
    /// What the present run was made with, or last resized to; `None`: what the spec says.
    pub actuated: Option<ResourceRequirements>,
    /// An init container that has done its work in an earlier life of the pod.
    pub initialized: bool,
    /// Dead runs other than the present one whose root and records are still to be removed.
    pub remains: BTreeMap<ContainerId, Stage>,
}

/// What the API knows of this pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    pub status: Option<PodStatus>,
    /// The object's version that our last write made.
    pub version: Option<u64>,
    pub busy: bool,
    pub failed: Option<Failure>,
    /// Since when the API's status differs from ours in something that can wait.
    pub differs_since: Option<Timestamp>,
}

/// The way down. A failure stays at the step that failed, and the retry resumes there.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Teardown {
    #[default]
    NotBegun,
    At {
        step: StepKind,
        state: Stage,
    },
    /// Nothing of the pod is left in the kernel; its folders and the object may be.
    Finished,
}

/// A pod, as the node has seen it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub folders: Stage,
    pub cgroup: Stage,
    pub shim: Stage,
    pub sandbox: Stage,
    pub network: Stage,
    /// The limits that the pod's cgroup has, as far as known.
    pub pod_limits: Option<CgroupLimits>,
    /// A resize on its way.
    pub resize: Stage,
    pub ips: Vec<IpAddr>,
    pub volumes: BTreeMap<String, VolumeStage>,
    pub containers: BTreeMap<String, ObservedContainer>,
    pub teardown: Teardown,
    /// The shim died or the sandbox is of another boot: everything is taken down and made anew.
    pub rebuild: bool,
    pub reported: Reported,
    /// When this node first took the pod: `status.startTime`.
    pub start_time: Option<Timestamp>,
    /// The phase is final, with its reason and message, whatever the containers say.
    pub failed: Option<(String, String)>,
    pub deleted_from_api: Stage,
}
