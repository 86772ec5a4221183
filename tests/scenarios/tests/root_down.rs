//! `down --pods` when the program that made the pods is gone.

use std::{fs, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

/// One that takes leave in its own time, after its hook.
const LEAVES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: leaves}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'cat /scratch/hook > /scratch/left; exit 0' TERM; echo up > /scratch/up; while :; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook > /scratch/hook"]}}}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, hostPath: {path: WORK, type: DirectoryOrCreate}}]
"#;

#[test]
fn pods_whose_program_is_gone_are_ended_with_their_grace() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    let work = machine.dir().join("work");
    let manifest = LEAVES
        .replace("IMAGE", "busybox:test")
        .replace("WORK", &work.to_string_lossy());
    machine.apply(&manifest);
    machine.apply(include_str!("../../../examples/hello/hello.yaml"));
    let running = || {
        machine.wait(
            "deployment/hello",
            "condition=Available",
            Duration::from_secs(60),
        );
        machine.wait("pod/leaves", "condition=Ready", Duration::from_secs(60));
        eventually("its trap is set", Duration::from_secs(10), || {
            fs::read_to_string(work.join("up")).map_err(|error| error.to_string())
        });
    };
    running();

    let pid = machine.status()["pid"].as_i64().unwrap();
    machine.sh(&format!("kill -9 {pid}")).ok();
    let uids: Vec<String> = fs::read_dir(machine.run_dir().join("pods"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(uids.len(), 4);
    assert!(
        uids.iter()
            .all(|uid| !machine.pod_processes(uid).is_empty())
    );
    // A start that would not find them below its own cgroup is refused, and forgets nothing.
    let elsewhere = machine.kernelet(&["up", "--detach", "--node-name=node-a"]);
    assert_ne!(elsewhere.code, 0);
    let was = format!("--cgroup-root /kernelet-{}", std::process::id());
    assert!(elsewhere.stderr.contains(&was), "{elsewhere:?}");
    let said = machine.kernelet(&["down", "--pods"]).ok();
    assert!(said.contains("4 pods ended"), "{said}");
    assert_eq!(
        fs::read_to_string(work.join("left")).unwrap(),
        "hook\n",
        "the hook ran before the signal, and the signal was heard"
    );
    let left: Vec<String> = uids
        .iter()
        .flat_map(|uid| machine.pod_processes(uid))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let said = machine.kernelet(&["down", "--pods"]).ok();
    assert!(said.contains("0 pods ended"), "{said}");

    // The objects are as they were: a later start runs them again, and Services lead to them.
    fs::remove_file(work.join("up")).unwrap();
    machine.up();
    running();
    let address = machine.get(&["service", "hello"])["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned();
    machine
        .sh(&format!("curl -sS --max-time 3 http://{address}/"))
        .ok();

    // After an orderly end, too.
    machine.kernelet(&["down"]).ok();
    let said = machine.kernelet(&["down", "--pods"]).ok();
    assert!(said.contains("4 pods ended"), "{said}");
}
