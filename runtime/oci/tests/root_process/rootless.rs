//! Containers of ordinary users, made with no right of root's.

use std::path::Path;

use serde_json::json;

use crate::harness::{Bundle, bundle};

/// What `runc spec --rootless` leaves out: mounts that an ordinary user may not make.
fn without_roots_mounts(b: &Bundle) {
    b.change(|c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["type"] != "cgroup" && m["type"] != "sysfs");
        for mount in mounts {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|o| !o.as_str().unwrap().starts_with("gid="));
            }
        }
        c["linux"].as_object_mut().unwrap().remove("resources");
    });
}

#[test]
fn a_user_runs_a_container_with_its_own_id() {
    let Some(mut b) = bundle(
        "rootless",
        "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; echo x > /dev/null && echo null",
    ) else {
        return;
    };
    b.user_namespace(4242, 1, json!([{"type": "network"}]));
    without_roots_mounts(&b);
    b.as_user(4242, false);
    let said = b.run();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "4242", "1", "deny", "null"]);
    // More than its own id isn't its to give.
    b.change(|c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 10}]));
    assert!(!b.fails().is_empty());
    b.namespaces(json!([]));
    b.change(|c| {
        c["linux"]["uidMappings"] = json!(null);
        c["linux"]["gidMappings"] = json!(null);
    });
    assert!(
        b.fails()
            .contains("rootless container requires user namespaces")
    );
}

#[test]
fn a_user_lives_through_a_containers_whole_life() {
    let Some(mut b) = bundle("rootless life", "sleep 100") else {
        return;
    };
    b.user_namespace(4242, 1, json!([{"type": "network"}]));
    without_roots_mounts(&b);
    b.as_user(4242, false);
    b.start();
    assert_eq!(
        b.ok(&["exec", &b.id, "sh", "-c", "id -u; readlink /proc/1/exe"]),
        "0\n/bin/busybox\n"
    );
    b.ok(&["kill", &b.id, "KILL"]);
    b.ok(&["delete", "--force", &b.id]);
    assert_eq!(b.ok(&["list", "--quiet"]), "");
}

#[test]
fn a_users_subordinate_ids_are_mapped_by_the_helpers() {
    if !Path::new("/usr/bin/newuidmap").exists() {
        println!("SKIP rootless ranges: needs newuidmap (package uidmap)");
        return;
    }
    let Some(mut b) = bundle("rootless ranges", "cat /proc/self/uid_map; id -u; id -G") else {
        return;
    };
    b.user_namespace(4242, 1, json!([{"type": "network"}]));
    without_roots_mounts(&b);
    b.change(|c| {
        let map = json!([{"containerID": 0, "hostID": 4242, "size": 1}, {"containerID": 1, "hostID": 200_000, "size": 1000}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        c["process"]["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [44]});
    });
    b.as_user(4242, true);
    let said = b.run();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        words,
        ["0", "4242", "1", "1", "200000", "1000", "33", "33", "44"]
    );
    // A range that isn't the user's is refused by the helper, with its words.
    b.change(|c| c["linux"]["uidMappings"][1]["hostID"] = json!(900_000));
    let error = b.fails();
    assert!(error.contains("newuidmap"), "{error}");
}

#[test]
fn root_of_a_users_namespace_runs_containers_there() {
    let Some(mut b) = bundle(
        "root of a user namespace",
        "id -u; echo x > /dev/null && echo null",
    ) else {
        return;
    };
    b.namespaces(json!([{"type": "network"}]));
    without_roots_mounts(&b);
    b.as_user(4242, false);
    // As podman does it for an ordinary user.
    b.before
        .extend(["unshare", "--user", "--map-root-user", "--mount"].map(str::to_owned));
    assert_eq!(b.run(), "0\nnull\n");
    // A limit that can't be set is an error, not forgotten.
    b.change(|c| c["linux"]["resources"] = json!({"pids": {"limit": 10}}));
    assert!(
        b.fails()
            .contains("cannot set limits: container could not join or create cgroup")
    );
}
