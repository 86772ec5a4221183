//! The cluster DNS's place in the data plane: its Service address leads to a socket of this process on a
//! high port of the node's address.

use std::net::{IpAddr, SocketAddr};

use kernelet_dns::{Dns, DnsConfig, Records, Upstreams};
use kernelet_ebpf_abi::{TCP, UDP, service_flags};
use kernelet_net_plan::{BackendSpec, ServiceSpec, key};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{NetConfig, StartError, kernel::Kernel};

const OWNER: &str = "#dns";
const PORT: u16 = 53;

/// Starts the name server and lets the Service's address lead to it. The records it answers from are
/// filled by whoever follows the Services.
pub async fn start(
    kernel: &Kernel,
    config: &NetConfig,
    shutdown: &CancellationToken,
) -> Result<Records, StartError> {
    let records = Records::new();
    // Where an earlier agent answered, if that is free: what the maps say is right from the first moment.
    let before = kernel
        .backend_port(&key(config.dns_address, PORT, UDP))
        .unwrap_or(0);
    let dns = match bind(config, before, &records, shutdown).await {
        Err(_) if before != 0 => bind(config, 0, &records, shutdown).await?,
        result => result?,
    };
    let specs = specs(config.dns_address, dns.address());
    kernel
        .set_services(OWNER, &specs)
        .map_err(|source| StartError::Dns {
            address: dns.address(),
            source: source.into(),
        })?;
    info!(address = %dns.address(), "the cluster DNS answers");
    Ok(records)
}

async fn bind(
    config: &NetConfig,
    port: u16,
    records: &Records,
    shutdown: &CancellationToken,
) -> Result<Dns, StartError> {
    let bind = SocketAddr::new(config.node_ip, port);
    let dns_config = DnsConfig {
        bind,
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns: vec![config.dns_address],
        upstreams: Upstreams::of_host(),
    };
    Dns::start(dns_config, records.clone(), shutdown.clone())
        .await
        .map_err(|source| StartError::Dns {
            address: bind,
            source: source.into(),
        })
}

fn specs(service: IpAddr, at: SocketAddr) -> Vec<ServiceSpec> {
    [(UDP, "dns"), (TCP, "dns-tcp")]
        .into_iter()
        .map(|(protocol, port)| ServiceSpec {
            key: key(service, PORT, protocol),
            name: format!("kube-system/kube-dns:{port}"),
            affinity_s: 0,
            flags: service_flags::DNS,
            backends: [BackendSpec {
                address: at.ip(),
                port: at.port(),
            }]
            .into(),
        })
        .collect()
}
