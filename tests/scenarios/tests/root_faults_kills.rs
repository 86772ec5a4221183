//! Kills at random moments, and a shim that is stopped instead of dead.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    eventually("the default account", Duration::from_secs(20), || {
        let output = machine.kubectl(&["get", "serviceaccount", "default"]);
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    // What is made with the first pod stays for all others.
    machine.apply(&pod("first"));
    machine.wait("pod/first", "condition=Ready", Duration::from_secs(60));
    machine
        .kubectl(&["delete", "pod", "first", "--timeout=30s"])
        .ok();
    machine
}

fn pod(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 3
  initContainers:
  - {{name: first, image: "busybox:test", command: ["true"]}}
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  - {{name: side, image: "busybox:test", command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]}}
  volumes:
  - {{name: scratch, emptyDir: {{}}}}
"#
    )
}

/// Steele's splitmix64: the same kills again with the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

/// `wanted` pods run truly, and of no other pod anything is left.
fn await_wanted(machine: &Machine, wanted: &BTreeSet<String>, before: &BTreeSet<String>) {
    eventually("what is wanted", Duration::from_secs(90), || {
        let output = machine.kubectl(&["get", "pods", "-o", "json"]);
        let pods: Value = serde_json::from_str(&output.stdout).map_err(|_| output.stderr)?;
        let mut names = BTreeSet::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
            let ready = pod["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            let processes = machine.pod_processes(uid.as_str().unwrap_or_default());
            let of = |name: &str| processes.iter().filter(|p| p.contains(name)).count();
            if !ready || of("kernelet") != 1 || of("sleep") != 2 {
                return Err(format!(
                    "{name}: ready: {ready}, processes {processes:?}: {:#}\n{}",
                    pod["status"],
                    machine.log()
                ));
            }
            names.insert(name.as_str().unwrap_or_default().to_owned());
        }
        if names != *wanted {
            return Err(format!(
                "{names:?} instead of {wanted:?}\n{}",
                machine.log()
            ));
        }
        if wanted.is_empty() {
            let now = machine.holdings();
            if now != *before {
                return Err(format!(
                    "left: {:#?}\nlost: {:#?}\n{}",
                    now.difference(before).collect::<Vec<_>>(),
                    before.difference(&now).collect::<Vec<_>>(),
                    machine.log()
                ));
            }
        }
        Ok(())
    });
}

#[test]
fn kills_at_random_moments_leave_every_pod_as_it_is_wanted() {
    skip_unless_root!();
    let (kills, seed) = (
        number("KERNELET_RANDOM_KILLS", 10),
        number("KERNELET_SEED", 1),
    );
    println!("KERNELET_RANDOM_KILLS={kills} KERNELET_SEED={seed}");
    let mut chance = Chance(seed);
    let machine = machine();
    let before = machine.holdings();
    let mut wanted = BTreeSet::new();
    let began = Instant::now();
    for round in 0..kills {
        // Some of the pods are deleted and new ones made, and in the middle of that somebody dies.
        let ends: Vec<String> = wanted
            .iter()
            .filter(|_| chance.below(2) == 0)
            .cloned()
            .collect();
        if !ends.is_empty() {
            let mut args = vec!["delete", "pod", "--wait=false"];
            args.extend(ends.iter().map(String::as_str));
            machine.kubectl(&args).ok();
            wanted.retain(|name| !ends.contains(name));
        }
        let mut manifest = String::new();
        while wanted.len() < 4 {
            let name = format!("p{round}-{}", wanted.len());
            manifest += &format!("---{}", pod(&name));
            wanted.insert(name);
        }
        if !manifest.is_empty() {
            machine.apply(&manifest);
        }
        let moment = Duration::from_millis(chance.below(1500));
        thread::sleep(moment);
        let victim = match chance.below(3) {
            0 => {
                let shims: Vec<String> = machine
                    .pod_processes(&machine.instance_id())
                    .into_iter()
                    .filter(|process| process.contains("kernelet"))
                    .collect();
                let which = chance.below(shims.len().max(1) as u64) as usize;
                shims.get(which).and_then(|process| {
                    let pid = process.split(' ').next()?.to_owned();
                    Some(format!("shim {pid}"))
                })
            }
            _ => machine.pid().map(|pid| format!("program {pid}")),
        };
        println!("{round} at {:.1?}: {victim:?}", began.elapsed());
        if let Some((what, pid)) = victim.as_deref().and_then(|v| v.split_once(' ')) {
            machine.sh(&format!("kill -9 {pid}"));
            if what == "program" {
                eventually("its end", Duration::from_secs(10), || {
                    machine.pid().map_or(Ok(()), |pid| Err(pid.to_string()))
                });
                machine.up();
            }
        }
        if round % 5 == 4 {
            await_wanted(&machine, &wanted, &before);
            println!("all as wanted at {:.1?}", began.elapsed());
        }
    }
    await_wanted(&machine, &wanted, &before);
    machine
        .kubectl(&["delete", "pods", "--all", "--wait=false"])
        .ok();
    await_wanted(&machine, &BTreeSet::new(), &before);
}

#[test]
fn a_pod_whose_shim_is_stopped_is_deleted_within_bounds() {
    skip_unless_root!();
    let machine = machine();
    let before = machine.holdings();
    machine.apply(&pod("stopped"));
    machine.wait("pod/stopped", "condition=Ready", Duration::from_secs(30));
    let uid = machine.get(&["pod", "stopped"])["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let shim = machine
        .pod_processes(&uid)
        .into_iter()
        .find(|process| process.contains("kernelet"))
        .expect("the pod has a shim");
    let pid = shim.split(' ').next().unwrap();
    machine.sh(&format!("kill -STOP {pid}")).ok();
    let began = Instant::now();
    machine
        .kubectl(&["delete", "pod", "stopped", "--wait=false"])
        .ok();
    await_wanted(&machine, &BTreeSet::new(), &before);
    let took = began.elapsed();
    println!("gone after {took:?}");
    // Its grace is 3 s; then its silence is found out, and the rest needs no shim.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
