//! What a container may, and what it may not.

mod common;

use common::{Pod, chain, exec, exit_of, output, root_layout};
use kernelet_spec::{CapSet, CapabilitySets, NameOrId, Rlimit, Seccomp};

#[tokio::test]
async fn capabilities_seccomp_and_no_new_privileges_are_as_planned() {
    let Some(layout) = root_layout("privileges") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let default = format!("{:016x}", CapSet::container_default().0);
    let none = "0000000000000000";
    let expect = |inh: &str, prm: &str, eff: &str, bnd: &str, nnp: u8, seccomp: u8| {
        format!(
            "CapInh:\t{inh}\nCapPrm:\t{prm}\nCapEff:\t{eff}\nCapBnd:\t{bnd}\nCapAmb:\t{none}\nNoNewPrivs:\t{nnp}\nSeccomp:\t{seccomp}\n"
        )
    };
    let plain = pod.container("plain", script);
    assert_eq!(
        output(&pod, &shim, &plain).await,
        expect(none, &default, &default, &default, 0, 2)
    );
    let mut other = pod.container("other", script);
    other.process.user.user = NameOrId::Id(1000);
    other.process.no_new_privileges = true;
    assert_eq!(
        output(&pod, &shim, &other).await,
        expect(none, none, none, &default, 1, 2),
        "another user"
    );
    let mut bare = pod.container("bare", script);
    bare.process.capabilities =
        CapabilitySets::from_add_drop(&["NET_BIND_SERVICE"], &["ALL"]).unwrap();
    bare.process.seccomp = Seccomp::Unconfined;
    let one = "0000000000000400";
    assert_eq!(
        output(&pod, &shim, &bare).await,
        expect(none, one, one, one, 0, 0)
    );

    // The same holds for exec.
    let running = pod.container("running", "sleep 1000");
    shim.create(&running)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    shim.start(&running.id).await.unwrap();
    let got = exec(&shim, &running, script).await.unwrap();
    assert_eq!(
        String::from_utf8(got.output).unwrap(),
        expect(none, &default, &default, &default, 0, 2)
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn what_the_default_profile_refuses_is_refused() {
    let Some(layout) = root_layout("default profile") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let script = "unshare -m true; mount -t tmpfs x /tmp; hostname evil; echo 1 > /proc/sys/kernel/panic; echo x > /sys/x; \
                  cat /proc/kcore | head -c 1 | wc -c; ls /sys/firmware /proc/acpi; mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda; hostname";
    let exit = common::run(&shim, &pod.container("one", script)).await;
    assert_eq!(exit.exit_code, 0);
    let log = pod.log("one");
    for refused in [
        "unshare: unshare(0x20000): Operation not permitted",
        "mount: permission denied",
        "hostname: sethostname: Operation not permitted",
        "can't create /proc/sys/kernel/panic: Read-only file system",
        "can't create /sys/x: Read-only file system",
        "head: /tmp/sda: Operation not permitted",
    ] {
        assert!(log.contains(refused), "{refused:?} is missing in:\n{log}");
    }
    assert!(log.lines().any(|l| l == "0"), "kcore is empty:\n{log}");
    assert!(log.lines().any(|l| l == "tiny"), "{log}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn limits_of_the_process_and_the_oom_score_are_set_or_the_reason_said() {
    let Some(layout) = root_layout("rlimits") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container(
        "one",
        "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj",
    );
    plan.process.rlimits = vec![
        Rlimit {
            name: "RLIMIT_NOFILE".into(),
            soft: 100,
            hard: 200,
        },
        Rlimit {
            name: "RLIMIT_CORE".into(),
            soft: 0,
            hard: 0,
        },
    ];
    plan.process.oom_score_adj = Some(500);
    assert_eq!(output(&pod, &shim, &plan).await, "100\n200\n0\n500\n");

    let mut unknown = pod.container("two", "true");
    unknown.process.rlimits = vec![Rlimit {
        name: "RLIMIT_LUCK".into(),
        soft: 1,
        hard: 1,
    }];
    assert!(
        shim.create(&unknown)
            .await
            .unwrap_err()
            .to_string()
            .contains("set RLIMIT_LUCK: no such limit")
    );

    let mut lower = pod.container("three", "cat /proc/self/oom_score_adj");
    lower.process.oom_score_adj = Some(-900);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caps = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:\t"))
        .unwrap();
    let has_sys_resource = u64::from_str_radix(caps, 16).unwrap() & (1 << 24) != 0;
    match shim.create(&lower).await {
        Err(e) if !has_sys_resource => {
            assert!(
                e.to_string()
                    .contains("write \"-900\" to self/oom_score_adj: Permission denied"),
                "{e}"
            );
        }
        Ok(_) if has_sys_resource => {
            shim.start(&lower.id).await.unwrap();
            exit_of(&shim, &lower.id).await;
            assert_eq!(pod.log("three"), "-900\n");
        }
        other => panic!("{other:?}"),
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let Some(layout) = root_layout("read-only root") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "touch /x || touch /dev/shm/y && echo only-the-root");
    plan.read_only_rootfs = true;
    let log = output(&pod, &shim, &plan).await;
    assert!(
        log.contains("touch: /x: Read-only file system") && log.ends_with("only-the-root\n"),
        "{log}"
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn only_the_three_descriptors_reach_a_program() {
    let Some(layout) = root_layout("descriptors") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    // 3 is the folder that ls itself reads.
    let plan = pod.container("one", "ls /proc/self/fd; sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let got = exec(
        &shim,
        &plan,
        "ls /proc/self/fd; for p in /proc/[0-9]*; do ls $p/fd; done | sort -u | wc -l",
    )
    .await;
    drop(got);
    let got = exec(&shim, &plan, "ls /proc/self/fd; echo; ls /proc/1/fd")
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8(got.output).unwrap(),
        "0\n1\n2\n3\n\n0\n1\n2\n"
    );
    shim.kill(&plan.id).await.unwrap();
    exit_of(&shim, &plan.id).await;
    assert_eq!(pod.log("one"), "0\n1\n2\n3\n");
    pod.end(Some(shim)).await;
}
