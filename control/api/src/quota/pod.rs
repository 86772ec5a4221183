//! What a pod requests and is limited to, over all of its containers.

use super::list::{ResourceList, add, raise, resource_list};
use crate::Value;

/// Which figure of the containers' resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    Requests,
    Limits,
}

/// Where the figures are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// As the pod asks.
    Spec,
    /// As it asks or, while a resize is under way, as much as it still holds; with the overhead of its runtime class.
    SpecAndStatus,
}

impl Figure {
    fn field(self) -> &'static str {
        match self {
            Figure::Requests => "requests",
            Figure::Limits => "limits",
        }
    }
}

/// The sum over the containers, or what the greediest init container needs beside the sidecars that were started
/// before it, whichever is more.
pub fn pod_resources(pod: &Value, figure: Figure, source: Source) -> ResourceList {
    let containers = |field: &str| {
        let list = pod.pointer("/spec").and_then(|spec| spec.get(field));
        list.and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let held = |container: &Value| {
        let own = resource_list(
            container
                .get("resources")
                .and_then(|resources| resources.get(figure.field())),
        );
        match source {
            Source::Spec => own,
            Source::SpecAndStatus => still_held(pod, container, figure, own),
        }
    };
    let mut total = ResourceList::new();
    for container in containers("containers") {
        add(&mut total, &held(container));
    }
    let mut sidecars = ResourceList::new();
    let mut peak = ResourceList::new();
    for container in containers("initContainers") {
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            let own = held(container);
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = resource_list(
                container
                    .get("resources")
                    .and_then(|resources| resources.get(figure.field())),
            );
            add(&mut now, &sidecars);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    let whole = resource_list(pod.pointer(&format!("/spec/resources/{}", figure.field())));
    total.extend(whole.into_iter().filter(|(name, _)| is_pod_level(name)));
    if source == Source::SpecAndStatus {
        let overhead = resource_list(pod.pointer("/spec/overhead"));
        let counted = overhead.into_iter().filter(|(name, _)| {
            figure == Figure::Requests || total.get(name).is_some_and(|q| !q.number.is_zero())
        });
        let counted: ResourceList = counted.collect();
        add(&mut total, &counted);
    }
    total
}

/// Resources that can be set for a pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod sets resources for itself as a whole; its containers then needn't.
pub(super) fn is_set_for_pod(pod: &Value) -> bool {
    ["requests", "limits"].iter().any(|field| {
        let list = resource_list(pod.pointer(&format!("/spec/resources/{field}")));
        list.keys().any(|name| is_pod_level(name))
    })
}

/// A container that is being resized counts as much as it has or will have; one whose resize can't be done, as much
/// as it has.
fn still_held(pod: &Value, container: &Value, figure: Figure, own: ResourceList) -> ResourceList {
    let name = container.get("name");
    let statuses = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .filter_map(|field| pod.get("status")?.get(field)?.as_array())
        .flatten();
    let Some(status) = statuses
        .filter(|status| status.get("name") == name)
        .find(|status| status.get("resources").is_some_and(Value::is_object))
    else {
        return own;
    };
    let mut held = resource_list(status.pointer(&format!("/resources/{}", figure.field())));
    if figure == Figure::Requests {
        raise(&mut held, &resource_list(status.get("allocatedResources")));
    }
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let infeasible = conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible");
    if !infeasible {
        raise(&mut held, &own);
    }
    held
}
