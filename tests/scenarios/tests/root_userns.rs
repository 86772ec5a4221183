//! Pods with a user namespace of their own (`hostUsers: false`).

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, skip_unless_root};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn pod(name: &str, rest: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
{rest}"#
    )
}

/// The first host id of the pod's range, by what the kernel says of its first process.
fn base(machine: &Machine, pod: &str) -> u32 {
    let map = machine.kubectl(&["exec", pod, "--", "cat", "/proc/self/uid_map"]);
    let numbers: Vec<u32> = map
        .ok()
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let [0, base, 65536] = numbers[..] else {
        panic!("{numbers:?}")
    };
    assert!(base >= 65536 && base.is_multiple_of(65536), "{base}");
    base
}

fn volume_dir(machine: &Machine, pod: &str, volume: &str) -> PathBuf {
    let pod: Value = machine.get(&["pod", pod]);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    machine
        .data_dir()
        .join("pods")
        .join(uid)
        .join("volumes/kubernetes.io~empty-dir")
        .join(volume)
}

const SLEEPER: &str = r#"
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
"#;

#[test]
fn root_in_the_pod_is_nobody_on_the_host_and_owns_its_files() {
    skip_unless_root!();
    let machine = machine();
    machine
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "key",
            "--from-literal=word=xyzzy",
        ])
        .ok();
    let spec = format!(
        r#"{SLEEPER}    volumeMounts:
    - {{name: disk, mountPath: /disk}}
    - {{name: memory, mountPath: /memory}}
    - {{name: key, mountPath: /key}}
    - {{name: host, mountPath: /host}}
  securityContext:
    fsGroup: 3000
    sysctls: [{{name: net.ipv4.ip_local_port_range, value: "2000 3000"}}]
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: key, secret: {{secretName: key, defaultMode: 0400}}}}
  - {{name: host, hostPath: {{path: {}}}}}
"#,
        machine.dir().join("host").display()
    );
    fs::create_dir(machine.dir().join("host")).unwrap();
    fs::write(machine.dir().join("host/file"), "of root").unwrap();
    machine.apply(&pod("a", &spec));
    machine.apply(&pod("b", SLEEPER));
    for pod in ["pod/a", "pod/b"] {
        machine.wait(pod, "condition=Ready", SOON);
    }
    let (a, b) = (base(&machine, "a"), base(&machine, "b"));
    assert_ne!(a, b);

    let sh = |script: &str| {
        machine
            .kubectl(&["exec", "a", "--", "sh", "-c", script])
            .ok()
    };
    assert_eq!(sh("id -u; hostname").trim(), "0\na");
    // The image, its own writes and every kind of volume: all show the owners they have for the pod.
    assert_eq!(
        sh("touch /new /disk/new /memory/new /dev/shm/new && stat -c %u:%g /bin/busybox /etc/passwd /new /disk/new /memory/new /dev/shm/new /etc/hosts /key/..data/word /host/file")
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["0:0", "0:0", "0:0", "0:3000", "0:3000", "0:0", "0:0", "0:3000", "0:0"]
    );
    assert_eq!(
        sh("cat /key/word; chown 7:8 /disk/new /new; stat -c %u:%g /new"),
        "xyzzy7:8\n"
    );
    assert_eq!(
        sh("cat /proc/sys/net/ipv4/ip_local_port_range")
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["2000", "3000"]
    );
    // On disk nothing of the range is left behind: what the pod calls 7 is 7.
    let made = fs::metadata(volume_dir(&machine, "a", "disk").join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 8));
    sh("echo changed > /host/file");
    assert_eq!(
        fs::metadata(machine.dir().join("host/file")).unwrap().uid(),
        0
    );

    // Its processes have none of the host's ids, nor any right over what is the host's.
    let pid = sh("exec cat /proc/self/stat >/dev/null; true");
    assert_eq!(pid, "");
    let status = machine.get(&["pod", "a"]);
    let uid = status["metadata"]["uid"].as_str().unwrap();
    let owners = processes_of(uid);
    assert!(
        !owners.is_empty() && owners.iter().all(|owner| *owner == a),
        "{owners:?} of {a}"
    );
    let refused = machine.kubectl(&[
        "exec",
        "a",
        "--",
        "sh",
        "-c",
        "echo 1 > /proc/sys/kernel/panic",
    ]);
    assert_ne!(refused.code, 0);

    let node = machine.get(&["node", "node-a"]);
    assert_eq!(
        node["status"]["runtimeHandlers"][0]["features"]["userNamespaces"],
        true
    );
    machine.kubectl(&["delete", "pod", "a", "b"]).ok();
    assert_eq!(
        fs::read_dir(machine.data_dir().join("userns"))
            .unwrap()
            .count(),
        0
    );
}

/// The owners of all processes in a pod's cgroups.
fn processes_of(uid: &str) -> Vec<u32> {
    let mut owners = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let of_pod = fs::read_to_string(entry.path().join("cgroup"))
            .is_ok_and(|text| text.contains(&format!("pod{uid}")));
        if of_pod && let Ok(text) = fs::read_to_string(entry.path().join("status")) {
            let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
            owners.extend(line.and_then(|l| l.split_whitespace().next()?.parse::<u32>().ok()));
        }
    }
    owners
}

#[test]
fn containers_share_processes_and_survive_the_agent() {
    skip_unless_root!();
    let machine = machine();
    let two = r#"
  shareProcessNamespace: true
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
  - name: other
    image: busybox:test
    command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
    securityContext: {runAsUser: 1000}
"#;
    machine.apply(&pod("shared", two));
    machine.wait("pod/shared", "condition=Ready", SOON);
    let before = base(&machine, "shared");
    let seen = machine
        .kubectl(&[
            "exec",
            "shared",
            "-c",
            "other",
            "--",
            "ps",
            "-o",
            "user,args",
        ])
        .ok();
    assert!(
        seen.contains("kernelet-init") && seen.matches("while :").count() >= 2,
        "{seen}"
    );
    let kill = "kill -0 $(ps -o pid,args | awk '/while/ && !/awk/ {print $1; exit}')";
    machine
        .kubectl(&["exec", "shared", "-c", "main", "--", "sh", "-c", kill])
        .ok();

    machine.kernelet(&["down"]).ok();
    machine.up();
    machine.wait("pod/shared", "condition=Ready", SOON);
    assert_eq!(base(&machine, "shared"), before);
    let restarts = machine.get(&["pod", "shared"]);
    for status in restarts["status"]["containerStatuses"].as_array().unwrap() {
        assert_eq!(status["restartCount"], 0);
    }
    // A new pod gets other ids than the one that runs on.
    machine.apply(&pod("next", SLEEPER));
    machine.wait("pod/next", "condition=Ready", SOON);
    assert_ne!(base(&machine, "next"), before);
}
