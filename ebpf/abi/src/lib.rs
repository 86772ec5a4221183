//! Map keys and values, shared by both sides; no_std.
//!
//! Every type is `repr(C)`, explicitly padded and of asserted size, so that the eBPF programs and the
//! agent, built by different compilers, agree on each byte. Addresses are IPv6; IPv4 is v4-mapped.
//! Ports and addresses are in network byte order, everything else in the machine's.
//!
//! **Invariant:** a change of any layout or meaning here raises [`SCHEMA`], which is part of the path
//! where maps are pinned: an agent never meets maps of another layout.

#![cfg_attr(not(test), no_std)]

mod address;
mod flow;
mod maps;

pub use address::Address;
pub use flow::{Flow, Hook, Reason};
pub use maps::{
    Affinity, AffinityKey, Backend, Config, Connected, LocalPod, Nat, Netns, NetnsKind, Service,
    ServiceKey, ServiceName, Sticky, StickyKey, Tuple, UdpKey, UdpOrigin, Uplink,
};

/// The layout's version: part of the pin path.
pub const SCHEMA: u32 = 1;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// How many entries each map takes.
pub mod capacity {
    pub const NETNS: u32 = 4096;
    pub const SERVICES: u32 = 131_072;
    pub const BACKENDS: u32 = 262_144;
    /// Slots of the array of backend ids that services' extents lie in.
    pub const EXTENTS: u32 = 262_144;
    pub const AFFINITY: u32 = 16_384;
    pub const UDP: u32 = 16_384;
    pub const PODS: u32 = 4096;
    pub const HOST_ADDRESSES: u32 = 1024;
    pub const UPLINKS: u32 = 64;
    pub const NAT: u32 = 65_536;
    pub const FLOW_BYTES: u32 = 256 * 1024;
}

/// What a service entry is, in `Service::flags`.
pub mod service_flags {
    pub const CLUSTER_IP: u32 = 1;
    pub const NODE_PORT: u32 = 2;
    pub const EXTERNAL: u32 = 4;
    pub const HOST_PORT: u32 = 8;
    /// The cluster's DNS, answered by the agent.
    pub const DNS: u32 = 16;
    /// The agent's own proof that the path works.
    pub const CANARY: u32 = 32;
}

/// `Config::flags`.
pub mod config_flags {
    /// What pods send to the node's own addresses enters as if on `lo`, because somebody's input
    /// chain drops what comes from elsewhere.
    pub const HOST_BY_LOOPBACK: u32 = 1;
    /// Pods' new conversations with the outside are translated by the programs, past the node's stack,
    /// because somebody's forward chain drops what passes there.
    pub const EGRESS: u32 = 2;
}

/// Source ports of pods' conversations that the programs translate: above what sockets are given by
/// themselves (`ip_local_port_range` ends at 60999).
pub mod egress_ports {
    pub const FIRST: u16 = 61_000;
    pub const COUNT: u16 = 4_535;
}
