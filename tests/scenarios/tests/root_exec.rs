//! Sessions in running containers by stock kubectl: exec with its streams, exit codes and terminal, and cp.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use sha2::{Digest, Sha256};

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: box, annotations: {kubectl.kubernetes.io/default-container: main}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: side, image: "busybox:test", command: [sleep, "3600"], env: [{name: WHO, value: side}]}
  - {name: main, image: "busybox:test", command: [sleep, "3600"], env: [{name: WHO, value: main}]}
"#;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(POD);
    machine.wait("pod/box", "condition=Ready", Duration::from_secs(30));
    machine
}

/// Bytes that no compression and no line handling leaves as they are by chance.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        })
        .collect()
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Runs `kubectl` with this input; code, output, errors.
fn fed(machine: &Machine, args: &[&str], input: Vec<u8>) -> (i32, Vec<u8>, String) {
    feed(machine.kubectl_command(args), input)
}

fn feed(mut kubectl: Command, input: Vec<u8>) -> (i32, Vec<u8>, String) {
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        // It may end before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic");
    (
        output.status.code().unwrap_or(-1),
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Whether a process with this in its command line runs in the container.
fn runs(machine: &Machine, what: &str) -> bool {
    let list = machine
        .kubectl(&["exec", "box", "--", "ps", "-o", "args"])
        .ok();
    list.lines().any(|line| line.trim() == what)
}

fn await_gone(machine: &Machine, what: &str) {
    eventually(
        "the process is gone",
        Duration::from_secs(10),
        || match runs(machine, what) {
            true => Err(format!("{what} runs")),
            false => Ok(()),
        },
    );
}

fn killed(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn kubectl_exec_carries_streams_and_exit_codes() {
    skip_unless_root!();
    let machine = machine();
    let exec = |args: &[&str]| {
        let mut all = vec!["exec", "box"];
        all.extend(args);
        machine.kubectl(&all)
    };

    let both = exec(&["--", "sh", "-c", "echo out $WHO; echo err >&2"]);
    assert_eq!(
        (both.code, both.stdout.as_str()),
        (0, "out main\n"),
        "{}",
        both.stderr
    );
    assert!(both.stderr.lines().any(|l| l == "err"), "{}", both.stderr);
    let side = exec(&["-c", "side", "--", "sh", "-c", "echo $WHO"]).ok();
    assert_eq!(side, "side\n");

    let three = exec(&["--", "sh", "-c", "echo last words; exit 3"]);
    assert_eq!((three.code, three.stdout.as_str()), (3, "last words\n"));
    assert!(
        three.stderr.contains("command terminated with exit code 3"),
        "{}",
        three.stderr
    );
    let signalled = exec(&["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(signalled.code, 137, "{}", signalled.stderr);
    let missing = exec(&["--", "no-such-program"]);
    assert!(
        missing.code != 0 && missing.stderr.contains("no-such-program"),
        "{missing:?}"
    );
    let nowhere = exec(&["-c", "nobody", "--", "true"]);
    assert!(
        nowhere.code == 1
            && nowhere
                .stderr
                .contains("container nobody is not valid for pod box"),
        "{nowhere:?}"
    );
    let nothing = machine.kubectl(&["exec", "nothing", "--", "true"]);
    assert!(
        nothing.stderr.contains("pods \"nothing\" not found"),
        "{nothing:?}"
    );

    // A container that has ended is none to go into.
    machine.apply(
        r#"apiVersion: v1
kind: Pod
metadata: {name: half}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: gone, image: "busybox:test", command: ["true"]}
  - {name: main, image: "busybox:test", command: [sleep, "3600"]}
"#,
    );
    eventually("the refusal", Duration::from_secs(20), || {
        let ended =
            machine.get(&["pod", "half"])["status"]["containerStatuses"][0]["state"].clone();
        if ended["terminated"].is_null() {
            return Err(ended.to_string());
        }
        Ok(())
    });
    let gone = machine.kubectl(&["exec", "half", "-c", "gone", "--", "true"]);
    assert!(
        gone.code == 1
            && gone
                .stderr
                .contains("unable to upgrade connection: container not found (\"gone\")"),
        "{gone:?}"
    );

    // The same over SPDY, which older clients speak.
    let spdy = |args: &[&str]| {
        let mut all = vec!["exec", "box", "--"];
        all.extend(args);
        let mut command = machine.kubectl_command(&all);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
        let output = command.output().expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, err) = spdy(&["sh", "-c", "echo out $WHO; echo err >&2; exit 3"]);
    assert_eq!((code, out.as_str()), (3, "out main\n"), "{err}");
    assert!(
        err.contains("err\n") && err.contains("command terminated with exit code 3"),
        "{err}"
    );
    let (code, _, err) = spdy(&["no-such-program"]);
    assert!(code != 0 && err.contains("no-such-program"), "{err}");
    let data = noise(10 << 20);
    let mut command = machine.kubectl_command(&["exec", "-i", "box", "--", "cat"]);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    let (code, out, stderr) = feed(command, data.clone());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!((out.len(), digest(&out)), (data.len(), digest(&data)));

    // Ten megabytes in and out again, and the end of stdin ends `cat`.
    let (code, out, stderr) = fed(&machine, &["exec", "-i", "box", "--", "cat"], data.clone());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!((out.len(), digest(&out)), (data.len(), digest(&data)));
    let (code, out, stderr) = fed(
        &machine,
        &["exec", "-i", "box", "--", "sha256sum"],
        data.clone(),
    );
    assert_eq!(code, 0, "{stderr}");
    assert!(String::from_utf8_lossy(&out).starts_with(&digest(&data)));
    // Who doesn't read its stdin ends when it likes.
    let (code, ..) = fed(
        &machine,
        &["exec", "-i", "box", "--", "sh", "-c", "exit 4"],
        data,
    );
    assert_eq!(code, 4);

    // A reader that stops reading holds up itself alone.
    let mut slow = machine
        .kubectl_command(&["exec", "box", "--", "cat", "/dev/zero"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut first = [0; 4096];
    slow.stdout
        .as_mut()
        .expect("piped")
        .read_exact(&mut first)
        .expect("it begins");
    assert_eq!(exec(&["--", "echo", "quick"]).ok(), "quick\n");
    assert!(runs(&machine, "cat /dev/zero"));
    killed(slow);
    await_gone(&machine, "cat /dev/zero");
}

/// A shell in the pod from a terminal of 33 rows and 101 columns, which `script` gives kubectl.
fn in_terminal(machine: &Machine, script: &str) -> std::process::Output {
    let line = format!(
        "stty rows 33 cols 101; exec kubectl --kubeconfig {} exec -it box -- sh -c '{script}'",
        machine.kubeconfig().display()
    );
    let mut child = machine
        .command("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("HOME", machine.dir())
        .env("KUBECACHEDIR", machine.dir().join("cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs");
    // Held: for an end of its input `script` types a character into the terminal.
    let _stdin = child.stdin.take();
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_terminal_has_the_clients_size() {
    skip_unless_root!();
    let machine = machine();
    let output = in_terminal(
        &machine,
        "test -t 0 && test -t 1 && echo tty=yes; stty size; echo term=$TERM; exit 5",
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expect in ["tty=yes", "term=xterm"] {
        assert!(text.lines().any(|l| l.trim() == expect), "{expect}: {text}");
    }
    assert_eq!(output.status.code(), Some(5), "{text}");
    // kubectl tells the size beside the start, not before it.
    eventually("the size", Duration::from_secs(10), || {
        let output = in_terminal(
            &machine,
            r#"while test "$(stty size)" = "0 0"; do sleep 0.05; done; stty size"#,
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().any(|l| l.trim() == "33 101") {
            true => Ok(()),
            false => Err(text),
        }
    });
}

#[test]
fn a_client_that_is_killed_takes_its_process_with_it() {
    skip_unless_root!();
    let machine = machine();
    let holding = |args: &[&str], websockets: &str| {
        let mut command = machine.kubectl_command(args);
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("kubectl starts")
    };
    // The pipes of sessions; what else the program has open comes and goes.
    let open = || {
        let pid = machine.pid().expect("it runs");
        let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let targets = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("pipe:"))
            .count()
    };
    // The first brings what stays: caches, connections.
    machine.kubectl(&["exec", "box", "--", "true"]).ok();
    let before = open();
    for (args, websockets) in [
        (&["exec", "box", "--", "sleep", "1234"][..], "true"),
        (&["exec", "-i", "box", "--", "sleep", "1234"], "true"),
        (&["exec", "-i", "box", "--", "sleep", "1234"], "false"),
    ] {
        let client = holding(args, websockets);
        eventually("the process runs", Duration::from_secs(10), || {
            match runs(&machine, "sleep 1234") {
                true => Ok(()),
                false => Err("not yet".into()),
            }
        });
        killed(client);
        await_gone(&machine, "sleep 1234");
    }
    eventually(
        "the descriptors are closed",
        Duration::from_secs(20),
        || {
            let now = open();
            match now <= before {
                true => Ok(()),
                false => Err(format!("{now} of {before}")),
            }
        },
    );
}

#[test]
fn kubectl_cp_copies_trees_and_large_files_both_ways() {
    skip_unless_root!();
    let machine = machine();
    let here = machine.dir().join("tree");
    fs::create_dir_all(here.join("deep/er")).expect("made");
    fs::write(here.join("a.txt"), "a\n").expect("written");
    fs::write(here.join("deep/er/b"), noise(100_000)).expect("written");
    fs::write(here.join("deep/run.sh"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(here.join("deep/run.sh"), fs::Permissions::from_mode(0o755)).expect("set");
    fs::write(machine.dir().join("large"), noise(100 << 20)).expect("written");
    let cp = |from: &str, to: &str| {
        machine.kubectl(&["cp", from, to, "--retries=0"]).ok();
    };
    let path = |name: &str| machine.dir().join(name).display().to_string();

    cp(&path("tree"), "box:/tmp/tree");
    cp("box:/tmp/tree", &path("back"));
    let same = Command::new("diff")
        .args(["-r", &path("tree"), &path("back")])
        .output()
        .expect("diff runs");
    assert!(
        same.status.success(),
        "{}",
        String::from_utf8_lossy(&same.stdout)
    );
    // kubectl's own unpacking drops modes; the container's `tar` doesn't.
    let mode = machine.kubectl(&[
        "exec",
        "box",
        "--",
        "stat",
        "-c",
        "%a",
        "/tmp/tree/deep/run.sh",
    ]);
    assert_eq!(mode.ok(), "755\n");

    cp(&path("large"), "box:/tmp/large");
    cp("box:/tmp/large", &path("large.back"));
    let (sent, back) = (
        fs::read(path("large")).expect("read"),
        fs::read(path("large.back")).expect("read"),
    );
    assert_eq!((back.len(), digest(&back)), (sent.len(), digest(&sent)));
}
