//! Deployments in kubectl's hands.

use std::time::Duration;

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 3
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "busybox:test", command: [sleep, "100000"], env: [{name: VERSION, value: "1"}]}
"#;

#[test]
fn a_rollout_is_watched_recorded_undone_and_scaled() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(DEPLOYMENT);
    let status = machine
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"])
        .ok();
    assert!(
        status.contains("deployment \"app\" successfully rolled out"),
        "{status}"
    );

    machine.apply(&DEPLOYMENT.replace("value: \"1\"", "value: \"2\""));
    machine
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"])
        .ok();
    let history = machine
        .kubectl(&["rollout", "history", "deployment/app"])
        .ok();
    assert!(
        history.contains("1         <none>") && history.contains("2         <none>"),
        "{history}"
    );
    let version = |machine: &Machine| {
        machine.get(&["deployment", "app"])["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"].clone()
    };
    assert_eq!(version(&machine), "2");
    machine.kubectl(&["rollout", "undo", "deployment/app"]).ok();
    machine
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"])
        .ok();
    assert_eq!(version(&machine), "1");
    let history = machine
        .kubectl(&["rollout", "history", "deployment/app"])
        .ok();
    assert!(
        history.contains("3         <none>") && !history.contains("\n1 "),
        "{history}"
    );

    machine
        .kubectl(&["scale", "deployment/app", "--replicas=5"])
        .ok();
    machine
        .kubectl(&[
            "wait",
            "deployment/app",
            "--for=jsonpath={.status.readyReplicas}=5",
            "--timeout=30s",
        ])
        .ok();
    machine
        .kubectl(&["scale", "deployment/app", "--replicas=1"])
        .ok();
    eventually(
        "one pod is left",
        Duration::from_secs(20),
        || match machine.get(&["pods"])["items"].as_array().map(Vec::len) {
            Some(1) => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );

    // An image that isn't there: the rollout stops, and says so in time.
    machine.kubectl(&["patch", "deployment/app", "-p", r#"{"spec":{"progressDeadlineSeconds":2,"template":{"spec":{"containers":[{"name":"main","image":"absent:never","imagePullPolicy":"Never"}]}}}}"#]).ok();
    let output = machine.kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    assert_ne!(output.code, 0);
    assert!(
        output.stderr.contains("exceeded its progress deadline"),
        "{}",
        output.stderr
    );
    let pods = machine.kubectl(&["get", "pods"]).ok();
    assert!(pods.contains("ErrImageNeverPull"), "{pods}");
    assert!(pods.contains("Running"), "the old pod stays: {pods}");

    machine
        .kubectl(&[
            "delete",
            "deployment/app",
            "--cascade=foreground",
            "--timeout=30s",
        ])
        .ok();
    let left = machine.get(&["pods,replicasets"]);
    assert_eq!(left["items"].as_array().unwrap().len(), 0, "{left}");
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.kubectl(&["create", "namespace", "team"]).ok();
    machine
        .kubectl_stdin(&["apply", "-n", "team", "-f", "-"], DEPLOYMENT)
        .ok();
    machine
        .kubectl(&[
            "rollout",
            "status",
            "-n",
            "team",
            "deployment/app",
            "--timeout=60s",
        ])
        .ok();
    machine
        .kubectl(&["delete", "namespace", "team", "--timeout=60s"])
        .ok();
    let output = machine.kubectl(&["get", "namespace", "team"]);
    assert!(
        output.stderr.contains("namespaces \"team\" not found"),
        "{}",
        output.stderr
    );
    let pods = machine.get(&["pods", "-A"]);
    assert_eq!(pods["items"].as_array().unwrap().len(), 0);
}
