//! DaemonSets and ReplicationControllers with real pods.

use std::{fs, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

const DAEMONS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: watchman}
spec:
  selector: {matchLabels: {app: watchman}}
  template:
    metadata: {labels: {app: watchman}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "busybox:test", command: [sh, -c, "echo on watch; exec sleep 100000"], env: [{name: VERSION, value: "1"}]}
"#;

const CONTROLLER: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: keep}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: keep}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "busybox:test", command: [sleep, "100000"]}
"#;

/// Names of the pods of an app that run and aren't leaving.
fn running(machine: &Machine, app: &str) -> Vec<String> {
    let pods = machine.get(&["pods", "-l", &format!("app={app}")]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let runs = |pod: &&serde_json::Value| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let names = pods.iter().filter(runs);
    names
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

fn become_running(machine: &Machine, app: &str, count: usize) {
    eventually(
        &format!("{count} pods of {app} run"),
        Duration::from_secs(30),
        || match running(machine, app) {
            pods if pods.len() == count => Ok(()),
            pods => Err(format!("{pods:?}")),
        },
    );
}

#[test]
fn a_daemon_is_on_its_node_through_updates_and_a_drain() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(DAEMONS);
    machine.apply(CONTROLLER);
    let rolled_out = || {
        let status = machine
            .kubectl(&["rollout", "status", "daemonset/watchman", "--timeout=60s"])
            .ok();
        assert!(
            status.contains("daemon set \"watchman\" successfully rolled out"),
            "{status}"
        );
    };
    rolled_out();
    become_running(&machine, "watchman", 1);
    become_running(&machine, "keep", 2);

    machine.apply(&DAEMONS.replace("value: \"1\"", "value: \"2\""));
    rolled_out();
    let version = || {
        let pod = running(&machine, "watchman").remove(0);
        machine
            .kubectl(&["exec", &pod, "--", "sh", "-c", "echo $VERSION"])
            .ok()
    };
    assert_eq!(version(), "2\n");
    machine
        .kubectl(&["rollout", "undo", "daemonset/watchman"])
        .ok();
    rolled_out();
    assert_eq!(version(), "1\n");

    // The new pod runs before the old one goes.
    let surge =
        r#"{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}}}}"#;
    machine
        .kubectl(&["patch", "daemonset/watchman", "-p", surge])
        .ok();
    machine
        .kubectl(&["rollout", "restart", "daemonset/watchman"])
        .ok();
    rolled_out();
    become_running(&machine, "watchman", 1);

    let dump = machine.dir().join("dump");
    let into = format!("--output-directory={}", dump.display());
    machine.kubectl(&["cluster-info", "dump", &into]).ok();
    let pod = running(&machine, "watchman").remove(0);
    let log = fs::read_to_string(dump.join("default").join(pod).join("logs.txt")).expect("a log");
    assert!(log.contains("\non watch\n"), "{log}");
    let sets = fs::read_to_string(dump.join("default/daemonsets.json")).expect("the daemon sets");
    assert!(sets.contains("\"watchman\""), "{sets}");

    // Who drains the node moves everything but the daemon.
    let node = machine.get(&["nodes"])["items"][0]["metadata"]["name"].clone();
    let node = node.as_str().expect("a name");
    let before = running(&machine, "watchman");
    let drained = machine.kubectl(&["drain", node, "--timeout=60s"]);
    assert!(
        drained
            .stderr
            .contains("cannot delete DaemonSet-managed Pods"),
        "{}",
        drained.stderr
    );
    machine
        .kubectl(&["drain", node, "--ignore-daemonsets", "--timeout=60s"])
        .ok();
    assert_eq!(running(&machine, "keep"), [""; 0]);
    assert_eq!(running(&machine, "watchman"), before);
    // On a cordoned node it comes back, others wait.
    machine.kubectl(&["delete", "pod", &before[0]]).ok();
    rolled_out();
    become_running(&machine, "watchman", 1);
    assert_eq!(running(&machine, "keep"), [""; 0]);
    machine.kubectl(&["uncordon", node]).ok();
    become_running(&machine, "keep", 2);

    machine
        .kubectl(&[
            "delete",
            "daemonset/watchman",
            "rc/keep",
            "--cascade=foreground",
            "--timeout=60s",
        ])
        .ok();
    let left = machine.get(&["pods,controllerrevisions"]);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(0), "{left}");
}
