//! New limits for cgroups whose processes run on.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use kernelet_pod_plan::{
    ContainerId, Done, FailureReason, Outcome, StepError, cgroup::PodCgroup,
    resources::CgroupLimits,
};
use kernelet_spec::Resources;
use kernelet_sys::cgroup::{Group, Layout};

use super::Scene;
use crate::{container::limited, errors::chain, images::blocking, pod::PodHome};

/// One cgroup, and what it is to have.
struct Change {
    /// As messages name it.
    what: String,
    path: String,
    limits: CgroupLimits,
}

pub(super) async fn resize(
    home: &Arc<PodHome>,
    scene: &Scene,
    cgroup: &PodCgroup,
    containers: &[(String, ContainerId, ResourceRequirements)],
) -> Outcome {
    let inner = containers.iter().map(|(name, id, resources)| {
        let spec = scene.wanted.container(name).map(|(_, c)| c.clone());
        let container = Container {
            resources: Some(resources.clone()),
            ..spec.unwrap_or_default()
        };
        Change {
            what: format!("container {name:?}"),
            path: cgroup.container(id),
            limits: CgroupLimits::of_container(&container),
        }
    });
    let inner: Vec<Change> = inner.collect();
    let outer = Change {
        what: "pod".to_owned(),
        path: cgroup.path.clone(),
        limits: cgroup.limits,
    };
    let layout = home.ctx.layout.clone();
    let done = blocking(move || apply(&layout, &outer, &inner)).await?;
    done.map(|()| Done::Nothing).map_err(|message| StepError {
        reason: FailureReason::ResizeError,
        message,
    })
}

fn apply(layout: &Layout, outer: &Change, inner: &[Change]) -> Result<(), String> {
    let pod = layout.group(&outer.path);
    let mut problems: Vec<String> = [outer]
        .into_iter()
        .chain(inner)
        .filter_map(|change| too_small(&layout.group(&change.path), change))
        .collect();
    if !problems.is_empty() {
        return Err(problems.join(", "));
    }
    // In v1 no group's quota may be above its parent's at any moment, whichever of the two grows.
    let free = Resources {
        cpu_quota_us: Some(-1),
        ..Resources::default()
    };
    let failed = |change: &Change, e: kernelet_sys::SysError| {
        format!("set the limits of the {}: {}", change.what, chain(&e))
    };
    pod.set(&free).map_err(|e| failed(outer, e))?;
    for change in inner {
        let set = layout.group(&change.path).set(&limited(&change.limits));
        if let Err(error) = set {
            problems.push(failed(change, error));
        }
    }
    // Also after a failure: a pod must not stay without its limit.
    if let Err(error) = pod.set(&limited(&outer.limits)) {
        problems.push(failed(outer, error));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join(", ")),
    }
}

/// A memory limit below what is used would only kill: refused, in upstream's words.
fn too_small(group: &Group<'_>, change: &Change) -> Option<String> {
    let limit = u64::try_from(change.limits.memory_bytes?).ok()?;
    let stats = group.stats().ok()?;
    // One that grows harms nobody.
    if stats.memory_limit_bytes.is_some_and(|now| now <= limit) {
        return None;
    }
    let used = stats.memory_usage_bytes?;
    (used >= limit).then(|| {
        format!(
            "attempting to set {} memory limit ({limit}) below current usage ({used})",
            change.what
        )
    })
}
