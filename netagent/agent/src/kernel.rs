//! What the kernel holds for this node: the data plane, the service table that mirrors it, the pods.
//!
//! Everything here is synchronous. The data plane, the table and the pods each have a lock; whoever
//! needs several takes them in this order: pods, table, plane.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kernelet_ebpf_abi::ServiceKey;
use kernelet_link::{LinkError, PodLink, destroy_udp, in_netns};
use kernelet_maps::{DataPlane, EntryError, PacketProgram};
use kernelet_net_plan::{Changes, Found, Ipam, RemovedUdp, ServiceSpec, Step, Table, TableError};
use tracing::{debug, warn};

/// A pod that is attached.
pub struct Pod {
    pub id: kernelet_attach::PodId,
    pub link: PodLink,
    pub ifindex: u32,
    pub netns_cookie: u64,
    /// `None`: found after a restart of the agent and not yet attached again.
    pub netns: Option<Arc<OwnedFd>>,
}

#[derive(Default)]
pub struct Pods {
    pub ipam: Ipam,
    /// By uid.
    pub attached: HashMap<String, Pod>,
}

/// Sockets by cookie, with the peer that each is connected to.
type UdpSockets = HashSet<(u64, IpAddr, u16)>;

pub struct Kernel {
    plane: Mutex<DataPlane>,
    table: Mutex<Table>,
    pods: Mutex<Pods>,
    started: Instant,
    node_cookie: u64,
    /// UDP sockets to end in namespaces of which there is no descriptor yet.
    unreached: Mutex<HashMap<u64, UdpSockets>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves plain data; each change of it is complete or repeated by the next sync.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    /// Takes over what the data plane holds.
    pub fn adopt(plane: DataPlane, node_cookie: u64) -> Result<Self, EntryError> {
        let observed = plane.observe()?;
        let extents: HashMap<ServiceKey, Vec<u32>> = observed.extents.into_iter().collect();
        let found = Found {
            services: observed
                .services
                .into_iter()
                .map(|(key, service)| {
                    (key, service, extents.get(&key).cloned().unwrap_or_default())
                })
                .collect(),
            backends: observed.backends,
            named: observed.names.into_iter().map(|(id, _)| id).collect(),
        };
        Ok(Self {
            plane: Mutex::new(plane),
            table: Mutex::new(Table::adopt(&found)),
            pods: Mutex::default(),
            started: Instant::now(),
            node_cookie,
            unreached: Mutex::default(),
        })
    }

    pub fn plane(&self) -> MutexGuard<'_, DataPlane> {
        lock(&self.plane)
    }

    /// A descriptor of a program for packets.
    pub fn packet_program(&self, program: PacketProgram) -> std::io::Result<OwnedFd> {
        self.plane().program(program).try_clone_to_owned()
    }

    pub fn pods(&self) -> MutexGuard<'_, Pods> {
        lock(&self.pods)
    }

    /// The monotonic time that the pure parts are given.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Makes `owner`'s virtual addresses just `wanted`.
    pub fn set_services(
        &self,
        owner: &str,
        wanted: &[ServiceSpec],
    ) -> Result<(), SetServicesError> {
        let (changes, result) = {
            let mut table = lock(&self.table);
            let (changes, result) = table.set(owner, wanted, self.now());
            if let Err(error) = self.run(&changes) {
                table.distrust(owner);
                return Err(error.into());
            }
            (changes, result)
        };
        self.end_udp(&changes.removed_udp)?;
        Ok(result?)
    }

    /// Everything wanted has been set once: what is left over goes.
    pub fn finish_sync(&self) -> Result<(), SetServicesError> {
        let changes = {
            let mut table = lock(&self.table);
            let changes = table.finish_sync(self.now());
            self.run(&changes)?;
            changes
        };
        self.end_udp(&changes.removed_udp)
    }

    /// The port that an entry's first backend has now.
    pub fn backend_port(&self, key: &ServiceKey) -> Option<u16> {
        lock(&self.table)
            .backends(key)
            .next()
            .map(|backend| backend.port)
    }

    pub fn service_count(&self) -> usize {
        lock(&self.table).len()
    }

    fn run(&self, changes: &Changes) -> Result<(), EntryError> {
        let mut plane = self.plane();
        for step in &changes.steps {
            match step {
                Step::PutBackend { id, backend } => plane.put_backend(*id, *backend)?,
                Step::PutExtent { start, ids } => plane.put_extent(*start, ids)?,
                Step::PutName { id, name } => plane.put_name(*id, name)?,
                Step::PutService { key, service } => plane.put_service(*key, *service)?,
                Step::RemoveService { key } => plane.remove_service(*key)?,
                Step::RemoveBackend { id } => plane.remove_backend(*id)?,
                Step::RemoveName { id } => plane.remove_name(*id)?,
            }
        }
        Ok(())
    }

    /// Ends the UDP sockets that are connected to backends which are none any more.
    fn end_udp(&self, removed: &[RemovedUdp]) -> Result<(), SetServicesError> {
        if removed.is_empty() {
            return Ok(());
        }
        let by_id: HashMap<u32, &RemovedUdp> = removed
            .iter()
            .map(|removed| (removed.id, removed))
            .collect();
        let mut sockets: HashMap<u64, UdpSockets> = HashMap::new();
        {
            let mut plane = self.plane();
            for (socket, netns, id) in plane.sticky_on(&by_id.keys().copied().collect())? {
                let Some(removed) = by_id.get(&id) else {
                    continue;
                };
                let backend = removed.backend;
                sockets
                    .entry(netns)
                    .or_default()
                    .insert((socket, backend.address, backend.port));
                plane.remove_sticky(socket, removed.service)?;
            }
        }
        let mut result = Ok(());
        for (netns, sockets) in sockets {
            if let Err(error) = self.end_udp_in(netns, sockets) {
                // The other namespaces' sockets have to go all the same.
                result = Err(error.into());
            }
        }
        result
    }

    fn end_udp_in(&self, netns_cookie: u64, sockets: UdpSockets) -> Result<(), LinkError> {
        let ended = if netns_cookie == self.node_cookie {
            destroy_udp(&sockets)?
        } else {
            let netns = {
                let pods = self.pods();
                pods.attached
                    .values()
                    .find(|pod| pod.netns_cookie == netns_cookie)
                    .map(|pod| pod.netns.clone())
            };
            match netns {
                Some(Some(netns)) => in_netns(netns.as_fd(), || destroy_udp(&sockets))?,
                // Known from before a restart: as soon as the node attaches the pod again.
                Some(None) => {
                    lock(&self.unreached)
                        .entry(netns_cookie)
                        .or_default()
                        .extend(sockets);
                    0
                }
                // The pod is gone, its sockets with it.
                None => 0,
            }
        };
        debug!(netns_cookie, ended, "UDP sockets of removed backends ended");
        Ok(())
    }

    /// A namespace has a descriptor again: what had to wait for it is done now.
    pub fn netns_reached(&self, netns_cookie: u64) {
        let waiting = lock(&self.unreached).remove(&netns_cookie);
        if let Some(sockets) = waiting
            && let Err(error) = self.end_udp_in(netns_cookie, sockets)
        {
            warn!(
                error = &error as &dyn std::error::Error,
                "UDP sockets of removed backends stay"
            );
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SetServicesError {
    #[error("write the data plane's maps")]
    Entry(#[from] EntryError),
    #[error("find room in the data plane's maps")]
    Table(#[from] TableError),
    #[error("end UDP sockets that are connected to a removed backend")]
    Sockets(#[from] LinkError),
}
