//! What the kernel's maps hold, read back for `kernelet net services|backends|affinity|…`.
//!
//! Nothing here knows what the agent meant to write: every row is decoded from the pinned maps.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use aya::maps::{Array, MapData};
use kernelet_ebpf_abi::{
    Address, Backend, Reason, Service, ServiceKey, ServiceName, TCP, UDP, config_flags,
    service_flags,
};
use serde::Serialize;

use crate::{LoadError, paths, sys, tables};

/// One virtual address, as the socket hooks see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRow {
    /// `namespace/name:port`.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `HostPort`, `External`, `DNS`, `Canary`.
    pub kind: String,
    /// The unspecified address: each of the node's own.
    pub address: SocketAddr,
    pub protocol: String,
    pub id: u32,
    /// Seconds of ClientIP affinity; `None`: each connection goes anywhere.
    pub affinity_s: Option<u32>,
    pub backends: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendRow {
    pub id: u32,
    pub service: String,
    pub service_id: u32,
    pub address: SocketAddr,
    pub protocol: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AffinityRow {
    pub service: String,
    /// An address, or the network namespace's cookie as `netns:<cookie>`.
    pub client: String,
    pub backend: Option<SocketAddr>,
    pub age_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodRow {
    pub address: IpAddr,
    pub ifindex: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    pub reason: &'static str,
    pub drop: bool,
    pub count: u64,
}

pub(crate) fn protocol_name(protocol: u8) -> String {
    match protocol {
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        1 => "ICMP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

pub(crate) fn service_name(name: &ServiceName) -> String {
    let end = name
        .0
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(name.0.len());
    String::from_utf8_lossy(&name.0[..end]).into_owned()
}

fn kind_name(flags: u32) -> &'static str {
    match flags {
        f if f & service_flags::CANARY != 0 => "Canary",
        f if f & service_flags::DNS != 0 => "DNS",
        f if f & service_flags::NODE_PORT != 0 => "NodePort",
        f if f & service_flags::HOST_PORT != 0 => "HostPort",
        f if f & service_flags::EXTERNAL != 0 => "External",
        _ => "ClusterIP",
    }
}

fn socket(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), u16::from_be(port))
}

fn reading<T>(what: &str, result: Result<T, aya::maps::MapError>) -> Result<T, LoadError> {
    result.map_err(|source| LoadError::step(format!("read the {what}"), source))
}

fn names(instance_id: &str) -> Result<HashMap<u32, String>, LoadError> {
    let all = reading(
        "services' names",
        tables::names(&paths::pins(instance_id))?.all(),
    )?;
    Ok(all
        .into_iter()
        .map(|(id, name)| (id, service_name(&name)))
        .collect())
}

/// Every virtual address with the backends in its extent, by name.
pub fn services(instance_id: &str) -> Result<Vec<ServiceRow>, LoadError> {
    let pins = paths::pins(instance_id);
    let names = names(instance_id)?;
    let extents = tables::extents(&pins)?;
    let backends = tables::backends(&pins)?;
    let mut rows = Vec::new();
    for (key, service) in reading("services", tables::services(&pins)?.all())? {
        let addresses = extent(&extents, &backends, &service)?;
        rows.push(ServiceRow {
            name: names.get(&service.id).cloned().unwrap_or_default(),
            kind: kind_name(service.flags).into(),
            address: socket(key.address, key.port),
            protocol: protocol_name(key.protocol),
            id: service.id,
            affinity_s: (service.affinity_s != 0).then_some(service.affinity_s),
            backends: addresses,
        });
    }
    rows.sort_by(|a, b| (&a.name, &a.kind, a.address).cmp(&(&b.name, &b.kind, b.address)));
    Ok(rows)
}

/// The backends of one virtual address, whatever else there is; `None`: there is no such address.
pub fn backends_of(
    instance_id: &str,
    address: SocketAddr,
    protocol: u8,
) -> Result<Option<Vec<SocketAddr>>, LoadError> {
    let pins = paths::pins(instance_id);
    let key = ServiceKey {
        address: address.ip().into(),
        port: address.port().to_be(),
        protocol,
        pad: 0,
    };
    let Some(service) = reading("services", tables::services(&pins)?.get(key))? else {
        return Ok(None);
    };
    extent(
        &tables::extents(&pins)?,
        &tables::backends(&pins)?,
        &service,
    )
    .map(Some)
}

fn extent(
    extents: &Array<MapData, u32>,
    backends: &tables::Hash<u32, Backend>,
    service: &Service,
) -> Result<Vec<SocketAddr>, LoadError> {
    let mut addresses = Vec::with_capacity(service.count as usize);
    for slot in service.extent..service.extent.saturating_add(service.count) {
        let id = reading("backend ids", extents.get(&slot, 0))?;
        if let Some(backend) = reading("backends", backends.get(id))? {
            addresses.push(socket(backend.address, backend.port));
        }
    }
    addresses.sort();
    Ok(addresses)
}

pub fn backends(instance_id: &str) -> Result<Vec<BackendRow>, LoadError> {
    let names = names(instance_id)?;
    let all = reading(
        "backends",
        tables::backends(&paths::pins(instance_id))?.all(),
    )?;
    let mut rows: Vec<BackendRow> = all
        .into_iter()
        .map(|(id, backend)| BackendRow {
            id,
            service: names.get(&backend.service).cloned().unwrap_or_default(),
            service_id: backend.service,
            address: socket(backend.address, backend.port),
            protocol: protocol_name(backend.protocol),
        })
        .collect();
    rows.sort_by(|a, b| (&a.service, a.address, a.id).cmp(&(&b.service, b.address, b.id)));
    Ok(rows)
}

/// Which clients are bound to which backend.
pub fn affinity(instance_id: &str) -> Result<Vec<AffinityRow>, LoadError> {
    let pins = paths::pins(instance_id);
    let names = names(instance_id)?;
    let backends = tables::backends(&pins)?;
    let now = sys::monotonic_ns();
    let mut rows = Vec::new();
    for (key, affinity) in reading("affinities", tables::affinity(&pins)?.all())? {
        rows.push(AffinityRow {
            service: names.get(&key.service).cloned().unwrap_or_default(),
            client: if key.by_cookie != 0 {
                let cookie = u64::from(key.client.0[0]) | u64::from(key.client.0[1]) << 32;
                format!("netns:{cookie}")
            } else {
                IpAddr::from(key.client).to_string()
            },
            backend: reading("backends", backends.get(affinity.backend))?
                .map(|backend| socket(backend.address, backend.port)),
            age_s: now.saturating_sub(affinity.last_ns) / 1_000_000_000,
        });
    }
    rows.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
    Ok(rows)
}

/// The pods that packets go to past the node's stack.
pub fn pods(instance_id: &str) -> Result<Vec<PodRow>, LoadError> {
    let all = reading("local pods", tables::pods(&paths::pins(instance_id))?.all())?;
    let mut rows: Vec<PodRow> = all
        .into_iter()
        .map(|(address, pod)| PodRow {
            address: address.into(),
            ifindex: pod.ifindex,
        })
        .collect();
    rows.sort_by_key(|row| row.address);
    Ok(rows)
}

/// How often each decision was taken since the maps were made.
pub fn counters(instance_id: &str) -> Result<Vec<CounterRow>, LoadError> {
    let counters = tables::counters(&paths::pins(instance_id))?;
    Reason::ALL
        .into_iter()
        .map(|reason| {
            let per_cpu = reading("counters", counters.get(&(reason as u32), 0))?;
            Ok(CounterRow {
                reason: reason.name(),
                drop: reason.is_drop(),
                count: per_cpu.iter().sum(),
            })
        })
        .collect()
}

/// How the programs treat what stands in pods' way, and what they translate themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Pods reach the node's own addresses by its loopback (somebody's input chain drops).
    pub host_by_loopback: bool,
    /// Pods reach the outside past the node's stack (somebody's forward chain drops).
    pub egress: bool,
    /// Conversations with the outside that the programs translate: an entry a direction.
    pub translations: usize,
    pub addresses: Vec<IpAddr>,
}

pub fn node(instance_id: &str) -> Result<NodeRow, LoadError> {
    let pins = paths::pins(instance_id);
    let tables::Raw(config) = reading("configuration", tables::config(&pins)?.get(&0, 0))?;
    let addresses = reading("node's addresses", tables::host_addresses(&pins)?.all())?;
    let mut addresses: Vec<IpAddr> = addresses
        .into_iter()
        .map(|(address, _)| address.into())
        .collect();
    addresses.sort();
    Ok(NodeRow {
        host_by_loopback: config.flags & config_flags::HOST_BY_LOOPBACK != 0,
        egress: config.flags & config_flags::EGRESS != 0,
        translations: reading("translations", tables::nat(&pins)?.all())?.len(),
        addresses,
    })
}
