//! Pods that people make and wait for by hand, by stock kubectl: `run`, `wait`, and `debug` with somebody at it.

use std::{
    io::{Read, Write},
    process::Stdio,
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, skip_unless_root};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

/// `kubectl wait` while something is done; what it said.
fn meanwhile(machine: &Machine, args: &[&str], act: impl FnOnce()) -> String {
    let mut all = vec!["wait", "--timeout=30s"];
    all.extend(args);
    let wait = machine
        .kubectl_command(&all)
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    act();
    let output = wait.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pods_are_waited_for_in_each_way() {
    skip_unless_root!();
    let machine = machine();
    let run = |name: &str, command: &str| {
        let args = [
            "run",
            name,
            "--image=busybox:test",
            "--restart=Never",
            "--command",
            "--",
        ];
        machine
            .kubectl(&[&args[..], &["sh", "-c", command]].concat())
            .ok()
    };
    let made = meanwhile(&machine, &["pod/late", "--for=create"], || {
        assert_eq!(run("late", "exec sleep 3600"), "pod/late created\n");
    });
    assert_eq!(made, "pod/late condition met\n");
    let ready = meanwhile(&machine, &["pod/late", "--for=condition=Ready"], || {});
    assert_eq!(ready, "pod/late condition met\n");
    let phase = "--for=jsonpath={.status.phase}=Running";
    meanwhile(&machine, &["pod/late", phase], || {});
    let any = "--for=jsonpath={.status.podIP}";
    meanwhile(&machine, &["pod/late", any], || {});
    let gone = meanwhile(&machine, &["pod/late", "--for=delete"], || {
        machine
            .kubectl(&["delete", "pod", "late", "--grace-period=1", "--wait=false"])
            .ok();
    });
    assert_eq!(gone, "pod/late condition met\n");

    run("short", "echo said; sleep 1; exit 3");
    let ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=3";
    meanwhile(&machine, &["pod/short", ended], || {});
    meanwhile(
        &machine,
        &["pod/short", "--for=condition=Ready=false"],
        || {},
    );
    assert_eq!(machine.kubectl(&["logs", "short"]).ok(), "said\n");
    let late = machine.kubectl(&["wait", "pod/short", "--for=condition=Ready", "--timeout=1s"]);
    assert_eq!(
        (late.code, late.stderr.as_str()),
        (
            1,
            "error: timed out waiting for the condition on pods/short\n"
        )
    );
    let nobody = machine.kubectl(&[
        "wait",
        "pod/nobody",
        "--for=condition=Ready",
        "--timeout=1s",
    ]);
    assert_eq!(
        (nobody.code, nobody.stderr.as_str()),
        (
            1,
            "Error from server (NotFound): pods \"nobody\" not found\n"
        )
    );
    // Deleted already is deleted.
    let absent = machine.kubectl(&["wait", "pod/nobody", "--for=delete", "--timeout=1s"]);
    assert_eq!(absent.code, 0, "{}", absent.stderr);
}

#[test]
fn somebody_speaks_with_a_pod_that_is_made_for_it() {
    skip_unless_root!();
    let machine = machine();
    let args = [
        "run",
        "talk",
        "--rm",
        "-i",
        "--quiet",
        "--restart=Never",
        "--image=busybox:test",
        "--",
        "sh",
        "-c",
        "read line; echo \"heard $line\"",
    ];
    let said = machine.kubectl_stdin(&args, "hello\n");
    assert_eq!(said.stdout, "heard hello\n", "{}", said.stderr);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        machine
            .kubectl(&["get", "pod", "talk"])
            .stderr
            .contains("NotFound")
    );

    machine
        .kubectl(&[
            "run",
            "box",
            "--image=busybox:test",
            "--command",
            "--",
            "sleep",
            "3600",
        ])
        .ok();
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    let args = [
        "debug",
        "box",
        "-i",
        "--quiet",
        "--image=busybox:test",
        "-c",
        "look",
        "--target=box",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "read line; echo \"heard $line\"; ps -o args | grep -c '^sleep 3600'",
    ];
    // Its stdin stays open for others (no stdinOnce): a session is over with its own, so ours lasts till the end.
    let mut child = machine
        .kubectl_command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"hello\n").expect("it reads");
    let mut said = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut said).expect("it writes");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
    assert_eq!(said, "heard hello\n1\n");
    machine
        .kubectl(&["delete", "pod", "box", "--grace-period=1", "--timeout=20s"])
        .ok();
}
