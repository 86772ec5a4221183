//! What a deletion does to an object as it stands. Pure.

use jiff::{SignedDuration, Timestamp};
use kernelet_api::{Value, meta, resources::Resource};
use serde_json::json;

use super::options::{DeleteOptions, Propagation};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion does to an object as it stands.
pub enum Step {
    /// Its deletion has begun and this one doesn't hurry it.
    Nothing,
    Mark(Value),
    Remove,
}

pub fn plan(resource: &Resource, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let finalizers = finalizers_after(resource, old, options.propagation);
    let namespace = resource.kind == "Namespace" && resource.group.is_empty();
    let held = !finalizers.is_empty()
        || namespace
            && old
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty());
    let current_grace = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let deleting = !meta::deletion_timestamp(old).is_empty();
    let grace = if resource.hooks.strategy.graceful {
        grace_of(old, options)
    } else {
        0
    };
    if deleting {
        let finalizers_changed = finalizers != meta::finalizers(old);
        return match current_grace.filter(|grace| *grace > 0) {
            // Its grace runs. Only a shorter one changes that.
            Some(running) => match options.grace_period_seconds {
                Some(_) if grace >= running => Step::Nothing,
                None => Step::Nothing,
                Some(_) if grace == 0 && !held => Step::Remove,
                Some(_) => {
                    let began = meta::deletion_timestamp(old)
                        .parse::<Timestamp>()
                        .ok()
                        .and_then(|timestamp| {
                            timestamp
                                .checked_sub(SignedDuration::from_secs(running))
                                .ok()
                        });
                    Step::Mark(marked(old, &finalizers, began.unwrap_or(now), grace))
                }
            },
            None if !held => Step::Remove,
            None if finalizers_changed => {
                let mut new = old.clone();
                set_finalizers(&mut new, &finalizers);
                Step::Mark(new)
            }
            None => Step::Nothing,
        };
    }
    if grace == 0 && !held {
        return Step::Remove;
    }
    let mut new = marked(old, &finalizers, now, grace);
    let generation = meta::generation(old);
    if generation > 0 {
        meta::set_generation(&mut new, generation + 1);
    }
    if namespace {
        meta::child_mut(&mut new, "status").insert("phase".to_owned(), "Terminating".into());
    }
    Step::Mark(new)
}

fn marked(old: &Value, finalizers: &[&str], began: Timestamp, grace: i64) -> Value {
    let mut new = old.clone();
    set_finalizers(&mut new, finalizers);
    let end = began
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(began);
    let end = Timestamp::from_second(end.as_second()).unwrap_or(end);
    meta::set(&mut new, "deletionTimestamp", &end.to_string());
    meta::metadata_mut(&mut new).insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    new
}

fn set_finalizers(object: &mut Value, finalizers: &[&str]) {
    let finalizers = json!(finalizers);
    if finalizers.as_array().is_some_and(Vec::is_empty) {
        meta::metadata_mut(object).remove("finalizers");
    } else {
        meta::metadata_mut(object).insert("finalizers".to_owned(), finalizers);
    }
}

/// A pod's grace: what is asked for, else its own; none where there is nothing to end.
fn grace_of(pod: &Value, options: &DeleteOptions) -> i64 {
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Failed" | "Succeeded")
    {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(30);
    match options.grace_period_seconds.unwrap_or(own) {
        // A negative period means "as short as a graceful end can be".
        period if period < 0 => 1,
        period => period,
    }
}

/// The finalizers with those that the propagation policy asks the garbage collector for.
fn finalizers_after<'o>(
    resource: &Resource,
    old: &'o Value,
    propagation: Option<Propagation>,
) -> Vec<&'o str> {
    let mut finalizers = meta::finalizers(old);
    let decided = finalizers.iter().any(|f| [ORPHAN, FOREGROUND].contains(f));
    let wanted = match propagation {
        None if resource.hooks.strategy.orphans_dependents && !decided => Some(ORPHAN),
        // Unless asked otherwise, what was decided before stays.
        None => return finalizers,
        Some(Propagation::Background) => None,
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
    };
    finalizers.retain(|finalizer| {
        Some(*finalizer) == wanted || ![ORPHAN, FOREGROUND].contains(finalizer)
    });
    if let Some(wanted) = wanted
        && !finalizers.contains(&wanted)
    {
        finalizers.push(wanted);
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelet_api::Registry;

    fn step(plural: &str, object: &Value, options: &DeleteOptions) -> String {
        let resource = Registry::builtin().by_resource("", plural).unwrap();
        match plan(
            resource,
            object,
            options,
            Timestamp::from_second(1000).unwrap(),
        ) {
            Step::Nothing => "nothing".to_owned(),
            Step::Remove => "remove".to_owned(),
            Step::Mark(new) => format!(
                "mark {} {} {:?}",
                meta::deletion_timestamp(&new),
                new.pointer("/metadata/deletionGracePeriodSeconds")
                    .unwrap_or(&Value::Null),
                meta::finalizers(&new)
            ),
        }
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds: Some(seconds),
            ..DeleteOptions::default()
        }
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_others_go_at_once() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        assert_eq!(
            step("pods", &pod, &DeleteOptions::default()),
            "mark 1970-01-01T00:17:10Z 30 []"
        );
        assert_eq!(
            step("pods", &pod, &grace(5)),
            "mark 1970-01-01T00:16:45Z 5 []"
        );
        assert_eq!(step("pods", &pod, &grace(0)), "remove");
        assert_eq!(
            step("pods", &pod, &grace(-1)),
            "mark 1970-01-01T00:16:41Z 1 []"
        );
        let unscheduled = json!({"metadata": {"name": "p"}, "spec": {}});
        assert_eq!(
            step("pods", &unscheduled, &DeleteOptions::default()),
            "remove"
        );
        assert_eq!(
            step(
                "configmaps",
                &json!({"metadata": {"name": "c"}}),
                &DeleteOptions::default()
            ),
            "remove"
        );
    }

    #[test]
    fn a_running_grace_can_only_be_shortened() {
        let pod = json!({
            "metadata": {"deletionTimestamp": "1970-01-01T00:17:10Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n"},
        });
        assert_eq!(step("pods", &pod, &DeleteOptions::default()), "nothing");
        assert_eq!(step("pods", &pod, &grace(60)), "nothing");
        assert_eq!(
            step("pods", &pod, &grace(10)),
            "mark 1970-01-01T00:16:50Z 10 []"
        );
        assert_eq!(step("pods", &pod, &grace(0)), "remove");
    }

    #[test]
    fn finalizers_hold_an_object_and_propagation_adds_them() {
        let object = json!({"metadata": {"finalizers": ["x/y"]}});
        assert_eq!(
            step("configmaps", &object, &DeleteOptions::default()),
            "mark 1970-01-01T00:16:40Z 0 [\"x/y\"]"
        );
        let with = |propagation| DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let plain = json!({"metadata": {}});
        assert_eq!(
            step("configmaps", &plain, &with(Propagation::Foreground)),
            "mark 1970-01-01T00:16:40Z 0 [\"foregroundDeletion\"]"
        );
        assert_eq!(
            step("configmaps", &plain, &with(Propagation::Orphan)),
            "mark 1970-01-01T00:16:40Z 0 [\"orphan\"]"
        );
        // The old controllers' dependents stay unless asked otherwise.
        let bare = |options: DeleteOptions| step("replicationcontrollers", &plain, &options);
        assert_eq!(
            bare(DeleteOptions::default()),
            "mark 1970-01-01T00:16:40Z 0 [\"orphan\"]"
        );
        assert_eq!(bare(with(Propagation::Background)), "remove");
        let orphaned = json!({"metadata": {"finalizers": ["orphan"]}});
        assert_eq!(
            step("configmaps", &orphaned, &with(Propagation::Background)),
            "remove"
        );
        let deleting = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:16:40Z", "deletionGracePeriodSeconds": 0, "finalizers": ["x/y"]}});
        assert_eq!(
            step("configmaps", &deleting, &DeleteOptions::default()),
            "nothing"
        );
    }

    #[test]
    fn a_namespace_is_held_by_its_spec() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        assert!(step("namespaces", &namespace, &DeleteOptions::default()).starts_with("mark"));
        let empty = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:16:40Z"}, "spec": {}});
        assert_eq!(
            step("namespaces", &empty, &DeleteOptions::default()),
            "remove"
        );
    }
}
