//! The program itself, as podman and containerd would call it, on a bundle made of busybox.

#[path = "../../shim-client/tests/common/killer.rs"]
mod killer;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// KERNELET_OCI names it where this test runs on another machine than the one it was built on.
fn program() -> String {
    std::env::var("KERNELET_OCI").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kernelet-oci").into())
}

struct Bundle {
    dir: tempfile::TempDir,
    id: String,
}

/// `None`, loudly, where the test can't run.
fn bundle(test: &str, script: &str) -> Option<Bundle> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("SKIP {test}: needs /bin/busybox (package busybox-static)");
        return None;
    }
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let bundle = Bundle {
        dir: tempfile::tempdir().unwrap(),
        id: format!(
            "oci-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ),
    };
    let bin = bundle.path().join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "readlink", "hostname", "tty", "ls", "ps", "grep",
        "kill", "stat",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    assert!(
        bundle
            .call(&["spec", "--bundle", bundle.path().to_str().unwrap()])
            .status
            .success()
    );
    fs::create_dir(bundle.root()).unwrap();
    bundle.change(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
    });
    Some(bundle)
}

impl Bundle {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--root")
            .arg(self.root())
            .args(args)
            .current_dir(self.path());
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Calls with success and returns stdout.
    fn ok(&self, args: &[&str]) -> String {
        // To a file: a container that goes on would keep a pipe open.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let out = self.path().join(format!("out{number}"));
        let err = self.path().join(format!("err{number}"));
        let status = self
            .command(args)
            .stdin(std::process::Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        assert!(
            status.success(),
            "{args:?}: {status}: {}",
            fs::read_to_string(&err).unwrap()
        );
        fs::read_to_string(out).unwrap()
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    fn wait_for(&self, status: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state()["status"] != status {
            assert!(
                Instant::now() < deadline,
                "{} instead of {status}",
                self.state()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.ok(&["list", "--quiet"]), "");
        let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
        assert!(!layout.group(&self.id).exists(), "its cgroup is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.path().to_str().unwrap()),
            "a mount is left"
        );
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}

#[test]
fn run_gives_output_and_exit_code_and_leaves_nothing() {
    let Some(b) = bundle(
        "run",
        "echo hello; hostname; readlink /proc/self/exe; echo oops >&2; exit 42",
    ) else {
        return;
    };
    let output = b.call(&["run", &b.id]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        text(&output.stdout),
        "hello\nrunc\n/bin/busybox\n",
        "{}",
        text(&output.stderr)
    );
    assert_eq!(text(&output.stderr), "oops\n");
    assert_eq!(output.status.code(), Some(42));
    b.assert_nothing_left();
}

#[test]
fn a_container_goes_through_its_life() {
    let Some(b) = bundle(
        "life",
        "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done",
    ) else {
        return;
    };
    let id = b.id.clone();
    let pid_file = b.path().join("pid");
    b.ok(&[
        "create",
        "--bundle",
        ".",
        "--pid-file",
        pid_file.to_str().unwrap(),
        &id,
    ]);
    assert_eq!(b.state()["status"], "created");
    assert_eq!(
        b.state()["pid"].to_string(),
        fs::read_to_string(&pid_file).unwrap()
    );
    assert!(
        b.fails(&["create", "--bundle", ".", &id])
            .contains("container with given ID already exists")
    );
    assert!(b.ok(&["list"]).contains(&id));
    b.ok(&["start", &id]);
    assert!(b.fails(&["start", &id]).contains("already running"));
    b.wait_for("running");
    assert_eq!(
        b.ok(&["exec", &id, "sh", "-c", "readlink /proc/1/exe; exit 0"]),
        "/bin/busybox\n"
    );
    assert_eq!(
        b.call(&[
            "exec",
            "--user",
            "5:6",
            "--env",
            "A=1",
            &id,
            "sh",
            "-c",
            "exit $(id -u)$A"
        ])
        .status
        .code(),
        Some(51)
    );
    assert!(b.ok(&["ps", &id]).contains("sh -c"));
    b.ok(&["pause", &id]);
    assert_eq!(b.state()["status"], "paused");
    assert!(b.fails(&["exec", &id, "true"]).contains("paused"));
    b.ok(&["resume", &id]);
    assert_eq!(b.state()["status"], "running");
    let stats: Value =
        serde_json::from_str(b.ok(&["events", "--stats", &id]).lines().next().unwrap()).unwrap();
    assert!(
        stats["data"]["cpu"]["usage"]["total"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{stats}"
    );
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    if layout.has("pids") {
        b.ok(&["update", "--pids-limit", "77", &id]);
        let group = layout.group(&id.to_string());
        let pids = group
            .v1_dir("pids")
            .or_else(|| group.v2_dir())
            .unwrap()
            .join("pids.max");
        assert_eq!(fs::read_to_string(pids).unwrap(), "77\n");
    } else {
        println!("SKIP update: no pids controller");
        assert!(
            b.fails(&["update", "--pids-limit", "77", &id])
                .contains("no cgroup controller \"pids\"")
        );
    }
    assert!(b.fails(&["delete", &id]).contains("not stopped"));
    b.ok(&["kill", &id, "TERM"]);
    b.wait_for("stopped");
    assert!(b.fails(&["kill", &id]).contains("container not running"));
    b.ok(&["delete", &id]);
    assert!(b.fails(&["state", &id]).contains("does not exist"));
    b.assert_nothing_left();
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let Some(b) = bundle("failing creation", "true") else {
        return;
    };
    for (change, message) in [
        (
            json!({"process": {"args": ["nothing-here"]}}),
            "executable file not found in $PATH",
        ),
        (json!({"root": {"path": "not-there"}}), "not-there"),
        (
            json!({"process": {"oomScoreAdj": 2000}}),
            "process.oomScoreAdj",
        ),
        (
            json!({"linux": {"cgroupsPath": "a:b:c"}}),
            "linux.cgroupsPath",
        ),
        (
            json!({"hooks": {"createRuntime": [{"path": "/bin/false"}]}}),
            "error running createRuntime hook #0: exit status 1",
        ),
        (
            json!({"hooks": {"startContainer": [{"path": "bin/true"}]}}),
            "hooks.startContainer[0].path",
        ),
    ] {
        let saved = fs::read(b.path().join("config.json")).unwrap();
        b.change(|config| merge(config, &change));
        let error = b.fails(&["create", &b.id]);
        assert!(error.contains(message), "{change}: {error}");
        fs::write(b.path().join("config.json"), saved).unwrap();
        b.assert_nothing_left();
    }
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

#[test]
fn hooks_see_the_state() {
    let Some(b) = bundle("hooks", "sleep 100") else {
        return;
    };
    let script = b.path().join("hook");
    fs::write(
        &script,
        format!(
            "#!/bin/sh\necho \"$1\" >> {0}/hooks; cat >> {0}/hooks; echo >> {0}/hooks\n",
            b.path().display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hook = |name: &str| json!([{"path": script, "args": ["hook", name], "env": ["PATH=/bin:/usr/bin"]}]);
    b.change(|c| c["hooks"] = json!({"prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop")}));
    b.ok(&["create", &b.id]);
    b.ok(&["start", &b.id]);
    b.ok(&["delete", "--force", &b.id]);
    let text = fs::read_to_string(b.path().join("hooks")).unwrap();
    let order: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("p") || l.starts_with("c"))
        .collect();
    assert_eq!(
        order,
        ["prestart", "createRuntime", "poststart", "poststop"],
        "{text}"
    );
    assert_eq!(text.matches(&b.id).count(), 4, "{text}");
    b.assert_nothing_left();
}

#[test]
fn a_terminal_is_handed_over() {
    let Some(b) = bundle(
        "console socket",
        "tty; stat -c %t:%T /dev/console; echo done",
    ) else {
        return;
    };
    b.change(|c| c["process"]["terminal"] = json!(true));
    assert!(
        b.fails(&["create", &b.id])
            .contains("without setting console socket")
    );
    let path = b.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    b.ok(&["create", "--console-socket", path.to_str().unwrap(), &b.id]);
    let (stream, _) = listener.accept().unwrap();
    let control = receive_descriptor(&stream);
    b.ok(&["start", &b.id]);
    let mut text = Vec::new();
    let mut buffer = [0_u8; 256];
    while let Ok(n @ 1..) = nix::unistd::read(&control, &mut buffer) {
        text.extend_from_slice(&buffer[..n]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("/dev/pts/0\r\n88:0\r\n"), "{text:?}");
    b.ok(&["delete", "--force", &b.id]);
    b.assert_nothing_left();
}

fn receive_descriptor(stream: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    use std::os::fd::AsFd;
    let packet = kernelet_sys::socket::receive(stream.as_fd(), 64)
        .unwrap()
        .expect("a message");
    packet.descriptors.into_iter().next().expect("a descriptor")
}

#[test]
fn descriptors_are_preserved_and_none_else_leaks() {
    let Some(b) = bundle("preserve-fds", "ls /proc/self/fd; cat <&3") else {
        return;
    };
    fs::write(b.path().join("three"), "third\n").unwrap();
    let shell = format!(
        "exec {} --root {} run --preserve-fds 1 {} 3< {}/three 7< /etc/hostname",
        program(),
        b.root().display(),
        b.id,
        b.path().display()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &shell])
        .current_dir(b.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // 4 is the folder that ls reads.
    assert_eq!(
        text,
        "0\n1\n2\n3\n4\nthird\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    b.assert_nothing_left();
}

#[test]
fn features_and_errors_are_json_where_asked() {
    let Some(b) = bundle("features", "true") else {
        return;
    };
    let features: Value = serde_json::from_str(&b.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
    let log = b.path().join("log.json");
    b.fails(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "state",
        "nobody",
    ]);
    let line: Value = serde_json::from_str(fs::read_to_string(log).unwrap().trim()).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["msg"].as_str()),
        (Some("error"), Some("container does not exist"))
    );
}

#[test]
fn a_creation_that_is_killed_at_any_call_can_be_deleted() {
    let Some(b) = bundle("killed creation", "sleep 1000") else {
        return;
    };
    let stride = std::env::var("KERNELET_KILL_STRIDE")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(5_u32);
    // A tracer that comes late sees fewer calls: only several that saw too few mean that there are no more.
    let (mut at, mut kills, mut misses) = (1, 0, 0);
    while misses < 5 {
        let mut child = b
            .command(&["create", &b.id])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let outcome = killer::kill_at_call(child.id() as i32, at, || {}, || false);
        let _ = child.wait();
        b.ok(&["delete", "--force", &b.id]);
        b.assert_nothing_left();
        if outcome == Some(killer::Outcome::Killed) {
            (at, kills, misses) = (at + stride, kills + 1, 0);
        } else {
            misses += 1;
        }
    }
    println!("killed at {kills} moments of {at} system call stops");
    assert!(at > 200, "only {at} calls: is the tracer working?");
}
