//! The node's part: volumes that follow their sources, hooks, init containers, what survives the agent and what doesn't.

use std::time::Duration;

use kernelet_scenarios::{Machine, busybox_image, busybox_image_as, eventually, skip_unless_root};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn status(machine: &Machine, pod: &str) -> Value {
    machine.get(&["pod", pod])["status"].clone()
}

fn phase(machine: &Machine, pod: &str, wanted: &str) -> Value {
    eventually(&format!("{pod} is {wanted}"), SOON, || {
        let status = status(machine, pod);
        if status["phase"] == wanted {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

fn logs(machine: &Machine, args: &[&str]) -> String {
    machine.kubectl(&[&["logs"], args].concat()).ok()
}

#[test]
fn a_mounted_config_map_follows_its_source_and_a_missing_one_is_waited_for() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:test
    command: [/bin/sh, -c, "while :; do cat /etc/settings/color; echo; sleep 0.2; done"]
    volumeMounts: [{name: settings, mountPath: /etc/settings}]
  volumes:
  - {name: settings, configMap: {name: settings}}
"#,
    );
    let described = eventually("the missing source is told", SOON, || {
        let text = machine.kubectl(&["describe", "pod", "reader"]).stdout;
        if text.contains("FailedMount") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    let said =
        "MountVolume.SetUp failed for volume \"settings\" : configmap \"settings\" not found";
    assert!(described.contains(said), "{described}");
    eventually("the status says what it waits for", SOON, || {
        let status = status(&machine, "reader");
        let reason = &status["containerStatuses"][0]["state"]["waiting"]["reason"];
        if reason == "ContainerCreating" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    machine
        .kubectl(&[
            "create",
            "configmap",
            "settings",
            "--from-literal=color=blue",
        ])
        .ok();
    machine.wait("pod/reader", "condition=Ready", SOON);
    machine
        .kubectl(&[
            "patch",
            "configmap",
            "settings",
            "-p",
            r#"{"data":{"color":"red"}}"#,
        ])
        .ok();
    eventually("the new colour is read", SOON, || {
        let text = logs(&machine, &["reader", "--tail=1"]);
        if text == "red\n" { Ok(()) } else { Err(text) }
    });
    assert_eq!(
        status(&machine, "reader")["containerStatuses"][0]["restartCount"],
        0
    );
}

#[test]
fn init_containers_sidecars_and_hooks_run_in_their_order() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: ordered}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  initContainers:
  - name: first
    image: busybox:test
    command: [/bin/sh, -c, "echo first >> /log/all"]
    volumeMounts: [{name: log, mountPath: /log, subPath: deep/er}]
  - name: side
    image: busybox:test
    restartPolicy: Always
    command: [/bin/sh, -c, "echo side >> /log/all; trap 'echo side-ends >> /log/all; exit 0' TERM; while :; do sleep 0.1; done"]
    volumeMounts: [{name: log, mountPath: /log, subPath: deep/er}]
  - name: second
    image: busybox:test
    command: [/bin/sh, -c, "grep -q side /log/all && echo second >> /log/all"]
    volumeMounts: [{name: log, mountPath: /log, subPath: deep/er}]
  containers:
  - name: main
    image: busybox:test
    command: [/bin/sh, -c, "echo main >> /log/all; sleep 1; echo main-ends >> /log/all; echo said > /dev/termination-log"]
    volumeMounts: [{name: log, mountPath: /log, subPath: deep/er}]
  volumes:
  - {name: log, hostPath: {path: LOGDIR, type: DirectoryOrCreate}}
"#
        .replace("LOGDIR", &machine.dir().join("log").to_string_lossy())
        .as_str(),
    );
    let status = phase(&machine, "ordered", "Succeeded");
    assert_eq!(
        status["containerStatuses"][0]["state"]["terminated"]["message"], "said\n",
        "{status}"
    );
    let all = eventually("the sidecar ends last", SOON, || {
        let text = std::fs::read_to_string(machine.dir().join("log/deep/er/all"))
            .map_err(|e| e.to_string())?;
        if text.contains("side-ends") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert_eq!(all, "first\nside\nsecond\nmain\nmain-ends\nside-ends\n");
}

#[test]
fn images_that_are_not_here_are_told_and_one_that_comes_is_used_at_once() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    let pod = |name: &str, image: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: main, image: '{image}', imagePullPolicy: {policy}, command: [sleep, '1000']}}\n  terminationGracePeriodSeconds: 1\n"
        )
    };
    // Nobody listens there.
    let image = "127.0.0.1:1/busybox:test";
    machine.apply(&pod("never", image, "Never"));
    machine.apply(&pod("absent", image, "IfNotPresent"));
    for (name, reason) in [("never", "ErrImageNeverPull"), ("absent", "ErrImagePull")] {
        eventually(reason, SOON, || {
            let status = status(&machine, name);
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            if waiting["reason"] == reason {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }
    let text = machine.kubectl(&["describe", "pod", "absent"]).ok();
    assert!(
        text.contains("failed to do request: GET https://127.0.0.1:1/v2/busybox/manifests/test: dial tcp 127.0.0.1:1"),
        "{text}"
    );
    machine.load_image(&busybox_image_as(machine.dir(), image));
    // Far sooner than the back-off of ten seconds.
    machine.wait("pod/never", "condition=Ready", Duration::from_secs(5));
    machine.wait("pod/absent", "condition=Ready", Duration::from_secs(5));
}

#[test]
fn a_killed_shim_is_told_as_an_unknown_end_and_the_pod_runs_again() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: orphan}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'busybox:test', command: [sleep, '1000']}\n",
    );
    machine.wait("pod/orphan", "condition=Ready", SOON);
    let uid = machine.get(&["pod", "orphan"])["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let pids = machine.sh(&format!(
        "cat $(find /sys/fs/cgroup -path '*/shims/{uid}/cgroup.procs') | sort -u"
    ));
    let pid = pids.ok().trim().to_owned();
    machine.sh(&format!("kill -9 {pid}")).ok();
    let status = eventually("it runs again", SOON, || {
        let status = status(&machine, "orphan");
        let container = &status["containerStatuses"][0];
        let again = container["restartCount"] == 1 && container["state"]["running"].is_object();
        if again {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&Value::from("ContainerStatusUnknown"), &Value::from(137))
    );
}

#[test]
fn a_forced_deletion_after_a_kill_leaves_nothing_and_spares_the_others() {
    skip_unless_root!();
    let machine = machine();
    for name in ["stays", "goes"] {
        machine.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, image: 'busybox:test', command: [sleep, '1000']}}\n"
        ));
        machine.wait(&format!("pod/{name}"), "condition=Ready", SOON);
    }
    let ids = |name: &str| status(&machine, name)["containerStatuses"][0]["containerID"].clone();
    let before = ids("stays");
    let uid = machine.get(&["pod", "goes"])["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let pid = machine.status()["pid"].as_i64().expect("a pid");
    machine.sh(&format!("kill -9 {pid}")).ok();
    eventually("the killed program's end", SOON, || {
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        if gone {
            Ok(())
        } else {
            Err(format!("{pid} lives"))
        }
    });
    machine.up();
    machine
        .kubectl(&[
            "delete",
            "pod",
            "goes",
            "--grace-period=0",
            "--force",
            "--wait=false",
        ])
        .ok();
    eventually("nothing is left of it", SOON, || {
        let found = machine
            .sh(&format!("find /sys/fs/cgroup -name '*{uid}*' | head -1"))
            .stdout;
        let folder = machine.data_dir().join("pods").join(&uid);
        if found.is_empty() && !folder.exists() {
            Ok(())
        } else {
            Err(format!("{found} {folder:?}"))
        }
    });
    assert_eq!(ids("stays"), before, "the other one ran on");
    assert_eq!(
        status(&machine, "stays")["containerStatuses"][0]["restartCount"],
        0
    );
}

#[test]
fn the_kubelet_api_answers_only_those_who_may() {
    skip_unless_root!();
    let machine = machine();
    let pki = machine.data_dir().join("pki");
    let pki = pki.display();
    let ask = |with: &str, path: &str| {
        let script = format!(
            "curl -sk -o /dev/null -w '%{{http_code}}' {with} https://{}:10250{path}",
            machine.node_ip()
        );
        machine.sh(&script).stdout
    };
    let admin = format!("--cert {pki}/admin.crt --key {pki}/admin.key");
    assert_eq!(ask("", "/pods"), "401");
    assert_eq!(ask("-H 'Authorization: Bearer nonsense'", "/pods"), "401");
    for path in [
        "/healthz",
        "/pods",
        "/stats/summary",
        "/metrics",
        "/metrics/resource",
        "/metrics/cadvisor",
    ] {
        assert_eq!(ask(&admin, path), "200", "{path}");
    }
    assert_eq!(ask(&admin, "/none"), "404");
    let token = machine.kubectl(&["create", "token", "default"]).ok();
    let bearer = format!("-H 'Authorization: Bearer {}'", token.trim());
    assert_eq!(ask(&bearer, "/stats/summary"), "403");
    machine
        .kubectl(&[
            "create",
            "clusterrole",
            "stats",
            "--verb=get",
            "--resource=nodes/stats",
        ])
        .ok();
    machine
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "stats",
            "--clusterrole=stats",
            "--serviceaccount=default:default",
        ])
        .ok();
    eventually("the role counts", SOON, || {
        let code = ask(&bearer, "/stats/summary");
        if code == "200" { Ok(()) } else { Err(code) }
    });
    assert_eq!(ask(&bearer, "/pods"), "403");
}

#[test]
fn volumes_in_memory_and_on_disk_are_shared_with_sub_paths_and_end_with_the_pod() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: shares}
spec:
  restartPolicy: Never
  securityContext: {fsGroup: 2000}
  initContainers:
  - name: writer
    image: busybox:test
    securityContext: {runAsUser: 1000}
    command: [/bin/sh, -c, "echo m > /m/f; echo d > /d/f; stat -c %g /m/f /d/f > /d/groups"]
    volumeMounts: [{name: memory, mountPath: /m, subPath: a/b}, {name: disk, mountPath: /d}]
  containers:
  - name: reader
    image: busybox:test
    command: [/bin/sh, -c, "cat /m/a/b/f /d/f /d/groups; grep ' /m ' /proc/mounts | cut -d' ' -f3; df -k /m | tail -1 | tr -s ' ' | cut -d' ' -f2"]
    volumeMounts: [{name: memory, mountPath: /m}, {name: disk, mountPath: /d}]
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
  - {name: disk, emptyDir: {}}
"#,
    );
    phase(&machine, "shares", "Succeeded");
    let said = logs(&machine, &["shares", "-c", "reader"]);
    assert_eq!(said, "m\nd\n2000\n2000\ntmpfs\n4096\n");
    let uid = machine.get(&["pod", "shares"])["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let volumes = machine.data_dir().join("pods").join(uid).join("volumes");
    eventually("the disk is given back", SOON, || {
        if volumes.exists() {
            Err(volumes.display().to_string())
        } else {
            Ok(())
        }
    });
}
