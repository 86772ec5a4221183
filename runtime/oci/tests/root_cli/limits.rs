//! update, events and ps.

use std::{fs, io::Read, process::Stdio};

use serde_json::{Value, json};

use crate::{bundle::bundle, fails, sleeping, state};

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
