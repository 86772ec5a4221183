//! Reading what the data plane decides, as it decides it.
//!
//! Flows are written only while somebody reads: the reader keeps a moment in the configuration map up
//! to which they are wanted, and when it goes, the writing ends with that moment. The ring has one
//! reader; a second is refused.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::maps::{Array, MapData, RingBuf};
use kernelet_ebpf_abi::{Config, Flow, Hook, Reason};
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Serialize;

use crate::{
    LoadError, paths, sys,
    tables::{self, Hash, Raw},
};

const KEEP_NS: u64 = 3_000_000_000;

/// One decision, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    pub hook: &'static str,
    /// Why; one of `Reason`'s names.
    pub reason: &'static str,
    pub dropped: bool,
    pub protocol: String,
    /// Absent at the socket, where it isn't chosen yet.
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    pub translated: Option<SocketAddr>,
    /// `namespace/name:port`.
    pub service: Option<String>,
    pub pid: Option<u32>,
    pub command: Option<String>,
    pub netns_cookie: Option<u64>,
    pub ifindex: Option<u32>,
}

/// The reader of one instance's flows.
pub struct FlowReader {
    ring: RingBuf<MapData>,
    config: Array<MapData, Raw<Config>>,
    names: Hash<u32, kernelet_ebpf_abi::ServiceName>,
    _only_one: Flock<File>,
}

impl FlowReader {
    pub fn open(instance_id: &str) -> Result<Self, LoadError> {
        let pins = paths::pins(instance_id);
        // Nothing is written for it: the lock is on the folder of pins itself.
        let lock = File::open(&pins)
            .map_err(|source| LoadError::step("open the data plane's folder", source))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            LoadError::step(
                "read flows, which somebody else is doing already",
                io::Error::from(errno),
            )
        })?;
        let mut reader = Self {
            ring: tables::flows(&pins)?,
            config: tables::config(&pins)?,
            names: tables::names(&pins)?,
            _only_one: lock,
        };
        // What nobody read in time is older than this reader.
        while reader.ring.next().is_some() {}
        reader.keep_wanted()?;
        Ok(reader)
    }

    fn keep_wanted(&mut self) -> Result<(), LoadError> {
        let error = |source| LoadError::step("ask for flows", source);
        let Raw(mut config) = self.config.get(&0, 0).map_err(error)?;
        config.flows_until_ns = sys::monotonic_ns() + KEEP_NS;
        self.config.set(0, Raw(config), 0).map_err(error)
    }

    /// Waits up to `wait` for flows and gives those that are there.
    pub fn read(&mut self, wait: Duration) -> Result<Vec<FlowRow>, LoadError> {
        self.keep_wanted()?;
        let millis = wait.as_millis().min(u128::from(KEEP_NS / 3_000_000)) as u16;
        // SAFETY: the ring's descriptor lives as long as `self.ring`.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::from(millis))
            .map_err(|errno| LoadError::step("wait for flows", io::Error::from(errno)))?;
        let mut raw = Vec::new();
        while let Some(item) = self.ring.next() {
            if item.len() == size_of::<Flow>() {
                // SAFETY: the element has the type's size, and every bit pattern is a `Flow`.
                raw.push(unsafe { item.as_ptr().cast::<Flow>().read_unaligned() });
            }
        }
        Ok(raw.iter().map(|flow| self.decode(flow)).collect())
    }

    fn decode(&self, flow: &Flow) -> FlowRow {
        let reason = Reason::ALL
            .into_iter()
            .find(|reason| *reason as u8 == flow.reason);
        let socket =
            |address, port: u16| SocketAddr::new(IpAddr::from(address), u16::from_be(port));
        let known = |address: SocketAddr| {
            (!address.ip().is_unspecified() || address.port() != 0).then_some(address)
        };
        let command = String::from_utf8_lossy(&flow.command)
            .trim_end_matches('\0')
            .to_owned();
        FlowRow {
            at_ns: flow.at_ns,
            hook: match flow.hook {
                h if h == Hook::Connect as u8 => "connect",
                h if h == Hook::Send as u8 => "sendmsg",
                h if h == Hook::FromPod as u8 => "from-pod",
                h if h == Hook::FromOutside as u8 => "from-outside",
                _ => "unknown",
            },
            reason: reason.map_or("unknown", Reason::name),
            dropped: reason.is_some_and(Reason::is_drop),
            protocol: crate::view::protocol_name(flow.protocol),
            source: known(socket(flow.source, flow.source_port)),
            destination: socket(flow.destination, flow.destination_port),
            translated: known(socket(flow.translated, flow.translated_port)),
            service: (flow.service != 0)
                .then(|| self.names.get(flow.service).ok().flatten())
                .flatten()
                .map(|name| crate::view::service_name(&name)),
            pid: (flow.pid != 0).then_some(flow.pid),
            command: (!command.is_empty()).then_some(command),
            netns_cookie: (flow.netns != 0).then_some(flow.netns),
            ifindex: (flow.ifindex != 0).then_some(flow.ifindex),
        }
    }
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        if let Ok(Raw(mut config)) = self.config.get(&0, 0) {
            config.flows_until_ns = 0;
            // Should this fail, the writing ends by itself a little later.
            let _ = self.config.set(0, Raw(config), 0);
        }
    }
}
