//! New namespaces, joined ones, and what is written into them.

use std::fs;

use serde_json::json;

use crate::harness::bundle;

fn namespace(pid: u32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

#[test]
fn a_user_namespace_owns_the_container() {
    let Some(b) = bundle("user namespace", "sleep 100") else {
        return;
    };
    b.user_namespace(
        100_000,
        65_536,
        json!([{"type": "network"}, {"type": "cgroup"}]),
    );
    b.change(|c| {
        c["process"]["oomScoreAdj"] = json!(200);
        for set in ["bounding", "permitted", "effective"] {
            let rights = c["process"]["capabilities"][set].as_array_mut().unwrap();
            rights.extend([
                json!("CAP_SYS_ADMIN"),
                json!("CAP_NET_ADMIN"),
                json!("CAP_SETUID"),
                json!("CAP_SETGID"),
            ]);
        }
    });
    let pid = b.start();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    assert!(status.contains("Gid:\t100000\t100000"), "{status}");
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "200");
    let own = std::process::id();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(pid, kind), namespace(own, kind), "{kind}");
    }
    // Its network namespace is its own to change, its devices are there, its ids are mapped.
    let inside = "id -u; id -g; hostname renamed && hostname; ip link set lo down && echo down; \
                  echo x > /dev/null && echo null; stat -c %u /proc/1; readlink /proc/self/ns/user";
    let said = b.ok(&["exec", &b.id, "sh", "-c", inside]);
    let expected = format!("0\n0\nrenamed\ndown\nnull\n0\n{}\n", namespace(pid, "user"));
    assert_eq!(said, expected);
    // Beyond the mapping nobody exists.
    let error = b.call(&["exec", "--user", "70000", &b.id, "true"]);
    assert!(!error.status.success());
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(
        error.contains("unmapped uid 70000 in user namespace"),
        "{error}"
    );
}

#[test]
fn mappings_and_namespaces_fit_together() {
    let Some(b) = bundle("mappings", "true") else {
        return;
    };
    b.user_namespace(100_000, 10, json!([]));
    b.change(|c| c["linux"]["gidMappings"] = json!([{"containerID": 1, "hostID": 5, "size": 1}]));
    assert!(
        b.fails()
            .contains("user namespaces enabled, but no mapping found for gid 0")
    );
    b.namespaces(json!([]));
    assert!(b.fails().contains(
        "user namespace mappings specified, but user namespace isn't enabled in the config"
    ));
    b.namespaces(json!([{"type": "pid"}]));
    assert!(b.fails().contains("malformed spec file: duplicated ns"));
    b.namespaces(json!([]));
    b.change(|c| {
        c["linux"]["uidMappings"] = json!(null);
        c["linux"]["gidMappings"] = json!(null);
        c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 5}});
    });
    assert!(
        b.fails()
            .contains("time namespace isn't enabled in the config")
    );
}

#[test]
fn pipes_and_terminals_belong_to_the_mapped_user() {
    let Some(b) = bundle(
        "mapped stdio",
        "stat -L -c %u /proc/self/fd/1; echo again > /proc/self/fd/1",
    ) else {
        return;
    };
    b.user_namespace(100_000, 65_536, json!([{"type": "network"}]));
    b.change(|c| c["process"]["user"] = json!({"uid": 12, "gid": 12}));
    assert_eq!(b.run(), "12\nagain\n");
    b.change(|c| {
        c["process"]["args"] = json!(["stat", "-L", "-c", "%u", "/proc/self/fd/1"]);
        c["process"]["terminal"] = json!(true);
    });
    assert_eq!(b.run().trim_end(), "12");
}

#[test]
fn all_of_a_containers_namespaces_can_be_joined() {
    let Some(first) = bundle("joined", "sleep 100") else {
        return;
    };
    first.user_namespace(
        100_000,
        65_536,
        json!([{"type": "network"}, {"type": "time"}]),
    );
    first.change(|c| c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}}));
    let pid = first.start();
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    let Some(b) = bundle(
        "joined",
        "for n in user pid net ipc uts time; do readlink /proc/self/ns/$n; done",
    ) else {
        return;
    };
    std::os::unix::fs::chown(b.path().join("rootfs"), Some(100_000), Some(100_000)).unwrap();
    b.change(|c| {
        c["hostname"] = json!(null);
        // The host's groups aren't the user namespace's to show.
        c["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup");
        c["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "user", "path": path("user")}, {"type": "pid", "path": path("pid")},
            {"type": "network", "path": path("net")}, {"type": "ipc", "path": path("ipc")},
            {"type": "uts", "path": path("uts")}, {"type": "time", "path": path("time")}
        ]);
    });
    let expected: String = ["user", "pid", "net", "ipc", "uts", "time"]
        .map(|kind| namespace(pid, kind) + "\n")
        .concat();
    assert_eq!(b.run(), expected);
    // What is said of its ids must be so.
    let mapping = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65_536}]);
    b.change(|c| {
        c["linux"]["uidMappings"] = mapping(100_000);
        c["linux"]["gidMappings"] = mapping(100_000);
    });
    assert_eq!(b.run(), expected);
    b.change(|c| c["linux"]["uidMappings"] = mapping(100_001));
    assert!(
        b.fails()
            .contains("both namespace path and non-matching mapping specified")
    );
}

#[test]
fn a_new_user_namespace_lives_in_a_network_of_the_hosts() {
    let Some(b) = bundle(
        "user in a joined network",
        "readlink /proc/self/ns/net; id -u",
    ) else {
        return;
    };
    let own = std::process::id();
    b.user_namespace(
        100_000,
        65_536,
        json!([{"type": "network", "path": format!("/proc/{own}/ns/net")}]),
    );
    // sysfs is the network namespace's owner's to mount.
    b.change(|c| {
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["type"] != "sysfs" && m["type"] != "cgroup")
    });
    assert_eq!(b.run(), format!("{}\n0\n", namespace(own, "net")));
}

#[test]
fn clocks_are_shifted_for_the_container_and_for_what_joins_it() {
    let Some(b) = bundle("time namespace", "sleep 100") else {
        return;
    };
    b.namespaces(json!([{"type": "time"}]));
    b.change(|c| {
        c["linux"]["timeOffsets"] =
            json!({"monotonic": {"secs": 86_400, "nanosecs": 5}, "boottime": {"secs": 172_800}});
    });
    let pid = b.start();
    assert_ne!(
        namespace(pid, "time"),
        namespace(std::process::id(), "time")
    );
    let said = b.ok(&["exec", &b.id, "cat", "/proc/self/timens_offsets"]);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        words,
        ["monotonic", "86400", "5", "boottime", "172800", "0"]
    );
    let uptime: f64 = b
        .ok(&["exec", &b.id, "cat", "/proc/uptime"])
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uptime > 172_800.0, "{uptime}");
}

#[test]
fn a_mount_namespace_is_joined_by_its_path() {
    let Some(b) = bundle("joined mounts", "cat /bin/../marker") else {
        return;
    };
    fs::write(b.path().join("rootfs/marker"), "here\n").unwrap();
    // One of its own, whose root nobody else has.
    let mut holder = std::process::Command::new("unshare")
        .args(["--mount", "sleep", "100"])
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let own = namespace(std::process::id(), "mnt");
    while namespace(holder.id(), "mnt") == own {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    b.change(|c| {
        c["linux"]["namespaces"] = json!([
            {"type": "mount", "path": format!("/proc/{}/ns/mnt", holder.id())},
            {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}
        ]);
    });
    let output = b.call(&["run", &b.id]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "here\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn network_devices_move_with_their_addresses() {
    let Some(mut b) = bundle("network devices", "ip addr show dev inside") else {
        return;
    };
    b.namespaces(json!([{"type": "network"}]));
    b.change(|c| c["linux"]["netDevices"] = json!({"outside": {"name": "inside"}}));
    // In a network of its own, so that nothing of the host's is touched.
    let script = "ip link add outside type veth peer name other && ip addr add 198.51.100.7/24 dev outside && \
                  ip addr add 2001:db8::7/64 dev outside nodad && ip link set outside up && exec \"$@\"";
    b.before = ["unshare", "--net", "sh", "-c", script, "sh"]
        .map(str::to_owned)
        .to_vec();
    let said = b.run();
    for part in ["inet 198.51.100.7/24", "inet6 2001:db8::7/64", "UP"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    b.change(|c| c["linux"]["netDevices"] = json!({"absent": {}}));
    assert!(b.fails().contains("link not found for interface absent"));
    b.change(|c| c["linux"]["netDevices"] = json!({"a/b": {}}));
    assert!(b.fails().contains("invalid network device name \"a/b\""));
    b.namespaces(json!([]));
    b.change(|c| c["linux"]["netDevices"] = json!({"outside": {}}));
    assert!(
        b.fails()
            .contains("unable to move network devices without a NET namespace")
    );
}
