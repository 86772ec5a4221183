//! `kubectl debug` by stock kubectl: a container added to a running pod, a copy of a pod, a pod that looks at its node.

use std::{fs, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: init, image: "busybox:test", command: [sh, -c, "echo begun > /v/init"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: main, image: "busybox:test", command: [sh, -c, "echo here > /marker; exec sleep 4321"], volumeMounts: [{name: v, mountPath: /v}]}
"#;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(POD);
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    machine
}

/// The status of an ephemeral container as soon as its state has this field.
fn state(machine: &Machine, container: &str, field: &str) -> Value {
    eventually(container, Duration::from_secs(20), || {
        let pod = machine.get(&["pod", "box"]);
        let list = pod["status"]["ephemeralContainerStatuses"]
            .as_array()
            .cloned();
        let found = list.into_iter().flatten().find(|s| s["name"] == container);
        match found {
            Some(status) if !status["state"][field].is_null() => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
}

fn debug(machine: &Machine, args: &[&str]) -> String {
    let mut all = vec!["debug"];
    all.extend(args);
    machine.kubectl(&all).ok()
}

#[test]
fn a_container_is_added_to_a_running_pod_and_sees_its_targets_processes() {
    skip_unless_root!();
    let machine = machine();
    let before = machine.get(&["pod", "box"]);
    debug(
        &machine,
        &[
            "box",
            "--image=busybox:test",
            "-c",
            "look",
            "--target=main",
            "--profile=general",
            "--",
            "sh",
            "-c",
            "echo looking; exec sleep 5432",
        ],
    );
    let status = state(&machine, "look", "running");
    assert_eq!(
        (
            &status["ready"],
            &status["restartCount"],
            status["started"].is_null()
        ),
        (&false.into(), &0.into(), true),
        "{status}"
    );
    let ps = machine
        .kubectl(&["exec", "box", "-c", "look", "--", "ps", "-o", "pid,args"])
        .ok();
    assert!(ps.lines().any(|l| l.trim() == "1 sleep 4321"), "{ps}");
    assert!(ps.contains("sleep 5432"), "{ps}");
    let marker = [
        "exec",
        "box",
        "-c",
        "look",
        "--",
        "cat",
        "/proc/1/root/marker",
    ];
    assert_eq!(machine.kubectl(&marker).ok(), "here\n");
    assert_eq!(
        machine.kubectl(&["logs", "box", "-c", "look"]).ok(),
        "looking\n"
    );
    // The only main container stays the one that is meant.
    assert_eq!(
        machine
            .kubectl(&["exec", "box", "--", "cat", "/v/init"])
            .ok(),
        "begun\n"
    );

    // One that ends isn't started again, and nothing about the pod changes.
    debug(
        &machine,
        &[
            "box",
            "--image=busybox:test",
            "-c",
            "once",
            "--profile=general",
            "--",
            "sh",
            "-c",
            "ps; exit 3",
        ],
    );
    let status = state(&machine, "once", "terminated");
    let ended = &status["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&3.into(), &"Error".into())
    );
    let alone = machine.kubectl(&["logs", "box", "-c", "once"]).ok();
    assert!(
        !alone.contains("sleep"),
        "without a target it has processes of its own: {alone}"
    );
    let after = machine.get(&["pod", "box"]);
    assert_eq!(after["status"]["phase"], "Running");
    for list in ["containerStatuses", "initContainerStatuses", "conditions"] {
        let without_generation = |pod: &Value| {
            let mut list = pod["status"][list].clone();
            for one in list.as_array_mut().into_iter().flatten() {
                one.as_object_mut()
                    .map(|map| map.remove("observedGeneration"));
            }
            list
        };
        assert_eq!(
            without_generation(&before),
            without_generation(&after),
            "{list}"
        );
    }

    let events = machine.get(&[
        "events",
        "--field-selector=involvedObject.fieldPath=spec.ephemeralContainers{look}",
    ]);
    let reasons: Vec<&str> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["reason"].as_str())
        .collect();
    for reason in ["Pulled", "Created", "Started"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    let described = machine.kubectl(&["describe", "pod", "box"]).ok();
    assert!(
        described.contains("Ephemeral Containers:\n  look:"),
        "{described}"
    );

    // What was added stays, and stays as it is.
    let path = "/api/v1/namespaces/default/pods/box/ephemeralcontainers";
    let mut without = machine.kubectl(&["get", "--raw", path]).json();
    without["spec"]["ephemeralContainers"] = Value::Array(vec![]);
    let refused =
        machine.kubectl_stdin(&["replace", "--raw", path, "-f", "-"], &without.to_string());
    assert!(
        refused
            .stderr
            .contains("existing ephemeral containers \"look\" may not be removed"),
        "{}",
        refused.stderr
    );
    let mut through_pod = after.clone();
    through_pod["spec"]["ephemeralContainers"] = Value::Array(vec![]);
    let refused = machine.kubectl_stdin(&["replace", "-f", "-"], &through_pod.to_string());
    assert!(
        refused
            .stderr
            .contains("pod updates may not change fields other than"),
        "{}",
        refused.stderr
    );
    let nobody = machine.kubectl(&[
        "debug",
        "box",
        "--image=busybox:test",
        "-c",
        "x",
        "--target=no",
        "--profile=general",
        "--",
        "sh",
    ]);
    assert!(
        nobody
            .stderr
            .contains("spec.ephemeralContainers[2].targetContainerName: Not found: \"no\""),
        "{}",
        nobody.stderr
    );

    // A later agent knows them.
    let id = state(&machine, "look", "running")["containerID"].clone();
    machine.kernelet(&["down"]).ok();
    machine.up();
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    assert_eq!(state(&machine, "look", "running")["containerID"], id);
    let again = state(&machine, "once", "terminated");
    assert_eq!(again["imageID"], status["imageID"]);
    machine
        .kubectl(&["delete", "pod", "box", "--timeout=20s"])
        .ok();
}

#[test]
fn a_pod_is_copied_with_another_image_and_shared_processes() {
    skip_unless_root!();
    let machine = machine();
    debug(
        &machine,
        &[
            "box",
            "--copy-to=images",
            "--set-image=main=docker.io/library/busybox:test",
            "--profile=general",
        ],
    );
    machine.wait("pod/images", "condition=Ready", Duration::from_secs(30));
    let copy = machine.get(&["pod", "images"]);
    assert_eq!(
        copy["spec"]["containers"][0]["image"],
        "docker.io/library/busybox:test"
    );

    debug(
        &machine,
        &[
            "box",
            "--copy-to=shared",
            "--share-processes",
            "--image=busybox:test",
            "-c",
            "look",
            "--profile=general",
            "--",
            "sleep",
            "5432",
        ],
    );
    machine.wait("pod/shared", "condition=Ready", Duration::from_secs(30));
    assert_eq!(
        machine.get(&["pod", "shared"])["spec"]["shareProcessNamespace"],
        true
    );
    let ps = machine
        .kubectl(&["exec", "shared", "-c", "look", "--", "ps", "-o", "args"])
        .ok();
    assert!(
        ps.contains("sleep 4321") && ps.contains("sleep 5432"),
        "{ps}"
    );

    debug(
        &machine,
        &[
            "box",
            "--copy-to=other",
            "--container=main",
            "--profile=general",
            "--",
            "sh",
            "-c",
            "echo instead; sleep 99",
        ],
    );
    machine.wait("pod/other", "condition=Ready", Duration::from_secs(30));
    assert_eq!(
        machine.kubectl(&["logs", "other", "-c", "main"]).ok(),
        "instead\n"
    );

    debug(
        &machine,
        &[
            "box",
            "--copy-to=instead",
            "--replace",
            "--set-image=*=busybox:test",
            "--profile=general",
        ],
    );
    machine.wait("pod/instead", "condition=Ready", Duration::from_secs(30));
    let gone = machine.kubectl(&["wait", "pod/box", "--for=delete", "--timeout=20s"]);
    assert_eq!(gone.code, 0, "{}", gone.stderr);
}

#[test]
fn a_node_is_looked_at_from_a_pod_on_it() {
    skip_unless_root!();
    let machine = machine();
    let script = "ip -o address; echo pid $(readlink /proc/self/ns/pid); echo ipc $(readlink /proc/self/ns/ipc); \
                  ls /host/proc/1 >/dev/null && echo mounted; grep CapEff /proc/self/status";
    let host = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .expect("it is there")
            .display()
            .to_string()
    };
    let run = |profile: &str, more: &[&str], script: &str| {
        let profile = format!("--profile={profile}");
        let mut args = vec!["node/node-a", "--image=busybox:test", &profile];
        args.extend(more);
        args.extend(["--", "sh", "-c", script]);
        let said = debug(&machine, &args);
        let name = said
            .split_whitespace()
            .find(|w| w.starts_with("node-debugger-node-a-"));
        name.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let log = |pod: &str| {
        let succeeded = "jsonpath={.status.phase}=Succeeded";
        machine.wait(&format!("pod/{pod}"), succeeded, Duration::from_secs(20));
        machine.kubectl(&["logs", pod]).ok()
    };
    for (profile, caps) in [
        ("legacy", "00000000a80425fb"),
        ("general", "00000000a80425fb"),
        ("netadmin", "00000000a80435fb"),
        ("sysadmin", ""),
    ] {
        let pod = run(profile, &[], script);
        let log = log(&pod);
        assert!(log.contains(machine.node_ip()), "{profile}: {log}");
        assert!(
            log.contains(&format!("pid {}", host("pid"))),
            "{profile}: {log}"
        );
        assert!(
            log.contains(&format!("ipc {}", host("ipc"))),
            "{profile}: {log}"
        );
        assert!(
            profile == "netadmin" || log.contains("mounted"),
            "{profile}: {log}"
        );
        assert!(
            log.contains(&format!("CapEff:\t{caps}")),
            "{profile}: {log}"
        );
    }
    let pod = run(
        "sysadmin",
        &[],
        "chroot /host /bin/sh -c 'echo on the node as $(id -u)'",
    );
    assert_eq!(log(&pod), "on the node as 0\n");

    // The other two stay in the pod's own namespaces.
    let pod = run("baseline", &[], script);
    let text = log(&pod);
    assert!(
        !text.contains(&host("pid")) && !text.contains(machine.node_ip()),
        "{text}"
    );
    let custom = machine.dir().join("custom.json");
    fs::write(&custom, r#"{"securityContext": {"runAsUser": 1000}}"#).expect("written");
    let custom = format!("--custom={}", custom.display());
    let pod = run(
        "restricted",
        &[&custom],
        "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status",
    );
    let text = log(&pod);
    assert!(
        text.starts_with("1000\n")
            && text.contains("CapEff:\t0000000000000000")
            && text.contains("NoNewPrivs:\t1"),
        "{text}"
    );
    // Without that user it is refused on the node, as this image's user is root.
    let pod = run("restricted", &[], "id -u");
    eventually("it is refused", Duration::from_secs(20), || {
        let pod = machine.get(&["pod", &pod]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let message = waiting["message"].as_str().unwrap_or_default();
        match message.starts_with(
            "container has runAsNonRoot and image will run as root (pod: \"node-debugger-",
        ) {
            true if waiting["reason"] == "CreateContainerConfigError" => Ok(()),
            _ => Err(waiting.to_string()),
        }
    });
}
