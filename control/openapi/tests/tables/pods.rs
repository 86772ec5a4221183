//! Pods: what their status column says of containers, and the wide columns.

use super::*;

/// Checks name, ready, status, restarts and age of a pod.
fn check_pod(object: Value, cells: [&str; 3]) {
    let rendered = render("", "Pod", &complete("Pod", object), IncludeObject::None);
    let row = &rendered["rows"][0]["cells"];
    assert_eq!(json!([row[1], row[2], row[3]]), json!(cells));
}

fn running(name: &str, ready: bool, restarts: i64) -> Value {
    json!({"name": name, "ready": ready, "restartCount": restarts, "state": {"running": {"startedAt": CREATED}}})
}

fn waiting(name: &str, reason: &str, restarts: i64) -> Value {
    json!({
        "name": name, "ready": false, "restartCount": restarts, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-03-01T11:57:00Z"}},
    })
}

fn ended(name: &str, terminated: Value) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"terminated": terminated}})
}

fn pod(phase: &str, containers: &[Value]) -> Value {
    let spec: Vec<Value> = containers
        .iter()
        .map(|status| json!({"name": status["name"]}))
        .collect();
    json!({"spec": {"containers": spec}, "status": {"phase": phase, "containerStatuses": containers}})
}

#[test]
fn a_pods_status_says_what_is_wrong_with_it() {
    check_pod(
        json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Pending"}}),
        ["0/1", "Pending", "0"],
    );
    check_pod(
        pod("Running", &[running("a", true, 0)]),
        ["1/1", "Running", "0"],
    );
    check_pod(
        pod("Running", &[running("a", false, 0)]),
        ["0/1", "Running", "0"],
    );
    check_pod(
        pod("Pending", &[waiting("a", "ContainerCreating", 0)]),
        ["0/1", "ContainerCreating", "0"],
    );
    check_pod(
        pod("Running", &[waiting("a", "CrashLoopBackOff", 2)]),
        ["0/1", "CrashLoopBackOff", "2 (3m ago)"],
    );
    // The first container's reason wins.
    check_pod(
        pod(
            "Running",
            &[
                waiting("a", "ErrImagePull", 0),
                waiting("b", "CrashLoopBackOff", 5),
            ],
        ),
        ["0/2", "ErrImagePull", "5 (3m ago)"],
    );
    check_pod(
        pod(
            "Failed",
            &[ended("a", json!({"exitCode": 1, "reason": "Error"}))],
        ),
        ["0/1", "Error", "0"],
    );
    check_pod(
        pod(
            "Failed",
            &[ended("a", json!({"exitCode": 137, "reason": "OOMKilled"}))],
        ),
        ["0/1", "OOMKilled", "0"],
    );
    check_pod(
        pod("Failed", &[ended("a", json!({"exitCode": 2}))]),
        ["0/1", "ExitCode:2", "0"],
    );
    check_pod(
        pod("Failed", &[ended("a", json!({"exitCode": 0, "signal": 9}))]),
        ["0/1", "Signal:9", "0"],
    );
    check_pod(
        pod(
            "Succeeded",
            &[ended("a", json!({"exitCode": 0, "reason": "Completed"}))],
        ),
        ["0/1", "Completed", "0"],
    );
    let mut evicted = pod("Failed", &[]);
    evicted["status"]["reason"] = json!("Evicted");
    check_pod(evicted, ["0/0", "Evicted", "0"]);
    let mut gated = pod("Pending", &[]);
    gated["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check_pod(gated, ["0/0", "SchedulingGated", "0"]);
}

#[test]
fn a_pod_of_which_one_container_is_done_still_runs_or_has_failed() {
    let done = || ended("a", json!({"exitCode": 0, "reason": "Completed"}));
    let mut ready = pod("Running", &[done(), running("b", true, 0)]);
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    check_pod(ready, ["1/2", "Running", "0"]);
    check_pod(
        pod("Running", &[done(), running("b", true, 0)]),
        ["1/2", "NotReady", "0"],
    );
    let failed = ended("b", json!({"exitCode": 3, "reason": "Error"}));
    check_pod(pod("Running", &[done(), failed]), ["0/2", "Error", "0"]);
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating() {
    let mut object = pod("Running", &[running("a", true, 0)]);
    object["metadata"] = json!({"deletionTimestamp": NOW});
    check_pod(object.clone(), ["1/1", "Terminating", "0"]);
    object["status"]["reason"] = json!("NodeLost");
    check_pod(object, ["1/1", "Unknown", "0"]);
    let mut done = pod(
        "Succeeded",
        &[ended("a", json!({"exitCode": 0, "reason": "Completed"}))],
    );
    done["metadata"] = json!({"deletionTimestamp": NOW});
    check_pod(done, ["0/1", "Completed", "0"]);
}

/// A pod with init containers in this state, and a main container that waits for them.
fn initializing(spec: Value, statuses: Value) -> Value {
    let mut object = pod("Pending", &[waiting("main", "PodInitializing", 0)]);
    object["status"]["containerStatuses"][0]["lastState"] = json!({});
    object["spec"]["initContainers"] = spec;
    object["status"]["initContainerStatuses"] = statuses;
    object
}

#[test]
fn a_pod_that_initializes_says_how_far_it_is_and_what_failed() {
    let two = || json!([{"name": "i1"}, {"name": "i2"}]);
    let done = || ended("i1", json!({"exitCode": 0, "reason": "Completed"}));
    check_pod(
        initializing(two(), json!([waiting("i1", "PodInitializing", 0)])),
        ["0/1", "Init:0/2", "0"],
    );
    check_pod(
        initializing(two(), json!([running("i1", false, 0)])),
        ["0/1", "Init:0/2", "0"],
    );
    check_pod(
        initializing(two(), json!([done(), running("i2", false, 0)])),
        ["0/1", "Init:1/2", "0"],
    );
    check_pod(
        initializing(two(), json!([done(), waiting("i2", "CrashLoopBackOff", 4)])),
        ["0/1", "Init:CrashLoopBackOff", "4 (3m ago)"],
    );
    check_pod(
        initializing(
            two(),
            json!([ended("i1", json!({"exitCode": 1, "reason": "Error"}))]),
        ),
        ["0/1", "Init:Error", "0"],
    );
    check_pod(
        initializing(two(), json!([ended("i1", json!({"exitCode": 7}))])),
        ["0/1", "Init:ExitCode:7", "0"],
    );
    check_pod(
        initializing(
            two(),
            json!([ended("i1", json!({"exitCode": 1, "signal": 15}))]),
        ),
        ["0/1", "Init:Signal:15", "0"],
    );
}

#[test]
fn a_sidecar_counts_as_a_container_and_its_restarts_count_too() {
    let spec = || json!([{"name": "side", "restartPolicy": "Always"}]);
    let side = |ready: bool| {
        json!({
            "name": "side", "ready": ready, "started": true, "restartCount": 3,
            "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-03-01T11:59:00Z"}},
        })
    };
    let mut object = pod("Running", &[running("main", true, 1)]);
    object["spec"]["initContainers"] = spec();
    object["status"]["initContainerStatuses"] = json!([side(true)]);
    check_pod(object.clone(), ["2/2", "Running", "4 (60s ago)"]);
    object["status"]["initContainerStatuses"] = json!([side(false)]);
    check_pod(object, ["1/2", "Running", "4 (60s ago)"]);
    let mut starting = initializing(
        spec(),
        json!([{
            "name": "side", "ready": false, "started": false, "restartCount": 0, "state": {"running": {}},
        }]),
    );
    check_pod(starting.clone(), ["0/2", "Init:0/1", "0"]);
    // An Initialized pod is judged by its main containers whatever an init container reports.
    starting["status"]["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    check_pod(starting, ["0/2", "PodInitializing", "0"]);
}

#[test]
fn a_pods_wide_columns() {
    let mut object = pod("Running", &[running("a", true, 0)]);
    check(
        "",
        "Pod",
        object.clone(),
        json!([
            "x", "1/1", "Running", "0", "3h", "<none>", "<none>", "<none>", "<none>"
        ]),
    );
    object["spec"]["nodeName"] = json!("n1");
    object["spec"]["readinessGates"] = json!([{"conditionType": "a"}, {"conditionType": "b"}]);
    object["status"]["podIPs"] = json!([{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]);
    object["status"]["nominatedNodeName"] = json!("n2");
    object["status"]["conditions"] =
        json!([{"type": "a", "status": "True"}, {"type": "b", "status": "False"}]);
    check(
        "",
        "Pod",
        object,
        json!([
            "x",
            "1/1",
            "Running",
            "0",
            "3h",
            "10.244.0.5",
            "n1",
            "n2",
            "1/2"
        ]),
    );
}

#[test]
fn a_pod_that_has_ended_says_so_in_its_rows_conditions() {
    let conditions = |phase: &str| {
        let rendered = render(
            "",
            "Pod",
            &complete("Pod", pod(phase, &[])),
            IncludeObject::None,
        );
        rendered["rows"][0].get("conditions").cloned()
    };
    assert_eq!(conditions("Running"), None);
    for (phase, message) in [
        ("Succeeded", "The pod has completed successfully."),
        ("Failed", "The pod failed."),
    ] {
        let wanted =
            json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]);
        assert_eq!(conditions(phase), Some(wanted));
    }
}
