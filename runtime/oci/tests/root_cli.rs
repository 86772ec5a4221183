//! The command line: each flag does what runc's manual says, and says what runc says when it can't.

mod bundle;

use std::{
    fs,
    io::Read,
    os::{
        fd::AsRawFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bundle::{Bundle, bundle};
use serde_json::{Value, json};

fn fails(b: &Bundle, args: &[&str], expect: &str) {
    let ran = b.call(args);
    assert!(
        ran.code != Some(0) && ran.err.contains(expect),
        "{args:?}: {ran:?} instead of {expect:?}"
    );
}

fn state(b: &Bundle) -> Value {
    serde_json::from_str(&b.succeeds(&["state", &b.id])).unwrap()
}

fn wait_for(b: &Bundle, status: &str) {
    until(|| state(b)["status"] == status, status);
}

fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A container that runs until it is told not to.
fn sleeping(test: &str) -> Option<Bundle> {
    let b = bundle(test)?;
    b.script("trap 'exit 7' TERM; while :; do sleep 0.05; done");
    Some(b)
}

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

/// A message's text, and what its one descriptor is.
fn receive(listener: &UnixListener) -> String {
    let (stream, _) = listener.accept().unwrap();
    let packet = kernelet_sys::socket::receive(std::os::fd::AsFd::as_fd(&stream), 64)
        .unwrap()
        .unwrap();
    let [descriptor] = packet.descriptors.as_slice() else {
        panic!("{packet:?}");
    };
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let target = fs::read_link(link).unwrap();
    format!(
        "{} {}",
        String::from_utf8_lossy(&packet.bytes),
        target.display()
    )
}

#[test]
fn sockets_get_a_terminal_and_the_process() {
    let Some(b) = bundle("sockets") else { return };
    b.script("exit 0");
    b.change(|c| c["process"]["terminal"] = json!(true));
    // Relative to the bundle, as with runc.
    let console = UnixListener::bind(b.path().join("console")).unwrap();
    let pidfd = UnixListener::bind(b.path().join("pidfd")).unwrap();
    fails(
        &b,
        &["create", &b.id],
        "cannot allocate tty if runc will detach without setting console socket",
    );
    b.succeeds(&[
        "create",
        "--console-socket",
        "console",
        "--pidfd-socket",
        "pidfd",
        &b.id,
    ]);
    let told = receive(&console);
    assert!(told.ends_with("ptmx"), "{told}");
    let told = receive(&pidfd);
    assert!(told.contains("pidfd"), "{told}");
    b.succeeds(&["delete", "--force", &b.id]);
    b.change(|c| c["process"]["terminal"] = json!(false));
    fails(
        &b,
        &["run", "--console-socket", "console", &b.id],
        "cannot use console socket if runc will not detach or allocate tty",
    );
}

#[test]
fn descriptors_and_socket_activation_are_inherited() {
    let Some(b) = bundle("inherited descriptors") else {
        return;
    };
    b.script("cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID");
    fails(
        &b,
        &["run", "--preserve-fds", "60", &b.id],
        "unable to stat preserved-fd",
    );
    fs::write(b.path().join("three"), "third ").unwrap();
    fs::write(b.path().join("four"), "fourth ").unwrap();
    // The shell becomes the runtime, so that its pid is the one the variables are meant for.
    let line = format!(
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec {} --root state run --preserve-fds 1 {} 3<three 4<four",
        bundle::program(),
        b.id
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &line])
        .current_dir(b.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "third fourth 1 1\n",
        "{output:?}"
    );
}

#[test]
fn readiness_is_passed_on() {
    let Some(b) = bundle("sd_notify") else { return };
    // busybox has no datagrams to unix sockets; the host's python or socat would be another root.
    let sender = Path::new("/usr/bin/systemd-notify");
    let Ok(libs) = Command::new("ldd").arg(sender).output() else {
        println!("SKIP sd_notify: needs ldd and /usr/bin/systemd-notify (package systemd)");
        return;
    };
    if !libs.status.success() {
        println!("SKIP sd_notify: needs /usr/bin/systemd-notify (package systemd)");
        return;
    }
    let text = String::from_utf8_lossy(&libs.stdout).into_owned();
    let files = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .chain(["/usr/bin/systemd-notify"]);
    for file in files {
        let to = b.root().join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    b.script("/usr/bin/systemd-notify --ready STATUS=fine; while :; do sleep 0.05; done");
    let host = UnixDatagram::bind(b.path().join("host")).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut buffer = [0_u8; 4096];
        while said.len() < 3 {
            let Ok(n) = host.recv(&mut buffer) else { break };
            said.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        // The barrier's descriptor is closed with the message that nobody took it from.
        said
    });
    let command = b
        .command(&["run", "--detach", "--pid-file", "pid", &b.id])
        .env("NOTIFY_SOCKET", b.path().join("host"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(command.success());
    let said = reader.join().unwrap();
    let pid = fs::read_to_string(b.path().join("pid")).unwrap();
    assert_eq!(
        said,
        ["READY=1\n", &format!("MAINPID={pid}\n"), "BARRIER=1"]
    );
    b.succeeds(&["delete", "--force", &b.id]);
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

#[test]
fn limits_are_updated() {
    let Some(b) = sleeping("update") else { return };
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    let id = b.id.as_str();
    b.succeeds(&["run", "-d", id]);
    let group = layout.group(&b.no_cgroup());
    let read = |controller: &str, v1: &str, v2: &str| {
        let file = match group.v1_dir(controller) {
            Some(dir) => dir.join(v1),
            None => group.v2_dir().unwrap().join(v2),
        };
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let v1 = |controller: &str| layout.v1_of(controller).is_some();
    for (controller, flags, v1_file, v1_value, v2_file, v2_value) in [
        (
            "pids",
            &["--pids-limit", "77"][..],
            "pids.max",
            "77",
            "pids.max",
            "77",
        ),
        (
            "memory",
            &["--memory", "64M"],
            "memory.limit_in_bytes",
            "67108864",
            "memory.max",
            "67108864",
        ),
        (
            "memory",
            &["--memory-reservation", "32M"],
            "memory.soft_limit_in_bytes",
            "33554432",
            "memory.low",
            "33554432",
        ),
        (
            "cpu",
            &["--cpu-share", "512"],
            "cpu.shares",
            "512",
            "cpu.weight",
            "59",
        ),
        (
            "cpu",
            &["--cpu-quota", "40000", "--cpu-period", "80000"],
            "cpu.cfs_quota_us",
            "40000",
            "cpu.max",
            "40000 80000",
        ),
        (
            "cpu",
            &["--cpu-period", "50000"],
            "cpu.cfs_period_us",
            "50000",
            "cpu.max",
            "40000 50000",
        ),
        (
            "cpuset",
            &["--cpuset-cpus", "0"],
            "cpuset.cpus",
            "0",
            "cpuset.cpus",
            "0",
        ),
    ] {
        if !layout.has(controller) {
            println!("SKIP update: no {controller} controller");
            continue;
        }
        b.succeeds(&[&["update"], flags, &[id]].concat());
        let expect = if v1(controller) { v1_value } else { v2_value };
        assert_eq!(read(controller, v1_file, v2_file), expect, "{flags:?}");
    }
    fs::write(
        b.path().join("r.json"),
        json!({"pids": {"limit": 66}}).to_string(),
    )
    .unwrap();
    b.succeeds(&["update", "-r", "r.json", id]);
    if layout.has("pids") {
        assert_eq!(read("pids", "pids.max", "pids.max"), "66");
    }
    let ran = b.call(&["update", "--kernel-memory", "1M", id]);
    assert!(
        ran.err
            .contains("Kernel memory settings are ignored and will be removed"),
        "{ran:?}"
    );
    fails(
        &b,
        &["update", "--memory", "lots", id],
        "invalid value for memory",
    );
    fails(
        &b,
        &["update", "--l3-cache-schema", "L3:0=f", id],
        "Intel RDT/CAT: l3 cache schema is not enabled",
    );
    fails(
        &b,
        &["update", "--mem-bw-schema", "MB:0=20", id],
        "Intel RDT/MBA: memory bandwidth schema is not enabled",
    );
    b.succeeds(&["delete", "-f", id]);
}

#[test]
fn figures_and_kills_are_told() {
    let Some(b) = bundle("events") else { return };
    let id = b.id.as_str();
    // Fills memory when it is told to.
    b.script("while [ ! -e /go ]; do sleep 0.05; done; head -c 100m /dev/zero | tail -c 90m > /dev/null; while :; do sleep 0.05; done");
    let _ = std::os::unix::fs::symlink("busybox", b.root().join("bin/tail"));
    b.change(|c| c["linux"]["resources"]["memory"] = json!({"limit": 20 << 20}));
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    if !layout.has("memory") {
        println!("SKIP events: no memory controller");
        return;
    }
    b.succeeds(&["run", "-d", id]);
    let stats: Value = serde_json::from_str(&b.succeeds(&["events", "--stats", id])).unwrap();
    assert_eq!(
        (&stats["type"], &stats["id"]),
        (&json!("stats"), &json!(id))
    );
    let data = &stats["data"];
    assert!(
        data["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{stats}"
    );
    assert_eq!(data["memory"]["usage"]["limit"], 20 << 20, "{stats}");
    assert!(data["pids"]["current"].as_u64().unwrap() >= 1, "{stats}");
    fails(
        &b,
        &["events", "--interval", "0s", id],
        "duration interval must be greater than 0",
    );
    let mut child = b
        .command(&["events", "--interval", "100ms", id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.contains("\"type\":\"stats\""), "{line}");
    fs::write(b.root().join("go"), "").unwrap();
    loop {
        line.clear();
        assert!(
            std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0,
            "it ended without telling of a kill"
        );
        if line.contains("\"type\":\"oom\"") {
            break;
        }
    }
    assert_eq!(
        serde_json::from_str::<Value>(&line).unwrap(),
        json!({"type": "oom", "id": id})
    );
    b.succeeds(&["delete", "--force", id]);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_cgroup_manager_a_container_stays_in_the_callers() {
    let Some(b) = sleeping("cgroup-manager disabled") else {
        return;
    };
    let id = b.id.as_str();
    b.change(|c| {
        c["linux"].as_object_mut().unwrap().remove("resources");
    });
    b.succeeds(&["--cgroup-manager", "disabled", "run", "-d", id]);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let its = fs::read_to_string(format!("/proc/{}/cgroup", state(&b)["pid"])).unwrap();
    assert_eq!(own, its);
    assert_eq!(b.call(&["exec", id, "sh", "-c", "exit 4"]).code, Some(4));
    fails(&b, &["ps", id], "the container has no cgroup of its own");
    b.succeeds(&["delete", "--force", id]);
    fails(&b, &["state", id], "container does not exist");
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
        let ours = text("ours", &mut Command::new(bundle::program()));
        assert_eq!(ours, text("runc", &mut Command::new("runc")));
    }
}
