//! linux.resources of a bundle in the files of whichever cgroup version this machine has.

mod bundle;

use std::{fs, path::PathBuf};

use bundle::{Bundle, bundle};
use kernelet_sys::cgroup::Layout;
use serde_json::{Value, json};

/// What one file of the container's group says while it lives; `None` without the controller.
fn file(b: &Bundle, layout: &Layout, controller: &str, v1: &str, v2: &str) -> Option<String> {
    let group = layout.group(&b.no_cgroup());
    let path: PathBuf = match group.v1_dir(controller) {
        Some(dir) => dir.join(v1),
        None if layout.v2_controllers.iter().any(|c| c == controller) => group.v2_dir()?.join(v2),
        None => return None,
    };
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(text.trim().to_owned())
}

fn with(b: &Bundle, resources: Value) {
    b.change(|c| {
        c["linux"]["resources"] = resources;
        c["linux"]["cgroupsPath"] = json!(format!("/{}", b.no_cgroup()));
    });
    b.script("sleep 100");
    b.succeeds(&["create", &b.id]);
}

fn end(b: &Bundle) {
    b.succeeds(&["delete", "--force", &b.id]);
}

#[test]
fn limits_stand_in_the_groups_files() {
    let Some(b) = bundle("resources") else { return };
    let layout = Layout::detect().unwrap();
    let v1 = |controller: &str| layout.v1_of(controller).is_some();
    for (controller, resources, files) in [
        (
            "memory",
            json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432}}),
            &[
                (
                    "memory.limit_in_bytes",
                    "67108864",
                    "memory.max",
                    "67108864",
                ),
                (
                    "memory.soft_limit_in_bytes",
                    "33554432",
                    "memory.low",
                    "33554432",
                ),
            ][..],
        ),
        (
            "cpu",
            json!({"cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "burst": 1000}}),
            &[
                ("cpu.shares", "1024", "cpu.weight", "100"),
                ("cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
                ("cpu.cfs_burst_us", "1000", "cpu.max.burst", "1000"),
            ],
        ),
        (
            "cpu",
            json!({"cpu": {"period": 50_000}}),
            &[("cpu.cfs_period_us", "50000", "cpu.max", "max 50000")],
        ),
        (
            "cpu",
            json!({"cpu": {"quota": 30_000}}),
            &[("cpu.cfs_quota_us", "30000", "cpu.max", "30000 100000")],
        ),
        (
            "cpu",
            json!({"cpu": {"idle": 1}}),
            &[("cpu.idle", "1", "cpu.idle", "1")],
        ),
        (
            "cpuset",
            json!({"cpu": {"cpus": "0", "mems": "0"}}),
            &[("cpuset.cpus", "0", "cpuset.cpus", "0")],
        ),
        (
            "pids",
            json!({"pids": {"limit": 77}}),
            &[("pids.max", "77", "pids.max", "77")],
        ),
        (
            "pids",
            json!({"pids": {"limit": -1}}),
            &[("pids.max", "max", "pids.max", "max")],
        ),
    ] {
        if !layout.has(controller) {
            println!("SKIP resources: this machine has no controller {controller}");
            continue;
        }
        with(&b, resources.clone());
        for (old, old_value, new, new_value) in files {
            let found = file(&b, &layout, controller, old, new).unwrap();
            let expect = if v1(controller) { old_value } else { new_value };
            assert_eq!(&found, expect, "{resources}: {old} or {new}");
        }
        end(&b);
    }
}

#[test]
fn a_limit_of_no_process_is_one_process() {
    let Some(b) = bundle("pids.limit") else {
        return;
    };
    let layout = Layout::detect().unwrap();
    if !layout.has("pids") {
        println!("SKIP pids.limit: this machine has no controller pids");
        return;
    }
    b.change(|c| c["linux"]["resources"] = json!({"pids": {"limit": 0}}));
    b.change(|c| c["process"]["args"] = json!(["echo", "alone"]));
    assert_eq!(b.run().out, "alone\n");
}

#[test]
fn what_the_version_cannot_do_is_named() {
    let Some(b) = bundle("refused resources") else {
        return;
    };
    let layout = Layout::detect().unwrap();
    let refused = |resources: Value| {
        b.change(|c| c["linux"]["resources"] = resources);
        b.refused()
    };
    for (controller, resources, field) in [
        (
            "net_cls",
            json!({"network": {"classID": 5}}),
            "linux.resources.network.classID",
        ),
        (
            "net_prio",
            json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}),
            "linux.resources.network.priorities",
        ),
        (
            "rdma",
            json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}),
            // Where the controller is, it is the device that isn't.
            match layout.has("rdma") {
                true => "rdma.max",
                false => "linux.resources.rdma",
            },
        ),
        (
            "io",
            json!({"unified": {"nothing.max": "1"}}),
            "not available",
        ),
        (
            "io",
            json!({"unified": {"plain": "1"}}),
            "must be in the form CONTROLLER.PARAMETER",
        ),
    ] {
        if layout.v1_of(controller).is_some() {
            continue;
        }
        let error = refused(resources);
        assert!(error.contains(field), "{error}");
    }
    if layout.v1_of("memory").is_none() && layout.has("memory") {
        let error = refused(json!({"memory": {"swappiness": 60}}));
        assert!(
            error.contains("linux.resources.memory.swappiness"),
            "{error}"
        );
    }
    if layout.v1_of("cpu").is_none() && layout.has("cpu") {
        let error = refused(json!({"cpu": {"realtimeRuntime": 100}}));
        assert!(
            error.contains("linux.resources.cpu.realtimeRuntime"),
            "{error}"
        );
    }
}

#[test]
fn devices_are_allowed_by_rule_and_order() {
    let Some(b) = bundle("device rules") else {
        return;
    };
    b.change(|c| {
        c["linux"]["devices"] =
            json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
        let caps = c["process"]["capabilities"].as_object_mut().unwrap();
        for set in ["bounding", "effective", "permitted"] {
            let list = caps.get_mut(set).unwrap().as_array_mut().unwrap();
            list.extend([json!("CAP_SYSLOG"), json!("CAP_MKNOD")]);
        }
    });
    let may = |rules: Value| {
        b.change(|c| c["linux"]["resources"] = json!({"devices": rules}));
        b.output("head -c 0 /dev/kmsg 2>/dev/null && echo -n r; (: >> /dev/kmsg) 2>/dev/null && echo -n w; mknod /dev/new c 1 11 && echo -n m; head -c 1 /dev/zero > /dev/null && echo ' default'")
    };
    let deny = json!({"allow": false, "access": "rwm"});
    let rule = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 1, "minor": 11, "access": access});
    assert_eq!(may(json!([deny])), "m default\n");
    assert_eq!(may(json!([deny, rule(true, "rw")])), "rwm default\n");
    assert_eq!(may(json!([deny, rule(true, "r")])), "rm default\n");
    assert_eq!(
        may(json!([deny, rule(true, "rw"), rule(false, "w")])),
        "rm default\n"
    );
    assert_eq!(
        may(json!([{"allow": true, "access": "rwm"}])),
        "rwm default\n"
    );
    let wild = json!({"allow": true, "type": "c", "major": 1, "minor": -1, "access": "rw"});
    assert_eq!(may(json!([deny, wild])), "rwm default\n");
}
