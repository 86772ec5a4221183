//! Known ways out of a container, each tried.

mod common;

use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Pod, chain, exec, exec_plan, output, root_layout, run};
use kernelet_shim_client::{ExecIo, ShimError, VolumePlan};
use kernelet_spec::{
    Capability, DeviceKind, DeviceNode, MountExtra, MountFlags, MountPlan, MountSource, Propagation,
};

/// Creates and expects a refusal that says this.
async fn refused(
    shim: &kernelet_shim_client::Shim,
    plan: &kernelet_spec::ContainerPlan,
    message: &str,
) {
    match shim.create(plan).await {
        Err(e) => assert!(chain(&e).contains(message), "{}", chain(&e)),
        Ok(_) => panic!("it was made; expected: {message}"),
    }
}

/// CVE-2019-5736: the runtime's own program, overwritten through `/proc/<pid>/exe`.
#[tokio::test]
async fn the_runtimes_program_cannot_be_overwritten_from_inside() {
    let Some(layout) = root_layout("overwrite the runtime") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    // Watches for any process that isn't the image's and tries to write to its program.
    let attack = "touch /tmp/ready; while :; do for p in /proc/[0-9]*/exe; do case $(readlink $p 2>/dev/null) in \
                  *busybox*|'') ;; *) echo seen $(readlink $p); (echo hacked > $p) 2>/dev/null && echo WROTE $p;; esac; done; done";
    let plan = pod.container("one", attack);
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    // A container whose program is the runtime: it runs the shim's file inside.
    let mut own = exec_plan(&plan, "", Some(Duration::from_secs(2)));
    own.process.args = vec!["/proc/self/exe".into()];
    for _ in 0..20 {
        if let Ok(exec) = shim
            .exec(&plan.id, &own, ExecIo::Capture { limit: 100 })
            .await
        {
            let _ = exec.wait().await;
        }
        exec(&shim, &plan, "true").await.unwrap();
    }
    shim.kill(&plan.id).await.unwrap();
    common::exit_of(&shim, &plan.id).await;
    let log = pod.log("one");
    println!(
        "the attacker saw the runtime's program {} times",
        log.lines().filter(|l| l.starts_with("seen")).count()
    );
    assert!(!log.contains("WROTE"), "{log}");
    // And the program still works.
    assert_eq!(
        output(&pod, &shim, &pod.container("two", "echo fine")).await,
        "fine\n"
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn proc_or_sys_as_a_symlink_of_the_image_is_refused() {
    let Some(layout) = root_layout("/proc is a symlink") else {
        return;
    };
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let pod = Pod::new(layout.clone());
        let place = pod.lower().join(name);
        let _ = std::fs::remove_dir(&place);
        symlink("/tmp", &place).unwrap();
        let shim = pod.shim().await;
        refused(
            &shim,
            &pod.container("one", "true"),
            &format!(
                "the mount at /{name}: filesystem \"{kind}\" must be mounted on ordinary directory"
            ),
        )
        .await;
        pod.end(Some(shim)).await;
    }
}

#[tokio::test]
async fn a_volume_over_proc_is_refused() {
    let Some(layout) = root_layout("a volume over /proc") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    for destination in ["/proc", "/proc/self/attr", "/proc/sys/kernel", "/x/../proc"] {
        let mut plan = pod.container("one", "true");
        plan.mounts
            .push(MountPlan::bind(&pod.base, destination, false));
        assert!(
            matches!(shim.create(&plan).await, Err(ShimError::Plan(_))),
            "{destination}"
        );
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn symlinks_of_the_image_never_lead_a_mount_out_of_the_root() {
    let Some(layout) = root_layout("symlinked mount targets") else {
        return;
    };
    let pod = Pod::new(layout);
    let outside = pod.base.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(pod.base.join("volume")).unwrap();
    let outside_text = outside.to_str().unwrap();
    symlink(outside_text, pod.lower().join("absolute")).unwrap();
    symlink(
        format!("../../../../../..{outside_text}"),
        pod.lower().join("relative"),
    )
    .unwrap();
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "ls / /absolute/ /relative/ 2>&1");
    for destination in ["/absolute/new", "/relative/new2"] {
        plan.mounts
            .push(MountPlan::bind(pod.base.join("volume"), destination, false));
    }
    // Either the walk stays inside and makes it there, or it refuses the dangling link; never outside.
    if shim.create(&plan).await.is_ok() {
        shim.start(&plan.id).await.unwrap();
        common::exit_of(&shim, &plan.id).await;
        shim.remove(&plan.id).await.unwrap();
    }
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside of the root"
    );
    pod.end(Some(shim)).await;
}

/// CVE-2021-30465: a volume shared with a container that swaps a mount's target for a symlink while
/// the mount is made.
#[tokio::test]
async fn a_target_swapped_for_a_symlink_during_the_start_does_not_lead_out() {
    let Some(layout) = root_layout("swapped mount targets") else {
        return;
    };
    let pod = Pod::new(layout);
    let outside = pod.base.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let shim = pod.shim().await;
    let volume = VolumePlan {
        name: "shared".into(),
        size_bytes: None,
        mode: 0o777,
        gid: 0,
    };
    shim.create_volume(&volume).await.unwrap();
    let shared = MountPlan {
        destination: "/shared".into(),
        source: MountSource::Volume {
            name: "shared".into(),
            sub_path: None,
        },
        flags: MountFlags::default(),
        propagation: Propagation::Private,
        extra: MountExtra::default(),
    };
    // Up and out of any root, to a place of this test's on the host.
    let target = format!("/../../../../../../..{}", outside.display());
    let mut attacker = pod.container(
        "attacker",
        &format!(
            "cd /shared; while :; do mkdir t 2>/dev/null; rm -rf t; ln -s {target} t; rm -f t; done"
        ),
    );
    attacker.mounts.push(shared.clone());
    shim.create(&attacker).await.unwrap();
    shim.start(&attacker.id).await.unwrap();
    let (mut made, mut failed) = (0, 0);
    for n in 0..40 {
        let mut victim = pod.container(&format!("victim-{n}"), "true");
        victim.mounts.push(shared.clone());
        victim.mounts.push(MountPlan {
            destination: "/shared/t/inner".into(),
            source: MountSource::Tmpfs {
                size_bytes: Some(4096),
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
            flags: MountFlags::default(),
            propagation: Propagation::Private,
            extra: MountExtra::default(),
        });
        match shim.create(&victim).await {
            Ok(_) => {
                made += 1;
                shim.remove(&victim.id).await.unwrap();
            }
            Err(_) => failed += 1,
        }
    }
    println!("{made} made, {failed} refused");
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "a mount's target was made on the host"
    );
    pod.end(Some(shim)).await;
}

/// CVE-2024-21626: a working directory that is a leaked descriptor.
#[tokio::test]
async fn a_working_directory_of_a_descriptor_does_not_lead_out() {
    let Some(layout) = root_layout("cwd of a descriptor") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let running = pod.container("running", "sleep 1000");
    shim.create(&running).await.unwrap();
    shim.start(&running.id).await.unwrap();
    for number in 3..24 {
        let cwd = PathBuf::from(format!("/proc/self/fd/{number}"));
        let mut plan = pod.container(&format!("c{number}"), "ls ..; pwd");
        plan.process.cwd = cwd.clone();
        assert!(shim.create(&plan).await.is_err(), "{cwd:?}");
        let mut exec = exec_plan(&running, "ls ../../..", None);
        exec.process.cwd = cwd;
        assert!(
            shim.exec(&running.id, &exec, ExecIo::Capture { limit: 100 })
                .await
                .is_err()
        );
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn masks_are_made_with_the_null_device_only() {
    let Some(layout) = root_layout("a false /dev/null") else {
        return;
    };
    let pod = Pod::new(layout);
    std::fs::create_dir_all(pod.lower().join("dev")).unwrap();
    std::fs::write(pod.lower().join("dev/null"), "not the null device").unwrap();
    std::fs::write(pod.lower().join("secret"), "secret").unwrap();
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "cat /secret");
    // A bundle without a /dev of ours: the image's is used, where somebody has put a file.
    plan.mounts.retain(|m| !m.destination.starts_with("/dev"));
    plan.masked_paths = vec!["/secret".into()];
    refused(&shim, &plan, "something else is there").await;

    let mut plan = pod.container("two", "cat /secret; echo $?");
    symlink("/secret", pod.lower().join("alias")).unwrap();
    plan.masked_paths = vec!["/alias".into()];
    assert_eq!(
        output(&pod, &shim, &plan).await,
        "0\n",
        "a masked symlink masks what it means inside"
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn device_nodes_through_a_symlinked_dev_stay_inside() {
    let Some(layout) = root_layout("a symlinked /dev") else {
        return;
    };
    let pod = Pod::new(layout);
    let outside = pod.base.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, pod.lower().join("dev")).unwrap();
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "true");
    plan.mounts.retain(|m| !m.destination.starts_with("/dev"));
    plan.devices.push(DeviceNode {
        path: "/dev/evil".into(),
        kind: DeviceKind::Char,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let _ = shim.create(&plan).await;
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "a node was made on the host"
    );
    pod.end(Some(shim)).await;
}

/// CVE-2022-0492: a writable `release_agent` runs a program of the host's root.
#[tokio::test]
async fn no_release_agent_is_within_reach() {
    let Some(layout) = root_layout("release_agent") else {
        return;
    };
    if layout.v1.is_empty() {
        return println!("SKIP release_agent: this host has no cgroup v1");
    }
    let pod = Pod::new(layout.clone());
    let shim = pod.shim().await;
    // Even with CAP_SYS_ADMIN, which may mount.
    let script = "find() { for f in /sys/fs/cgroup/*/release_agent; do [ -e $f ] && echo FOUND $f; done; }; find; \
                  mkdir /tmp/cg; mount -t cgroup -o memory x /tmp/cg && echo mounted; [ -e /tmp/cg/release_agent ] && echo FOUND; \
                  ls /tmp/cg | head -n 1; true";
    let mut plan = pod.container("one", script);
    let admin: Capability = "SYS_ADMIN".parse().unwrap();
    for set in [
        &mut plan.process.capabilities.bounding,
        &mut plan.process.capabilities.effective,
        &mut plan.process.capabilities.permitted,
    ] {
        *set = set.with(admin);
    }
    let log = output(&pod, &shim, &plan).await;
    assert!(log.starts_with("mounted\n"), "{log}");
    assert!(!log.contains("FOUND"), "{log}");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_sub_path_that_is_a_symlink_stays_in_its_volume() {
    let Some(layout) = root_layout("subPath") else {
        return;
    };
    let pod = Pod::new(layout);
    let volume = pod.base.join("volume");
    std::fs::create_dir_all(volume.join("inside")).unwrap();
    std::fs::create_dir_all(pod.base.join("secret")).unwrap();
    std::fs::write(pod.base.join("secret/key"), "host secret").unwrap();
    symlink(pod.base.join("secret"), volume.join("absolute")).unwrap();
    symlink("../secret", volume.join("relative")).unwrap();
    let shim = pod.shim().await;
    for (n, sub) in ["absolute", "relative", "../secret", "inside/../../secret"]
        .into_iter()
        .enumerate()
    {
        let mut plan = pod.container(&format!("c{n}"), "cat /data/key 2>/dev/null; echo end");
        let mut mount = MountPlan::bind(&volume, "/data", false);
        let MountSource::Host { sub_path, .. } = &mut mount.source else {
            unreachable!()
        };
        *sub_path = Some(sub.into());
        plan.mounts.push(mount);
        if shim.create(&plan).await.is_ok() {
            shim.start(&plan.id).await.unwrap();
            common::exit_of(&shim, &plan.id).await;
            assert_eq!(pod.log(plan.id.as_str()), "end\n", "{sub}");
        }
    }
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_host_network_pod_finds_no_abstract_socket_of_ours() {
    let Some(layout) = root_layout("abstract sockets") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours: Vec<&str> = sockets
        .lines()
        .filter(|l| l.contains(pod.uid.as_str()) || l.contains("@kernelet"))
        .collect();
    assert!(ours.iter().all(|l| !l.contains(" @")), "{ours:?}");
    // Its own socket is a path in a folder of root's alone.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(pod.dir()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn execs_that_are_given_up_leak_nothing_in_the_shim() {
    let Some(layout) = root_layout("aborted execs") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let count = || {
        std::fs::read_dir(format!("/proc/{}/fd", shim.pid()))
            .unwrap()
            .count()
    };
    exec(&shim, &plan, "true").await.unwrap();
    let before = count();
    for n in 0..30 {
        let running = shim
            .exec(
                &plan.id,
                &exec_plan(&plan, "sleep 1000", None),
                ExecIo::Capture { limit: 10 },
            )
            .await
            .unwrap();
        if n % 2 == 0 {
            drop(running.wait());
        } else {
            drop(running);
        }
        let mut bad = exec_plan(&plan, "true", None);
        bad.process.args = vec!["not-there".into()];
        assert!(
            shim.exec(&plan.id, &bad, ExecIo::Capture { limit: 10 })
                .await
                .is_err()
        );
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while count() > before {
        assert!(
            Instant::now() < deadline,
            "{} descriptors, {before} before",
            count()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let group = pod.layout.group(&plan.cgroup);
    while group.pids_of_tree().unwrap().len() > 1 {
        assert!(
            Instant::now() < deadline,
            "execs are left: {:?}",
            group.pids_of_tree()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pod.end(Some(shim)).await;
}

/// CVE-2016-9962: a process of the container looks into one that is just entering it.
#[tokio::test]
async fn a_process_that_enters_cannot_be_looked_into() {
    let Some(layout) = root_layout("look into exec") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    // Lists the descriptors and the root of every process but itself, as root of the container.
    let spy = "while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = 1 ] && continue; \
               ls -l $p/fd 2>/dev/null | grep -E 'kernelet|shim|cgroup|tasks'; \
               ls $p/root/home $p/cwd/home 2>/dev/null; done; done";
    let plan = pod.container("one", spy);
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    for _ in 0..40 {
        exec(&shim, &plan, "true").await.unwrap();
    }
    shim.kill(&plan.id).await.unwrap();
    common::exit_of(&shim, &plan.id).await;
    assert_eq!(pod.log("one"), "");
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn host_files_as_root_or_passwd_tricks_do_not_block_or_escape() {
    let Some(layout) = root_layout("odd passwd") else {
        return;
    };
    let pod = Pod::new(layout);
    std::fs::remove_file(pod.lower().join("etc/passwd")).unwrap();
    // A FIFO would block whoever opens it; a link to a host file must not be read.
    nix::unistd::mkfifo(
        &pod.lower().join("etc/passwd"),
        nix::sys::stat::Mode::from_bits_truncate(0o644),
    )
    .unwrap();
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "echo $HOME");
    assert_eq!(
        output(&pod, &shim, &plan).await,
        "/\n",
        "an id needs no passwd"
    );
    plan = pod.container("two", "true");
    plan.process.user.user = kernelet_spec::NameOrId::Name("web".into());
    refused(&shim, &plan, "not a regular file").await;
    let exit = run(&shim, &pod.container("three", "exit 6")).await;
    assert_eq!(exit.exit_code, 6);
    pod.end(Some(shim)).await;
}
