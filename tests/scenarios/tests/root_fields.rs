//! Fields of pods that the node alone has to do with: gRPC probes, profiles of system calls, resizes in place.

use std::{fs, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, etcd_image, eventually, skip_unless_root};
use serde_json::{Value, json};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn pod(name: &str, restart: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {restart}\n  terminationGracePeriodSeconds: 1\n{rest}"
    )
}

/// The messages of a pod's events with this reason.
fn events(machine: &Machine, pod: &str, reason: &str) -> Vec<String> {
    let selector = format!("--field-selector=involvedObject.name={pod},reason={reason}");
    let list = machine.get(&["events", &selector]);
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let message = |e: &Value| e["message"].as_str().map(str::to_owned);
    items.iter().filter_map(message).collect()
}

fn await_event(machine: &Machine, pod: &str, reason: &str, text: &str) {
    eventually(reason, Duration::from_secs(30), || {
        let all = events(machine, pod, reason);
        match all.iter().any(|m| m.contains(text)) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    });
}

#[test]
fn a_grpc_server_is_asked_for_its_health() {
    skip_unless_root!();
    let machine = machine();
    machine.load_image(&etcd_image(machine.dir()));
    machine.apply(&pod(
        "store",
        "Always",
        r#"  containers:
  - name: main
    image: etcd:test
    startupProbe: {grpc: {port: 2379}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {grpc: {port: 2379}, periodSeconds: 1}
    livenessProbe: {grpc: {port: 2379, service: ""}, periodSeconds: 1}
"#,
    ));
    machine.apply(&pod(
        "other",
        "Always",
        r#"  containers:
  - name: main
    image: etcd:test
    readinessProbe: {grpc: {port: 2379, service: somebody.else}, periodSeconds: 1}
"#,
    ));
    machine.apply(&pod(
        "none",
        "Always",
        r#"  containers:
  - name: main
    image: busybox:test
    command: [sleep, "3600"]
    readinessProbe: {grpc: {port: 5000}, periodSeconds: 1}
"#,
    ));
    machine.wait("pod/store", "condition=Ready", Duration::from_secs(30));
    let status = &machine.get(&["pod", "store"])["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["started"], &status["restartCount"]),
        (&true.into(), &0.into())
    );
    let unknown = "Readiness probe failed: error: health rpc probe failed: rpc error: code = NotFound desc = unknown service";
    await_event(&machine, "other", "Unhealthy", unknown);
    let ip = machine.get(&["pod", "none"])["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let refused = format!(
        "Readiness probe failed: timeout: failed to connect service \"{ip}:5000\" within 1s: context deadline exceeded"
    );
    await_event(&machine, "none", "Unhealthy", &refused);
    assert_eq!(
        machine.get(&["pod", "none"])["status"]["containerStatuses"][0]["ready"],
        false
    );
}

#[test]
fn a_profile_of_the_nodes_folder_filters_system_calls() {
    skip_unless_root!();
    let machine = machine();
    let folder = machine.data_dir().join("seccomp/profiles");
    fs::create_dir_all(&folder).expect("made");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]});
    fs::write(folder.join("no-chmod.json"), profile.to_string()).expect("written");
    let with = |name: &str, file: &str| {
        pod(
            name,
            "Never",
            &format!(
                "  containers:\n  - name: main\n    image: busybox:test\n    command: [sh, -c, \"exec 2>&1; chmod 600 /etc/passwd; echo $?; grep Seccomp: /proc/self/status\"]\n    \
             securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: {file}}}}}\n"
            ),
        )
    };
    machine.apply(&with("filtered", "profiles/no-chmod.json"));
    machine.apply(&with("absent", "profiles/none.json"));
    let succeeded = "jsonpath={.status.phase}=Succeeded";
    machine.wait("pod/filtered", succeeded, Duration::from_secs(20));
    let log = machine.kubectl(&["logs", "filtered"]).ok();
    assert!(
        log.contains("Input/output error\n1\nSeccomp:\t2\n"),
        "{log}"
    );
    eventually("the file is missed", Duration::from_secs(20), || {
        let status = machine.get(&["pod", "absent"])["status"]["containerStatuses"][0].clone();
        let waiting = &status["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        match waiting["reason"] == "CreateContainerError"
            && message.contains("no such file or directory")
        {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
}

/// What a file of either cgroup version says for the container, or for its whole pod.
fn cgroup(machine: &Machine, pod: &Value, container: Option<&str>, files: [&str; 2]) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let id = container.map(|name| {
        let all = pod["status"]["containerStatuses"].as_array();
        let status = all.into_iter().flatten().find(|s| s["name"] == name);
        let id = status
            .and_then(|s| s["containerID"].as_str())
            .unwrap_or_default();
        id.trim_start_matches("kernelet://").to_owned()
    });
    let below = id.map_or(format!("pod{uid}"), |id| format!("pod{uid}/{id}"));
    let [v1, v2] = files;
    let script = format!(
        "cat $(find /sys/fs/cgroup -path '*/{below}/{v1}' -o -path '*/{below}/{v2}' | head -1)"
    );
    machine.sh(&script).ok().trim().to_owned()
}

const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
const CPU: [&str; 2] = ["cpu.cfs_quota_us", "cpu.max"];

fn resize(machine: &Machine, container: &str, resources: Value) -> kernelet_scenarios::Output {
    let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
    machine.kubectl(&[
        "patch",
        "pod",
        "box",
        "--subresource=resize",
        "-p",
        &patch.to_string(),
    ])
}

/// The pod as soon as nothing of a resize is left and its container shows this.
fn settled(machine: &Machine, index: usize, resources: &Value) -> Value {
    eventually("the resize ends", Duration::from_secs(30), || {
        let pod = machine.get(&["pod", "box"]);
        let status = &pod["status"];
        let conditions = status["conditions"].to_string();
        let container = &status["containerStatuses"][index];
        let done = container["resources"] == *resources && !conditions.contains("PodResize");
        match done && container["allocatedResources"] == resources["requests"] {
            true => Ok(pod),
            false => Err(status.to_string()),
        }
    })
}

/// The message of the pod's condition of this type and reason.
fn condition(machine: &Machine, type_: &str, reason: &str) -> String {
    eventually(type_, Duration::from_secs(20), || {
        let status = machine.get(&["pod", "box"])["status"].clone();
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = all
            .iter()
            .find(|c| c["type"] == type_ && c["reason"] == reason && c["status"] == "True");
        let message = found.and_then(|c| c["message"].as_str().map(str::to_owned));
        message.ok_or_else(|| status["conditions"].to_string())
    })
}

#[test]
fn a_running_pod_is_resized() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(&pod(
        "box",
        "Always",
        r#"  volumes: [{name: m, emptyDir: {medium: Memory}}]
  containers:
  - name: a
    image: busybox:test
    command: [sleep, "3600"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    volumeMounts: [{name: m, mountPath: /m}]
  - name: b
    image: busybox:test
    command: [sleep, "3600"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
"#,
    ));
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    let mib = |n: u64| (n << 20).to_string();
    let before = machine.get(&["pod", "box"]);
    let starts = |text: &str, quota: &str| text.split(' ').next() == Some(quota);
    assert_eq!(cgroup(&machine, &before, None, MEMORY), mib(128));

    let larger = json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "300m", "memory": "100Mi"}});
    resize(
        &machine,
        "a",
        json!({"limits": {"cpu": "300m", "memory": "100Mi"}}),
    )
    .ok();
    let pod = settled(&machine, 0, &larger);
    assert_eq!(pod["spec"]["containers"][0]["resources"], larger);
    assert_eq!(pod["metadata"]["generation"], 2);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(cgroup(&machine, &pod, Some("a"), MEMORY), mib(100));
    assert_eq!(cgroup(&machine, &pod, None, MEMORY), mib(164));
    let quota = cgroup(&machine, &pod, Some("a"), CPU);
    assert!(starts(&quota, "30000"), "{quota}");
    let quota = cgroup(&machine, &pod, None, CPU);
    assert!(starts(&quota, "50000"), "{quota}");
    await_event(
        &machine,
        "box",
        "ResizeCompleted",
        "Pod resize completed: {\"containers\":[{\"name\":\"a\",",
    );

    // Its policy wants a restart for memory, and none for CPU.
    let more_cpu = json!({"requests": {"cpu": "150m", "memory": "32Mi"}, "limits": {"cpu": "400m", "memory": "64Mi"}});
    resize(
        &machine,
        "b",
        json!({"requests": {"cpu": "150m"}, "limits": {"cpu": "400m"}}),
    )
    .ok();
    let pod = settled(&machine, 1, &more_cpu);
    assert_eq!(pod["status"]["containerStatuses"][1]["restartCount"], 0);
    let more = json!({"requests": {"cpu": "150m", "memory": "32Mi"}, "limits": {"cpu": "400m", "memory": "80Mi"}});
    resize(&machine, "b", json!({"limits": {"memory": "80Mi"}})).ok();
    eventually("b is started again", Duration::from_secs(30), || {
        let status = machine.get(&["pod", "box"])["status"]["containerStatuses"][1].clone();
        match status["restartCount"] == 1 && !status["state"]["running"].is_null() {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
    let pod = settled(&machine, 1, &more);
    assert_eq!(cgroup(&machine, &pod, Some("b"), MEMORY), mib(80));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    await_event(
        &machine,
        "box",
        "Killing",
        "Container b resize requires restart",
    );

    // A limit below what is used isn't set; when the memory is given back, it is.
    machine
        .kubectl(&[
            "exec",
            "box",
            "-c",
            "a",
            "--",
            "dd",
            "if=/dev/zero",
            "of=/m/x",
            "bs=1M",
            "count=40",
        ])
        .ok();
    let least = json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "300m", "memory": "20Mi"}});
    resize(
        &machine,
        "a",
        json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "20Mi"}}),
    )
    .ok();
    let why = condition(&machine, "PodResizeInProgress", "Error");
    assert!(
        why.starts_with(
            "attempting to set container \"a\" memory limit (20971520) below current usage ("
        ),
        "{why}"
    );
    machine
        .kubectl(&["exec", "box", "-c", "a", "--", "rm", "/m/x"])
        .ok();
    settled(&machine, 0, &least);

    // What the whole node doesn't have is left undone, and said.
    resize(
        &machine,
        "a",
        json!({"requests": {"cpu": "900"}, "limits": {"cpu": "900"}}),
    )
    .ok();
    let why = condition(&machine, "PodResizePending", "Infeasible");
    assert!(
        why.starts_with("Node didn't have enough capacity: cpu, requested: 900150, capacity: "),
        "{why}"
    );
    await_event(
        &machine,
        "box",
        "ResizeInfeasible",
        "Node didn't have enough capacity",
    );
    let pod = machine.get(&["pod", "box"]);
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"], least);
    resize(
        &machine,
        "a",
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}),
    )
    .ok();
    let pod = settled(&machine, 0, &least);

    // A later agent finds nothing to do.
    machine.kernelet(&["down"]).ok();
    machine.up();
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    let again = machine.get(&["pod", "box"]);
    assert_eq!(
        again["status"]["containerStatuses"],
        pod["status"]["containerStatuses"]
    );

    for (resources, why) in [
        (
            json!({"limits": {"cpu": null}}),
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ),
        (
            json!({"limits": {"cpu": "50m"}}),
            "must be less than or equal to cpu limit of 50m",
        ),
    ] {
        let refused = resize(&machine, "a", resources.clone());
        assert!(
            refused.code == 1 && refused.stderr.contains(why),
            "{resources}: {}",
            refused.stderr
        );
    }
}
