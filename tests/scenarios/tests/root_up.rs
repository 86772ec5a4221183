//! `up`, `status`, `down`: what they make, and how they refuse.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use kernelet_scenarios::{Machine, Output, eventually, skip_unless_root};

#[track_caller]
fn refused(output: &Output, says: &[&str]) {
    assert_ne!(output.code, 0, "{}", output.stdout);
    let error = output.stderr.trim();
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    for text in says {
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
}

#[test]
fn keys_and_the_kubeconfig_are_private_and_status_tells_what_runs() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    for file in [
        "kubeconfig",
        "pki/ca.key",
        "pki/sa.key",
        "pki/apiserver.key",
        "pki/admin.key",
    ] {
        let mode = fs::metadata(machine.data_dir().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mode = fs::metadata(machine.data_dir())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let status = machine.status();
    assert_eq!(status["running"], true);
    for part in [
        "store",
        "server",
        "scheduler",
        "controllers",
        "node",
        "network",
    ] {
        assert_eq!(
            status["parts"][part]["state"], "healthy",
            "{part}: {status}"
        );
    }
    let text = machine.kernelet(&["status"]).ok();
    assert!(
        text.contains("API server") && text.contains("https://10.77.0.2:6443"),
        "{text}"
    );

    let nodes = machine.kubectl(&["get", "nodes"]).ok();
    assert!(
        nodes.contains("node-a") && nodes.contains("Ready"),
        "{nodes}"
    );

    machine.kernelet(&["down"]).ok();
    assert_eq!(machine.kernelet(&["status"]).code, 3);
}

#[test]
fn each_thing_that_prevents_a_start_is_one_line_with_its_remedy() {
    skip_unless_root!();
    let machine = Machine::new();

    // A port that somebody else has.
    let mut holder = machine
        .command("python3")
        .args(["-c", "import socket,sys; s=socket.create_server(('0.0.0.0',6443)); print('up',flush=True); sys.stdin.read()"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    refused(&machine.try_up(), &["port 6443 is taken", "--api-port"]);
    drop(holder.stdin.take());
    holder.wait().unwrap();

    machine.up();
    refused(&machine.try_up(), &["already runs", "status"]);
    machine.kernelet(&["down"]).ok();

    // A data folder that is no folder, and a store that is no store.
    let file = machine.dir().join("file");
    fs::write(&file, "x").unwrap();
    let output = machine
        .command(&kernelet())
        .args(["up", "--data-dir"])
        .arg(&file)
        .output()
        .unwrap();
    let output = Output {
        code: output.status.code().unwrap(),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    refused(&output, &["folder"]);
    for entry in fs::read_dir(machine.data_dir().join("store"))
        .unwrap()
        .flatten()
    {
        if entry.file_type().unwrap().is_file() {
            fs::write(entry.path(), vec![b'x'; 8192]).unwrap();
        }
    }
    refused(&machine.try_up(), &["store"]);

    // Not root.
    let output = machine.sh(&format!(
        "setpriv --reuid 65534 --clear-groups {} up --data-dir /tmp/none",
        kernelet()
    ));
    refused(&output, &["root", "sudo"]);

    // An unknown key.
    let config = machine.dir().join("config.yaml");
    fs::write(&config, "node-nam: x\n").unwrap();
    let output = machine.sh(&format!(
        "{} status --config {}",
        kernelet(),
        config.display()
    ));
    refused(&output, &["node-nam", "node-name"]);
}

#[test]
fn pods_run_on_when_the_program_stops_or_is_killed_and_are_found_again() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.apply(include_str!("../../../examples/hello/hello.yaml"));
    machine.wait(
        "deployment/hello",
        "condition=Available",
        Duration::from_secs(60),
    );
    let address = machine.get(&["service", "hello"])["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let ask = || machine.sh(&format!("curl -sS --max-time 3 http://{address}/"));
    let identity = || {
        let pods = machine.get(&["pods"]);
        let mut rows: Vec<String> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| {
                let status = &pod["status"]["containerStatuses"][0];
                format!(
                    "{} {} {}",
                    pod["metadata"]["name"], status["containerID"], status["restartCount"]
                )
            })
            .collect();
        rows.sort();
        rows
    };
    let before = identity();

    machine.kernelet(&["down"]).ok();
    ask().ok(); // the programs in the kernel route on
    machine.up();
    assert_eq!(identity(), before, "the same containers, not restarted");
    ask().ok();

    let pid = machine.status()["pid"].as_i64().unwrap();
    machine.sh(&format!("kill -9 {pid}")).ok();
    ask().ok();
    machine.up();
    assert_eq!(identity(), before, "the same containers after a kill");
    eventually("the service answers", Duration::from_secs(5), || {
        let output = ask();
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    machine
        .kubectl(&[
            "delete",
            "deployment/hello",
            "--cascade=foreground",
            "--timeout=30s",
        ])
        .ok();
    eventually("the pods are gone", Duration::from_secs(15), || {
        match machine.get(&["pods"])["items"].as_array().map(Vec::len) {
            Some(0) => Ok(()),
            left => Err(format!("{left:?} pods")),
        }
    });
}

#[test]
fn down_pods_ends_them_and_a_later_up_starts_them_again() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.apply(include_str!("../../../examples/hello/hello.yaml"));
    machine.wait(
        "deployment/hello",
        "condition=Available",
        Duration::from_secs(60),
    );
    let said = machine.kernelet(&["down", "--pods"]).ok();
    assert!(said.contains("3 pods ended"), "{said}");
    machine.up();
    machine.wait(
        "deployment/hello",
        "condition=Available",
        Duration::from_secs(60),
    );
}

#[test]
fn a_purge_whose_program_is_killed_meanwhile_purges_all_the_same() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    let run_dir = machine.run_dir();
    let pid = machine.status()["pid"].as_i64().unwrap();
    // It accepts nothing, so that the purge waits for its answer when the kill comes.
    machine.sh(&format!("kill -STOP {pid}")).ok();
    let purge = machine
        .kernelet_command(&["down", "--purge"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let descriptors = format!("/proc/{}/fd", purge.id());
    eventually("it watches the program", Duration::from_secs(10), || {
        let targets: Vec<_> = fs::read_dir(&descriptors)
            .map_err(|error| error.to_string())?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .collect();
        match targets
            .iter()
            .any(|t| t.to_string_lossy().contains("pidfd"))
        {
            true => Ok(()),
            false => Err(format!("{targets:?}")),
        }
    });
    machine.sh(&format!("kill -9 {pid}")).ok();
    let output = purge.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!run_dir.exists());
}

fn kernelet() -> String {
    std::env::var("KERNELET_BIN_DIR")
        .map(|dir| format!("{dir}/kernelet"))
        .unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/kernelet").to_owned()
        })
}
