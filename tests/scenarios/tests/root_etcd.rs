//! A cluster whose objects are in an etcd that isn't ours.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use kernelet_scenarios::{Machine, eventually, skip_unless_root};

const STORE: &str = "etcd://127.0.0.1:2379";

/// On the machine's loopback; it ends with the test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_etcd(machine: &Machine) -> Etcd {
    let child = machine
        .command("etcd")
        .arg("--data-dir")
        .arg(machine.dir().join("etcd"))
        .args(["--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let etcd = Etcd(child);
    eventually("etcd answers", Duration::from_secs(20), || {
        let health = etcdctl(machine, "endpoint health");
        health.contains("is healthy").then_some(()).ok_or(health)
    });
    etcd
}

fn etcdctl(machine: &Machine, args: &str) -> String {
    let output = machine.sh(&format!("ETCDCTL_API=3 etcdctl {args} 2>&1"));
    output.stdout
}

#[test]
fn a_cluster_in_etcd_is_found_again_and_outlives_a_purge() {
    skip_unless_root!();
    if Command::new("etcd").arg("--version").output().is_err() {
        println!("SKIP root_etcd: etcd is not installed");
        return;
    }
    let machine = Machine::new().with(&format!("--store={STORE}"));

    // Nobody there: one line, and what to do.
    let refused = machine.try_up();
    assert_ne!(refused.code, 0);
    let error = refused.stderr.trim();
    assert_eq!(error.lines().count(), 1, "{error}");
    for says in [STORE, "start it", "--store"] {
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }

    let etcd = start_etcd(&machine);
    machine.up();
    machine
        .kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])
        .ok();
    machine.apply(include_str!("../../../examples/hello/hello.yaml"));
    let available = || {
        machine.wait(
            "deployment/hello",
            "condition=Available",
            Duration::from_secs(60),
        );
    };
    available();
    let key = "/registry/configmaps/default/kept";
    assert_eq!(
        etcdctl(&machine, &format!("get --keys-only {key}")).trim(),
        key
    );
    let identity = || {
        let map = machine.get(&["configmap", "kept"]);
        let pods = machine.get(&["pods"]);
        let containers: Vec<String> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["status"]["containerStatuses"][0]["containerID"].to_string())
            .collect();
        assert_eq!(containers.len(), 3);
        (map["metadata"]["uid"].to_string(), containers)
    };
    let before = identity();

    let pid = machine.status()["pid"].as_i64().unwrap();
    machine.sh(&format!("kill -9 {pid}")).ok();
    machine.up();
    assert_eq!(identity(), before, "the same objects and containers");
    available();

    // While etcd doesn't answer, status says so, and what runs goes on.
    let signal = |signal: &str| machine.sh(&format!("kill -{signal} {}", etcd.0.id())).ok();
    signal("STOP");
    let status = machine.status();
    signal("CONT");
    assert_eq!(status["parts"]["store"]["state"], "unhealthy", "{status}");
    assert_eq!(machine.status()["parts"]["store"]["state"], "healthy");

    // The store's own commands go where the cluster is.
    let compacted = machine.kernelet(&["store", "compact"]).ok();
    assert!(compacted.contains("compacted at revision"), "{compacted}");
    let backup = machine.kernelet(&["store", "backup", "/dev/null"]);
    assert!(backup.stderr.contains("its own tools"), "{backup:?}");

    // Looked for in the data folder, the cluster would be empty, and its pods would end.
    machine.kernelet(&["down"]).ok();
    let cgroups = format!("--cgroup-root=/kernelet-{}", std::process::id());
    let elsewhere = machine.kernelet(&["up", "--detach", "--node-name=node-a", &cgroups]);
    assert_ne!(elsewhere.code, 0);
    assert!(
        elsewhere.stderr.contains(&format!("--store {STORE}")),
        "{elsewhere:?}"
    );
    assert!(!machine.data_dir().join("store").exists());

    let said = machine.kernelet(&["down", "--purge"]).ok();
    assert!(
        said.contains("--endpoints=http://127.0.0.1:2379 del --prefix /registry/"),
        "{said}"
    );
    assert_eq!(
        etcdctl(&machine, &format!("get --keys-only {key}")).trim(),
        key
    );
    // The said command removes what is left.
    let command = said.split_once("to remove them: ").unwrap().1.trim();
    machine.sh(command).ok();
    assert_eq!(
        etcdctl(&machine, "get --prefix --keys-only /registry/").trim(),
        ""
    );
}
