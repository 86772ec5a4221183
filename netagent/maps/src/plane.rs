//! The data plane of one instance: loaded or adopted, then changed entry by entry.
//!
//! ```text
//!  open ── bpffs, cgroup2 root ── maps: pinned ones reused, missing ones made ── programs verified
//!       ── hooks: a pinned link gets the new program by update, a missing one is made and pinned
//! ```
//! From then on everything works without this process: maps, programs and links are pinned.
//!
//! **Invariant:** opening changes no entry of a map that was already there; deciding what is stale is
//! the caller's affair, once it knows everything that is wanted.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, MapError},
    programs::{
        CgroupAttachMode, CgroupSockAddr, ProgramType, SchedClassifier, links::FdLink,
        loaded_programs,
    },
    sys::is_program_supported,
};
use kernelet_ebpf_abi::{
    Address, Backend, Config, LocalPod, Netns, NetnsKind, Service, ServiceKey, ServiceName, Sticky,
    StickyKey, UdpKey, UdpOrigin, Uplink,
};

use crate::{
    LoadError, paths, sys,
    tables::{self, Hash, Raw},
};

/// The object that `ebpf/build.sh` made, aligned as its parser needs it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/programs/kernelet.bpf.o");

const HOOKS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

const FROM_POD: &str = "from_pod";
const FROM_UPLINK: &str = "from_uplink";

/// A map refused an entry.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct EntryError {
    what: String,
    #[source]
    source: Box<MapError>,
}

fn entry<T>(what: impl FnOnce() -> String, result: Result<T, MapError>) -> Result<T, EntryError> {
    result.map_err(|source| EntryError {
        what: what(),
        source: Box::new(source),
    })
}

/// What kernels above the floor have or lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` (Linux 5.18). Without it, a Service without endpoints answers EPERM instead of
    /// ECONNREFUSED.
    pub set_retval: bool,
}

impl Features {
    pub fn of_this_kernel() -> Self {
        let release = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            set_retval: is_at_least(&release, (5, 18)),
        }
    }
}

/// Whether the kernel takes programs of the kinds that the data plane is made of; tried with programs that do nothing.
pub fn supported() -> Result<(), LoadError> {
    for (kind, what) in [
        (ProgramType::CgroupSockAddr, "at cgroups' sockets"),
        (ProgramType::SchedClassifier, "at links"),
    ] {
        let missing = |source: Box<dyn std::error::Error + Send + Sync>| {
            LoadError::step(
                format!("this kernel has no eBPF programs {what}, or keeps them from this process"),
                source,
            )
        };
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => return Err(missing("it does not know the kind".into())),
            Err(error) => return Err(missing(error.into())),
        }
    }
    Ok(())
}

/// Compares `6.1.0-32-cloud-amd64` with a version.
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

/// What the kernel holds of services, for the caller's first comparison.
#[derive(Clone, Debug, Default)]
pub struct ObservedServices {
    pub services: Vec<(ServiceKey, Service)>,
    pub backends: Vec<(u32, Backend)>,
    pub names: Vec<(u32, ServiceName)>,
    /// For each service, the ids in its extent.
    pub extents: Vec<(ServiceKey, Vec<u32>)>,
}

pub struct DataPlane {
    from_pod: OwnedFd,
    from_uplink: OwnedFd,
    netns: Hash<u64, Netns>,
    services: Hash<ServiceKey, Service>,
    backends: Hash<u32, Backend>,
    names: Hash<u32, ServiceName>,
    extents: Array<MapData, u32>,
    udp_origin: Hash<UdpKey, UdpOrigin>,
    sticky: Hash<StickyKey, Sticky>,
    pods: Hash<Address, LocalPod>,
    host_addresses: Hash<Address, u32>,
    uplinks: Hash<u32, Uplink>,
    config: Array<MapData, Raw<Config>>,
}

impl DataPlane {
    /// Loads the programs and attaches them, or takes over what an earlier agent left.
    pub fn open(instance_id: &str) -> Result<Self, LoadError> {
        Self::open_on(instance_id, Features::of_this_kernel())
    }

    /// The same for a kernel with just these features.
    pub fn open_on(instance_id: &str, features: Features) -> Result<Self, LoadError> {
        let cgroup = paths::cgroup2_root()?;
        let pins = paths::pins(instance_id);
        let links = pins.join("links");
        paths::make_pins(&links)?;

        let mut loader = EbpfLoader::new();
        let map_paths: Vec<(&str, PathBuf)> = tables::NAMES
            .iter()
            .map(|name| (*name, pins.join(name)))
            .collect();
        for (name, path) in &map_paths {
            loader.map_pin_path(name, path.as_path());
        }
        let set_retval = u32::from(features.set_retval);
        loader.override_global("SET_RETVAL", &set_retval, true);
        let mut object = loader
            .load(OBJECT)
            .map_err(|source| LoadError::step("load the eBPF object", source))?;

        for hook in HOOKS {
            let program: &mut CgroupSockAddr = object
                .program_mut(hook)
                .expect("the object has every hook: its own test reads them")
                .try_into()
                .map_err(|source| LoadError::step(format!("find program {hook}"), source))?;
            program
                .load()
                .map_err(|source| LoadError::step(format!("load program {hook}"), source))?;
            let path = links.join(hook);
            match sys::object_get(&path) {
                Ok(link) => {
                    let fd = program.fd().map_err(|source| {
                        LoadError::step(format!("load program {hook}"), source)
                    })?;
                    sys::link_update(link.as_fd(), fd.as_fd()).map_err(|source| {
                        LoadError::step(format!("replace program {hook}"), source)
                    })?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    attach(program, &cgroup, &path)
                        .map_err(|source| LoadError::step(format!("attach hook {hook}"), source))?;
                }
                Err(source) => {
                    return Err(LoadError::step(
                        format!("open the pinned hook {hook}"),
                        source,
                    ));
                }
            }
        }
        let from_pod = load_classifier(&mut object, FROM_POD)?;
        let from_uplink = load_classifier(&mut object, FROM_UPLINK)?;

        Ok(Self {
            from_pod,
            from_uplink,
            netns: tables::netns(&pins)?,
            services: tables::services(&pins)?,
            backends: tables::backends(&pins)?,
            names: tables::names(&pins)?,
            extents: tables::extents(&pins)?,
            udp_origin: tables::udp_origin(&pins)?,
            sticky: tables::sticky(&pins)?,
            pods: tables::pods(&pins)?,
            host_addresses: tables::host_addresses(&pins)?,
            uplinks: tables::uplinks(&pins)?,
            config: tables::config(&pins)?,
        })
    }

    pub fn put_netns(&mut self, cookie: u64, kind: NetnsKind) -> Result<(), EntryError> {
        let value = Netns {
            kind: kind as u32,
            pad: 0,
        };
        entry(
            || format!("enter network namespace {cookie}"),
            self.netns.put(cookie, value),
        )
    }

    pub fn remove_netns(&mut self, cookie: u64) -> Result<(), EntryError> {
        entry(
            || format!("remove network namespace {cookie}"),
            self.netns.remove(cookie),
        )
        .map(drop)
    }

    pub fn netns(&self) -> Result<Vec<(u64, Netns)>, EntryError> {
        entry(|| "read the network namespaces".into(), self.netns.all())
    }

    pub fn put_backend(&mut self, id: u32, backend: Backend) -> Result<(), EntryError> {
        entry(
            || format!("write backend {id}"),
            self.backends.put(id, backend),
        )
    }

    pub fn remove_backend(&mut self, id: u32) -> Result<(), EntryError> {
        entry(|| format!("remove backend {id}"), self.backends.remove(id)).map(drop)
    }

    pub fn put_extent(&mut self, start: u32, ids: &[u32]) -> Result<(), EntryError> {
        for (slot, id) in (start..).zip(ids) {
            entry(
                || format!("write slot {slot}"),
                self.extents.set(slot, id, 0),
            )?;
        }
        Ok(())
    }

    /// The commit: from here on, new connections see the new set.
    pub fn put_service(&mut self, key: ServiceKey, service: Service) -> Result<(), EntryError> {
        entry(
            || format!("write service {key:?}"),
            self.services.put(key, service),
        )
    }

    pub fn remove_service(&mut self, key: ServiceKey) -> Result<(), EntryError> {
        entry(
            || format!("remove service {key:?}"),
            self.services.remove(key),
        )
        .map(drop)
    }

    pub fn put_name(&mut self, id: u32, name: &str) -> Result<(), EntryError> {
        let mut value = [0; 160];
        let bytes = &name.as_bytes()[..name.len().min(value.len())];
        value[..bytes.len()].copy_from_slice(bytes);
        entry(
            || format!("name service {id}"),
            self.names.put(id, ServiceName(value)),
        )
    }

    pub fn remove_name(&mut self, id: u32) -> Result<(), EntryError> {
        entry(
            || format!("remove the name of service {id}"),
            self.names.remove(id),
        )
        .map(drop)
    }

    pub fn observe(&self) -> Result<ObservedServices, EntryError> {
        let what = || "read the services".to_owned();
        let services = entry(what, self.services.all())?;
        let mut extents = Vec::with_capacity(services.len());
        for (key, service) in &services {
            let mut ids = Vec::with_capacity(service.count as usize);
            for slot in service.extent..service.extent.saturating_add(service.count) {
                ids.push(entry(what, self.extents.get(&slot, 0))?);
            }
            extents.push((*key, ids));
        }
        Ok(ObservedServices {
            services,
            extents,
            backends: entry(what, self.backends.all())?,
            names: entry(what, self.names.all())?,
        })
    }

    /// UDP sockets (cookie, namespace's cookie, backend) whose backend is one of `ids`.
    pub fn sticky_on(&self, ids: &HashSet<u32>) -> Result<Vec<(u64, u64, u32)>, EntryError> {
        let all = entry(|| "read the UDP sockets".into(), self.sticky.all())?;
        Ok(all
            .into_iter()
            .filter(|(_, sticky)| ids.contains(&sticky.backend))
            .map(|(key, sticky)| (key.socket, sticky.netns, sticky.backend))
            .collect())
    }

    /// Forgets what is remembered of a UDP socket's service.
    pub fn remove_sticky(&mut self, socket: u64, service: u32) -> Result<(), EntryError> {
        let key = StickyKey {
            socket,
            service,
            pad: 0,
        };
        entry(
            || format!("forget UDP socket {socket}"),
            self.sticky.remove(key),
        )
        .map(drop)
    }

    /// How many unconnected UDP sockets' answers are being relabelled.
    pub fn udp_origins(&self) -> Result<usize, EntryError> {
        entry(|| "read the UDP origins".into(), self.udp_origin.all()).map(|all| all.len())
    }

    pub fn put_pod(
        &mut self,
        address: IpAddr,
        ifindex: u32,
        netns_cookie: u64,
    ) -> Result<(), EntryError> {
        let value = LocalPod {
            ifindex,
            pad: 0,
            netns: netns_cookie,
        };
        entry(
            || format!("enter pod {address}"),
            self.pods.put(address.into(), value),
        )
    }

    pub fn remove_pod(&mut self, address: IpAddr) -> Result<(), EntryError> {
        entry(
            || format!("remove pod {address}"),
            self.pods.remove(address.into()),
        )
        .map(drop)
    }

    /// The local pods: address, the node's end of the link, the namespace's cookie.
    pub fn pods(&self) -> Result<Vec<(IpAddr, u32, u64)>, EntryError> {
        let all = entry(|| "read the local pods".into(), self.pods.all())?;
        Ok(all
            .into_iter()
            .map(|(address, pod)| (address.into(), pod.ifindex, pod.netns))
            .collect())
    }

    /// Makes the map of the node's own addresses hold just `wanted`.
    pub fn sync_host_addresses(&mut self, wanted: &[IpAddr]) -> Result<(), EntryError> {
        let what = || "write the node's addresses".to_owned();
        let wanted: HashSet<Address> = wanted.iter().map(|address| (*address).into()).collect();
        for address in &wanted {
            entry(what, self.host_addresses.put(*address, 1))?;
        }
        for (address, _) in entry(what, self.host_addresses.all())? {
            if !wanted.contains(&address) {
                entry(what, self.host_addresses.remove(address))?;
            }
        }
        Ok(())
    }

    pub fn config(&self) -> Result<Config, EntryError> {
        entry(|| "read the configuration".into(), self.config.get(&0, 0)).map(|Raw(config)| config)
    }

    /// Changes the configuration; whether somebody reads flows stays as the map has it.
    pub fn set_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), EntryError> {
        let mut config = self.config()?;
        change(&mut config);
        entry(
            || "write the configuration".into(),
            self.config.set(0, Raw(config), 0),
        )
    }

    /// Makes the map of uplinks hold just `wanted` (link, the node's IPv4 address on it).
    pub fn sync_uplinks(&mut self, wanted: &[(u32, Ipv4Addr)]) -> Result<(), EntryError> {
        let what = || "write the uplinks".to_owned();
        for (ifindex, address) in wanted {
            let value = Uplink {
                address: u32::from_ne_bytes(address.octets()),
                pad: 0,
            };
            entry(what, self.uplinks.put(*ifindex, value))?;
        }
        for (ifindex, _) in entry(what, self.uplinks.all())? {
            if !wanted.iter().any(|(known, _)| *known == ifindex) {
                entry(what, self.uplinks.remove(ifindex))?;
            }
        }
        Ok(())
    }

    /// The links in the map of uplinks.
    pub fn uplinks(&self) -> Result<Vec<u32>, EntryError> {
        let all = entry(|| "read the uplinks".into(), self.uplinks.all())?;
        Ok(all.into_iter().map(|(ifindex, _)| ifindex).collect())
    }

    pub fn program(&self, program: PacketProgram) -> BorrowedFd<'_> {
        match program {
            PacketProgram::FromPod => self.from_pod.as_fd(),
            PacketProgram::FromUplink => self.from_uplink.as_fd(),
        }
    }

    /// Lets `program` run on what enters by the link, by tcx; one that an earlier agent attached is
    /// replaced in its place.
    pub fn attach_tcx(&self, ifindex: u32, program: PacketProgram) -> io::Result<()> {
        attach_or_replace(ifindex, self.program(program), program.name())
    }
}

/// The programs for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketProgram {
    /// On the node's end of a pod's link.
    FromPod,
    /// On a link that leads outside.
    FromUplink,
}

impl PacketProgram {
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => FROM_POD,
            Self::FromUplink => FROM_UPLINK,
        }
    }
}

/// Whether the kernel has tcx (Linux 6.6).
pub fn has_tcx() -> bool {
    static FOUND: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        // `lo` is in every namespace; asked of a kernel that doesn't know the attach type, it is EINVAL.
        sys::tcx_query(1).is_ok()
    });
    *FOUND
}

fn attach_or_replace(ifindex: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let ours = program_id(program)?;
    for id in sys::tcx_query(ifindex)? {
        if id == ours {
            return Ok(());
        }
        let Ok(other) = sys::program_by_id(id) else {
            continue;
        };
        if program_name(other.as_fd()).as_deref() == Some(name) {
            return sys::tcx_attach(ifindex, program, Some(other.as_fd()));
        }
    }
    sys::tcx_attach(ifindex, program, None)
}

/// Takes our program off an uplink, which outlives the instance (pods' links don't).
pub fn detach_tcx(ifindex: u32) -> io::Result<()> {
    for id in sys::tcx_query(ifindex)? {
        let Ok(program) = sys::program_by_id(id) else {
            continue;
        };
        if program_name(program.as_fd()).as_deref() == Some(FROM_UPLINK) {
            sys::tcx_detach(ifindex, program.as_fd())?;
        }
    }
    Ok(())
}

fn load_classifier(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program: &mut SchedClassifier = object
        .program_mut(name)
        .expect("the object has every program: its own test reads them")
        .try_into()
        .map_err(|source| LoadError::step(format!("find program {name}"), source))?;
    program
        .load()
        .map_err(|source| LoadError::step(format!("load program {name}"), source))?;
    program
        .fd()
        .map_err(|source| LoadError::step(format!("load program {name}"), source))?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| LoadError::step(format!("keep program {name}"), source))
}

fn attach(
    program: &mut CgroupSockAddr,
    cgroup: &fs::File,
    path: &std::path::Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // A link always allows others beside it; asking for that as well is refused.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(path)?;
    Ok(())
}

fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("prog_id:"))
        .and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("fdinfo of a program names no prog_id"))
}

fn program_name(program: BorrowedFd<'_>) -> Option<String> {
    let id = program_id(program).ok()?;
    loaded_programs()
        .flatten()
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        let check = |release: &str, expect: bool| {
            assert_eq!(is_at_least(release, (5, 18)), expect, "{release}");
        };
        check("5.18.0", true);
        check("5.15.0-113-generic", false);
        check("6.1.0-32-cloud-amd64", true);
        check("5.9", false);
        check("", false);
    }
}
