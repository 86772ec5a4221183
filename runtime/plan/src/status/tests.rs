//! Statuses row by row: what was observed, and what `kubectl` would show.

use serde_json::{Value, json};

use crate::{ContainerId, PullPolicy, Wanted};
use crate::{
    Done, Exit, FailureReason, ImageFound, Observed, Step, StepError, pod_status,
    probe::ProbeAnswer, probe::ProbeKind, probe::ProbeTiming, status_patch, testing::wanted,
};
use jiff::Timestamp;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + secs).expect("in range")
}

struct Life {
    wanted: Wanted,
    seen: Observed,
}

impl Life {
    fn new(spec: Value) -> Self {
        let wanted = wanted(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec}),
        );
        let mut seen = Observed {
            start_time: Some(at(0)),
            ..Observed::default()
        };
        for step in [Step::MakeFolders, Step::SpawnShim, Step::CreateSandbox] {
            seen.begin(&step, at(0));
            seen.finish(&step, Ok(Done::Nothing), at(0));
        }
        seen.begin(&Step::AttachNetwork, at(0));
        let ips = vec!["10.244.0.2".parse().expect("ip")];
        seen.finish(&Step::AttachNetwork, Ok(Done::Attached { ips }), at(0));
        Self { wanted, seen }
    }

    fn image(
        &mut self,
        container: &str,
        outcome: Result<(), (FailureReason, &str)>,
        when: i64,
    ) -> &mut Self {
        let step = Step::ResolveImage {
            container: container.into(),
            image: "i".into(),
            policy: PullPolicy::IfNotPresent,
        };
        self.seen.begin(&step, at(when));
        let found = ImageFound {
            asked: "i".into(),
            name: "docker.io/library/i:latest".into(),
            id: "sha256:1".into(),
        };
        let outcome = outcome
            .map(|()| Done::Image(found))
            .map_err(|(reason, message)| StepError {
                reason,
                message: message.into(),
            });
        self.seen.finish(&step, outcome, at(when));
        self
    }

    fn start(&mut self, container: &str, attempt: u32, when: i64) -> &mut Self {
        self.image(container, Ok(()), when);
        let id = ContainerId(format!("{container}{attempt}"));
        let create = Step::CreateContainer {
            container: container.into(),
            attempt,
            target: None,
            resources: Box::default(),
        };
        let start = Step::StartContainer {
            container: container.into(),
            id: id.clone(),
        };
        self.seen.begin(&create, at(when));
        self.seen
            .finish(&create, Ok(Done::Created { id }), at(when));
        self.seen.begin(&start, at(when));
        self.seen
            .finish(&start, Ok(Done::Started { at: at(when) }), at(when));
        self
    }

    fn exit(&mut self, container: &str, attempt: u32, code: i32, when: i64) -> &mut Self {
        let id = ContainerId(format!("{container}{attempt}"));
        let exit = Exit {
            code,
            oom_killed: false,
            at: at(when),
        };
        self.seen.container_exited(container, &id, exit, None);
        self
    }

    /// Phase, Ready with its reason, and each container's state in short.
    fn shows(&self, when: i64) -> String {
        let status = pod_status(&self.wanted, &self.seen, at(when));
        let mut text = status.phase.clone().unwrap_or_default();
        for condition in status
            .conditions
            .iter()
            .flatten()
            .filter(|c| matches!(c.type_.as_str(), "Ready" | "Initialized"))
        {
            let reason = condition.reason.as_deref().unwrap_or("-");
            text += &format!(" {}={}({reason})", condition.type_, condition.status);
        }
        for c in status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten())
        {
            let state = c.state.clone().unwrap_or_default();
            let short = if state.running.is_some() {
                "running".to_owned()
            } else if let Some(t) = state.terminated {
                format!("{}:{}", t.reason.unwrap_or_default(), t.exit_code)
            } else {
                state.waiting.and_then(|w| w.reason).unwrap_or_default()
            };
            text += &format!(" {}={short}/{}", c.name, c.restart_count);
        }
        text
    }
}

#[test]
fn one_container_from_creating_to_the_crash_loop() {
    let mut life = Life::new(json!({"containers": [{"name": "a", "image": "i"}]}));
    assert_eq!(
        life.shows(0),
        "Pending Initialized=True(-) Ready=False(ContainersNotReady) a=ContainerCreating/0"
    );
    life.start("a", 0, 1);
    assert_eq!(
        life.shows(1),
        "Running Initialized=True(-) Ready=True(-) a=running/0"
    );
    life.exit("a", 0, 3, 2);
    assert_eq!(
        life.shows(2),
        "Running Initialized=True(-) Ready=False(ContainersNotReady) a=Error:3/0"
    );
    life.start("a", 1, 2);
    assert_eq!(
        life.shows(2),
        "Running Initialized=True(-) Ready=True(-) a=running/1"
    );
    life.exit("a", 1, 0, 3);
    assert_eq!(
        life.shows(4),
        "Running Initialized=True(-) Ready=False(ContainersNotReady) a=CrashLoopBackOff/1"
    );
    let status = pod_status(&life.wanted, &life.seen, at(4));
    let container = &status.container_statuses.expect("one")[0];
    let waiting = container
        .state
        .clone()
        .and_then(|s| s.waiting)
        .expect("waits");
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=a pod=p_ns(u)")
    );
    let last = container
        .last_state
        .clone()
        .and_then(|s| s.terminated)
        .expect("ran before");
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (0, Some("Completed"))
    );
    assert_eq!(last.container_id.as_deref(), Some("kernelet://a1"));
    assert_eq!(container.image_id, "sha256:1");
}

#[test]
fn the_phase_follows_policy_and_exit_codes() {
    for (policy, code, expected) in [
        (
            "Never",
            0,
            "Succeeded Initialized=True(PodCompleted) Ready=False(PodCompleted) a=Completed:0/0",
        ),
        (
            "Never",
            7,
            "Failed Initialized=True(-) Ready=False(PodFailed) a=Error:7/0",
        ),
        (
            "OnFailure",
            0,
            "Succeeded Initialized=True(PodCompleted) Ready=False(PodCompleted) a=Completed:0/0",
        ),
        (
            "OnFailure",
            7,
            "Running Initialized=True(-) Ready=False(ContainersNotReady) a=Error:7/0",
        ),
        (
            "Always",
            0,
            "Running Initialized=True(-) Ready=False(ContainersNotReady) a=Completed:0/0",
        ),
    ] {
        let mut life = Life::new(
            json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}),
        );
        life.start("a", 0, 1).exit("a", 0, code, 2);
        assert_eq!(life.shows(2), expected, "{policy} {code}");
    }
}

#[test]
fn init_containers_hold_the_others_back_and_may_fail_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i1", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "i"}]});
    let mut life = Life::new(spec.clone());
    let not_ready = "Ready=False(ContainersNotReady)";
    assert_eq!(
        life.shows(0),
        format!(
            "Pending Initialized=False(ContainersNotInitialized) {not_ready} i1=PodInitializing/0 s=PodInitializing/0 a=PodInitializing/0"
        )
    );
    life.start("i1", 0, 1);
    assert!(
        life.shows(1)
            .contains("i1=running/0 s=PodInitializing/0 a=PodInitializing/0"),
        "{}",
        life.shows(1)
    );
    life.exit("i1", 0, 0, 2).start("s", 0, 3);
    assert!(
        life.shows(3).starts_with("Pending Initialized=True(-)"),
        "{}",
        life.shows(3)
    );
    life.start("a", 0, 4);
    assert_eq!(
        life.shows(4),
        "Running Initialized=True(-) Ready=True(-) i1=Completed:0/0 s=running/0 a=running/0"
    );
    life.exit("s", 0, 1, 5);
    assert!(
        life.shows(5)
            .contains("Running Initialized=True(-) Ready=False(ContainersNotReady)"),
        "{}",
        life.shows(5)
    );

    let mut failing = Life::new(spec);
    failing.start("i1", 0, 1).exit("i1", 0, 1, 2);
    assert!(
        failing.shows(3).starts_with("Failed "),
        "{}",
        failing.shows(3)
    );
    assert!(
        failing.shows(3).contains("i1=Error:1/0"),
        "{}",
        failing.shows(3)
    );
}

#[test]
fn an_absent_image_is_told_as_upstream_tells_it() {
    let mut life = Life::new(json!({"containers": [{"name": "a", "image": "i"}]}));
    life.image(
        "a",
        Err((
            FailureReason::ErrImageNeverPull,
            "Container image \"i\" is not present with pull policy of Never",
        )),
        1,
    );
    assert!(
        life.shows(1).ends_with("a=ErrImageNeverPull/0"),
        "{}",
        life.shows(1)
    );
    let mut life = Life::new(json!({"containers": [{"name": "a", "image": "i"}]}));
    life.image("a", Err((FailureReason::ErrImagePull, "no")), 1);
    assert!(
        life.shows(2).ends_with("a=ErrImagePull/0"),
        "{}",
        life.shows(2)
    );
    life.image("a", Err((FailureReason::ErrImagePull, "no")), 11);
    assert!(
        life.shows(12).ends_with("a=ImagePullBackOff/0"),
        "{}",
        life.shows(12)
    );
    let status = pod_status(&life.wanted, &life.seen, at(12));
    let message = status.container_statuses.expect("one")[0]
        .state
        .clone()
        .and_then(|s| s.waiting?.message);
    assert_eq!(
        message.as_deref(),
        Some("Back-off pulling image \"i\": ErrImagePull: no")
    );
}

#[test]
fn probes_decide_started_and_ready() {
    let probe = json!({"exec": {"command": ["true"]}, "failureThreshold": 1});
    let mut life = Life::new(
        json!({"containers": [{"name": "a", "image": "i", "startupProbe": probe, "readinessProbe": probe}]}),
    );
    life.start("a", 0, 1);
    let show = |life: &Life| {
        let status = pod_status(&life.wanted, &life.seen, at(2));
        let container = &status.container_statuses.expect("one")[0];
        (container.started, container.ready)
    };
    let id = ContainerId("a0".into());
    let probe = life.wanted.spec().containers[0]
        .startup_probe
        .clone()
        .expect("a probe");
    let timing = ProbeTiming::of(&probe);
    assert_eq!(show(&life), (Some(false), false));
    assert!(life.seen.probed(
        "a",
        &id,
        ProbeKind::Startup,
        ProbeAnswer::Success,
        &timing,
        at(2)
    ));
    assert_eq!(show(&life), (Some(true), false));
    assert!(life.seen.probed(
        "a",
        &id,
        ProbeKind::Readiness,
        ProbeAnswer::Success,
        &timing,
        at(2)
    ));
    assert_eq!(show(&life), (Some(true), true));
    assert!(life.seen.probed(
        "a",
        &id,
        ProbeKind::Readiness,
        ProbeAnswer::Failure,
        &timing,
        at(3)
    ));
    assert_eq!(show(&life), (Some(true), false));
}

#[test]
fn a_patch_holds_only_what_changed_and_takes_away_what_is_gone() {
    let mut life = Life::new(json!({"containers": [{"name": "a", "image": "i"}]}));
    let before = pod_status(&life.wanted, &life.seen, at(0));
    assert_eq!(status_patch("u", Some(&before), &before), None);
    life.seen.reported.status = Some(before.clone());
    life.start("a", 0, 1);
    let after = pod_status(&life.wanted, &life.seen, at(1));
    let patch = status_patch("u", Some(&before), &after).expect("changes");
    let keys: Vec<&String> = patch["status"]
        .as_object()
        .expect("an object")
        .keys()
        .collect();
    assert_eq!(keys, ["conditions", "containerStatuses", "phase"]);
    let types: Vec<&Value> = patch["status"]["conditions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| &c["type"])
        .collect();
    assert_eq!(types, ["Ready", "ContainersReady"]);
    assert_eq!(patch["status"]["conditions"][0]["reason"], Value::Null);
    assert!(
        patch["status"]["conditions"][0]
            .as_object()
            .expect("an object")
            .contains_key("reason")
    );
    assert_eq!(patch["metadata"]["uid"], "u");

    let mut moved = after.clone();
    moved.pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP {
        ip: "10.244.0.9".into(),
    }]);
    let patch = status_patch("u", Some(&after), &moved).expect("changes");
    assert_eq!(
        patch["status"]["podIPs"],
        json!([{"$patch": "replace"}, {"ip": "10.244.0.9"}])
    );
}
