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

use crate::{
    report::Report,
    stats::{self, Served},
};

const NODES: usize = 5000;
const PODS: usize = 3000;
const CHOOSY_PODS: usize = 1000;
const ZONES: usize = 10;

/// What pods ask for beside resources, as upstream's scheduler benchmarks have it.
#[derive(Clone, Copy)]
enum Wish {
    Nothing,
    /// Evenly over the zones, with a skew of 5 at most.
    Spread,
    /// Where another of its kind runs, by zone.
    Affinity,
    /// On a node without another of its kind.
    AntiAffinity,
}

impl Wish {
    fn label(self) -> &'static str {
        match self {
            Wish::Nothing => "plain",
            Wish::Spread => "spread",
            Wish::Affinity => "near",
            Wish::AntiAffinity => "apart",
        }
    }

    fn pod(self, index: usize) -> anyhow::Result<Pod> {
        let selector = json!({ "matchLabels": { "kind": self.label() } });
        let term = |topology: &str| {
            json!({ "requiredDuringSchedulingIgnoredDuringExecution": [
                { "labelSelector": selector, "topologyKey": topology },
            ] })
        };
        let mut pod = json!({
            "metadata": { "name": format!("{}-{index}", self.label()), "labels": { "kind": self.label() } },
            "spec": { "containers": [{ "name": "main", "image": "x", "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
        });
        match self {
            Wish::Nothing => {}
            Wish::Spread => {
                pod["spec"]["topologySpreadConstraints"] = json!([{
                    "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector,
                }]);
            }
            Wish::Affinity => {
                pod["spec"]["affinity"] =
                    json!({ "podAffinity": term("topology.kubernetes.io/zone") })
            }
            Wish::AntiAffinity => {
                pod["spec"]["affinity"] =
                    json!({ "podAntiAffinity": term("kubernetes.io/hostname") })
            }
        }
        Ok(serde_json::from_value(pod)?)
    }
}

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    // No controllers: nobody calls the nodes dead.
    let server = Served::start(&machine, "controllers")?;
    let rates = stats::inside_async(&machine.node_ns(), || async {
        let client = server.client().await?;
        // Its controller isn't there.
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
        Api::<ServiceAccount>::default_namespaced(client.clone())
            .create(&PostParams::default(), &account)
            .await?;
        nodes(client.clone()).await?;
        let mut rates = vec![schedule(client.clone(), Wish::Nothing, PODS).await?];
        for wish in [Wish::Spread, Wish::Affinity, Wish::AntiAffinity] {
            rates.push(schedule(client.clone(), wish, CHOOSY_PODS).await?);
        }
        Ok(rates)
    })?;
    server.stop()?;
    let what = [
        (format!("{PODS} basic pods"), "≥ 3,000 pods/s"),
        (
            format!("{CHOOSY_PODS} pods spread over {ZONES} zones"),
            "≥ 500 pods/s",
        ),
        (
            format!("{CHOOSY_PODS} pods with affinity by zone"),
            "≥ 500 pods/s",
        ),
        (
            format!("{CHOOSY_PODS} pods with anti-affinity by node"),
            "≥ 500 pods/s",
        ),
    ];
    for ((what, budget), rate) in what.into_iter().zip(rates) {
        report.row(
            &format!("scheduler, {NODES} nodes, {what}: POST → bound through the API"),
            format!("{rate:.0} pods/s"),
            budget,
        );
    }
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
                    "metadata": { "name": format!("node-{index}"), "labels": {
                        "kubernetes.io/hostname": format!("node-{index}"),
                        "topology.kubernetes.io/zone": format!("zone-{}", index % ZONES),
                    } },
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

/// Pods a second.
async fn schedule(client: kube::Client, wish: Wish, pods: usize) -> anyhow::Result<f64> {
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
    let create = stream::iter(0..pods)
        .map(|index| {
            let (api, params) = (&api, &params);
            async move {
                api.create(params, &wish.pod(index)?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(64)
        .collect::<Vec<_>>();
    let follow = async {
        let mut bound = 0;
        while bound < pods {
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
    Ok(pods as f64
        / took
            .context("not all were bound within two minutes")??
            .as_secs_f64())
}
