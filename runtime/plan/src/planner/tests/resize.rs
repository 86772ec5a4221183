//! Resizes of running pods: in place, with a restart, beyond the node, refused by the kernel.

use super::*;
use crate::pod_status;

fn small(policy: Value) -> Value {
    pod(json!({"containers": [
        {"name": "a", "image": "i", "resizePolicy": policy,
         "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "200m", "memory": "2Mi"}}},
        {"name": "b", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "2Mi"}}}]}))
}

pub(super) fn resize(world: &mut World, resources: Value) {
    let mut pod = (*world.wanted.pod).clone();
    let spec = pod.spec.as_mut().expect("a spec");
    spec.containers[0].resources = Some(serde_json::from_value(resources).expect("resources"));
    world.wanted.set_pod(std::sync::Arc::new(pod));
}

/// A world in which the pod runs and has been given other resources.
fn resized(policy: Value, resources: Value) -> World {
    let mut world = World::new(small(policy));
    world.calm(World::all_run);
    resize(&mut world, resources);
    world
}

fn shown(world: &World) -> (Value, Value, Vec<(String, String, String)>) {
    let status = pod_status(&world.wanted, &world.seen, world.now);
    let containers = status.container_statuses.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default().into_iter();
    let of = |c: k8s_openapi::api::core::v1::PodCondition| {
        (
            c.type_,
            c.reason.unwrap_or_default(),
            c.message.unwrap_or_default(),
        )
    };
    (
        json!(containers[0].resources),
        json!(containers[0].allocated_resources),
        conditions
            .filter(|c| c.type_.starts_with("PodResize"))
            .map(of)
            .collect(),
    )
}

fn count(world: &World, kind: StepKind) -> usize {
    world.history.iter().filter(|s| s.kind() == kind).count()
}

fn large() -> Value {
    json!({"requests": {"cpu": "150m", "memory": "1Mi"}, "limits": {"cpu": "400m", "memory": "4Mi"}})
}

#[test]
fn limits_grow_in_place_in_one_step() {
    let mut world = resized(json!(null), large());
    let (actual, allocated, conditions) = shown(&world);
    assert_eq!(
        actual["limits"],
        json!({"cpu": "200m", "memory": "2Mi"}),
        "not yet"
    );
    assert_eq!(allocated, json!({"cpu": "150m", "memory": "1Mi"}));
    assert_eq!(
        conditions,
        [("PodResizeInProgress".into(), String::new(), String::new())]
    );
    world.calm(|w| w.flying.is_empty() && shown(w).2.is_empty());
    assert_eq!(shown(&world).0, large());
    let step = world
        .history
        .iter()
        .find(|s| s.kind() == StepKind::ResizePod);
    let Some(Step::ResizePod { cgroup, containers }) = step else {
        panic!("no step");
    };
    assert_eq!(cgroup.limits.memory_bytes, Some(6 << 20));
    assert_eq!(
        containers
            .iter()
            .map(|(n, ..)| n.as_str())
            .collect::<Vec<_>>(),
        ["a"]
    );
    assert_eq!(count(&world, StepKind::ResizePod), 1);
    assert_eq!(count(&world, StepKind::SignalContainer), 0);
}

#[test]
fn a_policy_asks_for_a_restart_of_its_container_alone() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let mut world = resized(policy.clone(), large());
    world.calm(|w| w.executed.contains(&StepKind::SignalContainer));
    let order: Vec<StepKind> = world
        .history
        .iter()
        .map(Step::kind)
        .filter(|k| matches!(k, StepKind::ResizePod | StepKind::SignalContainer))
        .collect();
    assert_eq!(
        order,
        [StepKind::ResizePod, StepKind::SignalContainer],
        "the pod first"
    );
    let (name, id) = world.running().remove(0);
    let exit = Exit {
        code: 143,
        oom_killed: false,
        at: world.now,
    };
    world.seen.container_exited(&name, &id, exit, None);
    world.calm(|w| w.all_run() && shown(w).2.is_empty());
    assert_eq!((name.as_str(), shown(&world).0), ("a", large()));
    assert_eq!(world.seen.containers["b"].restarts, 0);
    // CPU alone has no such policy.
    let cpu = json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "300m", "memory": "2Mi"}});
    let mut world = resized(policy, cpu);
    world.calm(|w| w.flying.is_empty() && shown(w).2.is_empty());
    assert_eq!(count(&world, StepKind::SignalContainer), 0);
}

#[test]
fn what_the_node_does_not_have_is_infeasible_and_changes_nothing() {
    let huge = json!({"requests": {"cpu": "64", "memory": "1Mi"}, "limits": {"cpu": "64", "memory": "2Mi"}});
    let mut world = resized(json!(null), huge);
    for _ in 0..5 {
        world.ask();
        while !world.flying.is_empty() {
            world.land(0, true);
        }
    }
    assert_eq!(count(&world, StepKind::ResizePod), 0);
    let (actual, allocated, conditions) = shown(&world);
    assert_eq!(actual["limits"]["cpu"], "200m");
    assert_eq!(allocated["cpu"], "100m");
    let why = "Node didn't have enough capacity: cpu, requested: 64000, capacity: 2000";
    assert_eq!(
        conditions,
        [("PodResizePending".into(), "Infeasible".into(), why.into())]
    );
    // Asked for again what it has, all is well.
    let before = json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "200m", "memory": "2Mi"}});
    resize(&mut world, before);
    assert_eq!(shown(&world).2, []);
}

#[test]
fn a_failed_resize_is_told_and_tried_again() {
    let mut world = resized(json!(null), large());
    world.ask();
    while !world.flying.is_empty() {
        let well = world.flying[0].kind() != StepKind::ResizePod;
        world.land(0, well);
    }
    assert_eq!(
        shown(&world).2,
        [(
            "PodResizeInProgress".into(),
            "Error".into(),
            "simulated".into()
        )]
    );
    world.calm(|w| w.flying.is_empty() && shown(w).2.is_empty());
    assert_eq!(shown(&world).0, large());
    assert_eq!(count(&world, StepKind::ResizePod), 2);
}

#[test]
fn a_restarted_agent_finishes_a_resize_and_begins_none_of_its_own() {
    let mut world = World::new(small(json!(null)));
    world.calm(World::all_run);
    let survivors = |world: &World| crate::Survivors {
        shim: crate::ShimLeft::Adopted,
        sandbox: true,
        ips: vec!["10.244.0.2".parse().expect("ip")],
        cgroup: true,
        folders: true,
        containers: world
            .running()
            .into_iter()
            .map(|(name, id)| crate::Survivor {
                id,
                name,
                attempt: 0,
                image: None,
                phase: crate::SurvivorPhase::Running {
                    started_at: world.now,
                },
            })
            .collect(),
    };
    let again = |world: &World| {
        let mut pod = (*world.wanted.pod).clone();
        pod.status = Some(pod_status(&world.wanted, &world.seen, world.now));
        let mut wanted = world.wanted.clone();
        wanted.set_pod(std::sync::Arc::new(pod));
        let seen = Observed::restored(&wanted, survivors(world), world.now);
        let steps = plan(&wanted, &seen, world.now).steps;
        steps.iter().any(|s| s.kind() == StepKind::ResizePod)
    };
    assert!(!again(&world), "nothing has changed");
    resize(&mut world, large());
    assert!(again(&world), "it was asked for and not done");
}
