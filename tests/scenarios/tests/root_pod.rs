//! What a pod is told and what becomes of it, with Debian's busybox as its image.

use std::time::Duration;

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn pod(name: &str, restart: &str, container: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: {restart}\n  terminationGracePeriodSeconds: 2\n{rest}\n  containers:\n  - name: main\n    image: busybox:test\n{container}\n"
    )
}

fn finished(machine: &Machine, name: &str) -> Value {
    let found = eventually(name, Duration::from_secs(20), || {
        let pod = machine.get(&["pod", name]);
        let phase = pod["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if phase == "Succeeded" || phase == "Failed" {
            Ok(pod)
        } else {
            Err(format!("{phase}: {}", pod["status"]))
        }
    });
    found["status"].clone()
}

#[test]
fn a_pod_gets_its_command_environment_user_folder_volumes_and_identity() {
    skip_unless_root!();
    let machine = machine();
    machine
        .kubectl(&[
            "create",
            "configmap",
            "settings",
            "--from-literal=color=blue",
        ])
        .ok();
    machine
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "hush",
            "--from-literal=word=xyzzy",
        ])
        .ok();
    machine.apply(&pod(
        "told",
        "Never",
        r#"    command: ["/bin/sh", "-c"]
    args:
    - |
      echo 'greet=$(GREETING)'; echo image=$FROM_IMAGE pod=$POD ip=$IP mem=$MEM
      id -u; id -g; id -G; pwd; hostname
      cat /etc/settings/color /etc/hush/word /info/labels; echo
      touch /scratch/x && echo scratch=ok
      touch /x 2>/dev/null || echo root=readonly
      grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status
      ls /var/run/secrets/kubernetes.io/serviceaccount
      cat /etc/resolv.conf
      echo $$$$
    env:
    - {name: WHO, value: world}
    - {name: GREETING, value: "hello $(WHO) $$(WHO)"}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    workingDir: /home
    resources: {limits: {memory: 32Mi, cpu: 500m}}
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}}
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: hush, mountPath: /etc/hush}
    - {name: info, mountPath: /info}
    - {name: scratch, mountPath: /scratch}"#,
        r#"  securityContext: {runAsUser: 1000, runAsGroup: 1001, fsGroup: 3000, supplementalGroups: [2000]}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: hush, secret: {secretName: hush}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: scratch, emptyDir: {}}"#,
    ));
    let status = finished(&machine, "told");
    assert_eq!(
        status["phase"],
        "Succeeded",
        "{status}\n{}",
        machine.kubectl(&["logs", "told"]).stdout
    );
    let ip = status["podIP"].as_str().unwrap().to_owned();
    let log = machine.kubectl(&["logs", "told"]).ok();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "greet=hello world $(WHO)", "{log}");
    assert_eq!(
        lines[1],
        format!("image=yes pod=told ip={ip} mem=33554432"),
        "{log}"
    );
    assert_eq!(&lines[2..4], ["1000", "1001"], "{log}");
    let groups: Vec<&str> = lines[4].split(' ').collect();
    assert!(
        groups.contains(&"2000") && groups.contains(&"3000"),
        "{log}"
    );
    assert_eq!(&lines[5..7], ["/home", "told"], "{log}");
    assert!(log.contains("bluexyzzyapp=\"told\""), "{log}");
    assert!(
        log.contains("scratch=ok") && log.contains("root=readonly"),
        "{log}"
    );
    assert!(
        log.contains("NoNewPrivs:\t1") && log.contains("Seccomp:\t2"),
        "{log}"
    );
    assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
    assert!(
        log.contains("ca.crt") && log.contains("token") && log.contains("namespace"),
        "{log}"
    );
    assert!(
        log.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{log}"
    );
    assert!(log.contains("nameserver 10.96.0.10"), "{log}");
    assert_eq!(lines.last(), Some(&"1"), "its own pid namespace: {log}");
    assert_eq!(status["qosClass"], "Guaranteed");
}

#[test]
fn exit_codes_and_reasons_are_true() {
    skip_unless_root!();
    let machine = machine();
    let cases = [
        ("done", "exit 0", "Succeeded", 0, "Completed"),
        ("wrong", "exit 7", "Failed", 7, "Error"),
        (
            "full",
            "exec tail -c 200m /dev/zero",
            "Failed",
            137,
            "OOMKilled",
        ),
    ];
    for (name, script, ..) in cases {
        machine.apply(&pod(
            name,
            "Never",
            &format!("    command: [/bin/sh, -c, {script:?}]\n    resources: {{limits: {{memory: 24Mi}}}}"),
            "",
        ));
    }
    for (name, _, phase, code, reason) in cases {
        let status = finished(&machine, name);
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(status["phase"], phase, "{name}: {status}");
        assert_eq!(ended["exitCode"], code, "{name}: {ended}");
        assert_eq!(ended["reason"], reason, "{name}: {ended}");
    }
    machine.apply(&pod(
        "absent",
        "Never",
        "    command: [/no/such/program]",
        "",
    ));
    let status = finished(&machine, "absent");
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 128, "{status}");
    assert_eq!(ended["reason"], "StartError", "{status}");
    assert!(
        ended["message"]
            .as_str()
            .unwrap_or_default()
            .contains("/no/such/program"),
        "{status}"
    );
}

#[test]
fn a_container_that_fails_is_restarted_with_back_off_and_probes_decide() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(&pod(
        "crash",
        "Always",
        "    command: [/bin/sh, -c, 'echo try; exit 3']",
        "",
    ));
    machine.apply(&pod(
        "probed",
        "Always",
        r#"    command: [/bin/sh, -c, "sleep 1; touch /tmp/ready; exec httpd -f -p 8080 -h /tmp"]
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /ready, port: 8080}, initialDelaySeconds: 3, periodSeconds: 1, failureThreshold: 1}"#,
        "",
    ));
    machine.apply(&pod(
        "tcp",
        "Always",
        r#"    command: [/bin/sh, -c, "exec httpd -f -p 9090"]
    readinessProbe: {tcpSocket: {port: 9090}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 1}"#,
        "",
    ));
    machine.wait("pod/probed", "condition=Ready", Duration::from_secs(20));
    machine.wait("pod/tcp", "condition=Ready", Duration::from_secs(20));
    eventually("crash loops", Duration::from_secs(30), || {
        let status = &machine.get(&["pod", "crash"])["status"]["containerStatuses"][0];
        let waiting = &status["state"]["waiting"];
        if waiting["reason"] == "CrashLoopBackOff" && status["restartCount"].as_i64() >= Some(1) {
            assert!(
                waiting["message"]
                    .as_str()
                    .unwrap()
                    .contains("back-off 10s restarting failed container=main pod=crash_default("),
                "{waiting}"
            );
            assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
            return Ok(());
        }
        Err(status.to_string())
    });
    eventually(
        "the liveness probe restarts it",
        Duration::from_secs(30),
        || {
            let status = &machine.get(&["pod", "tcp"])["status"]["containerStatuses"][0];
            if status["restartCount"].as_i64() >= Some(1) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        },
    );
    let events = machine.kubectl(&["get", "events"]).ok();
    for text in [
        "BackOff",
        "Unhealthy",
        "Liveness probe failed",
        "Killing",
        "Scheduled",
        "Pulled",
        "Created",
        "Started",
    ] {
        assert!(events.contains(text), "no {text} in\n{events}");
    }
    assert_eq!(
        machine.get(&["pod", "probed"])["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    let table = machine.kubectl(&["get", "pods"]).ok();
    assert!(
        table.contains("CrashLoopBackOff") || table.contains("Error"),
        "{table}"
    );
}

#[test]
fn logs_are_followed_and_a_pod_ends_within_its_grace() {
    skip_unless_root!();
    let machine = machine();
    machine.apply(&pod(
        "talker",
        "Never",
        r#"    command: [/bin/sh, -c, "trap 'echo bye; exit 0' TERM; for i in 1 2 3; do echo line $i; done; while :; do sleep 0.1; done"]"#,
        "",
    ));
    machine.apply(&pod(
        "deaf",
        "Never",
        r#"    command: [/bin/sh, -c, "trap '' TERM; while :; do sleep 1; done"]"#,
        "",
    ));
    machine.wait("pod/talker", "condition=Ready", Duration::from_secs(20));
    machine.wait("pod/deaf", "condition=Ready", Duration::from_secs(20));
    let follow = machine
        .kubectl_command(&["logs", "-f", "talker"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let began = std::time::Instant::now();
    machine
        .kubectl(&["delete", "pod", "talker", "deaf", "--timeout=20s"])
        .ok();
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let said = follow.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said, "line 1\nline 2\nline 3\nbye\n");
}
