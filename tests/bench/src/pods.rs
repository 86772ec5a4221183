//! POST pod → Ready seen by a watcher, one at a time and a hundred at once; and how soon nothing is left.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::Pod;
use kernelet_scenarios::Machine;
use kube::{
    Api,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::{report::Report, stats};

/// As many as the budget wants on one node.
const MANY: usize = 500;

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    machine.up();
    let links_before = links(&machine);
    let cgroups_before = cgroups();
    let kubeconfig = machine.kubeconfig();
    let (mut single, burst_ready) = {
        let kubeconfig = kubeconfig.clone();
        stats::inside_async(&machine.node_ns(), || async move {
            let pods: Api<Pod> =
                Api::default_namespaced(kernelet_client::from_kubeconfig(&kubeconfig).await?);
            Ok((
                one_at_a_time(&pods).await?,
                at_once(&pods, "burst", 100).await?,
            ))
        })?
    };
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "v2"
    } else {
        "v1"
    };
    report.row(
        &format!("POST pod → Ready, 100 one at a time with 50 ms pauses, cgroup {version}: p50"),
        stats::ms(stats::percentile(&mut single, 50)),
        "≤ 25 ms",
    );
    report.row(
        "the same: p99",
        stats::ms(stats::percentile(&mut single, 99)),
        "≤ 80 ms",
    );
    report.row(
        "100 pods created at once → all Ready",
        stats::ms(burst_ready),
        "≤ 2.5 s",
    );
    report.row(
        "the shim's private memory, 100 running: largest",
        format!("{} KiB", shim_private()),
        "≤ 512 KiB",
    );

    report.row(
        "100 pods deleted → links and cgroups gone",
        stats::ms(deleted(&machine, (links_before, cgroups_before))?),
        "≤ 1.5 s",
    );

    let many_ready = stats::inside_async(&machine.node_ns(), || async move {
        let pods: Api<Pod> =
            Api::default_namespaced(kernelet_client::from_kubeconfig(&kubeconfig).await?);
        at_once(&pods, "many", MANY).await
    })?;
    report.row(
        &format!("{MANY} pods on one node, created at once → all Ready"),
        stats::ms(many_ready),
        "500 pods on a node",
    );
    report.row(
        &format!("{MANY} pods deleted → links and cgroups gone"),
        stats::ms(deleted(&machine, (links_before, cgroups_before))?),
        "",
    );
    Ok(())
}

/// Deletes every pod, and how long it takes until no more links and cgroups are left than `before`.
fn deleted(machine: &Machine, before: (usize, usize)) -> anyhow::Result<Duration> {
    let kubeconfig = machine.kubeconfig();
    let began = Instant::now();
    stats::inside_async(&machine.node_ns(), || async move {
        let pods: Api<Pod> =
            Api::default_namespaced(kernelet_client::from_kubeconfig(&kubeconfig).await?);
        pods.delete_collection(
            &DeleteParams {
                grace_period_seconds: Some(1),
                ..DeleteParams::default()
            },
            &kube::api::ListParams::default(),
        )
        .await?;
        Ok(())
    })?;
    let until = began + Duration::from_secs(120);
    while links(machine) > before.0 || cgroups() > before.1 {
        anyhow::ensure!(
            Instant::now() < until,
            "links or cgroups are left after two minutes"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(began.elapsed())
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": "kernelet.local/hello:v1", "imagePullPolicy": "Never" }],
        },
    }))?)
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| {
            all.iter()
                .any(|one| one.type_ == "Ready" && one.status == "True")
        })
}

/// Posts, notes when, and follows a watch that was open before until each is Ready.
async fn one_at_a_time(pods: &Api<Pod>) -> anyhow::Result<Vec<Duration>> {
    let mut samples = Vec::new();
    let version = pods
        .list(&kube::api::ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut watch = pods.watch(&WatchParams::default(), &version).await?.boxed();
    for index in 0..110 {
        let name = format!("single-{index}");
        let began = Instant::now();
        pods.create(&PostParams::default(), &pod(&name)?).await?;
        loop {
            let event = watch.next().await.context("the watch ended")??;
            if let WatchEvent::Modified(seen) = event
                && seen.metadata.name.as_deref() == Some(&name)
                && is_ready(&seen)
            {
                break;
            }
        }
        // The first ten warm the machine up.
        if index >= 10 {
            samples.push(began.elapsed());
        }
        pods.delete(
            &name,
            &DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            },
        )
        .await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(samples)
}

/// `count` pods created together, until a watcher has seen each Ready.
async fn at_once(pods: &Api<Pod>, prefix: &str, count: usize) -> anyhow::Result<Duration> {
    let version = pods
        .list(&kube::api::ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut watch = pods.watch(&WatchParams::default(), &version).await?.boxed();
    let mut ready = HashMap::new();
    let wanted: Vec<Pod> = (0..count)
        .map(|index| pod(&format!("{prefix}-{index}")))
        .collect::<Result<_, _>>()?;
    let began = Instant::now();
    let params = PostParams::default();
    let create = join_all(wanted.iter().map(|pod| pods.create(&params, pod)));
    let follow = async {
        while ready.len() < count {
            if let WatchEvent::Modified(seen) = watch.next().await.context("the watch ended")??
                && is_ready(&seen)
                && seen
                    .metadata
                    .name
                    .as_deref()
                    .is_some_and(|name| name.starts_with(prefix))
            {
                ready.insert(seen.metadata.name, ());
            }
        }
        anyhow::Ok(began.elapsed())
    };
    let (created, took) = futures::join!(
        create,
        tokio::time::timeout(Duration::from_secs(120), follow)
    );
    for result in created {
        result?;
    }
    took.context("not all became Ready within two minutes")?
}

fn links(machine: &Machine) -> usize {
    machine
        .sh("ls /proc/self/net/dev_snmp6 2>/dev/null | wc -l")
        .stdout
        .trim()
        .parse()
        .unwrap_or(0)
}

/// How many cgroups of pods there are, in one of the hierarchies.
fn cgroups() -> usize {
    fn count(dir: &Path) -> usize {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| {
                let of_a_pod = entry.file_name().to_string_lossy().starts_with("pod");
                usize::from(of_a_pod) + count(&entry.path())
            })
            .sum()
    }
    [
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ]
    .iter()
    .map(Path::new)
    .find(|dir| dir.exists())
    .map(count)
    .unwrap_or(0)
}

/// The largest Private_Clean + Private_Dirty of a shim, KiB.
fn shim_private() -> u64 {
    let mut largest = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !comm.contains("shim") {
            continue;
        }
        let rollup = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let private: u64 = rollup
            .lines()
            .filter(|line| line.starts_with("Private_Clean") || line.starts_with("Private_Dirty"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        largest = largest.max(private);
    }
    largest
}
