//! Command lines that are refused, and where errors go.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    bundle::{bundle, program},
    fails, sleeping,
};

#[test]
fn usage_is_refused_in_runcs_words() {
    let Some(b) = bundle("usage") else { return };
    let ran = b.call(&["state"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out
            .starts_with("Incorrect Usage.\n\nNAME:\n   kernelet-oci state"),
        "{ran:?}"
    );
    assert!(
        ran.err
            .contains("\\\"state\\\" requires exactly 1 argument(s)"),
        "{ran:?}"
    );
    fails(&b, &["kill"], "requires a minimum of 1 argument(s)");
    fails(
        &b,
        &["kill", "a", "b", "c"],
        "requires a maximum of 2 argument(s)",
    );
    fails(
        &b,
        &["create", "--nothing", "a"],
        "flag provided but not defined: -nothing",
    );
    fails(&b, &["state", ""], "container id cannot be empty");
    fails(&b, &["state", "a/b"], "invalid container ID format");
    fails(
        &b,
        &["--log-format", "xml", "list"],
        "invalid log-format: xml",
    );
    fails(
        &b,
        &["--cgroup-manager", "none", "list"],
        "invalid cgroup-manager: none",
    );
    fails(
        &b,
        &["--root", "/", "list"],
        "--root argument should not be set to /",
    );
    assert_eq!(b.call(&["nothing"]).code, Some(3));
    let version = b.succeeds(&["--version"]);
    assert!(
        version.starts_with("kernelet-oci version ") && version.contains("\nspec: 1.3.0\n"),
        "{version}"
    );
    for command in ["create", "run", "exec", "update", "checkpoint"] {
        let help = b.succeeds(&[command, "--help"]);
        assert!(help.contains("OPTIONS:\n   --"), "{help}");
    }
    assert!(b.succeeds(&["--help"]).contains("GLOBAL OPTIONS:"));
}

#[test]
fn errors_are_logged_where_the_caller_wants_them() {
    let Some(b) = bundle("log") else { return };
    let plain = b.call(&["state", "nobody"]);
    assert!(plain.err.starts_with("time=\"20"), "{plain:?}");
    assert!(
        plain
            .err
            .ends_with("level=error msg=\"container does not exist\"\n"),
        "{plain:?}"
    );
    let log = b.path().join("log");
    let name = log.to_str().unwrap();
    let other = b.call(&[
        "--log",
        name,
        "--log-format",
        "json",
        "--debug",
        "state",
        "nobody",
    ]);
    assert_eq!(other.err, "container does not exist\n");
    let lines: Vec<Value> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (lines[0]["level"].as_str(), lines.len()),
        (Some("debug"), 2)
    );
    assert_eq!(lines[1]["level"], "error");
    assert_eq!(lines[1]["msg"], "container does not exist");
    fs::remove_file(&log).unwrap();
    b.call(&[
        "--log",
        name,
        "--log-level",
        "error",
        "--debug",
        "state",
        "nobody",
    ]);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1);
}

#[test]
fn checkpoints_are_refused_in_one_line() {
    let Some(b) = sleeping("checkpoint") else {
        return;
    };
    b.succeeds(&["run", "-d", &b.id]);
    fails(
        &b,
        &["checkpoint", "--image-path", "i", "--leave-running", &b.id],
        "checkpoint is not supported: it needs CRIU",
    );
    fails(
        &b,
        &["restore", "--image-path", "i", "-d", "other"],
        "restore is not supported: it needs CRIU",
    );
    let features: Value = serde_json::from_str(&b.succeeds(&["features"])).unwrap();
    assert_eq!(
        features["annotations"]["org.opencontainers.runc.checkpoint.enabled"],
        "false"
    );
    b.succeeds(&["delete", "-f", &b.id]);
}

#[test]
fn the_starting_configuration_is_runcs() {
    let Some(b) = bundle("spec") else { return };
    fails(&b, &["spec"], "File config.json exists. Remove it first");
    if Command::new("runc").arg("--version").output().is_err() {
        println!("SKIP spec: needs runc (package runc)");
        return;
    }
    for flags in [&[][..], &["--rootless"]] {
        let text = |dir: &str, program: &mut Command| {
            let dir = b.path().join(format!("{dir}{}", flags.len()));
            fs::create_dir(&dir).unwrap();
            assert!(
                program
                    .arg("spec")
                    .args(flags)
                    .arg("--bundle")
                    .arg(&dir)
                    .status()
                    .unwrap()
                    .success()
            );
            let mut value: Value =
                serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
            // Both are of their release: runc has had no ambient capabilities here since 1.2.
            value["ociVersion"] = json!("");
            value["process"]["capabilities"]
                .as_object_mut()
                .unwrap()
                .remove("ambient");
            value
        };
        let ours = text("ours", &mut Command::new(program()));
        assert_eq!(ours, text("runc", &mut Command::new("runc")));
    }
}
