//! What a container shall be: a fully resolved, validated plan, without the means to make it.
//!
//! The node builds a [`ContainerPlan`] from a pod, `kernelet-oci` builds one from a bundle's
//! `config.json` (feature `oci`); both are carried out by the same code. Everything here is pure:
//! no files, no system calls, no clock.
//!
//! **Invariant:** a plan leaves no choices. Who carries it out never asks a second question.

mod attributes;
mod capability;
mod defaults;
mod ids;
mod mount;
mod namespaces;
#[cfg(feature = "oci")]
mod oci;
mod plan;
mod resources;
mod seccomp;
mod seccomp_default;
#[cfg(any(test, feature = "facts"))]
pub mod seccomp_facts;
mod validate;
#[cfg(feature = "weakened")]
pub mod weakened;

pub use attributes::{
    CpuAffinity, InvalidSet, MemoryPolicy, NumberSet, ProcessAttributes, Scheduler,
};
pub use capability::{CapSet, Capability, CapabilitySets, UnknownCapability};
pub use defaults::{MASKED_PATHS, READONLY_PATHS, kubernetes_mounts};
pub use ids::{ContainerId, InvalidId, PodUid};
pub use mount::{
    Attributes, FileSystemFlags, IdMap, IdMapSource, MountExtra, MountFlags, MountPlan,
    MountSource, Propagation, SourceLink,
};
pub use namespaces::{IdMapping, IdMappings, NamespaceOf, Namespaces, TimeOffsets};
#[cfg(feature = "oci")]
pub use oci::{FromOciError, MOUNT_OPTIONS, from_oci, oci_resources, process_of};
pub use plan::{
    ContainerPlan, DeviceKind, DeviceNode, ExecPlan, LogPlan, NameOrId, ProcessPlan, Rlimit,
    RootOptions, Rootfs, SandboxPlan, Seccomp, UserPlan,
};
pub use resources::{
    DeviceAccess, DeviceRule, DeviceRuleKind, DeviceWeight, HugepageLimit, RdmaLimit, Resources,
    Throttle, ThrottleKind,
};
pub use seccomp::{
    ArgCompare, SeccompAction, SeccompArch, SeccompArg, SeccompFlags, SeccompListener,
    SeccompProfile, SeccompRule,
};
pub use seccomp_default::{Machine, default_profile, default_profile_of};
pub use validate::{PlanError, validate, validate_sandbox};
