//! create, start, run, list, kill and delete.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{bundle::bundle, fails, sleeping, state, until, wait_for};

#[test]
fn a_life_follows_runcs_rules() {
    let Some(b) = sleeping("life rules") else {
        return;
    };
    let id = b.id.as_str();
    fails(
        &b,
        &["create", "--bundle", "/nowhere", id],
        "chdir /nowhere",
    );
    fails(
        &b,
        &["create", "--config", "other.json", id],
        "JSON specification file other.json not found",
    );
    for (command, expect) in [
        (&["start", id][..], "container does not exist"),
        (&["kill", id], "container does not exist"),
        (&["delete", id], "container does not exist"),
        (&["pause", id], "container does not exist"),
        (&["ps", id], "container does not exist"),
        (
            &["exec", id, "true"],
            "exec failed: container does not exist",
        ),
    ] {
        fails(&b, command, expect);
    }
    b.succeeds(&["delete", "--force", id]);
    fs::rename(b.path().join("config.json"), b.path().join("other.json")).unwrap();
    b.succeeds(&["create", "-config=other.json", "--pid-file", "pid", id]);
    fs::rename(b.path().join("other.json"), b.path().join("config.json")).unwrap();
    fails(
        &b,
        &["create", id],
        "container with given ID already exists",
    );
    let shown = state(&b);
    assert_eq!(shown["status"], "created");
    assert_eq!(
        shown["pid"].to_string(),
        fs::read_to_string(b.path().join("pid")).unwrap()
    );
    let keys: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "bundle",
            "created",
            "id",
            "ociVersion",
            "owner",
            "pid",
            "rootfs",
            "status"
        ]
    );
    assert_eq!(shown["bundle"], b.path().to_str().unwrap());
    assert_eq!(shown["rootfs"], b.root().to_str().unwrap());
    fails(&b, &["resume", id], "container not paused");
    b.succeeds(&["start", id]);
    fails(
        &b,
        &["start", id],
        "cannot start an already running container",
    );
    fails(
        &b,
        &["delete", id],
        &format!("cannot delete container {id} that is not stopped: running"),
    );
    fails(
        &b,
        &["kill", id, "SIGNONE"],
        "unknown signal \\\"SIGNONE\\\"",
    );
    b.succeeds(&["pause", id]);
    assert_eq!(state(&b)["status"], "paused");
    fails(&b, &["pause", id], "container not running");
    fails(
        &b,
        &["exec", id, "true"],
        "cannot exec in a paused container (use --ignore-paused to override)",
    );
    fails(&b, &["delete", id], "that is not stopped: paused");
    b.succeeds(&["resume", id]);
    assert_eq!(state(&b)["status"], "running");
    b.succeeds(&["kill", id, "term"]);
    wait_for(&b, "stopped");
    assert_eq!(state(&b)["pid"], 0);
    fails(&b, &["kill", id, "9"], "container not running");
    b.succeeds(&["kill", "--all", id, "9"]);
    fails(
        &b,
        &["start", id],
        "cannot start a container that has stopped",
    );
    fails(&b, &["pause", id], "container not running");
    fails(
        &b,
        &["exec", id, "true"],
        "cannot exec in a stopped container",
    );
    fails(
        &b,
        &["update", "--pids-limit", "5", id],
        "container not running",
    );
    fails(&b, &["events", "--stats", id], "is not running");
    b.succeeds(&["delete", id]);
    assert_eq!(b.succeeds(&["list", "-q"]), "");
}

#[test]
fn exit_codes_are_the_processes() {
    let Some(b) = sleeping("exit codes") else {
        return;
    };
    let id = b.id.as_str();
    b.script("exit 42");
    assert_eq!(b.run().code, Some(42));
    b.script("kill -9 $$");
    // pid 1 of a namespace can't kill itself.
    b.change(|c| {
        c["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| n["type"] != "pid")
    });
    assert_eq!(b.run().code, Some(137));
    b.change(|c| c["process"]["args"] = json!(["nothing-here"]));
    let missing = b.run();
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.err.contains("run failed: unable to start container process: exec: \\\"nothing-here\\\": executable file not found in $PATH"),
        "{missing:?}"
    );
    b.script("while :; do sleep 0.05; done");
    b.succeeds(&["run", "--detach", id]);
    assert_eq!(b.call(&["exec", id, "sh", "-c", "exit 3"]).code, Some(3));
    assert_eq!(b.call(&["exec", id, "nothing-here"]).code, Some(255));
    assert_eq!(b.call(&["exec", id]).code, Some(255));
    assert_eq!(b.call(&["exec"]).code, Some(1));
    b.succeeds(&["delete", "-f", id]);
}

#[test]
fn run_keeps_a_container_where_asked() {
    let Some(b) = bundle("keep") else { return };
    b.script("exit 5");
    assert_eq!(b.call(&["run", "--keep", &b.id]).code, Some(5));
    assert_eq!(state(&b)["status"], "stopped");
    b.succeeds(&["delete", &b.id]);
    assert_eq!(b.run().code, Some(5));
    fails(&b, &["state", &b.id], "container does not exist");
}

#[test]
fn containers_are_listed() {
    let Some(b) = sleeping("list") else { return };
    assert_eq!(
        b.succeeds(&[
            "--root",
            b.path().to_str().unwrap(),
            "list",
            "--format",
            "json"
        ])
        .trim()
        .len(),
        4
    );
    fails(
        &b,
        &["--root", "/nowhere/at/all", "list"],
        "/nowhere/at/all",
    );
    b.succeeds(&["run", "-d", &b.id]);
    let table = b.succeeds(&["list"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert_eq!(
        (rows[1][0], rows[1][2], rows[1][5]),
        (b.id.as_str(), "running", "root")
    );
    let all: Value = serde_json::from_str(&b.succeeds(&["list", "-f", "json"])).unwrap();
    assert_eq!(
        (&all[0]["id"], &all[0]["owner"]),
        (&json!(b.id), &json!("root"))
    );
    fails(&b, &["list", "--format", "xml"], "invalid format option");
    assert_eq!(b.succeeds(&["list", "--quiet"]), format!("{}\n", b.id));
    let pids: Vec<i32> =
        serde_json::from_str(&b.succeeds(&["ps", "--format", "json", &b.id])).unwrap();
    assert!(
        pids.contains(&(state(&b)["pid"].as_i64().unwrap() as i32)),
        "{pids:?}"
    );
    if Command::new("ps")
        .arg("-ef")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        let shown = b.succeeds(&["ps", &b.id]);
        assert!(
            shown.starts_with("UID") && shown.contains("trap"),
            "{shown}"
        );
        let shown = b.succeeds(&["ps", &b.id, "-o", "pid,comm"]);
        assert_eq!(
            shown
                .lines()
                .next()
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["PID", "COMMAND"]
        );
        fails(
            &b,
            &["ps", &b.id, "-o", "comm"],
            "couldn't find PID field in ps output",
        );
    } else {
        println!("SKIP ps: no ps here (package procps)");
    }
    b.succeeds(&["delete", "--force", &b.id]);
}

#[test]
fn one_id_is_made_and_deleted_by_many_at_once() {
    let Some(b) = sleeping("concurrent") else {
        return;
    };
    let id = b.id.as_str();
    for _ in 0..5 {
        let spawn = |args: &[&str]| {
            b.command(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push((true, spawn(&["create", id])));
            all.push((false, spawn(&["delete", "--force", id])));
        }
        for (creates, mut child) in all {
            let status = child.wait().unwrap();
            assert!(creates || status.success(), "delete --force: {status}");
        }
        b.succeeds(&["delete", "--force", id]);
        assert_eq!(b.succeeds(&["list", "--quiet"]), "");
        let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
        assert!(!layout.group(&b.no_cgroup()).exists());
    }
}

#[test]
fn a_broken_state_is_removed_by_force() {
    let Some(b) = sleeping("broken state") else {
        return;
    };
    b.succeeds(&["run", "-d", &b.id]);
    let pid = state(&b)["pid"].to_string();
    let folder = b.path().join("state").join(&b.id);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&folder).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    fs::write(folder.join("state.json"), "{").unwrap();
    fails(&b, &["state", &b.id], "state.json");
    fails(&b, &["delete", &b.id], "state.json");
    b.succeeds(&["delete", "--force", &b.id]);
    assert!(!folder.exists());
    until(
        || !Path::new("/proc").join(&pid).exists(),
        "its process is gone",
    );
}

#[test]
fn no_pivot_enters_the_root_another_way() {
    let Some(b) = bundle("no-pivot") else { return };
    b.script("ls /; cat /proc/self/mountinfo");
    let ran = b.call(&["run", "--no-pivot", &b.id]);
    assert!(
        ran.code == Some(0) && ran.out.starts_with("bin\ndev\nproc\nsys\n"),
        "{ran:?}"
    );
    // Nothing of the host's is to be seen from the new root.
    assert!(!ran.out.contains(" /run "), "{ran:?}");
}
