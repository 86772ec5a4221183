//! `kubectl logs` with its flags, by stock kubectl: which lines come, of which containers and runs, and what is said
//! when there are none.

use std::{process::Stdio, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn pod(name: &str, restart: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: {restart}\n  terminationGracePeriodSeconds: 1\n{rest}"
    )
}

fn logs(machine: &Machine, args: &[&str]) -> String {
    let mut all = vec!["logs"];
    all.extend(args);
    machine.kubectl(&all).ok()
}

/// What `kubectl logs` says when it can't.
fn refused(machine: &Machine, args: &[&str]) -> String {
    let mut all = vec!["logs"];
    all.extend(args);
    let output = machine.kubectl(&all);
    assert_eq!(output.code, 1, "{args:?}: {}", output.stdout);
    output.stderr.trim().to_owned()
}

fn raw(machine: &Machine, query: &str) -> String {
    let path = format!("/api/v1/namespaces/default/pods/talker/log?{query}");
    let output = machine.kubectl(&["get", "--raw", &path]);
    format!("{}{}", output.stdout, output.stderr.trim())
}

#[test]
fn each_flag_chooses_its_lines() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(&pod(
        "talker",
        "Never",
        r#"  initContainers:
  - {name: init, image: "busybox:test", command: [sh, -c, "echo from init"]}
  containers:
  - {name: main, image: "busybox:test", command: [sh, -c, "echo one; echo two >&2; sleep 2.1; echo three; echo four"]}
"#,
    ));
    let succeeded = "jsonpath={.status.phase}=Succeeded";
    machine.wait("pod/talker", succeeded, Duration::from_secs(20));
    let of = |args: &[&str]| {
        let mut all = vec!["talker"];
        all.extend(args);
        logs(&machine, &all)
    };
    // An init container doesn't make the only main one less clear.
    assert_eq!(of(&[]), "one\ntwo\nthree\nfour\n");
    assert_eq!(raw(&machine, ""), "one\ntwo\nthree\nfour\n");
    assert_eq!(of(&["-c", "init"]), "from init\n");
    assert_eq!(of(&["--tail=2"]), "three\nfour\n");
    assert_eq!(of(&["--tail=0"]), "");
    assert_eq!(of(&["--limit-bytes=9"]), "one\ntwo\nt");
    assert_eq!(of(&["-f"]), "one\ntwo\nthree\nfour\n");
    assert_eq!(
        of(&["--all-containers"]),
        "from init\none\ntwo\nthree\nfour\n"
    );
    assert_eq!(
        of(&["--all-containers", "--prefix", "--tail=1"]),
        "[pod/talker/init] from init\n[pod/talker/main] four\n"
    );
    let stamped = of(&["--timestamps"]);
    let times: Vec<&str> = stamped
        .lines()
        .filter_map(|l| l.split_once(' ').map(|(t, _)| t))
        .collect();
    let texts: Vec<&str> = stamped
        .lines()
        .filter_map(|l| l.split_once(' ').map(|(_, t)| t))
        .collect();
    assert_eq!(texts, ["one", "two", "three", "four"]);
    assert!(
        times.is_sorted()
            && times
                .iter()
                .all(|t| t.len() == "2026-01-01T00:00:00.000000000Z".len()),
        "{times:?}"
    );
    // Whole seconds are sent.
    assert_eq!(
        of(&[&format!("--since-time={}", times[2])]),
        "three\nfour\n"
    );
    assert_eq!(of(&["--since=1h"]), "one\ntwo\nthree\nfour\n");
    assert_eq!(of(&["--since-time=2199-01-01T00:00:00Z"]), "");
    for (query, error) in [
        (
            "tailLines=-1",
            "tailLines: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "limitBytes=0",
            "limitBytes: Invalid value: 0: must be greater than 0",
        ),
        (
            "sinceSeconds=0",
            "sinceSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            // Behind a feature gate that is off by default.
            "stream=Stderr",
            "stream: Forbidden: may not be specified",
        ),
    ] {
        let said = format!("The PodLogOptions \"talker\" is invalid: {error}");
        assert_eq!(raw(&machine, query), said);
    }
}

#[test]
fn several_pods_are_read_together() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: crowd}
spec:
  replicas: 2
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: a, image: "busybox:test", command: [sh, -c, "echo a of $HOSTNAME; exec sleep 3600"]}
      - {name: b, image: "busybox:test", command: [sh, -c, "echo b of $HOSTNAME; exec sleep 3600"]}
"#,
    );
    machine.wait(
        "deployment/crowd",
        "condition=Available",
        Duration::from_secs(30),
    );
    let list = machine.get(&["pods", "-l", "app=crowd"]);
    let mut names: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expect = |containers: &[&str]| {
        let line = |name: &String| {
            containers
                .iter()
                .map(move |c| format!("[pod/{name}/{c}] {c} of {name}"))
                .collect::<Vec<_>>()
        };
        let mut lines: Vec<String> = names.iter().flat_map(line).collect();
        lines.sort();
        lines
    };
    let all = logs(
        &machine,
        &["-l", "app=crowd", "--all-containers", "--prefix"],
    );
    assert_eq!(sorted(all), expect(&["a", "b"]));
    let one = logs(
        &machine,
        &["-l", "app=crowd", "-c", "b", "--prefix", "--tail=-1"],
    );
    assert_eq!(sorted(one), expect(&["b"]));
    let deployment = machine.kubectl(&["logs", "deployment/crowd", "-c", "a"]);
    assert!(
        deployment.stderr.contains("Found 2 pods, using pod/crowd-"),
        "{}",
        deployment.stderr
    );
    assert!(
        deployment.stdout.starts_with("a of crowd-"),
        "{}",
        deployment.stdout
    );
    let every = logs(&machine, &["deployment/crowd", "--all-pods", "-c", "a"]);
    assert_eq!(sorted(every), expect(&["a"]));
    let many = refused(
        &machine,
        &[
            "-f",
            "-l",
            "app=crowd",
            "--all-containers",
            "--max-log-requests=3",
        ],
    );
    assert_eq!(
        many,
        "error: you are attempting to follow 4 log streams, but maximum allowed concurrency is 3, use --max-log-requests to increase the limit"
    );
    // Two at a time are followed until their pods go.
    let follow = machine
        .kubectl_command(&[
            "logs",
            "-f",
            "-l",
            "app=crowd",
            "-c",
            "a",
            "--max-log-requests=2",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    machine
        .kubectl(&["delete", "deployment", "crowd", "--timeout=30s"])
        .ok();
    let said = follow.wait_with_output().expect("it ends");
    let mut expected: Vec<String> = names.iter().map(|n| format!("a of {n}")).collect();
    expected.sort();
    assert_eq!(
        sorted(String::from_utf8_lossy(&said.stdout).into_owned()),
        expected
    );
}

#[test]
fn runs_before_the_present_one_and_containers_without_a_run() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(&pod(
        "twice",
        "Always",
        r#"  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "if [ -e /v/once ]; then echo second; exec sleep 3600; fi; touch /v/once; echo first; exit 1"]
    volumeMounts: [{name: v, mountPath: /v}]
"#,
    ));
    machine.apply(&pod("crash", "Always", "  containers:\n  - {name: main, image: \"busybox:test\", command: [sh, -c, \"echo try; exit 3\"]}\n"));
    machine.apply(&pod("stuck", "Always", "  volumes: [{name: v, configMap: {name: absent}}]\n  containers:\n  - {name: main, image: \"busybox:test\", volumeMounts: [{name: v, mountPath: /v}]}\n"));
    machine.apply(&pod("slow", "Always", "  initContainers:\n  - {name: init, image: \"busybox:test\", command: [sleep, \"3600\"]}\n  containers:\n  - {name: main, image: \"busybox:test\"}\n"));
    machine.apply(&pod("absent", "Always", "  containers:\n  - {name: main, image: \"nobody/knows:this\"}\n  - {name: side, image: \"busybox:test\", command: [sh, -c, \"echo side; exec sleep 3600\"]}\n"));
    machine.apply(&pod(
        "nowhere",
        "Always",
        "  nodeSelector: {no: node}\n  containers:\n  - {name: main, image: \"busybox:test\"}\n",
    ));

    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}=1";
    machine.wait("pod/twice", restarts, Duration::from_secs(30));
    eventually(
        "the second run speaks",
        Duration::from_secs(10),
        || match logs(&machine, &["twice"]) {
            text if text == "second\n" => Ok(()),
            text => Err(text),
        },
    );
    assert_eq!(logs(&machine, &["twice", "-p"]), "first\n");
    let looping = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    machine.wait("pod/crash", looping, Duration::from_secs(30));
    assert_eq!(logs(&machine, &["crash"]), "try\n");
    assert_eq!(logs(&machine, &["crash", "--previous"]), "try\n");

    let waits = |name: &str| {
        format!(
            "Error from server (BadRequest): container \"main\" in pod \"{name}\" is waiting to start: "
        )
    };
    assert_eq!(
        refused(&machine, &["stuck"]),
        waits("stuck") + "ContainerCreating"
    );
    let init = "jsonpath={.status.initContainerStatuses[0].started}=true";
    machine.wait("pod/slow", init, Duration::from_secs(20));
    assert_eq!(
        refused(&machine, &["slow", "-c", "main"]),
        waits("slow") + "PodInitializing"
    );
    assert_eq!(logs(&machine, &["slow", "-c", "init"]), "");
    eventually("the image is not there", Duration::from_secs(20), || {
        let said = refused(&machine, &["absent", "-c", "main"]);
        let why = said.strip_prefix(&waits("absent")).map(str::to_owned);
        match why.as_deref() {
            Some("image can't be pulled" | "trying and failing to pull image") => Ok(()),
            _ => Err(said),
        }
    });
    let side = "jsonpath={.status.containerStatuses[1].started}=true";
    machine.wait("pod/absent", side, Duration::from_secs(20));
    let some = machine.kubectl(&["logs", "absent", "--all-containers"]);
    assert!(
        some.code == 1 && some.stderr.contains("is waiting to start"),
        "{some:?}"
    );
    let some = machine.kubectl(&["logs", "absent", "--all-containers", "--ignore-errors"]);
    assert_eq!(
        (some.code, some.stdout.contains("side\n")),
        (0, true),
        "{some:?}"
    );

    assert_eq!(
        refused(&machine, &["slow", "-c", "init", "-p"]),
        "Error from server (BadRequest): previous terminated container \"init\" in pod \"slow\" not found"
    );
    assert_eq!(
        refused(&machine, &["slow", "-c", "no"]),
        "error: container no is not valid for pod slow"
    );
    assert_eq!(
        refused(&machine, &["nobody"]),
        "error: error from server (NotFound): pods \"nobody\" not found in namespace \"default\""
    );
    // Nothing ran, so nothing was said.
    assert_eq!(logs(&machine, &["nowhere"]), "");
    let path = |query: &str| format!("/api/v1/namespaces/default/pods/absent/log{query}");
    let of_two = machine.kubectl(&["get", "--raw", &path("")]).stderr;
    assert!(
        of_two.contains(
            "a container name must be specified for pod absent, choose one of: [main side]"
        ),
        "{of_two}"
    );
    let unknown = machine
        .kubectl(&["get", "--raw", &path("?container=no")])
        .stderr;
    assert!(
        unknown.contains("container no is not valid for pod absent"),
        "{unknown}"
    );
}

#[test]
fn nothing_is_lost_where_a_log_is_rotated() {
    skip_unless_root!();
    const LINES: usize = 250_000;
    let machine = machine();
    // Some 100 bytes a line in the file: it is rotated twice.
    machine.apply(&pod("loud", "Never", &format!(
        "  containers:\n  - {{name: main, image: \"busybox:test\", command: [sh, -c, \"until [ -e /go ]; do sleep 0.1; done; \
         seq 1 {LINES} | sed 's/$/ {}/'\"]}}\n", "x".repeat(44)
    )));
    machine.wait("pod/loud", "condition=Ready", Duration::from_secs(20));
    let follow = machine
        .kubectl_command(&["logs", "-f", "loud"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    machine
        .kubectl(&["exec", "loud", "--", "touch", "/go"])
        .ok();
    let followed = follow.wait_with_output().expect("it ends");
    let succeeded = "jsonpath={.status.phase}=Succeeded";
    machine.wait("pod/loud", succeeded, Duration::from_secs(60));
    let uid = machine.get(&["pod", "loud"])["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let folder = machine
        .log_dir()
        .join("pods")
        .join(format!("default_loud_{uid}"))
        .join("main");
    let files = std::fs::read_dir(folder)
        .expect("the logs are there")
        .count();
    assert!(files >= 3, "{files} files");
    let numbers = |text: &str| -> Vec<usize> {
        text.lines()
            .filter_map(|l| l.split(' ').next()?.parse().ok())
            .collect()
    };
    let all: Vec<usize> = (1..=LINES).collect();
    assert!(
        numbers(&String::from_utf8_lossy(&followed.stdout)) == all,
        "followed"
    );
    assert!(
        numbers(&logs(&machine, &["loud"])) == all,
        "read at the end"
    );
    // The tail reaches back over all the files.
    let tail = numbers(&logs(
        &machine,
        &["loud", &format!("--tail={}", LINES - 10)],
    ));
    assert!(tail == all[10..], "{} lines", tail.len());
    assert_eq!(
        numbers(&logs(&machine, &["loud", "--tail=3"])),
        all[LINES - 3..]
    );
}
