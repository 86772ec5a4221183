//! Scheduling, priorities, affinity, labels, personality, memory policy, the terminal's size.

use serde_json::json;

use crate::harness::{Bundle, bundle};

/// Nice value and policy of the program itself, from `/proc/self/stat`.
fn scheduled(b: &Bundle) -> (i32, u32) {
    b.change(|c| c["process"]["args"] = json!(["cat", "/proc/self/stat"]));
    let said = b.run();
    let (_, rest) = said.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Fields count from 3, the state.
    (
        fields[19 - 3].parse().unwrap(),
        fields[41 - 3].parse().unwrap(),
    )
}

#[test]
fn every_policy_reaches_the_scheduler() {
    let Some(b) = bundle("scheduler", "true") else {
        return;
    };
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), (7, 0)),
        (json!({"policy": "SCHED_BATCH", "nice": -3}), (-3, 3)),
        (json!({"policy": "SCHED_IDLE"}), (0, 5)),
        (json!({"policy": "SCHED_FIFO", "priority": 10}), (0, 1)),
        (
            json!({"policy": "SCHED_RR", "priority": 11, "flags": ["SCHED_RESET_ON_FORK"]}),
            (0, 2),
        ),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000, "period": 10_000_000,
                "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]}),
            (0, 6),
        ),
    ] {
        b.change(|c| c["process"]["scheduler"] = scheduler.clone());
        if expected.1 == 1 || expected.1 == 2 {
            // A v1 group without a share of real time refuses it; which groups have one is the host's matter.
            let output = b.call(&["run", &b.id]);
            if String::from_utf8_lossy(&output.stderr).contains("error setting scheduler") {
                println!("SKIP {scheduler}: this host's cgroup has no real time to give");
                continue;
            }
        }
        assert_eq!(scheduled(&b), expected, "{scheduler}");
    }
    b.change(|c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 20}));
    assert!(
        b.fails()
            .contains("invalid scheduler.nice: 20 when scheduler.policy is SCHED_OTHER")
    );
}

#[test]
fn io_priority_personality_and_memory_policy_are_the_processes() {
    let Some(b) = bundle(
        "priorities",
        "ionice -p $$; uname -m; cat /proc/self/numa_maps 2>&1 | tail -n 1",
    ) else {
        return;
    };
    b.change(|c| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        c["linux"]["personality"] = json!({"domain": "LINUX32"});
        c["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    });
    let said = b.run();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "best-effort: prio 6");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(lines[1], "i686");
    }
    assert!(
        lines[2].contains("bind=static:0") || lines[2].contains("bind:0"),
        "{said}"
    );
    b.change(|c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND"}));
    assert!(
        b.fails()
            .contains("memory policy mode requires at least one node but got 0")
    );
    b.change(|c| {
        c["linux"]["memoryPolicy"] = json!(null);
        c["process"]["ioPriority"]["priority"] = json!(8);
    });
    assert!(b.fails().contains("invalid ioPriority.Priority: 8"));
}

#[test]
fn labels_of_systems_that_the_host_lacks_are_errors() {
    let Some(b) = bundle("labels", "cat /proc/self/attr/current") else {
        return;
    };
    if !kernelet_sys::attributes::has_apparmor() {
        b.change(|c| c["process"]["apparmorProfile"] = json!("some-profile"));
        assert!(b.fails().contains("unable to apply apparmor profile"));
        b.change(|c| c["process"]["apparmorProfile"] = json!(""));
    }
    if !kernelet_sys::attributes::has_selinux() {
        b.change(|c| c["process"]["selinuxLabel"] = json!("system_u:system_r:x_t:s0"));
        assert!(b.fails().contains(
            "selinux label is specified in config, but selinux is disabled or not supported"
        ));
    }
}

#[test]
fn an_exec_has_attributes_of_its_own() {
    let Some(b) = bundle("exec attributes", "sleep 100") else {
        return;
    };
    b.start();
    let process = |change: serde_json::Value| {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"]});
        process
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let path = b.path().join("process.json");
        std::fs::write(&path, process.to_string()).unwrap();
        b.call(&["exec", "--process", path.to_str().unwrap(), &b.id])
    };
    let said = |output: std::process::Output| {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let nice = said(process(json!({"args": ["ionice", "-p", "0"],
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}, "scheduler": {"policy": "SCHED_BATCH", "nice": 4}})));
    assert_eq!(nice, "idle\n");
    let status = json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "execCPUAffinity": {"initial": "0", "final": "0"}});
    assert_eq!(said(process(status)), "Cpus_allowed_list:\t0\n");
    if std::thread::available_parallelism().unwrap().get() > 1 {
        let status = json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "execCPUAffinity": {"initial": "0", "final": "1"}});
        assert_eq!(said(process(status)), "Cpus_allowed_list:\t1\n");
    }
    // Where cpuset is a v2 controller, the kernel gives what enters a group all of the group's CPUs.
    let keeps_initial = !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if keeps_initial && std::thread::available_parallelism().unwrap().get() > 1 {
        let initial = json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "execCPUAffinity": {"initial": "1"}});
        assert_eq!(said(process(initial)), "Cpus_allowed_list:\t1\n");
    }
    let none = process(json!({"args": ["pwd"], "cwd": "/not/there"}));
    let error = crate::harness::said(&none);
    assert!(
        error.contains("chdir to cwd (\"/not/there\") set in config.json failed"),
        "{error}"
    );
}

#[test]
fn the_terminal_has_its_size_before_the_program_looks() {
    let Some(b) = bundle("console size", "stty size") else {
        return;
    };
    b.change(|c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["consoleSize"] = json!({"height": 33, "width": 101});
    });
    assert_eq!(b.run().trim_end(), "33 101");
}
