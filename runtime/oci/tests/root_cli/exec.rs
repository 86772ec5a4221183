//! More processes in a container.

use std::fs;

use serde_json::json;

use crate::{fails, sleeping, state};

#[test]
fn exec_changes_what_it_is_told() {
    let Some(b) = sleeping("exec") else { return };
    let id = b.id.as_str();
    b.succeeds(&["run", "-d", id]);
    let exec = |flags: &[&str], script: &str| {
        b.succeeds(&[&["exec"], flags, &[id, "sh", "-c", script]].concat())
    };
    assert_eq!(exec(&["--cwd", "/bin"], "echo $PWD"), "/bin\n");
    assert_eq!(exec(&["--env", "A=1", "-e", "B=2"], "echo $A$B"), "12\n");
    assert_eq!(
        exec(&["-u", "5:6", "-g", "7", "-g", "8"], "id -u; id -g; id -G"),
        "5\n6\n6 7 8\n"
    );
    fails(&b, &["exec", "--user", "5:x", id, "true"], "bad gid");
    fails(
        &b,
        &["exec", "--additional-gids", "-1", id, "true"],
        "additional-gids must be a positive number -1",
    );
    let bounding = |flags: &[&str]| {
        let text = exec(flags, "grep CapBnd /proc/self/status");
        u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap()
    };
    assert_eq!(
        bounding(&["--cap", "CAP_SYS_TIME"]) ^ bounding(&[]),
        1 << 25
    );
    b.change(|c| c["process"]["noNewPrivileges"] = json!(false));
    let fresh = |flags: &[&str]| {
        exec(flags, "grep NoNewPrivs /proc/self/status")
            .trim()
            .ends_with('1')
    };
    assert!(!fresh(&[]) && fresh(&["--no-new-privs"]));
    let process = json!({"user": {"uid": 3, "gid": 4}, "args": ["sh", "-c", "echo $X; id -u; exit 9"], "cwd": "/bin", "env": ["X=y", "PATH=/bin"]});
    fs::write(b.path().join("process.json"), process.to_string()).unwrap();
    let ran = b.call(&["exec", "--process", "process.json", id]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(9), "y\n3\n"), "{ran:?}");
    b.succeeds(&[
        "exec",
        "--detach",
        "--pid-file",
        "exec.pid",
        id,
        "sleep",
        "1000",
    ]);
    let pid = fs::read_to_string(b.path().join("exec.pid")).unwrap();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "sleep\x001000\x00");
    fails(
        &b,
        &["exec", "-d", "-t", id, "true"],
        "cannot allocate tty if runc will detach without setting console socket",
    );
    fails(
        &b,
        &["exec", "--console-socket", "s", id, "true"],
        "cannot use console socket if runc will not detach or allocate tty",
    );
    fails(
        &b,
        &["exec", "--preserve-fds", "9", id, "true"],
        "unable to stat preserved-fd",
    );
    fails(&b, &["exec", "--cgroup", "nothing/there", id, "true"], "");
    b.succeeds(&["pause", id]);
    // It waits, frozen, until the container goes on.
    let mut waiting = b
        .command(&["exec", "--ignore-paused", id, "true"])
        .spawn()
        .unwrap();
    assert_eq!(state(&b)["status"], "paused");
    b.succeeds(&["resume", id]);
    assert!(waiting.wait().unwrap().success());
    b.succeeds(&["delete", "--force", id]);
}

#[test]
fn exec_joins_a_group_below_the_containers() {
    let Some(b) = sleeping("exec --cgroup") else {
        return;
    };
    let id = b.id.as_str();
    b.succeeds(&["run", "-d", id]);
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    let group = layout.group(&b.no_cgroup());
    let (dir, flag) = match group.v1_dir("pids") {
        Some(dir) => (dir.join("sub"), "pids:sub"),
        None => (group.v2_dir().unwrap().join("sub"), "sub"),
    };
    fs::create_dir(&dir).unwrap();
    let text = b.succeeds(&["exec", "--cgroup", flag, id, "cat", "/proc/self/cgroup"]);
    // Seen from the host's namespace or from the container's own, it ends so.
    assert!(text.lines().any(|line| line.ends_with("/sub")), "{text}");
    b.succeeds(&["delete", "--force", id]);
    assert!(!dir.exists());
}
