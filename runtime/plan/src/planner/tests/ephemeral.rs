//! Ephemeral containers: they come while the pod runs, and the pod goes on as if they weren't there.

use super::*;
use crate::pod_status;

fn with(world: &mut World, ephemeral: Value) {
    let mut pod = (*world.wanted.pod).clone();
    let spec = pod.spec.as_mut().expect("a spec");
    spec.ephemeral_containers = serde_json::from_value(ephemeral).expect("ephemeral containers");
    world.wanted.set_pod(std::sync::Arc::new(pod));
}

fn exits(world: &mut World, container: &str, code: i32) {
    let (_, id) = world
        .running()
        .into_iter()
        .find(|(name, _)| name == container)
        .expect("it runs");
    let exit = Exit {
        code,
        oom_killed: false,
        at: world.now,
    };
    world.seen.container_exited(container, &id, exit, None);
}

fn created(world: &World, container: &str) -> Vec<Option<ContainerId>> {
    let created = |step: &Step| match step {
        Step::CreateContainer {
            container: name,
            target,
            ..
        } if name == container => Some(target.clone()),
        _ => None,
    };
    world.history.iter().filter_map(created).collect()
}

#[test]
fn one_is_started_in_a_running_pod_joins_its_target_and_is_never_started_again() {
    let mut world = World::new(rich());
    up(&mut world);
    let target = world
        .running()
        .into_iter()
        .find(|(name, _)| name == "a")
        .map(|(_, id)| id);
    with(
        &mut world,
        json!([{"name": "e", "image": "i", "targetContainerName": "a"}]),
    );
    world.calm(World::all_run);
    assert_eq!(created(&world, "e"), [target]);
    let before = pod_status(&world.wanted, &world.seen, world.now);
    let status = |s: &PodStatus| s.ephemeral_container_statuses.clone().unwrap_or_default();
    let shown = &status(&before)[0];
    assert!(shown.state.as_ref().is_some_and(|s| s.running.is_some()));
    assert_eq!((shown.ready, shown.started), (false, None));

    exits(&mut world, "e", 1);
    for _ in 0..50 {
        let wake = world.ask();
        if !world.flying.is_empty() {
            world.land(0, true);
        } else if let Some(at) = wake {
            world.now = at;
        }
    }
    assert_eq!(created(&world, "e").len(), 1, "it is not started again");
    let after = pod_status(&world.wanted, &world.seen, world.now);
    let ended = status(&after)[0].state.clone().unwrap_or_default();
    assert_eq!(ended.terminated.map(|t| t.exit_code), Some(1));
    assert_eq!(
        (&before.phase, &before.conditions),
        (&after.phase, &after.conditions)
    );
    assert_eq!(after.phase.as_deref(), Some("Running"));
}

#[test]
fn one_waits_for_no_init_container_and_keeps_no_pod_alive() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}]});
    let mut world = World::new(pod(spec));
    with(&mut world, json!([{"name": "e", "image": "i"}]));
    world.calm(|w| w.running().len() == 2);
    let names = |w: &World| {
        w.running()
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&world), ["e", "i"]);
    let status = pod_status(&world.wanted, &world.seen, world.now);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    end_init(&mut world);
    world.calm(|w| names(w) == ["a", "e"]);
    exits(&mut world, "a", 0);
    world.calm(|w| w.seen.teardown == Teardown::Finished);
    let status = pod_status(&world.wanted, &world.seen, world.now);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_restarted_agent_finds_them_as_they_were() {
    let mut world = World::new(rich());
    up(&mut world);
    with(&mut world, json!([{"name": "e", "image": "i"}]));
    world.calm(World::all_run);
    exits(&mut world, "e", 3);
    let status = pod_status(&world.wanted, &world.seen, world.now);
    let mut pod = (*world.wanted.pod).clone();
    pod.status = Some(status.clone());
    world.wanted.set_pod(std::sync::Arc::new(pod));
    let survivors = crate::Survivors::default();
    let seen = Observed::restored(&world.wanted, survivors, world.now);
    let again = pod_status(&world.wanted, &seen, world.now);
    assert_eq!(
        again.ephemeral_container_statuses,
        status.ephemeral_container_statuses
    );
}
