//! Real containers of real shims: what a container sees, and what becomes of it.

mod common;

use common::{Pod, chain, exec, exit_of, output, root_layout, run};
use kernelet_shim_client::{FailureKind, ShimError};

#[tokio::test]
async fn a_container_runs_and_its_exit_code_and_output_are_true() {
    let Some(layout) = root_layout("a container runs") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "echo hello; echo oops >&2; exit 7");
    let exit = run(&shim, &plan).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (7, None, false)
    );
    let mut lines: Vec<String> = pod.log("one").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["hello", "oops"]);
    shim.remove(&plan.id).await.unwrap();
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_missing_command_is_said_so_and_counts_as_an_exit() {
    let Some(layout) = root_layout("a missing command") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    for (name, command, message) in [
        ("a", "nothing-here", "executable file not found in $PATH"),
        (
            "b",
            "/bin/nothing",
            "stat /bin/nothing: no such file or directory",
        ),
        ("c", "/etc/passwd", "permission denied"),
        ("d", "/bin", "is a directory"),
    ] {
        let mut plan = pod.container(name, "");
        plan.process.args = vec![command.into()];
        match shim.create(&plan).await {
            Err(ShimError::Refused(failure)) => {
                assert_eq!(failure.kind, FailureKind::Command);
                assert!(failure.what.contains(message), "{}", failure.what);
            }
            other => panic!("{command}: {other:?}"),
        }
        assert!(
            !pod.layout.group(&plan.cgroup).exists(),
            "a failed creation leaves no cgroup"
        );
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn it_has_namespaces_of_its_own_and_the_pods() {
    let Some(layout) = root_layout("namespaces") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let script = "for n in mnt pid net ipc uts cgroup; do echo $n $(readlink /proc/self/ns/$n); done; hostname; echo $$";
    let one = output(&pod, &shim, &pod.container("one", script)).await;
    let two = output(&pod, &shim, &pod.container("two", script)).await;
    let host = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let of = |text: &str, kind: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(&format!("{kind} ")))
            .map(str::to_owned)
            .unwrap_or_default()
    };
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(of(&one, kind), host(kind), "{kind} is the host's");
        let shared = matches!(kind, "net" | "ipc" | "uts");
        assert_eq!(
            of(&one, kind) == of(&two, kind),
            shared,
            "{kind} of two containers of a pod"
        );
    }
    assert!(one.ends_with("tiny\n1\n"), "{one}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn exec_joins_the_container() {
    let Some(layout) = root_layout("exec") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "echo $$ > /tmp/pid; exec sleep 1000");
    shim.create(&plan)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert!(
        exec(&shim, &plan, "true").await.is_err(),
        "exec into a container that isn't started"
    );
    shim.start(&plan.id).await.unwrap();
    let exit = exec(
        &shim,
        &plan,
        "cat /tmp/pid; readlink /proc/1/exe; cat /proc/self/cgroup | wc -l; exit 3",
    )
    .await;
    let exit = exit.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let text = String::from_utf8(exit.output).unwrap();
    assert_eq!(exit.exit_code, 3, "{text}");
    assert!(text.starts_with("1\n/bin/busybox\n"), "{text}");
    shim.signal(&plan.id, nix::libc::SIGKILL).await.unwrap();
    let exit = exit_of(&shim, &plan.id).await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    pod.end(Some(shim)).await;
}
