//! What outlives what: agents that are killed, shims that die or stop, execs, logs.

mod common;

use std::{
    os::fd::AsFd,
    process::Command,
    time::{Duration, Instant},
};

use common::{Pod, chain, exec, exec_plan, exit_of, root_layout, run};
use kernelet_shim_client::{AdoptError, ExecIo, Liveness, Phase, Shim, ShimError, cleanup};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The agent of the test below: a process of its own, which will be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Ok(uid) = std::env::var("KERNELET_TEST_AGENT") else {
        return;
    };
    let layout = root_layout("agent").unwrap();
    let mut pod = Pod::new(layout);
    pod.uid = kernelet_spec::PodUid::new(uid).unwrap();
    let shim = pod.shim().await;
    let plan = pod.container(
        "one",
        "trap 'echo got it; exit 5' TERM; echo up; while :; do sleep 0.05; done",
    );
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let short = pod.container("short", "exit 9");
    run(&shim, &short).await;
    let waits = pod.container("waits", "echo started late");
    shim.create(&waits).await.unwrap();
    // An exec of this agent's, which must end with it.
    let _exec = shim
        .exec(
            &plan.id,
            &exec_plan(&plan, "exec sleep 7777", None),
            ExecIo::Capture { limit: 10 },
        )
        .await
        .unwrap();
    println!("READY {} {} {}", pod.base.display(), pod.root, shim.pid());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn containers_outlive_an_agent_that_is_killed_and_the_next_one_adopts_them() {
    let Some(layout) = root_layout("adoption") else {
        return;
    };
    use std::io::BufRead;
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_to_be_killed", "--nocapture"])
        .env("KERNELET_TEST_AGENT", "adopted-pod")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(agent.stdout.take().unwrap()).lines();
    let ready = lines
        .map_while(Result::ok)
        .find_map(|l| l.split_once("READY ").map(|(_, r)| r.to_owned()))
        .expect("the agent comes up");
    let words: Vec<&str> = ready.split(' ').collect();
    let mut pod = Pod::new(layout);
    std::fs::remove_dir_all(&pod.base).unwrap();
    (pod.base, pod.root, pod.uid) = (
        words[0].into(),
        words[1].into(),
        kernelet_spec::PodUid::new("adopted-pod").unwrap(),
    );
    agent.kill().unwrap();
    agent.wait().unwrap();

    let mut wrong = pod.options();
    wrong.uid = kernelet_spec::PodUid::new("somebody-else").unwrap();
    assert!(matches!(
        Shim::adopt(wrong).await,
        Err(AdoptError::Impostor { .. })
    ));
    let shim = Shim::adopt(pod.options())
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(shim.pid().to_string(), words[2]);
    let state = shim.watch().borrow().state.clone();
    let phase = |name: &str| {
        state
            .containers
            .iter()
            .find(|(id, _)| id.as_str() == name)
            .map(|(_, c)| c.phase.clone())
    };
    assert!(
        matches!(phase("one"), Some(Phase::Running { .. })),
        "{state:?}"
    );
    assert!(
        matches!(phase("short"), Some(Phase::Exited(e)) if e.exit_code == 9),
        "{state:?}"
    );
    assert!(
        matches!(phase("waits"), Some(Phase::Created { .. })),
        "{state:?}"
    );
    let sandbox = shim
        .sandbox()
        .await
        .unwrap()
        .expect("the sandbox is still there");
    assert!(sandbox.net.is_some());

    let plan = pod.container("one", "");
    // The old agent's exec has gone with it.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let ps = exec(&shim, &plan, "ps -o args").await.unwrap();
        let text = String::from_utf8(ps.output).unwrap();
        if !text.contains("sleep 7777") {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "an exec outlives its agent: {text}"
        );
    }
    let waits = pod.container("waits", "");
    shim.start(&waits.id).await.unwrap();
    assert_eq!(exit_of(&shim, &waits.id).await.exit_code, 0);
    shim.signal(&plan.id, nix::libc::SIGTERM).await.unwrap();
    assert_eq!(exit_of(&shim, &plan.id).await.exit_code, 5);
    assert_eq!(pod.log("one"), "up\ngot it\n");
    // Kept on disk until acknowledged.
    assert_eq!(Shim::records(&pod.dir()).unwrap().len(), 3);
    for id in state.containers.keys() {
        shim.acknowledge(id).await.unwrap();
    }
    assert!(Shim::records(&pod.dir()).unwrap().is_empty());
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_dead_shim_is_noticed_and_its_pod_cleaned_up() {
    let Some(layout) = root_layout("dead shim") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let ended = pod.container("ended", "exit 3");
    run(&shim, &ended).await;
    kill(Pid::from_raw(shim.pid()), Signal::SIGKILL).unwrap();
    let mut watch = shim.watch();
    let dead = watch.wait_for(|o| o.liveness == Liveness::Dead);
    tokio::time::timeout(Duration::from_secs(5), dead)
        .await
        .expect("its death is seen")
        .unwrap();
    assert!(matches!(shim.start(&plan.id).await, Err(ShimError::Gone)));
    // What it had written is there; the other's end is unknown.
    let records = Shim::records(&pod.dir()).unwrap();
    assert_eq!(
        records.values().map(|r| r.exit_code).collect::<Vec<_>>(),
        [3]
    );
    let states = Shim::recorded_states(&pod.dir()).unwrap();
    assert!(matches!(states[&plan.id].phase, Phase::Running { .. }));
    assert!(matches!(
        Shim::adopt(pod.options()).await,
        Err(AdoptError::Gone { .. })
    ));
    assert!(
        pod.layout.group(&plan.cgroup).populated().unwrap(),
        "the container still runs"
    );
    pod.end(None).await;
}

#[tokio::test]
async fn a_stopped_shim_does_not_hang_its_deletion() {
    let Some(layout) = root_layout("stopped shim") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    kill(Pid::from_raw(shim.pid()), Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    // Needs no word from the shim.
    shim.kill(&plan.id).await.unwrap();
    assert!(
        pod.layout
            .group(&plan.cgroup)
            .wait_empty(Duration::from_secs(5))
            .unwrap()
    );
    shim.shutdown(Duration::from_secs(1)).await.unwrap();
    cleanup(pod.leftovers()).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    pod.end(None).await;
}

#[tokio::test]
async fn an_exec_is_bounded_in_time_and_output_and_ends_when_it_is_dropped() {
    let Some(layout) = root_layout("bounded exec") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await.unwrap();
    shim.start(&plan.id).await.unwrap();
    let slow = exec_plan(
        &plan,
        "echo before; sleep 100 & sleep 100",
        Some(Duration::from_millis(300)),
    );
    let start = Instant::now();
    let exit = shim
        .exec(&plan.id, &slow, ExecIo::Capture { limit: 100 })
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert!(exit.timed_out && exit.output == b"before\n", "{exit:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
    let loud = exec_plan(&plan, "yes | head -c 100000", None);
    let exit = shim
        .exec(&plan.id, &loud, ExecIo::Capture { limit: 10 << 10 })
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        (exit.output.len(), exit.dropped_bytes),
        (10 << 10, 100_000 - (10 << 10))
    );
    let dropped = shim
        .exec(
            &plan.id,
            &exec_plan(&plan, "sleep 5555", None),
            ExecIo::Capture { limit: 1 },
        )
        .await
        .unwrap();
    let pidfd = dropped.pidfd.try_clone().unwrap();
    drop(dropped);
    let ended = tokio::task::spawn_blocking(move || {
        kernelet_sys::process::wait_ended(pidfd.as_fd(), Duration::from_secs(5))
    });
    assert!(ended.await.unwrap().unwrap(), "a dropped exec ends");
    assert!(
        exec(&shim, &plan, "ps -o args | grep -q '^sleep 100$'")
            .await
            .unwrap()
            .exit_code
            != 0,
        "the timed out one's child too"
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn a_container_that_writes_much_is_logged_whole_and_rotated() {
    let Some(layout) = root_layout("much output") else {
        return;
    };
    let pod = Pod::new(layout);
    let shim = pod.shim().await;
    let mut plan = pod.container("one", "seq 1 200000");
    plan.log.as_mut().unwrap().max_bytes = 1 << 20;
    plan.log.as_mut().unwrap().max_files = 100;
    assert_eq!(run(&shim, &plan).await.exit_code, 0);
    let dir = pod.base.join("logs/one");
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 5, "{names:?}");
    names.rotate_left(1);
    let all: String = names
        .iter()
        .map(|n| std::fs::read_to_string(dir.join(n)).unwrap())
        .collect();
    let numbers: Vec<u32> = all
        .lines()
        .map(|l| l.splitn(4, ' ').nth(3).unwrap().parse().unwrap())
        .collect();
    assert!(
        numbers.iter().copied().eq(1..=200_000),
        "{} lines",
        numbers.len()
    );
    pod.end(Some(shim)).await;
}

#[tokio::test]
async fn the_shim_is_small_and_outside_of_the_pods_cgroup() {
    let Some(layout) = root_layout("shim size") else {
        return;
    };
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new(layout.clone())).collect();
    let mut shims = Vec::new();
    for pod in &pods {
        let shim = pod.shim().await;
        let plan = pod.container("one", "seq 1 1000; sleep 1000");
        shim.create(&plan).await.unwrap();
        shim.start(&plan.id).await.unwrap();
        assert!(exec(&shim, &plan, "true").await.is_ok());
        shims.push(shim);
    }
    let pid = shims[0].pid();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = format!(":{}/shims/{}", pods[0].root, pods[0].uid);
    // Hierarchies that aren't visible here (a test with v2 alone) are nobody's.
    let visible = |line: &&str| {
        let kind = line.split(':').nth(1).unwrap();
        kind.is_empty()
            || layout.v1.iter().any(|h| {
                h.controllers.join(",") == kind
                    || h.name.as_ref().is_some_and(|n| kind == format!("name={n}"))
            })
    };
    assert!(
        cgroups.lines().filter(visible).all(|l| l.ends_with(&own)),
        "{cgroups}"
    );
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private: u64 = rollup
        .lines()
        .filter(|l| l.starts_with("Private_Clean") || l.starts_with("Private_Dirty"))
        .map(|l| l.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum();
    println!("a shim's private memory: {private} KiB");
    assert!(private <= 512, "{private} KiB:\n{rollup}");
    for (pod, shim) in pods.iter().zip(shims) {
        pod.end(Some(shim)).await;
    }
}
