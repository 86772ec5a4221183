//! What a container shall be: a fully resolved, validated plan, without the means to make it.
//!
//! The node builds a [`ContainerPlan`] from a pod, `kernelet-oci` builds one from a bundle's
//! `config.json` (feature `oci`); both are carried out by the same code. Everything here is pure:
//! no files, no system calls, no clock.
//!
//! **Invariant:** a plan leaves no choices. Who carries it out never asks a second question.

mod capability;
mod defaults;
mod ids;
mod mount;
#[cfg(feature = "oci")]
mod oci;
mod plan;
mod resources;
mod seccomp;
mod seccomp_default;
mod validate;

pub use capability::{CapSet, Capability, CapabilitySets, UnknownCapability};
pub use defaults::{MASKED_PATHS, READONLY_PATHS, kubernetes_mounts};
pub use ids::{ContainerId, InvalidId, PodUid};
pub use mount::{MountFlags, MountPlan, MountSource, Propagation};
#[cfg(feature = "oci")]
pub use oci::{FromOciError, from_oci, oci_resources, process_of};
pub use plan::{
    ContainerPlan, DeviceKind, DeviceNode, ExecPlan, IdMapping, LogPlan, NameOrId, NamespaceOf,
    Namespaces, ProcessPlan, Rlimit, Rootfs, SandboxPlan, Seccomp, UserPlan,
};
pub use resources::{DeviceAccess, DeviceRule, DeviceRuleKind, HugepageLimit, Resources};
pub use seccomp::{ArgCompare, SeccompAction, SeccompArg, SeccompProfile, SeccompRule};
pub use seccomp_default::default_profile;
pub use validate::{PlanError, validate, validate_sandbox};
