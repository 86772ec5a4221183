//! What a newcomer does: start, roll the example out, reach it, and take everything away again.

use std::{collections::BTreeSet, time::Duration};

use kernelet_scenarios::{Machine, Traces, eventually, skip_unless_root};

const EXAMPLE: &str = include_str!("../../../examples/hello/hello.yaml");

#[test]
fn the_example_is_rolled_out_reached_by_name_and_address_and_purged_without_a_trace() {
    skip_unless_root!();
    let before = Traces::now();
    let machine = Machine::new();
    let said = machine.up();
    assert!(
        said.contains("is Ready") && said.contains("kubeconfig"),
        "{said}"
    );

    machine.apply(EXAMPLE);
    let rolled = machine.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    if rolled.code != 0 {
        panic!(
            "{}{}\n{}\n{}\n{}",
            rolled.stdout,
            rolled.stderr,
            machine.kubectl(&["describe", "pods"]).stdout,
            machine
                .kubectl(&["get", "all,endpointslices,events", "-A", "-o", "wide"])
                .stdout,
            machine.log()
        );
    }
    assert!(
        rolled.stdout.contains("successfully rolled out"),
        "{}",
        rolled.stdout
    );

    // From a process of the node that is in no pod's cgroup.
    let service = machine.get(&["service", "hello"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let mut answered = BTreeSet::new();
    for _ in 0..60 {
        let body = machine
            .sh(&format!("curl -sS --max-time 5 http://{address}/"))
            .ok();
        let pod = body
            .split("hello-")
            .nth(1)
            .unwrap_or_else(|| panic!("no pod's name in {body}"));
        answered.insert(
            pod.split(|c: char| !(c.is_alphanumeric() || c == '-'))
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(answered.len(), 3, "every pod answers: {answered:?}");

    // The kernel's own maps name the Service and its backends.
    let rows = machine.kernelet(&["net", "services", "-o", "json"]).json();
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["address"] == format!("{address}:80"))
        .unwrap_or_else(|| panic!("{address} is not in {rows}"));
    assert_eq!(row["backends"].as_array().unwrap().len(), 3, "{row}");

    let status = machine.status();
    assert_eq!(status["healthy"], true, "{status}");

    let output = machine.kernelet(&["down", "--purge"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert!(!machine.data_dir().exists());
    drop(machine);
    // Namespaces go with the last reference to them, which the kernel drops a little later.
    eventually("nothing is left", Duration::from_secs(10), || {
        let left = Traces::now().since(&before);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
}
