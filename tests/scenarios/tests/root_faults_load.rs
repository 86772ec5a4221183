//! The program killed again and again under load, and clients that go away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
    thread,
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

const CLIENTS: &str = "6";

fn kills() -> u64 {
    std::env::var("KERNELET_KILLS")
        .ok()
        .map_or(100, |text| text.parse().expect("a number"))
}

/// One attempt to write, as the load tells it.
struct Attempt {
    name: String,
    n: i64,
    from: f64,
    to: f64,
    /// The resourceVersion of an acknowledged one.
    version: Option<u64>,
}

fn attempts(text: &str) -> Vec<Attempt> {
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            Attempt {
                name: row["name"].as_str().unwrap().to_owned(),
                n: row["n"].as_i64().unwrap(),
                from: row["from"].as_f64().unwrap(),
                to: row["to"].as_f64().unwrap(),
                version: row["version"].as_u64(),
            }
        })
        .collect()
}

#[test]
fn every_acknowledged_write_outlives_the_programs_kills() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    let script = machine.dir().join("config_maps.py");
    fs::write(&script, include_str!("load/config_maps.py")).unwrap();
    let told = machine.dir().join("told");
    let mut load = machine
        .command("python3")
        .arg(&script)
        .args([machine.node_ip(), "6443"])
        .arg(machine.data_dir().join("pki"))
        .arg(CLIENTS)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&told).unwrap())
        .spawn()
        .unwrap();
    let acknowledged = || {
        let text = fs::read_to_string(&told).unwrap();
        text.lines()
            .filter(|line| line.contains("\"version\""))
            .count()
    };
    let mut before = 0;
    for kill in 0..kills() {
        eventually("writes are acknowledged", Duration::from_secs(30), || {
            let now = acknowledged();
            if now > before + 10 {
                Ok(())
            } else {
                Err(format!("{now}"))
            }
        });
        // Not always at the same point of what the program does.
        thread::sleep(Duration::from_millis(kill * 37 % 200));
        let pid = machine.pid().expect("it runs");
        machine.sh(&format!("kill -9 {pid}")).ok();
        before = acknowledged();
        eventually("its end", Duration::from_secs(10), || {
            machine.pid().map_or(Ok(()), |pid| Err(pid.to_string()))
        });
        machine.up();
    }
    drop(load.stdin.take());
    assert!(load.wait().unwrap().success());
    let attempts = attempts(&fs::read_to_string(&told).unwrap());
    let lost = attempts.iter().filter(|a| a.version.is_none()).count();
    println!("{} writes acknowledged, {lost} not", attempts.len() - lost);
    assert!(lost > 0, "no kill met a write");

    // Each map holds its last acknowledged value, or one of a later attempt whose answer never came.
    let mut found = BTreeMap::new();
    for map in machine.get(&["configmaps"])["items"].as_array().unwrap() {
        let name = map["metadata"]["name"].as_str().unwrap().to_owned();
        let n = map["data"]["n"]
            .as_str()
            .and_then(|n| n.parse::<i64>().ok());
        let version = map["metadata"]["resourceVersion"].as_str().unwrap();
        found.insert(name, (n, version.parse::<u64>().unwrap()));
    }
    let mut last: BTreeMap<&str, (&Attempt, BTreeSet<i64>)> = BTreeMap::new();
    for attempt in &attempts {
        match (attempt.version, last.get_mut(attempt.name.as_str())) {
            (Some(_), _) => drop(last.insert(&attempt.name, (attempt, BTreeSet::new()))),
            (None, Some((_, later))) => drop(later.insert(attempt.n)),
            (None, None) => {}
        }
    }
    for (name, (attempt, later)) in last {
        let (n, version) = found
            .get(name)
            .unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        let n = n.expect("a number");
        if n == attempt.n {
            assert_eq!(Some(*version), attempt.version, "{name}");
        } else {
            assert!(later.contains(&n), "{name}: {n} instead of {}", attempt.n);
            assert!(Some(*version) > attempt.version, "{name}");
        }
    }

    // No version is given twice, and what began after an answer has a higher one.
    let mut writes: Vec<_> = attempts
        .iter()
        .filter_map(|a| Some((a, a.version?)))
        .collect();
    let versions: BTreeSet<u64> = writes.iter().map(|(_, version)| *version).collect();
    assert_eq!(versions.len(), writes.len(), "a version was given twice");
    writes.sort_by(|a, b| a.0.from.total_cmp(&b.0.from));
    let mut ended: Vec<_> = writes.iter().map(|(a, version)| (a.to, *version)).collect();
    ended.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut next, mut highest) = (0, 0);
    for (attempt, version) in &writes {
        while next < ended.len() && ended[next].0 < attempt.from {
            highest = highest.max(ended[next].1);
            next += 1;
        }
        assert!(
            *version > highest,
            "{}: {version} after {highest}",
            attempt.name
        );
    }
}

#[test]
fn clients_that_vanish_leave_no_descriptor_behind() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:test
    command: [sh, -c, "while :; do echo line; sleep 0.2; done"]
"#,
    );
    machine.wait("pod/talker", "condition=Ready", Duration::from_secs(30));
    let descriptors = || {
        let pid = machine.pid().expect("it runs");
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    };
    let vanish = |count: usize, args: &[&str]| {
        let mut clients: Vec<_> = (0..count)
            .map(|_| {
                let mut command = machine.kubectl_command(args);
                command.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for client in &mut clients {
            // It is in the middle of it.
            let mut some = [0];
            std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut some).unwrap();
        }
        let during = descriptors();
        for client in &mut clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        during
    };
    for args in [
        &["logs", "-f", "talker"][..],
        &["get", "pods", "--watch", "-o", "name"],
    ] {
        vanish(1, args);
        let before = eventually("calm", Duration::from_secs(20), || {
            let count = descriptors();
            thread::sleep(Duration::from_millis(500));
            if descriptors() == count {
                Ok(count)
            } else {
                Err("it changes".into())
            }
        });
        let during = vanish(20, args);
        assert!(
            during > before + 15,
            "{args:?}: {before} before, {during} during"
        );
        eventually("they are closed", Duration::from_secs(20), || {
            let after = descriptors();
            if after <= before {
                Ok(())
            } else {
                Err(format!(
                    "{args:?}: {before} before, {during} during, {after} after"
                ))
            }
        });
    }
}
