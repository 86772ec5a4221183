//! Real containers of real shims: what a container sees, and what becomes of it.

mod common;

use std::os::fd::AsFd;

use common::{Pod, chain, exec, exit_of, output, root_layout, run};
use kernelet_shim_client::{ExecIo, FailureKind, Shim, ShimError, VolumePlan};
use kernelet_spec::{
    MountExtra, MountFlags, MountPlan, MountSource, NameOrId, NamespaceOf, Propagation, UserPlan,
};
use nix::fcntl::OFlag;

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
        // Numbers of namespaces that are gone are used again, so only those that live on compare.
        if matches!(kind, "net" | "ipc" | "uts") {
            assert_eq!(
                of(&one, kind),
                of(&two, kind),
                "{kind} of two containers of a pod"
            );
        }
    }
    assert!(one.ends_with("tiny\n1\n"), "{one}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn its_dev_is_what_oci_promises() {
    let Some(layout) = root_layout("/dev") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let script = "for n in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$n; done; \
                  for n in fd stdin stdout stderr ptmx; do echo $n $(readlink /dev/$n); done; \
                  echo x > /dev/null; echo out > /dev/stdout; \
                  while read -r dev at type rest; do echo at $at $type $rest; done < /proc/mounts";
    let text = output(&pod, &shim, &pod.container("one", script)).await;
    for line in [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "fd /proc/self/fd",
        "stdout /proc/self/fd/1",
        "ptmx pts/ptmx",
        "out",
        "at /proc proc rw,nosuid,nodev,noexec,relatime 0 0",
        "at /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line:?} is missing in:\n{text}"
        );
    }
    for start in [
        "at / overlay rw",
        "at /dev/pts devpts rw,nosuid,noexec",
        "at /dev/shm tmpfs rw,nosuid,nodev,noexec",
        "at /sys sysfs ro",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(start)),
            "{start:?} is missing in:\n{text}"
        );
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn it_is_the_user_with_the_groups_and_the_place_it_asked_for() {
    let Some(layout) = root_layout("user") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container(
        "one",
        "id -u; id -g; id -G; pwd; umask; echo $HOME $A; echo to-stderr > /dev/stderr",
    );
    plan.process.user = UserPlan {
        user: NameOrId::Name("web".into()),
        group: None,
        additional_gids: vec![2000],
        groups_of_image: true,
        umask: Some(0o027),
    };
    plan.process.cwd = "/not/there/yet".into();
    plan.process.env.push("A=b c".into());
    let text = output(&pod, &shim, &plan).await;
    assert_eq!(
        text,
        "101\n102\n102 7 2000\n/not/there/yet\n0027\n/srv/web b c\nto-stderr\n"
    );

    let mut plan = pod.container("two", "true");
    plan.process.user.user = NameOrId::Name("nobody-here".into());
    let error = shim.create(&plan).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unable to find user nobody-here"),
        "{}",
        chain(&error)
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn volumes_are_shared_by_the_pods_containers_and_end_with_it() {
    let Some(layout) = root_layout("volumes") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let volume = VolumePlan {
        name: "cache".into(),
        size_bytes: Some(1 << 20),
        mode: 0o1777,
        gid: 5,
    };
    let dir = shim.create_volume(&volume).await.unwrap();
    // The agent fills it without a path.
    kernelet_sys::fd::open_at(
        dir.as_fd(),
        "from-agent",
        OFlag::O_CREAT | OFlag::O_WRONLY,
        0o644,
    )
    .unwrap();
    std::fs::create_dir_all(pod.base.join("host/sub")).unwrap();
    std::fs::write(pod.base.join("host/file"), "host file\n").unwrap();
    let with_mounts = |name: &str, script: &str| {
        let mut plan = pod.container(name, script);
        plan.mounts.push(MountPlan {
            destination: "/cache".into(),
            source: MountSource::Volume {
                name: "cache".into(),
                sub_path: None,
            },
            flags: MountFlags::default(),
            propagation: Propagation::Private,
            extra: MountExtra::default(),
        });
        plan.mounts
            .push(MountPlan::bind(pod.base.join("host"), "/deep/host", true));
        plan.mounts.push(MountPlan::bind(
            pod.base.join("host/file"),
            "/etc/one-file",
            false,
        ));
        plan
    };
    let one = with_mounts(
        "one",
        "ls /cache; stat -c '%a %g' /cache; echo written > /cache/x; echo shm > /dev/shm/y; \
        cat /deep/host/file /etc/one-file; sh -c 'echo no > /deep/host/new' 2> /dev/null || echo read-only; echo more >> /etc/one-file; \
        dd if=/dev/zero of=/cache/big bs=1M count=3 2>/dev/null || echo full",
    );
    let text = output(&pod, &shim, &one).await;
    assert_eq!(
        text,
        "from-agent\n1777 5\nhost file\nhost file\nread-only\nfull\n"
    );
    let two = with_mounts("two", "cat /cache/x /dev/shm/y /etc/one-file");
    assert_eq!(
        output(&pod, &shim, &two).await,
        "written\nshm\nhost file\nmore\n"
    );
    let mut missing = with_mounts("three", "true");
    missing
        .mounts
        .push(MountPlan::bind("/not/on/this/host", "/x", false));
    let error = shim.create(&missing).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the mount at /x: open /not/on/this/host"),
        "{error}"
    );
    drop(dir);
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn limits_reach_the_kernel() {
    let Some(layout) = root_layout("limits") else {
        return;
    };
    let pod = Pod::new(layout.clone());
    let shim = pod.shim().await;
    let mut plan = pod.container(
        "one",
        "for n in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo spawned; wait",
    );
    plan.resources.cpu_request_milli(250);
    plan.resources.cpu_limit_milli(500);
    plan.resources.memory_limit = Some(64 << 20);
    plan.resources.memory_swap = Some(64 << 20);
    plan.resources.pids_limit = Some(5);
    if !layout.has("memory") {
        println!("SKIP limits: no memory controller");
        return pod.end(Some(shim)).await;
    }
    shim.create(&plan)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let group = layout.group(&plan.cgroup);
    let file = |controller: &str, v1: &str, v2: &str| {
        let path = match group.v1_dir(controller) {
            Some(dir) => dir.join(v1),
            None => group.v2_dir().unwrap().join(v2),
        };
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let v1 = layout.v1_of("cpu").is_some();
    assert_eq!(
        file("cpu", "cpu.shares", "cpu.weight"),
        if v1 { "256" } else { "35" }
    );
    assert_eq!(
        file("cpu", "cpu.cfs_quota_us", "cpu.max"),
        if v1 { "50000" } else { "50000 100000" }
    );
    assert_eq!(
        file("memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(file("pids", "pids.max", "pids.max"), "5");
    shim.start(&plan.id).await.unwrap();
    let exit = exit_of(&shim, &plan.id).await;
    let log = pod.log("one");
    assert_ne!(exit.exit_code, 0, "more processes than its limit: {log}");
    assert!(log.contains("can't fork"), "{log}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_container_that_outgrows_its_memory_is_reported_so() {
    let Some(layout) = root_layout("oom") else {
        return;
    };
    if !layout.has("memory") {
        return println!("SKIP oom: no memory controller");
    }
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "tail /dev/zero");
    plan.process.args = vec!["/bin/tail".into(), "/dev/zero".into()];
    plan.resources.memory_limit = Some(16 << 20);
    plan.resources.memory_swap = Some(16 << 20);
    let exit = run(&shim, &plan).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (137, Some(9), true)
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn sysctls_change_the_pod_and_never_the_host() {
    let Some(layout) = root_layout("sysctls") else {
        return;
    };
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let before = read();
    let pod = Pod::new(layout);
    let shim = Shim::spawn(pod.options()).await.unwrap();
    let mut sandbox = pod.sandbox();
    sandbox
        .sysctls
        .insert("net.ipv4.ip_local_port_range".into(), "30000 30100".into());
    sandbox
        .sysctls
        .insert("kernel.msgmax".into(), "9999".into());
    shim.create_sandbox(&sandbox)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let text = output(
        &pod,
        &shim,
        &pod.container(
            "one",
            "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/msgmax",
        ),
    )
    .await;
    assert_eq!(text, "30000\t30100\n9999\n");
    assert_eq!(read(), before);
    for (name, value) in [
        ("kernel.panic", "1"),
        ("net.ipv4.ip_forward", "1\n2"),
        ("net/../kernel/panic", "1"),
        ("vm.swappiness", "1"),
    ] {
        let mut bad = pod.sandbox();
        bad.sysctls.insert(name.into(), value.into());
        assert!(
            matches!(shim.create_sandbox(&bad).await, Err(ShimError::Plan(_))),
            "{name}={value:?}"
        );
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_shared_process_namespace_has_an_init_of_ours_that_reaps() {
    let Some(layout) = root_layout("shared pid") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = Shim::spawn(pod.options()).await.unwrap();
    let mut sandbox = pod.sandbox();
    sandbox.share_process_namespace = true;
    shim.create_sandbox(&sandbox)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let shared = |name: &str, script: &str| {
        let mut plan = pod.container(name, script);
        plan.namespaces.pid = NamespaceOf::Pod;
        plan
    };
    let one = shared("one", "sleep 1000");
    shim.create(&one)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    shim.start(&one.id).await.unwrap();
    // An orphan of the second container becomes init's child and is reaped.
    let script = "ps -o pid,args | grep -v ps; ls /proc/1/root/ 2>&1; cat /proc/1/environ 2>&1; sh -c 'sleep 0.1 &'; sleep 0.5; \
                  ps -o stat,args | grep -c ^Z";
    let two = shared("two", script);
    run(&shim, &two).await;
    let text = pod.log("two");
    assert!(text.contains("kernelet-init"), "{text}");
    assert!(
        text.contains("sleep 1000"),
        "the other container's process: {text}"
    );
    assert_eq!(
        text.matches("Permission denied").count(),
        2,
        "init's root and environment are closed: {text}"
    );
    assert!(text.ends_with("\n0\n"), "no zombie: {text}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn host_namespaces_are_the_hosts() {
    let Some(layout) = root_layout("host namespaces") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = Shim::spawn(pod.options()).await.unwrap();
    let mut sandbox = pod.sandbox();
    (sandbox.host_network, sandbox.host_ipc) = (true, true);
    let made = shim.create_sandbox(&sandbox).await.unwrap();
    assert!(made.net.is_none() && made.ipc.is_none() && made.uts.is_none());
    let mut plan = pod.container(
        "one",
        "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done",
    );
    plan.namespaces.net = NamespaceOf::Host;
    plan.namespaces.ipc = NamespaceOf::Host;
    plan.namespaces.uts = NamespaceOf::Host;
    plan.namespaces.pid = NamespaceOf::Host;
    plan.mounts.retain(|m| m.source != MountSource::PodShm);
    let text = output(&pod, &shim, &plan).await;
    let host: String = ["net", "ipc", "uts", "pid"]
        .map(|kind| {
            format!(
                "{}\n",
                std::fs::read_link(format!("/proc/self/ns/{kind}"))
                    .unwrap()
                    .display()
            )
        })
        .concat();
    assert_eq!(text, host);
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let Some(layout) = root_layout("terminal") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let mut terminal_plan = common::exec_plan(&plan, "tty; stty size; exit 4", None);
    terminal_plan.terminal = true;
    let mut exec = shim
        .exec(&plan.id, &terminal_plan, ExecIo::Capture { limit: 0 })
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let control = exec.terminal.take().expect("a terminal's controlling end");
    let reader = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let mut buffer = [0_u8; 256];
        // EIO is how a terminal says that nobody has the other end any more.
        while let Ok(n @ 1..) = nix::unistd::read(&control, &mut buffer) {
            text.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8(text).unwrap()
    });
    assert_eq!(exec.wait().await.unwrap().exit_code, 4);
    let text = reader.await.unwrap();
    assert!(text.starts_with("/dev/pts/0\r\n"), "{text:?}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_terminals_output_is_logged_and_a_wanted_stdin_stays_open() {
    let Some(layout) = root_layout("tty in a pod") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container(
        "one",
        "tty; echo to-stderr >&2; test -t 0 && echo yes; exit 2",
    );
    plan.terminal = true;
    assert_eq!(run(&shim, &plan).await.exit_code, 2);
    assert_eq!(pod.log("one"), "/dev/pts/0\nto-stderr\nyes\n");
    // A read comes back at once without a stdin, and waits with one, until the signal.
    let script = "(sleep 0.3; kill -TERM 1) & trap 'exit 143' TERM; read line; exit 1";
    for (name, wanted, code) in [("with", true, 143), ("without", false, 1)] {
        let mut plan = pod.container(name, script);
        plan.stdin = wanted;
        assert_eq!(run(&shim, &plan).await.exit_code, code, "{name}");
    }
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
