//! What clients of the API wait for: lists, writes, watches, kubectl; and what an object costs in memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, future, stream};
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kernelet_scenarios::Machine;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::{
    report::Report,
    stats::{self, Served},
};

const PODS: usize = 10_000;
const PATCHES: usize = 5_000;
const AT_ONCE: usize = 64;
const LISTS: usize = 7;
const WATCHERS: usize = 1_000;
const WRITES: usize = 50;
const APPLIED: usize = 100;

struct Figures {
    creates: f64,
    patches: f64,
    /// Per 1,000 pods.
    memory_kib: u64,
    /// What, how long, how many bytes.
    lists: Vec<(&'static str, Duration, usize)>,
    seen: Vec<Duration>,
}

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    let server = Served::start(&machine, "scheduler,controllers")?;
    let mut figures = stats::inside_async(&machine.node_ns(), || async {
        measure(server.client().await?, server.pid()).await
    })?;
    report.row(
        &format!("pods created a second, {AT_ONCE} clients' requests at a time"),
        format!("{:.0}", figures.creates),
        "",
    );
    report.row(
        "labels patched a second, the same",
        format!("{:.0}", figures.patches),
        "",
    );
    report.row(
        "server's memory per 1,000 pods (PSS)",
        format!("{:.1} MiB", figures.memory_kib as f64 / 1024.0),
        "",
    );
    for (what, took, bytes) in &figures.lists {
        report.row(
            &format!("list of {PODS} pods, {what}: median of {LISTS}"),
            format!(
                "{} ({:.1} MiB)",
                stats::ms(*took),
                *bytes as f64 / 1_048_576.0
            ),
            "",
        );
    }
    report.row(
        &format!("write → seen by each of {WATCHERS} watchers: p50, p99"),
        format!(
            "{}, {}",
            stats::ms(stats::percentile(&mut figures.seen, 50)),
            stats::ms(stats::percentile(&mut figures.seen, 99))
        ),
        "",
    );
    let hundred = machine.dir().join("hundred.yaml");
    let text: String = (0..APPLIED)
        .map(|index| {
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied-{index}}}\ndata: {{a: b}}\n")
        })
        .collect();
    fs::write(&hundred, text)?;
    let file = hundred.to_str().context("a path of ours")?;
    for (what, args) in [
        (format!("`kubectl get pods` of {PODS}"), vec!["get", "pods"]),
        (
            format!("`kubectl apply` of {APPLIED} new objects"),
            vec!["apply", "-f", file],
        ),
        (
            format!("`kubectl apply` of the same {APPLIED} again"),
            vec!["apply", "-f", file],
        ),
    ] {
        let began = Instant::now();
        machine.kubectl(&args).ok();
        report.row(&what, stats::ms(began.elapsed()), "");
    }
    server.stop()
}

async fn measure(client: Client, pid: u32) -> anyhow::Result<Figures> {
    let account: ServiceAccount =
        serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
    Api::default_namespaced(client.clone())
        .create(&PostParams::default(), &account)
        .await?;
    let before = stats::pss_kib(pid)?;
    let creates = create(&client).await?;
    let memory_kib = stats::pss_kib(pid)?.saturating_sub(before) / (PODS as u64 / 1000);
    let patches = patch(&client).await?;
    let mut lists = vec![];
    for (what, accept) in [
        ("JSON", "application/json"),
        ("protobuf", "application/vnd.kubernetes.protobuf"),
        ("Table", "application/json;as=Table;v=v1;g=meta.k8s.io"),
    ] {
        let mut samples = vec![];
        let mut bytes = 0;
        for _ in 0..LISTS {
            let request = Request::get("/api/v1/namespaces/default/pods")
                .header("accept", accept)
                .body(kube::client::Body::empty())?;
            let began = Instant::now();
            let answer = client.send(request).await?;
            anyhow::ensure!(
                answer.status().is_success(),
                "list as {what}: {}",
                answer.status()
            );
            bytes = answer.into_body().collect().await?.to_bytes().len();
            samples.push(began.elapsed());
        }
        lists.push((what, stats::percentile(&mut samples, 50), bytes));
    }
    Ok(Figures {
        creates,
        patches,
        memory_kib,
        lists,
        seen: watch(&client).await?,
    })
}

async fn create(client: &Client) -> anyhow::Result<f64> {
    let pods = Api::<Pod>::default_namespaced(client.clone());
    let params = PostParams::default();
    let began = Instant::now();
    stream::iter(0..PODS)
        .map(|index| {
            let (pods, params) = (&pods, &params);
            async move {
                let pod = serde_json::from_value(json!({
                    "metadata": { "name": format!("pod-{index}"), "labels": { "app": "bench" } },
                    "spec": { "nodeName": format!("node-{}", index % 100), "containers": [
                        { "name": "main", "image": "x", "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } },
                    ] },
                }))?;
                pods.create(params, &pod).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(PODS as f64 / began.elapsed().as_secs_f64())
}

async fn patch(client: &Client) -> anyhow::Result<f64> {
    let pods = Api::<Pod>::default_namespaced(client.clone());
    let params = PatchParams::default();
    let began = Instant::now();
    stream::iter(0..PATCHES)
        .map(|index| {
            let (pods, params) = (&pods, &params);
            async move {
                let patch = Patch::Merge(json!({ "metadata": { "labels": { "round": "1" } } }));
                pods.patch(&format!("pod-{index}"), params, &patch).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(PATCHES as f64 / began.elapsed().as_secs_f64())
}

/// From just before each write until each watcher has its event.
async fn watch(client: &Client) -> anyhow::Result<Vec<Duration>> {
    let name = "watched";
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), name);
    let version = maps
        .list(&kube::api::ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let params = WatchParams::default();
    let mut watchers = Vec::with_capacity(WATCHERS);
    for _ in 0..WATCHERS {
        watchers.push(maps.watch(&params, &version).await?.boxed());
    }
    let mut seen = Vec::with_capacity(WATCHERS * WRITES);
    for index in 0..WRITES {
        let map: ConfigMap = serde_json::from_value(
            json!({ "metadata": { "name": format!("map-{index}") }, "data": { "a": "b" } }),
        )?;
        let began = Instant::now();
        let create_params = PostParams::default();
        let write = async { anyhow::Ok(maps.create(&create_params, &map).await?) };
        let follow = future::try_join_all(watchers.iter_mut().map(|watcher| async move {
            match watcher.next().await.context("a watch ended")?? {
                WatchEvent::Added(_) => Ok(began.elapsed()),
                other => anyhow::bail!("a watch said {other:?}"),
            }
        }));
        let (_, times) = future::try_join(write, follow).await?;
        seen.extend(times);
    }
    Ok(seen)
}
