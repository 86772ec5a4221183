//! What people type.

use super::start;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_limits_and_priorities_from_the_command_line() {
    let (server, _api) = start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    let run = |args: &str| kubectl.ok(args);
    assert_eq!(
        run("create quota q --hard=pods=2,limits.cpu=1 --scopes=NotTerminating"),
        "resourcequota/q created\n"
    );
    assert_eq!(
        run("create priorityclass high --value=1000 --description=x"),
        "priorityclass.scheduling.k8s.io/high created\n"
    );
    assert!(run("get quota").starts_with("NAME   REQUEST   LIMIT   AGE\n"));
    let classes = run("get pc -o wide");
    assert!(
        classes.starts_with(
            "NAME                      VALUE        GLOBAL-DEFAULT   AGE   PREEMPTIONPOLICY\n"
        ),
        "{classes}"
    );
    assert!(run("describe quota q").contains("Scopes:"));
    assert!(run("describe pc high").contains("PreemptionPolicy:  PreemptLowerPriority"));
    assert!(
        run("explain limitrange.spec.limits.maxLimitRequestRatio").contains("maxLimitRequestRatio")
    );
    server.stop().await;
}
