//! The program, or a pod's shim, killed exactly before and after each step of the pod's life.
//!
//! The steps are those of the plan; the program is a build with fault points (`runtime/node/src/fault.rs`), which
//! `KERNELET_FAULT_BIN_DIR` names. Whatever was killed, the pod reaches the state that was wanted, and a deleted
//! one leaves nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelet_pod_plan::StepKind;
use kernelet_scenarios::{Machine, Output, binary, busybox_image, eventually, skip_unless_root};

/// What happens to a pod so that a step of this kind is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is made, and is Ready in the end.
    Made,
    /// Its configMap changes, and it sees the new content in the end.
    Refreshed,
    /// It is resized, and has its new limits in the end.
    Resized,
    /// Its container is killed from outside and runs anew in the end.
    Restarted,
    /// It is deleted, and gone in the end.
    Deleted,
    /// It is deleted and its container ignores the stop signal.
    DeletedDeaf,
}

/// Exhaustive: a step added to the plan doesn't compile here without its case.
fn stages(step: StepKind) -> &'static [Stage] {
    match step {
        StepKind::MakeFolders
        | StepKind::MakeCgroup
        | StepKind::SpawnShim
        | StepKind::CreateSandbox
        | StepKind::AttachNetwork
        | StepKind::MountVolume
        | StepKind::ResolveImage
        | StepKind::CreateContainer
        | StepKind::StartContainer
        | StepKind::RunPostStart => &[Stage::Made],
        StepKind::RefreshVolume => &[Stage::Refreshed],
        StepKind::ResizePod => &[Stage::Resized],
        StepKind::RemoveContainer => &[Stage::Restarted],
        StepKind::KillContainer => &[Stage::DeletedDeaf],
        StepKind::RunPreStop
        | StepKind::SignalContainer
        | StepKind::KillPod
        | StepKind::DetachNetwork
        | StepKind::UnmountVolumes
        | StepKind::EndShim
        | StepKind::RemoveCgroup
        | StepKind::RemoveFolders
        | StepKind::DeleteFromApi => &[Stage::Deleted],
        StepKind::ReportStatus => &[Stage::Made, Stage::Deleted],
    }
}

#[derive(Clone, Debug)]
struct Fault {
    pod: String,
    stage: Stage,
    text: String,
    /// There is a shim to kill at this point.
    shim_lives: bool,
}

fn faults(victim: &str) -> Vec<Fault> {
    let mut all = Vec::new();
    for &step in StepKind::ALL {
        for &stage in stages(step) {
            for when in ["before", "after"] {
                let shim_lives = match step {
                    StepKind::MakeFolders => false,
                    StepKind::SpawnShim => when == "after",
                    StepKind::EndShim => when == "before",
                    StepKind::RemoveCgroup | StepKind::RemoveFolders | StepKind::DeleteFromApi => {
                        false
                    }
                    // The last report may come when the shim has gone.
                    StepKind::ReportStatus => stage == Stage::Made,
                    _ => true,
                };
                all.push(Fault {
                    pod: format!("{when}-{}-{stage:?}", step.name()).to_lowercase(),
                    stage,
                    text: format!("{victim}:{when}:{}", step.name()),
                    shim_lives,
                });
            }
        }
    }
    all
}

struct Scene {
    machine: Machine,
    faults: PathBuf,
    before: BTreeSet<String>,
}

impl Scene {
    fn new() -> Self {
        let machine = Machine::new();
        let faults = machine.dir().join("faults");
        fs::create_dir(&faults).unwrap();
        let dir = std::env::var_os("KERNELET_FAULT_BIN_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/faults/debug"),
            PathBuf::from,
        );
        let program = dir.join("kernelet");
        assert!(
            program.exists(),
            "{} is not built: cargo build -p kernelet --features fault-points --target-dir target/faults",
            program.display()
        );
        let machine = machine
            .with_program(program)
            .with_env("KERNELET_FAULTS", &faults);
        machine.up();
        machine.load_image(&busybox_image(machine.dir()));
        machine.apply(&settings("old"));
        eventually("the default account", Duration::from_secs(20), || {
            let output = machine.kubectl(&["get", "serviceaccount", "default"]);
            if output.code == 0 {
                Ok(())
            } else {
                Err(output.stderr)
            }
        });
        // What is made with the first pod stays for all others.
        machine.apply(&pod("first", Stage::Made));
        machine.wait("pod/first", "condition=Ready", Duration::from_secs(60));
        machine
            .kubectl(&["delete", "pod", "first", "--timeout=30s"])
            .ok();
        let before = machine.holdings();
        Self {
            machine,
            faults,
            before,
        }
    }

    fn arm(&self, fault: &Fault) {
        fs::write(self.faults.join(&fault.pod), &fault.text).unwrap();
    }

    /// What the fault met, once it has struck.
    fn struck(&self, fault: &Fault) -> Option<String> {
        fs::read_to_string(self.faults.join(format!("{}.struck", fault.pod))).ok()
    }

    fn await_strike(&self, fault: &Fault) -> String {
        eventually(&fault.text, Duration::from_secs(30), || {
            self.struck(fault)
                .ok_or_else(|| format!("it did not strike\n{}", self.machine.log()))
        })
    }

    /// After the program's kill: waits for its end and starts it again.
    fn up_again(&self, fault: &Fault) {
        assert_eq!(self.await_strike(fault), "agent");
        eventually(
            "the killed program's end",
            Duration::from_secs(10),
            || match self.machine.pid() {
                None => Ok(()),
                Some(pid) => Err(format!("{pid} lives")),
            },
        );
        self.machine.up();
        fs::remove_file(self.faults.join(format!("{}.struck", fault.pod))).unwrap();
    }

    /// Ready, as the API says, and truly so: one shim, and the container's process below it.
    fn await_running(&self, fault: &Fault, settings: &str) {
        eventually(&fault.text, Duration::from_secs(60), || {
            let output = self
                .machine
                .kubectl(&["get", "pod", &fault.pod, "-o", "json"]);
            let pod: serde_json::Value =
                serde_json::from_str(&output.stdout).map_err(|_| output.stderr)?;
            let status = &pod["status"];
            let ready = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let processes = self.machine.pod_processes(uid);
            let of = |name: &str| processes.iter().filter(|p| p.contains(name)).count();
            let sleeper = processes.iter().find(|p| p.ends_with(" sleep"));
            let sees = sleeper
                .and_then(|p| p.split(' ').next())
                .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/root/settings/color")).ok())
                .unwrap_or_default();
            if ready && of("kernelet") == 1 && of("sleep") == 1 && sees == settings {
                Ok(())
            } else {
                Err(format!(
                    "ready: {ready}, processes: {processes:?}, sees {sees:?}: {status:#}\n{}",
                    self.machine.log()
                ))
            }
        });
    }

    /// No pod in the API, and what the instance held before any came.
    fn await_nothing_left(&self, what: &str) {
        eventually(what, Duration::from_secs(60), || {
            let pods = self
                .machine
                .kubectl(&["get", "pods", "-o", "name", "--ignore-not-found"])
                .stdout;
            let now = self.machine.holdings();
            let left: Vec<&String> = now.difference(&self.before).collect();
            let lost: Vec<&String> = self.before.difference(&now).collect();
            if pods.is_empty() && left.is_empty() && lost.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "pods: {pods}left: {left:#?}\nlost: {lost:#?}\n{}",
                    self.machine.log()
                ))
            }
        });
    }

    fn apply(&self, manifest: &str) -> Output {
        self.machine.kubectl_stdin(&["apply", "-f", "-"], manifest)
    }

    fn make(&self, fault: &Fault) -> Output {
        self.apply(&pod(&fault.pod, fault.stage))
    }

    /// A write that sets off the program's kill, and the next start. The kill may be quicker than the answer, and
    /// then the write is made again, as any client does.
    fn set_off(&self, fault: &Fault, write: impl Fn() -> Output) {
        let first = write();
        self.up_again(fault);
        if first.code != 0 {
            write().ok();
        }
    }

    /// Kills the container's process from outside.
    fn kill_container(&self, fault: &Fault) {
        let pod = self.machine.get(&["pod", &fault.pod]);
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        for process in self.machine.pod_processes(uid) {
            let (pid, name) = process.split_once(' ').unwrap();
            if name == "sh" || name == "sleep" {
                self.machine.sh(&format!("kill -9 {pid} 2>/dev/null"));
            }
        }
    }

    fn resize(&self, fault: &Fault) -> Output {
        let more =
            r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":"96Mi"}}}]}}"#;
        let args = [
            "patch",
            "pod",
            &fault.pod,
            "--subresource=resize",
            "-p",
            more,
        ];
        self.machine.kubectl(&args)
    }

    /// The API says so, and nothing is on its way any more.
    fn await_resized(&self, fault: &Fault) {
        eventually(&fault.text, Duration::from_secs(60), || {
            let status = self.machine.get(&["pod", &fault.pod])["status"].clone();
            let actual = &status["containerStatuses"][0]["resources"]["limits"]["memory"];
            let conditions = status["conditions"].to_string();
            if actual == "96Mi" && !conditions.contains("PodResize") {
                return Ok(());
            }
            Err(format!("{status:#}"))
        });
    }

    fn delete(&self, pods: &[&str]) -> Output {
        let mut args = vec!["delete", "pod", "--wait=false", "--ignore-not-found"];
        args.extend(pods);
        self.machine.kubectl(&args)
    }
}

fn settings(color: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{color: {color}}}\n"
    )
}

fn pod(name: &str, stage: Stage) -> String {
    let (command, grace) = match stage {
        // As process 1 of its namespace it has no default action for signals.
        Stage::DeletedDeaf => ("exec sleep 100000", 1),
        _ => ("trap 'exit 0' TERM; sleep 100000 & wait", 5),
    };
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: {grace}
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "{command}"]
    resources: {{limits: {{memory: 64Mi}}, requests: {{memory: 32Mi}}}}
    lifecycle:
      postStart: {{exec: {{command: ["true"]}}}}
      preStop: {{exec: {{command: ["true"]}}}}
    volumeMounts:
    - {{name: settings, mountPath: /settings}}
    - {{name: scratch, mountPath: /scratch}}
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: scratch, emptyDir: {{}}}}
"#
    )
}

fn is_end(fault: &Fault) -> bool {
    matches!(fault.stage, Stage::Deleted | Stage::DeletedDeaf)
}

#[test]
fn the_program_killed_before_and_after_each_step_that_makes_or_changes_a_pod_finds_its_way() {
    kill_the_program(|fault| !is_end(fault));
}

#[test]
fn the_program_killed_before_and_after_each_step_that_ends_a_pod_finds_its_way() {
    kill_the_program(is_end);
}

fn kill_the_program(at: impl Fn(&Fault) -> bool) {
    skip_unless_root!();
    let scene = Scene::new();
    let began = Instant::now();
    let mut count = 0;
    for fault in faults("agent").into_iter().filter(at) {
        let case = Instant::now();
        if fault.stage == Stage::Made {
            scene.arm(&fault);
            scene.set_off(&fault, || scene.make(&fault));
        } else {
            scene.make(&fault).ok();
            scene.await_running(&fault, "old");
            scene.arm(&fault);
        }
        match fault.stage {
            Stage::Made => scene.await_running(&fault, "old"),
            Stage::Refreshed => {
                scene.set_off(&fault, || scene.apply(&settings("new")));
                scene.await_running(&fault, "new");
                scene.apply(&settings("old")).ok();
            }
            Stage::Resized => {
                scene.set_off(&fault, || scene.resize(&fault));
                scene.await_running(&fault, "old");
                scene.await_resized(&fault);
            }
            Stage::Restarted => {
                scene.kill_container(&fault);
                scene.up_again(&fault);
                scene.await_running(&fault, "old");
            }
            Stage::Deleted | Stage::DeletedDeaf => {
                scene.set_off(&fault, || scene.delete(&[&fault.pod]));
            }
        }
        if !is_end(&fault) {
            scene.delete(&[&fault.pod]).ok();
        }
        scene.await_nothing_left(&fault.text);
        count += 1;
        println!("{:?} {} {:?}", fault.stage, fault.text, case.elapsed());
    }
    println!("{count} kills in {:?}", began.elapsed());
}

#[test]
fn a_shim_killed_before_and_after_each_step_costs_its_pod_a_restart_at_most() {
    skip_unless_root!();
    let scene = Scene::new();
    let all = faults("shim");
    for fault in all.iter().filter(|fault| fault.stage == Stage::Made) {
        scene.arm(fault);
    }
    for fault in &all {
        scene.make(fault).ok();
    }
    for fault in &all {
        if fault.stage == Stage::Made {
            scene.await_strike(fault);
        }
        scene.await_running(fault, "old");
    }
    for fault in all.iter().filter(|fault| fault.stage == Stage::Restarted) {
        scene.arm(fault);
        scene.kill_container(fault);
        scene.await_strike(fault);
        scene.await_running(fault, "old");
    }
    for fault in all.iter().filter(|fault| fault.stage == Stage::Resized) {
        scene.arm(fault);
        scene.resize(fault).ok();
        scene.await_strike(fault);
        scene.await_running(fault, "old");
        scene.await_resized(fault);
    }
    for fault in all.iter().filter(|fault| fault.stage == Stage::Refreshed) {
        scene.arm(fault);
    }
    scene.machine.apply(&settings("new"));
    for fault in &all {
        if fault.stage == Stage::Refreshed {
            scene.await_strike(fault);
        }
        scene.await_running(fault, "new");
    }
    for fault in all.iter().filter(|fault| is_end(fault)) {
        scene.arm(fault);
    }
    let names: Vec<&str> = all.iter().map(|fault| fault.pod.as_str()).collect();
    scene.delete(&names).ok();
    scene.await_nothing_left("every pod is gone");
    let held = scene.machine.namespaces_held();
    assert!(held <= 1, "{held} namespaces are held open");
    for fault in &all {
        let met = scene.await_strike(fault);
        assert!(
            !fault.shim_lives || met.starts_with("shim "),
            "{}: {met}",
            fault.text
        );
    }
}

#[test]
fn the_shipped_program_has_no_fault_points() {
    skip_unless_root!();
    let program = binary("kernelet");
    if std::env::var_os("KERNELET_FAULT_BIN_DIR")
        .is_some_and(|dir| program.parent() == Some(Path::new(&dir)))
    {
        println!("SKIP {}: both builds are one", module_path!());
        return;
    }
    let bytes = fs::read(program).unwrap();
    let name = b"KERNELET_FAULTS";
    assert!(!bytes.windows(name.len()).any(|window| window == name));
}
