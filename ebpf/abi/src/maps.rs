//! What the maps hold. The order is that of a connection: whose socket, which service, which backend,
//! what was remembered for the way back.

use crate::Address;

macro_rules! layout {
    ($($name:ident = $size:literal),+ $(,)?) => {
        $(const _: () = assert!(size_of::<$name>() == $size, stringify!($name));)+
    };
}

layout!(
    Netns = 8,
    ServiceKey = 20,
    Service = 20,
    ServiceName = 160,
    Backend = 24,
    AffinityKey = 24,
    Affinity = 16,
    Connected = 40,
    UdpKey = 32,
    UdpOrigin = 24,
    StickyKey = 16,
    Sticky = 16,
    LocalPod = 16,
    Uplink = 8,
    Tuple = 16,
    Nat = 24,
    Config = 24,
);

/// Map `NETNS`, keyed by the namespace's cookie: whose sockets are translated. Anything else passes
/// untouched, so that other instances, podman and Docker never see our translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Netns {
    /// A [`NetnsKind`].
    pub kind: u32,
    pub pad: u32,
}

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsKind {
    Node = 1,
    Pod = 2,
}

/// Key of map `SERVICES`: a virtual address. A family's unspecified address (`::ffff:0.0.0.0`, `::`)
/// stands for any of the node's own (node ports, host ports).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    pub protocol: u8,
    pub pad: u8,
}

/// Value of map `SERVICES`. One update of it is the commit of a new set of backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Never 0; not given to another service soon.
    pub id: u32,
    /// First slot in `EXTENTS`.
    pub extent: u32,
    /// How many slots. 0: refuse.
    pub count: u32,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
    /// `service_flags`.
    pub flags: u32,
}

/// Map `NAMES`, keyed by service id: `namespace/name:port`, zero-filled. The programs never read it;
/// it lets a view name what the kernel holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName(pub [u8; 160]);

/// Map `BACKENDS`, keyed by backend id. An id belongs to one service: that it is present says that it
/// still is a backend of that service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
    pub pad: u8,
    pub service: u32,
}

/// Key of map `AFFINITY`. On the socket layer a client is its network namespace, since that has the
/// pod's address before the source address is chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// A client's address, or a namespace's cookie in words 0 and 1.
    pub client: Address,
    pub service: u32,
    /// 1: `client` holds a cookie.
    pub by_cookie: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    pub backend: u32,
    pub pad: u32,
    /// `bpf_ktime_get_ns`.
    pub last_ns: u64,
}

/// Socket storage `CONNECTED`: what a connected socket asked for, and what it got.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    pub asked: Address,
    pub got: Address,
    pub asked_port: u16,
    pub got_port: u16,
    pub service: u32,
}

/// Key of map `UDP_ORIGIN`: an unconnected UDP socket and the backend that answers it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UdpKey {
    /// `bpf_get_socket_cookie`.
    pub socket: u64,
    pub address: Address,
    pub port: u16,
    pub pad: [u16; 3],
}

/// Whose address the answers of that backend carry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOrigin {
    pub address: Address,
    pub port: u16,
    pub pad: u16,
    pub service: u32,
}

/// Key of map `STICKY`: a UDP socket stays on its backend of a service while that is one, because
/// protocols like QUIC send many datagrams of one conversation through an unconnected socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StickyKey {
    pub socket: u64,
    pub service: u32,
    pub pad: u32,
}

/// `netns` tells the agent where to look for the sockets of a removed backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sticky {
    pub backend: u32,
    pub pad: u32,
    pub netns: u64,
}

/// Map `PODS`, keyed by a pod's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// The node's end of its link.
    pub ifindex: u32,
    pub pad: u32,
    /// Its network namespace's cookie: the agent finds the pod's entry in `NETNS` by it.
    pub netns: u64,
}

/// Map `UPLINKS`, keyed by the link's index: where the node's own address is on the way out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// IPv4, network byte order: what pods are seen as.
    pub address: u32,
    pub pad: u32,
}

/// Key of map `NAT`: an IPv4 conversation as it is seen at one hook. Addresses and ports in network
/// byte order; an ICMP echo has its identifier in both ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// What becomes of such a conversation's packets. What comes from a pod gets this as its source, what
/// comes from outside gets it as its destination. Each conversation has an entry a direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    pub address: u32,
    /// From outside: the pod's link.
    pub ifindex: u32,
    pub port: u16,
    pub pad: u16,
    pub pad2: u32,
    /// `bpf_ktime_get_ns` of the entry's making.
    pub since_ns: u64,
}

/// The one element of array `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `config_flags`.
    pub flags: u32,
    pub loopback_ifindex: u32,
    /// Flows are written to the ring until then (`bpf_ktime_get_ns`): nobody listening costs nothing.
    pub flows_until_ns: u64,
    /// The cluster's pod range (IPv4): what goes there keeps its source.
    pub cluster_network: u32,
    pub cluster_mask: u32,
}
