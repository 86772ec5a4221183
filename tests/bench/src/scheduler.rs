//! POST → bound through the API, with 5,000 nodes.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kernelet_scenarios::Machine;
use kube::{
    Api,
    api::{PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::report::Report;

const NODES: usize = 5000;
const PODS: usize = 3000;

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    // No controllers: nobody calls the nodes dead.
    let mut server = machine
        .kernelet_command(&["server", "--without", "controllers"])
        .spawn()?;
    let kubeconfig = machine.kubeconfig();
    let measured = crate::stats::inside_async(&machine.node_ns(), || async move {
        let until = Instant::now() + Duration::from_secs(20);
        let client = loop {
            if let Ok(client) = kernelet_client::from_kubeconfig(&kubeconfig).await
                && client.apiserver_version().await.is_ok()
            {
                break client;
            }
            anyhow::ensure!(Instant::now() < until, "the server did not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // Its controller isn't there.
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
        Api::<ServiceAccount>::default_namespaced(client.clone())
            .create(&PostParams::default(), &account)
            .await?;
        nodes(client.clone()).await?;
        schedule(client).await
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(server.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    server.wait()?;
    let rate = measured?;
    report.row(
        &format!("scheduler, {NODES} nodes, {PODS} basic pods: POST → bound through the API"),
        format!("{rate:.0} pods/s"),
        "≥ 3,000 pods/s",
    );
    Ok(())
}

async fn nodes(client: kube::Client) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client);
    let params = PostParams::default();
    let results: Vec<_> = stream::iter(0..NODES)
        .map(|index| {
            let (api, params) = (&api, &params);
            async move {
                let node: Node = serde_json::from_value(json!({
                    "metadata": { "name": format!("node-{index}"), "labels": { "kubernetes.io/hostname": format!("node-{index}") } },
                    "status": { "capacity": { "cpu": "32", "memory": "256Gi", "pods": "110" },
                                "allocatable": { "cpu": "32", "memory": "256Gi", "pods": "110" } },
                }))?;
                let node = api.create(params, &node).await?;
                let status = json!({ "status": {
                    "capacity": { "cpu": "32", "memory": "256Gi", "pods": "110" },
                    "allocatable": { "cpu": "32", "memory": "256Gi", "pods": "110" },
                    "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                                     "lastHeartbeatTime": null, "lastTransitionTime": null }],
                } });
                let name = node.metadata.name.unwrap_or_default();
                api.patch_status(&name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(status)).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    results.into_iter().collect()
}

async fn schedule(client: kube::Client) -> anyhow::Result<f64> {
    let api: Api<Pod> = Api::default_namespaced(client);
    let version = api
        .list(&kube::api::ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut watch = api.watch(&WatchParams::default(), &version).await?.boxed();
    let params = PostParams::default();
    let began = Instant::now();
    let create = stream::iter(0..PODS)
        .map(|index| {
            let (api, params) = (&api, &params);
            async move {
                let pod: Pod = serde_json::from_value(json!({
                    "metadata": { "name": format!("pod-{index}") },
                    "spec": { "containers": [{ "name": "main", "image": "x", "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
                }))?;
                api.create(params, &pod).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(64)
        .collect::<Vec<_>>();
    let follow = async {
        let mut bound = 0;
        while bound < PODS {
            if let WatchEvent::Modified(pod) = watch.next().await.context("the watch ended")??
                && pod.spec.is_some_and(|spec| spec.node_name.is_some())
            {
                bound += 1;
            }
        }
        anyhow::Ok(began.elapsed())
    };
    let (created, took) = futures::join!(
        create,
        tokio::time::timeout(Duration::from_secs(120), follow)
    );
    created.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(PODS as f64
        / took
            .context("not all were bound within two minutes")??
            .as_secs_f64())
}
