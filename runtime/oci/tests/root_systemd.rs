//! cgroups by systemd: against a real D-Bus daemon with a stand-in for systemd's own end, which makes real cgroups.

mod bundle;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bundle::{Bundle, Ran, bundle, program};
use serde_json::{Value, json};

/// The bus and who answers on it, in a mount namespace where a systemd seems to have booted the machine.
struct Systemd {
    daemon: Child,
    mock: Child,
    address: String,
    log: PathBuf,
}

const PYTHON: &str = "/usr/bin/python3";

fn systemd(test: &str, b: &Bundle, failing: &[&str]) -> Option<Systemd> {
    let has = |program: &str, args: &[&str]| {
        let tried = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    if !has("dbus-daemon", &["--version"]) || !has(PYTHON, &["-c", "import dbus, gi"]) {
        println!(
            "SKIP {test}: needs dbus-daemon, python3-dbus and python3-gi (packages dbus, python3-dbus, python3-gi)"
        );
        return None;
    }
    let address = format!("unix:path={}", b.path().join("bus").display());
    let config = b.path().join("bus.conf");
    let rules = "<policy context='default'><allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy>";
    let text = format!(
        "<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>{rules}</busconfig>"
    );
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--print-address"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let log = b.path().join("systemd.log");
    fs::write(&log, "").unwrap();
    let mut mock = Command::new(PYTHON)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/mock.py"))
        .arg(&log)
        .args(failing)
        .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    line.clear();
    BufReader::new(mock.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    Some(Systemd {
        daemon,
        mock,
        address,
        log,
    })
}

impl Drop for Systemd {
    fn drop(&mut self) {
        for child in [&mut self.mock, &mut self.daemon] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Systemd {
    /// Runs the program where `/run/systemd/system` is there.
    fn call(&self, b: &Bundle, args: &[&str]) -> Ran {
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec \"$@\"";
        let (out, err) = (b.path().join("systemd.out"), b.path().join("systemd.err"));
        let status = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(program())
            .arg("--root")
            .arg(b.path().join("state"))
            .arg("--systemd-cgroup")
            .args(args)
            .current_dir(b.path())
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Ran {
            code: status.code(),
            out: fs::read_to_string(out).unwrap(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    fn ok(&self, b: &Bundle, args: &[&str]) -> String {
        let ran = self.call(b, args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.out
    }

    fn calls(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn of(&self, call: &str) -> Vec<Value> {
        self.calls()
            .into_iter()
            .filter(|it| it["call"] == call)
            .collect()
    }
}

fn exists(path: &str) -> bool {
    kernelet_sys::cgroup::Layout::detect()
        .unwrap()
        .group(path)
        .exists()
}

#[test]
fn a_container_lives_in_a_scope() {
    let Some(b) = bundle("systemd") else { return };
    let Some(systemd) = systemd("systemd", &b, &[]) else {
        return;
    };
    let id = b.id.as_str();
    b.script("cat /proc/self/cgroup; while :; do sleep 0.05; done");
    b.change(|c| {
        c["linux"]["cgroupsPath"] = json!(format!("kerneletest-a.slice:oci:{id}"));
        c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        c["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
        c["linux"]["resources"]["pids"] = json!({"limit": 99});
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
        c["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.CollectMode": "'inactive-or-failed'"});
    });
    let scope = format!("oci-{id}.scope");
    let path = format!("/kerneletest.slice/kerneletest-a.slice/{scope}");
    systemd.ok(&b, &["run", "--detach", "--pid-file", "pid", id]);
    let started = systemd.of("start");
    assert_eq!(started.len(), 1, "{started:?}");
    assert_eq!(
        (&started[0]["unit"], &started[0]["mode"]),
        (&json!(scope), &json!("replace"))
    );
    let given = &started[0]["properties"];
    for (name, value) in [
        ("Slice", json!("kerneletest-a.slice")),
        ("Delegate", json!(true)),
        ("DefaultDependencies", json!(false)),
        ("MemoryAccounting", json!(true)),
        ("CPUQuotaPerSecUSec", json!(500_000)),
        ("CPUQuotaPeriodUSec", json!(100_000)),
        ("TasksMax", json!(99)),
        ("DevicePolicy", json!("strict")),
        ("TimeoutStopUSec", json!(7_000_000)),
        ("CollectMode", json!("inactive-or-failed")),
    ] {
        assert_eq!(given[name], value, "{name} of {given}");
    }
    let memory = ["MemoryMax", "MemoryLimit"]
        .iter()
        .any(|name| given[*name] == json!(64 << 20));
    assert!(memory, "{given}");
    // Born there, in every hierarchy.
    let pid = fs::read_to_string(b.path().join("pid")).unwrap();
    let its = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(its.lines().all(|line| line.ends_with(&path)), "{its}");
    assert_ne!(
        given["PIDs"],
        json!([pid.parse::<i32>().unwrap()]),
        "the container's process itself was moved"
    );
    systemd.ok(&b, &["exec", id, "true"]);
    systemd.ok(&b, &["update", "--pids-limit", "55", id]);
    assert_eq!(systemd.of("set")[0]["properties"]["TasksMax"], 55);
    assert!(exists(&path));
    systemd.ok(&b, &["delete", "--force", id]);
    assert_eq!(systemd.of("stop")[0]["unit"], json!(scope));
    assert_eq!(systemd.of("left"), Vec::<Value>::new());
    assert!(!exists(&path) && !exists("/kerneletest.slice"));
}

#[test]
fn a_unit_that_is_left_over_is_reset_and_a_failed_job_is_an_error() {
    let Some(b) = bundle("systemd errors") else {
        return;
    };
    b.script("exit 6");
    b.change(|c| c["linux"]["cgroupsPath"] = json!(format!("kerneletest.slice:oci:{}", b.id)));
    if let Some(systemd) = systemd("systemd: a unit that exists", &b, &["exists"]) {
        let ran = systemd.call(&b, &["run", &b.id]);
        assert_eq!(ran.code, Some(6), "{ran:?}");
        assert_eq!(systemd.of("start").len(), 2);
        assert!(!exists("/kerneletest.slice"));
    }
    if let Some(systemd) = systemd("systemd: a job that fails", &b, &["fails"]) {
        let ran = systemd.call(&b, &["run", &b.id]);
        let expect = format!(
            "error creating systemd unit `oci-{}.scope`: got `failed`",
            b.id
        );
        assert!(ran.code == Some(1) && ran.err.contains(&expect), "{ran:?}");
        assert_eq!(b.succeeds(&["list", "-q"]), "");
    }
}

#[test]
fn without_systemd_it_says_so() {
    let Some(b) = bundle("no systemd") else {
        return;
    };
    if Path::new("/run/systemd/system").is_dir() {
        println!("SKIP no systemd: this machine has one");
        return;
    }
    b.script("true");
    let ran = b.call(&["--systemd-cgroup", "run", &b.id]);
    let expect = "systemd not running on this host, cannot use systemd cgroups manager";
    assert!(ran.code == Some(1) && ran.err.contains(expect), "{ran:?}");
    b.change(|c| c["linux"]["cgroupsPath"] = json!("/a/b"));
    let ran = b.call(&["--cgroup-manager=systemd", "run", &b.id]);
    assert!(
        ran.err
            .contains("expected cgroupsPath to be of format \\\"slice:prefix:name\\\""),
        "{ran:?}"
    );
}
