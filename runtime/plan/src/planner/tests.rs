//! A simulated node: steps end well or badly in any order, containers exit, shims die, time passes.
//!
//! What must hold whatever happens is asserted at each step; `proptest` chooses what happens.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{ContainerId, Done, Exit, FailureReason, ImageFound, StepError, testing::wanted};

mod ephemeral;
mod resize;

struct World {
    wanted: Wanted,
    seen: Observed,
    now: Timestamp,
    flying: Vec<Step>,
    executed: BTreeSet<StepKind>,
    history: Vec<Step>,
    made: u32,
    finished: bool,
}

/// What the environment does next; the numbers choose among what is possible.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Land { which: usize, well: bool },
    Exit { which: usize, code: i32 },
    ShimDies,
    Wait,
    Delete { grace: i64 },
    Vanish,
}

impl World {
    fn new(pod: Value) -> Self {
        Self {
            wanted: wanted(pod),
            seen: Observed::default(),
            now: Timestamp::from_second(1_700_000_000).expect("in range"),
            flying: Vec::new(),
            executed: BTreeSet::new(),
            history: Vec::new(),
            made: 0,
            finished: false,
        }
    }

    /// Asks the plan and lets its steps begin.
    fn ask(&mut self) -> Option<Timestamp> {
        self.seen.settle(&self.wanted, self.now);
        let plan = plan(&self.wanted, &self.seen, self.now);
        self.seen.differs(plan.differs, self.now);
        for step in plan.steps {
            self.check(&step);
            self.seen.begin(&step, self.now);
            self.executed.insert(step.kind());
            self.history.push(step.clone());
            self.flying.push(step);
        }
        self.finished = plan.finished;
        if let Some(at) = plan.wake_at {
            assert!(
                at > self.now,
                "a wake-up that is not in the future spins: {at} at {}",
                self.now
            );
        }
        plan.wake_at
    }

    fn check(&self, step: &Step) {
        assert!(!self.flying.contains(step), "{step:?} is already in flight");
        let ground = self.seen.folders.is_done()
            && self.seen.cgroup.is_done()
            && self.seen.shim.is_done()
            && self.seen.sandbox.is_done()
            && (self.wanted.host_network() || self.seen.network.is_done());
        match step {
            Step::CreateContainer { container, .. } => {
                assert!(ground, "{container} without ground");
                assert!(
                    self.wanted.deletion().is_none(),
                    "{container} is created in a deleted pod"
                );
                let volumes = self.wanted.spec().volumes.as_deref().unwrap_or_default();
                assert!(volumes.iter().all(|v| matches!(
                    self.seen.volumes.get(&v.name),
                    Some(
                        VolumeStage::Mounted { .. }
                            | VolumeStage::Refreshing { .. }
                            | VolumeStage::Failed { mounted: true, .. }
                    )
                )));
                if matches!(self.wanted.container(container), Some((Role::Main, _))) {
                    for (role, init) in self.wanted.containers().filter(|(r, _)| *r == Role::Init) {
                        let seen = self.seen.containers.get(&init.name);
                        assert!(
                            seen.is_some_and(|c| c.initialized),
                            "{container} before {role:?} {}",
                            init.name
                        );
                    }
                }
            }
            Step::EndShim | Step::RemoveCgroup | Step::DetachNetwork | Step::UnmountVolumes => {
                // Killed, and its shim doesn't tell: that is as ended as anybody can know.
                let runs = |run: &Run| match run {
                    Run::Running {
                        stop:
                            Stop::Kill {
                                sent: Stage::Done, ..
                            },
                        ..
                    } => false,
                    Run::Running { .. } | Run::Creating { .. } => true,
                    _ => false,
                };
                let runs = self.seen.containers.values().any(|c| runs(&c.run));
                assert!(!runs, "{step:?} under a running container");
            }
            Step::ResizePod { containers, .. } => {
                assert!(self.seen.cgroup.is_done(), "resized without a cgroup");
                let runs = |name: &String| self.running().iter().any(|(n, _)| n == name);
                assert!(containers.iter().all(|(name, ..)| runs(name)));
            }
            Step::DeleteFromApi => {
                assert_eq!(self.seen.teardown, Teardown::Finished);
                assert_eq!(self.seen.folders, Stage::Absent);
                assert!(
                    self.seen.reported.status.as_ref().is_some_and(is_terminal),
                    "deleted before its end was told"
                );
            }
            Step::KillPod
            | Step::MakeFolders
            | Step::MakeCgroup { .. }
            | Step::SpawnShim
            | Step::CreateSandbox
            | Step::AttachNetwork
            | Step::MountVolume { .. }
            | Step::RefreshVolume { .. }
            | Step::ResolveImage { .. }
            | Step::StartContainer { .. }
            | Step::RunPostStart { .. }
            | Step::RunPreStop { .. }
            | Step::SignalContainer { .. }
            | Step::KillContainer { .. }
            | Step::RemoveContainer { .. }
            | Step::RemoveFolders
            | Step::ReportStatus { .. } => {}
        }
    }

    fn land(&mut self, which: usize, well: bool) {
        if self.flying.is_empty() {
            return;
        }
        let step = self.flying.remove(which % self.flying.len());
        let outcome = if well {
            Ok(self.done(&step))
        } else {
            let reason = match step.kind() {
                StepKind::ResolveImage => FailureReason::ErrImagePull,
                StepKind::StartContainer => FailureReason::RunContainerError,
                _ => FailureReason::FailedCreatePodSandBox,
            };
            Err(StepError {
                reason,
                message: "simulated".to_owned(),
            })
        };
        let killed = match (&step, well) {
            (Step::KillContainer { container, id, .. }, true) => {
                Some((container.clone(), id.clone()))
            }
            _ => None,
        };
        self.seen.finish(&step, outcome, self.now);
        if let Some((container, id)) = killed {
            let exit = Exit {
                code: 137,
                oom_killed: false,
                at: self.now,
            };
            self.seen.container_exited(&container, &id, exit, None);
        }
    }

    fn done(&mut self, step: &Step) -> Done {
        match step {
            Step::AttachNetwork => Done::Attached {
                ips: vec!["10.244.0.2".parse().expect("ip")],
            },
            Step::MountVolume { .. } | Step::RefreshVolume { .. } => {
                Done::Mounted { refresh_at: None }
            }
            Step::ResolveImage { image, .. } => Done::Image(ImageFound {
                asked: image.clone(),
                name: image.clone(),
                id: "sha256:1".to_owned(),
            }),
            Step::CreateContainer { .. } => {
                self.made += 1;
                Done::Created {
                    id: ContainerId(format!("id{}", self.made)),
                }
            }
            Step::StartContainer { .. } => Done::Started { at: self.now },
            _ => Done::Nothing,
        }
    }

    fn running(&self) -> Vec<(String, ContainerId)> {
        let runs = |(name, c): (&String, &ObservedContainer)| match &c.run {
            Run::Running { id, .. } => Some((name.clone(), id.clone())),
            _ => None,
        };
        self.seen.containers.iter().filter_map(runs).collect()
    }

    fn turn(&mut self, turn: Turn, wake_at: Option<Timestamp>) {
        match turn {
            Turn::Land { which, well } => self.land(which, well),
            Turn::Exit { which, code } => {
                let running = self.running();
                if let Some((name, id)) = running.get(which % running.len().max(1)) {
                    let exit = Exit {
                        code,
                        oom_killed: false,
                        at: self.now,
                    };
                    self.seen.container_exited(name, id, exit, None);
                }
            }
            Turn::ShimDies => {
                if self.seen.shim.is_done()
                    && !self.flying.iter().any(|s| s.kind() == StepKind::EndShim)
                {
                    self.seen.shim_died("killed", self.now);
                }
            }
            Turn::Wait => self.now = wake_at.unwrap_or(self.now + Duration::from_secs(1)),
            Turn::Delete { grace } => self.delete(grace),
            Turn::Vanish => {
                self.delete(0);
                self.wanted.presence = Presence::Removed;
            }
        }
    }

    fn delete(&mut self, grace: i64) {
        let mut pod = (*self.wanted.pod).clone();
        if pod.metadata.deletion_timestamp.is_none() {
            let at = Timestamp::from_second(self.now.as_second() + grace).expect("in range");
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            self.wanted.set_pod(std::sync::Arc::new(pod));
        }
    }

    /// Everything goes well from now on, until nothing is due.
    fn calm(&mut self, until: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            let wake = self.ask();
            if until(self) {
                return;
            }
            if !self.flying.is_empty() {
                self.land(0, true);
            } else if let Some(at) = wake {
                self.now = at;
            } else {
                break;
            }
        }
        assert!(until(self), "stuck: {:#?}", self.seen);
    }

    fn all_run(&self) -> bool {
        self.wanted
            .containers()
            .filter(|(role, _)| *role != Role::Init)
            .all(|(_, c)| {
                self.seen
                    .containers
                    .get(&c.name)
                    .is_some_and(|o| matches!(o.run, Run::Running { .. }))
            })
            && self.flying.is_empty()
    }
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})
}

fn rich() -> Value {
    let hook = json!({"exec": {"command": ["x"]}});
    pod(json!({
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
        "initContainers": [{"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "i", "lifecycle": {"postStart": hook, "preStop": hook}}, {"name": "b", "image": "i"}]}))
}

fn end_init(world: &mut World) {
    if let Some((name, id)) = world.running().into_iter().find(|(name, _)| name == "i") {
        world.seen.container_exited(
            &name,
            &id,
            Exit {
                code: 0,
                oom_killed: false,
                at: world.now,
            },
            None,
        );
    }
}

fn up(world: &mut World) {
    for _ in 0..20 {
        end_init(world);
        if world.all_run() {
            return;
        }
        world.calm(|w| w.all_run() || w.running().iter().any(|(name, _)| name == "i"));
    }
    panic!("never up: {:#?}", world.seen);
}

#[test]
fn a_pod_without_much_is_up_in_the_shortest_chain_of_rounds() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    let mut rounds = Vec::new();
    while rounds.len() < 20 {
        let before = world.history.len();
        world.ask();
        let names: Vec<&str> = world.history[before..]
            .iter()
            .map(|s| s.kind().name())
            .collect();
        if names.is_empty() {
            break;
        }
        rounds.push(names.join("+"));
        for _ in 0..world.flying.len() {
            world.land(0, true);
        }
    }
    assert_eq!(
        rounds,
        [
            "MakeFolders+MakeCgroup+ResolveImage",
            "SpawnShim",
            "CreateSandbox",
            "AttachNetwork",
            "CreateContainer",
            "StartContainer",
            "ReportStatus"
        ]
    );
}

#[test]
fn a_whole_life_meets_every_step_there_is() {
    let mut world = World::new(rich());
    up(&mut world);
    let (name, id) = world
        .running()
        .into_iter()
        .find(|(n, _)| n == "b")
        .expect("b runs");
    world.seen.container_exited(
        &name,
        &id,
        Exit {
            code: 1,
            oom_killed: false,
            at: world.now,
        },
        None,
    );
    world.seen.volume_source_changed("c");
    up(&mut world);
    world.calm(|w| w.flying.is_empty() && w.executed.contains(&StepKind::RemoveContainer));
    let more = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
    resize::resize(&mut world, more);
    world.calm(|w| w.flying.is_empty() && w.executed.contains(&StepKind::ResizePod));
    world.delete(5);
    world.calm(|w| w.finished);
    let missing: Vec<_> = StepKind::ALL
        .iter()
        .filter(|k| !world.executed.contains(k))
        .collect();
    assert!(missing.is_empty(), "no life leads through {missing:?}");
}

#[test]
fn sidecars_outlive_the_main_containers() {
    let mut world = World::new(rich());
    up(&mut world);
    world.delete(5);
    world.calm(|w| w.finished);
    let signals: Vec<&str> = world
        .history
        .iter()
        .filter_map(|s| match s {
            Step::SignalContainer { container, .. } => Some(container.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(signals.last(), Some(&"s"), "{signals:?}");
    assert_eq!(signals.len(), 3, "{signals:?}");
}

#[test]
fn a_failed_teardown_resumes_at_the_step_that_failed() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.delete(1);
    world.calm(|w| w.flying.iter().any(|s| s.kind() == StepKind::DetachNetwork));
    let at = world
        .flying
        .iter()
        .position(|s| s.kind() == StepKind::DetachNetwork)
        .expect("in flight");
    world.land(at, false);
    let Teardown::At {
        step,
        state: Stage::Failed(failure),
    } = &world.seen.teardown
    else {
        panic!("{:?}", world.seen.teardown)
    };
    assert_eq!(
        (*step, failure.step, failure.message.as_str()),
        (
            StepKind::DetachNetwork,
            StepKind::DetachNetwork,
            "simulated"
        )
    );
    let kills = |w: &World| {
        w.history
            .iter()
            .filter(|s| s.kind() == StepKind::KillPod)
            .count()
    };
    let before = kills(&world);
    world.calm(|w| w.finished);
    assert_eq!(
        kills(&world),
        before,
        "what was done before isn't done again"
    );
}

#[test]
fn a_shorter_second_grace_brings_the_kill_forward() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.delete(1000);
    world.calm(|w| w.flying.is_empty() && w.executed.contains(&StepKind::SignalContainer));
    let mut hurried = (*world.wanted.pod).clone();
    let soon = world.now + Duration::from_secs(2);
    hurried.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(soon));
    hurried.metadata.deletion_grace_period_seconds = Some(2);
    world.wanted.set_pod(std::sync::Arc::new(hurried));
    let begun = world.now;
    world.calm(|w| w.finished);
    assert!(
        world.now.duration_since(begun) < jiff::SignedDuration::from_secs(10),
        "waited out the first grace"
    );
}

#[test]
fn the_deadline_fails_the_pod_and_takes_it_down() {
    let spec = json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "i"}]});
    let mut world = World::new(pod(spec));
    up(&mut world);
    world.calm(|w| w.seen.teardown == Teardown::Finished && w.flying.is_empty());
    let status = world.seen.reported.status.clone().expect("told");
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    assert!(
        !world.executed.contains(&StepKind::DeleteFromApi),
        "the object stays, and its logs with it"
    );
    assert!(!world.executed.contains(&StepKind::RemoveFolders));
}

#[test]
fn a_dead_shim_leads_to_a_new_sandbox_and_unknown_ends() {
    let mut world = World::new(rich());
    up(&mut world);
    world.seen.shim_died("killed by signal 9", world.now);
    up(&mut world);
    let a = &world.seen.containers["a"];
    let last = a.last.as_ref().expect("ran before");
    assert_eq!(
        (last.reason.as_str(), last.exit_code, a.restarts),
        ("ContainerStatusUnknown", 137, 1)
    );
    assert_eq!(
        world
            .history
            .iter()
            .filter(|s| s.kind() == StepKind::CreateSandbox)
            .count(),
        2
    );
    let inits = |s: &&Step| matches!(s, Step::StartContainer { container, .. } if container == "i");
    assert_eq!(
        world.history.iter().filter(inits).count(),
        2,
        "the new sandbox is initialized again"
    );
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        12 => (any::<usize>(), prop::bool::weighted(0.85)).prop_map(|(which, well)| Turn::Land { which, well }),
        3 => (any::<usize>(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(which, code)| Turn::Exit { which, code }),
        1 => Just(Turn::ShimDies),
        4 => Just(Turn::Wait),
        1 => (0i64..40).prop_map(|grace| Turn::Delete { grace }),
        1 => Just(Turn::Vanish),
    ];
    prop::collection::vec(turn, 0..120)
}

fn pods() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (any::<bool>(), policy).prop_map(|(rich_one, policy)| {
        let mut pod = if rich_one {
            rich()
        } else {
            pod(json!({"hostNetwork": true, "containers": [{"name": "a", "image": "i"}]}))
        };
        pod["spec"]["restartPolicy"] = json!(policy);
        pod
    })
}

proptest! {
    #[test]
    fn whatever_happens_a_deleted_pod_leaves_nothing(pod in pods(), turns in turns()) {
        let mut world = World::new(pod);
        for turn in turns {
            let wake = world.ask();
            if world.finished {
                break;
            }
            world.turn(turn, wake);
        }
        world.delete(3);
        world.calm(|w| w.finished);
        prop_assert_eq!(&world.seen.teardown, &Teardown::Finished);
        for stage in [&world.seen.folders, &world.seen.shim, &world.seen.sandbox, &world.seen.network, &world.seen.cgroup] {
            prop_assert_eq!(stage, &Stage::Absent);
        }
        prop_assert!(world.running().is_empty());
    }
}

#[test]
fn a_suspended_pod_ends_and_its_object_stays_untouched() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.calm(|w| w.flying.is_empty() && w.executed.contains(&StepKind::ReportStatus));
    let told = world.seen.reported.status.clone();
    world.wanted.suspended = Some(Duration::from_secs(2));
    world.calm(|w| w.finished);
    assert_eq!(world.seen.teardown, Teardown::Finished);
    assert_eq!(world.seen.reported.status, told);
    assert!(
        !world.executed.contains(&StepKind::DeleteFromApi)
            && !world.executed.contains(&StepKind::RemoveFolders)
    );
}

#[test]
fn a_shim_that_ends_as_it_was_told_to_is_not_mourned() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.delete(1);
    world.calm(|w| w.flying.iter().any(|s| s.kind() == StepKind::EndShim));
    world.seen.shim_died("it was told to", world.now);
    world.calm(|w| w.finished);
    for kind in [
        StepKind::KillPod,
        StepKind::DetachNetwork,
        StepKind::EndShim,
        StepKind::RemoveCgroup,
    ] {
        assert_eq!(
            world.history.iter().filter(|s| s.kind() == kind).count(),
            1,
            "{kind:?}"
        );
    }
}

#[test]
fn a_signal_that_nobody_answers_does_not_hold_up_the_kill() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.delete(2);
    world.ask();
    let flies = |w: &World, kind| w.flying.iter().any(|s| s.kind() == kind);
    assert!(flies(&world, StepKind::SignalContainer));
    assert!(!flies(&world, StepKind::KillContainer));
    world.now += Duration::from_secs(3);
    world.ask();
    assert!(
        flies(&world, StepKind::KillContainer) && flies(&world, StepKind::SignalContainer),
        "{:?}",
        world.flying
    );
}

#[test]
fn a_shim_that_no_longer_answers_does_not_hold_a_deletion_up() {
    let mut world = World::new(pod(json!({"containers": [{"name": "a", "image": "i"}]})));
    up(&mut world);
    world.delete(2);
    let begun = world.now;
    // The signal's answer never comes; the kill works through the cgroup, and nobody tells of the exit.
    let mut killed = false;
    for _ in 0..50 {
        let wake = world.ask();
        if world.finished {
            break;
        }
        let position = world
            .flying
            .iter()
            .position(|s| s.kind() != StepKind::SignalContainer);
        match position {
            Some(at) => {
                let step = world.flying.remove(at);
                killed |= step.kind() == StepKind::KillContainer;
                let done = world.done(&step);
                world.seen.finish(&step, Ok(done), world.now);
            }
            None => {
                world.now = wake.unwrap_or_else(|| panic!("nothing is to come: {:#?}", world.seen))
            }
        }
    }
    assert!(killed && world.finished, "{:#?}", world.seen);
    assert!(world.now.duration_since(begun) < jiff::SignedDuration::from_secs(20));
    let told = world.seen.reported.status.clone().expect("told");
    assert_eq!(told.phase.as_deref(), Some("Failed"));
}
