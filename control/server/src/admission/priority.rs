//! Priority: what a pod's PriorityClass is worth, and that only one class is everybody's.

use kernelet_api::{ApiError, Value, meta};

use super::{Operation, Request};
use crate::cache::{KeyRange, ResourceCache};

const GROUP: &str = "scheduling.k8s.io";
const SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];

/// The priority of the pod's class, of the default class, or 0. A pod that exists keeps its own.
pub fn mutate(request: &Request<'_>, pod: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    if let Some(old) = old {
        let spec = meta::child_mut(pod, "spec");
        for field in ["priority", "preemptionPolicy"] {
            if let Some(own) = old.pointer("/spec").and_then(|spec| spec.get(field)) {
                spec.entry(field).or_insert_with(|| own.clone());
            }
        }
        return Ok(());
    }
    if request.operation != Operation::Create {
        return Ok(());
    }
    let name = super::shown_name(pod).to_owned();
    let spec = meta::child_mut(pod, "spec");
    let text = |field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let (class, policy) = (text("priorityClassName"), text("preemptionPolicy"));
    let classes = classes(request);
    let found = match &class {
        None => classes.and_then(|classes| default_class(&classes)),
        Some(class) => {
            let found = classes.and_then(|classes| classes.get(class));
            let missing = || format!("no PriorityClass with name {class} was found");
            let found = found.ok_or_else(|| request.forbidden(&name, missing()))?;
            Some(found.tree())
        }
    };
    let priority = found.as_ref().map_or(0, value);
    if let Some(own) = spec.get("priority").and_then(Value::as_i64)
        && own != priority
    {
        let why = format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(request.forbidden(&name, why));
    }
    spec.insert("priority".to_owned(), priority.into());
    let computed = match &found {
        None => Some("PreemptLowerPriority"),
        Some(found) => found.get("preemptionPolicy").and_then(Value::as_str),
    };
    if let Some(computed) = computed {
        if let Some(own) = policy
            && own != computed
        {
            let why = format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
                 controller computed {computed} from the given PriorityClass name"
            );
            return Err(request.forbidden(&name, why));
        }
        spec.insert("preemptionPolicy".to_owned(), computed.into());
    }
    if let Some(found) = &found {
        spec.insert("priorityClassName".to_owned(), meta::name(found).into());
    }
    Ok(())
}

/// Of a PriorityClass: only one may be the default, and the system's own stay.
pub fn validate(request: &Request<'_>, class: &Value) -> Result<(), ApiError> {
    if !request.is(GROUP, "priorityclasses") || !request.subresource.is_empty() {
        return Ok(());
    }
    let name = meta::name(class);
    if request.operation == Operation::Delete {
        return match SYSTEM.contains(&name) {
            true => Err(request.forbidden(
                name,
                "this is a system priority class and cannot be deleted",
            )),
            false => Ok(()),
        };
    }
    if class.get("globalDefault").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let Some(other) = classes(request).and_then(|classes| default_class(&classes)) else {
        return Ok(());
    };
    let other = meta::name(&other);
    if request.operation == Operation::Create || other != name {
        return Err(request.forbidden(
            name,
            format!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            ),
        ));
    }
    Ok(())
}

fn classes(request: &Request<'_>) -> Option<std::sync::Arc<ResourceCache>> {
    let cache = &request.state.cache;
    cache.resource("scheduling.k8s.io/priorityclasses")
}

fn value(class: &Value) -> i64 {
    class
        .get("value")
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// Of several default classes the one with the lowest value, as upstream has it.
fn default_class(classes: &ResourceCache) -> Option<Value> {
    let everything = KeyRange {
        namespace: "",
        after: "",
    };
    let (objects, _) = classes.list(everything, 0, |_| true);
    objects
        .iter()
        .map(|object| object.tree())
        .filter(|class| class.get("globalDefault").and_then(Value::as_bool) == Some(true))
        .min_by_key(value)
}
