//! Connections through a ClusterIP beside straight ones; how soon an endpoint's change is in the kernel.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kernelet_maps::view;
use kernelet_scenarios::Machine;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    report::Report,
    stats::{self, percentile},
};

const EXAMPLE: &str = include_str!("../../../examples/hello/hello.yaml");

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    machine.up();
    machine.apply(&EXAMPLE.replace("replicas: 3", "replicas: 1"));
    machine.wait(
        "deployment/hello",
        "condition=Available",
        Duration::from_secs(60),
    );
    let pod = machine.get(&["pods"])["items"][0]["status"]["podIP"]
        .as_str()
        .context("the pod's address")?
        .to_owned();
    let service = machine.get(&["service", "hello"])["spec"]["clusterIP"]
        .as_str()
        .context("the Service's address")?
        .to_owned();
    let (straight, through): (SocketAddr, SocketAddr) = (
        format!("{pod}:8080").parse()?,
        format!("{service}:80").parse()?,
    );
    let instance = machine.status()["instance"]
        .as_str()
        .context("the instance")?
        .to_owned();

    for services in [1, 10_000] {
        if services > 1 {
            let kubeconfig = machine.kubeconfig();
            stats::inside_async(&machine.node_ns(), || async move {
                many_services(
                    kernelet_client::from_kubeconfig(&kubeconfig).await?,
                    services,
                )
                .await
            })?;
            wait_for_services(&instance, services)?;
        }
        // In turns, so that what else the machine does meets both alike.
        let (mut direct, mut routed) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            direct.push(stats::inside(&machine.node_ns(), || connections(straight))?);
            routed.push(stats::inside(&machine.node_ns(), || connections(through))?);
        }
        let (direct, routed) = (median(direct), median(routed));
        report.row(
            &format!("new connections/s through a ClusterIP, {services} services"),
            format!(
                "{routed:.0}/s, {:.2} × straight ({direct:.0}/s)",
                routed / direct
            ),
            "≥ 0.95 × straight",
        );
        let kubeconfig = machine.kubeconfig();
        let id = instance.clone();
        let mut samples = stats::inside_async(&machine.node_ns(), || async move {
            endpoint_changes(kernelet_client::from_kubeconfig(&kubeconfig).await?, &id).await
        })?;
        report.row(
            &format!("endpoint change → local map, {services} services: p50 / p99"),
            format!(
                "{} / {}",
                stats::ms(percentile(&mut samples, 50)),
                stats::ms(percentile(&mut samples, 99))
            ),
            "p99 ≤ 10 ms",
        );
    }
    let (direct, routed) = (
        stats::inside(&machine.node_ns(), || requests(straight))?,
        stats::inside(&machine.node_ns(), || requests(through))?,
    );
    report.row(
        "requests/s on one established connection through a ClusterIP",
        format!("{:.2} × straight ({direct:.0}/s)", routed / direct),
        "≥ 0.98 × straight",
    );
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Connects and closes for a second; each connection says one request so that it is a real one.
fn connections(to: SocketAddr) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut count = 0_u32;
    // Few enough that no ephemeral port has to be used twice within the wait of a closed one.
    while began.elapsed() < Duration::from_secs(1) && count < 5000 {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "no answer");
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// Requests on one connection for two seconds.
fn requests(to: SocketAddr) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    let began = Instant::now();
    let (mut count, mut buffer) = (0_u32, [0_u8; 8192]);
    while began.elapsed() < Duration::from_secs(2) {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        anyhow::ensure!(stream.read(&mut buffer)? > 0, "the connection was closed");
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn slice(name: &str, service: &str, address: &str) -> anyhow::Result<EndpointSlice> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
    }))?)
}

async fn many_services(client: Client, count: usize) -> anyhow::Result<()> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let params = PostParams::default();
    let results: Vec<anyhow::Result<()>> = stream::iter(0..count)
        .map(|index| {
            let (services, slices, params) = (&services, &slices, &params);
            async move {
                let name = format!("many-{index}");
                let service: Service = serde_json::from_value(json!({
                    "metadata": { "name": name }, "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
                }))?;
                services.create(params, &service).await?;
                slices.create(params, &slice(&name, &name, &format!("10.250.{}.{}", index / 250, index % 250 + 1))?).await?;
                Ok(())
            }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    results.into_iter().collect()
}

fn wait_for_services(instance: &str, count: usize) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let there = view::services(instance)?.len();
        if there >= count {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "only {there} of {count} services are in the map"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Moves the one endpoint of a Service to and fro, and looks at the kernel's map until it is there.
async fn endpoint_changes(client: Client, instance: &str) -> anyhow::Result<Vec<Duration>> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "moving" }, "spec": { "ports": [{ "port": 81, "targetPort": 8080 }] },
    }))?;
    let params = PostParams::default();
    let service = match services.get_opt("moving").await? {
        Some(known) => known,
        None => {
            slices
                .create(&params, &slice("moving", "moving", "10.251.0.1")?)
                .await?;
            services.create(&params, &service).await?
        }
    };
    let address = service.spec.and_then(|spec| spec.cluster_ip);
    let address: SocketAddr = format!("{}:81", address.context("a cluster IP")?).parse()?;
    let mut samples = Vec::new();
    for index in 0..100_u32 {
        let backend = format!("10.251.{}.{}", samples.len() % 200 + 1, index % 200 + 1);
        let patch =
            json!({ "endpoints": [{ "addresses": [backend], "conditions": { "ready": true } }] });
        let wanted: SocketAddr = format!("{backend}:8080").parse()?;
        let began = Instant::now();
        slices
            .patch("moving", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        while view::backends_of(instance, address, 6)? != Some(vec![wanted]) {
            anyhow::ensure!(
                began.elapsed() < Duration::from_secs(5),
                "{wanted} is not in the map"
            );
        }
        samples.push(began.elapsed());
    }
    Ok(samples)
}
