//! IPv4 conversations between pods and the outside, translated past the node's stack.
//!
//! Two kinds, one map: a pod's conversation with the outside, when somebody's forward chain would drop
//! it (otherwise the node's stack masquerades); and the outside's with a node port or host port of a
//! pod on this node.
//!
//! What isn't translated here goes to the stack: fragments, IP options in what an error quotes, IPv6,
//! protocols without ports, and TCP that was not begun here.

use aya_ebpf::{
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, TC_ACT_SHOT, bpf_fib_lookup,
    },
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_redirect_neigh,
        bpf_redirect_peer,
    },
    programs::TcContext,
};
use kernelet_ebpf_abi::{
    Address, AffinityKey, Backend, Nat, Reason, ServiceKey, Tuple, config_flags, egress_ports,
};

use crate::{
    flows,
    packet::{ETH_HEADER, ICMP, Packet, TCP, UDP, ingress, tell},
    select,
    tables::{CONFIG, HOST_ADDRESSES, NAT, PODS, UPLINKS},
};

const AF_INET: u8 = 2;
const IP_TTL: usize = ETH_HEADER + 8;
const IP_CHECKSUM: usize = ETH_HEADER + 10;
const IP_SOURCE: usize = ETH_HEADER + 12;
const IP_DESTINATION: usize = ETH_HEADER + 16;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_ECHO: u8 = 8;
const ICMP_EXCEEDED: u8 = 11;
const PORT_TRIES: u32 = 16;

/// A packet's conversation, and whether it may begin one.
struct Seen {
    tuple: Tuple,
    begins: bool,
}

#[inline(always)]
fn seen(ctx: &TcContext, packet: &Packet) -> Option<Seen> {
    if !packet.source.is_v4() || packet.transport == 0 {
        return None;
    }
    let (ports, begins): ([u16; 2], bool) = match packet.protocol {
        TCP => {
            let flags: u8 = ctx.load(packet.transport + 13).ok()?;
            // SYN without ACK.
            (ctx.load(packet.transport).ok()?, flags & 0x12 == 0x02)
        }
        UDP => (ctx.load(packet.transport).ok()?, true),
        ICMP => {
            let kind: u8 = ctx.load(packet.transport).ok()?;
            if kind != ICMP_ECHO && kind != ICMP_ECHO_REPLY {
                return None;
            }
            let id: u16 = ctx.load(packet.transport + 4).ok()?;
            ([id, id], kind == ICMP_ECHO)
        }
        _ => return None,
    };
    Some(Seen {
        tuple: Tuple {
            source: packet.source.v4_word(),
            destination: packet.destination.v4_word(),
            source_port: ports[0],
            destination_port: ports[1],
            protocol: packet.protocol,
            pad: [0; 3],
        },
        begins,
    })
}

#[inline(always)]
fn known(tuple: &Tuple) -> Option<Nat> {
    // SAFETY: copied at once; an LRU element is recycled only when it is among the longest unused.
    unsafe { NAT.get(tuple) }.copied()
}

/// A packet from a pod to somewhere outside: `None` when it is the stack's.
#[inline(always)]
pub fn outward(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    let config = CONFIG.get(0)?;
    let seen = seen(ctx, packet)?;
    let nat = match known(&seen.tuple) {
        Some(nat) => nat,
        None => {
            let to_cluster = seen.tuple.destination & config.cluster_mask == config.cluster_network
                && config.cluster_mask != 0;
            if config.flags & config_flags::EGRESS == 0 || !seen.begins || to_cluster {
                return None;
            }
            let uplink = route(ctx, &seen.tuple)?;
            // SAFETY: `UPLINKS` isn't preallocated; one word is read.
            let address = unsafe { UPLINKS.get(uplink) }?.address;
            match open(ctx, &seen.tuple, address) {
                Some(nat) => nat,
                None => {
                    tell(ctx, packet, Reason::NoPort);
                    return Some(TC_ACT_SHOT as i32);
                }
            }
        }
    };
    // Looked up each time: routes change, and a conversation with the node's port answers to where its
    // client is.
    let uplink = route(ctx, &seen.tuple)?;
    let done = rewrite(ctx, packet, IP_SOURCE, seen.tuple.source, nat.address)
        .and_then(|()| rewrite_port(ctx, packet, Side::Source, seen.tuple.source_port, nat.port))
        .and_then(|()| decrement_ttl(ctx));
    if done.is_none() {
        tell(ctx, packet, Reason::Malformed);
        return Some(TC_ACT_SHOT as i32);
    }
    tell(ctx, packet, Reason::ToOutside);
    // SAFETY: no parameters are given: the helper asks the routing table for the next hop.
    Some(unsafe { bpf_redirect_neigh(uplink, core::ptr::null_mut(), 0, 0) } as i32)
}

/// The link that leads to the destination; `None` when the stack has to say something about it
/// (no route, an unreachable one, a packet too large).
#[inline(always)]
fn route(ctx: &TcContext, tuple: &Tuple) -> Option<u32> {
    // SAFETY: all zero is a valid value of this plain struct.
    let mut ask: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    ask.family = AF_INET;
    ask.l4_protocol = tuple.protocol;
    ask.ifindex = ingress(ctx);
    ask.__bindgen_anon_3.ipv4_src = tuple.source;
    ask.__bindgen_anon_4.ipv4_dst = tuple.destination;
    // SAFETY: the struct is whole and its length is given.
    let result = unsafe {
        fib_lookup(ctx.skb.skb.cast(), &raw mut ask, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    let result = result as u32;
    (result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH)
        .then_some(ask.ifindex)
}

/// Gives a pod's conversation a port of the node's: both directions' entries are made.
#[inline(always)]
fn open(ctx: &TcContext, tuple: &Tuple, address: u32) -> Option<Nat> {
    let pod = Nat {
        address: tuple.source,
        // The reply goes where this came from.
        ifindex: ingress(ctx),
        port: tuple.source_port,
        pad: 0,
        pad2: 0,
        // SAFETY: no argument, no memory.
        since_ns: unsafe { bpf_ktime_get_ns() },
    };
    // SAFETY: no argument, no memory.
    let random = unsafe { bpf_get_prandom_u32() };
    for step in 0..PORT_TRIES {
        let offset = random.wrapping_add(step) % u32::from(egress_ports::COUNT);
        let port = (egress_ports::FIRST + offset as u16).to_be();
        let reply = Tuple {
            source: tuple.destination,
            destination: address,
            source_port: if tuple.protocol == ICMP { port } else { tuple.destination_port },
            destination_port: port,
            protocol: tuple.protocol,
            pad: [0; 3],
        };
        if NAT.insert(reply, pod, u64::from(BPF_NOEXIST)).is_ok() {
            let nat = Nat { address, ifindex: 0, port, ..pod };
            if NAT.insert(tuple, nat, 0).is_err() {
                flows::count(Reason::NoMemory);
                return None;
            }
            return Some(nat);
        }
    }
    None
}

/// A packet from outside: `None` when it is the stack's.
#[inline(always)]
pub fn inward(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    if packet.protocol == ICMP && packet.transport != 0 {
        let kind: u8 = ctx.load(packet.transport).ok()?;
        if kind == ICMP_UNREACHABLE || kind == ICMP_EXCEEDED {
            return quoted(ctx, packet);
        }
    }
    let seen = seen(ctx, packet)?;
    let nat = match known(&seen.tuple) {
        Some(nat) => nat,
        None if seen.begins => node_port(&seen.tuple)?,
        None => return None,
    };
    let done = rewrite(ctx, packet, IP_DESTINATION, seen.tuple.destination, nat.address)
        .and_then(|()| {
            rewrite_port(ctx, packet, Side::Destination, seen.tuple.destination_port, nat.port)
        })
        .and_then(|()| decrement_ttl(ctx));
    if done.is_none() {
        tell(ctx, packet, Reason::Malformed);
        return Some(TC_ACT_SHOT as i32);
    }
    tell(ctx, packet, Reason::FromOutside);
    // SAFETY: no memory.
    Some(unsafe { bpf_redirect_peer(nat.ifindex, 0) } as i32)
}

/// A new conversation with one of the node's own ports that leads to a pod on this node.
#[inline(always)]
fn node_port(tuple: &Tuple) -> Option<Nat> {
    let mut key = ServiceKey {
        address: Address::v4(tuple.destination),
        port: tuple.destination_port,
        protocol: tuple.protocol,
        pad: 0,
    };
    let service = match select::service(&key) {
        Some(service) => service,
        None => {
            // SAFETY: one word, only its presence counts.
            unsafe { HOST_ADDRESSES.get(key.address) }?;
            key.address = Address::v4(0);
            select::service(&key)?
        }
    };
    let backend = choose(tuple, &service)?;
    let address = backend.address;
    // SAFETY: `PODS` isn't preallocated; one word is read.
    let ifindex = unsafe { PODS.get(address) }?.ifindex;
    let nat = Nat {
        address: address.v4_word(),
        ifindex,
        port: backend.port,
        pad: 0,
        pad2: 0,
        // SAFETY: no argument, no memory.
        since_ns: unsafe { bpf_ktime_get_ns() },
    };
    let reply = Tuple {
        source: nat.address,
        destination: tuple.source,
        source_port: nat.port,
        destination_port: tuple.source_port,
        protocol: tuple.protocol,
        pad: [0; 3],
    };
    let back =
        Nat { address: tuple.destination, ifindex: 0, port: tuple.destination_port, ..nat };
    // The same client port on two of the node's ports, and one backend behind both: the second
    // conversation would take the first one's answers.
    if let Some(other) = known(&reply)
        && (other.address != back.address || other.port != back.port)
    {
        flows::count(Reason::NoPort);
        return None;
    }
    if NAT.insert(reply, back, 0).is_err() || NAT.insert(tuple, nat, 0).is_err() {
        flows::count(Reason::NoMemory);
        return None;
    }
    Some(nat)
}

#[inline(always)]
fn choose(tuple: &Tuple, service: &kernelet_ebpf_abi::Service) -> Option<&'static Backend> {
    if service.affinity_s == 0 {
        return select::any(service).map(|(_, backend)| backend);
    }
    let client = AffinityKey {
        client: Address::v4(tuple.source),
        service: service.id,
        by_cookie: 0,
    };
    select::affine(client, service)
}

/// An ICMP error that quotes a packet of a pod's: it is the pod's to know (path MTU above all).
#[inline(always)]
fn quoted(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    let inner = packet.transport + 8;
    let header: [u32; 5] = ctx.load(inner).ok()?;
    // With options the ports would stand elsewhere.
    if u32::from_be(header[0]) >> 24 != 0x45 {
        return None;
    }
    let protocol = (u32::from_be(header[2]) >> 16) as u8;
    let ports: [u16; 2] = match protocol {
        TCP | UDP => ctx.load(inner + 20).ok()?,
        ICMP => {
            let id: u16 = ctx.load(inner + 24).ok()?;
            [id, id]
        }
        _ => return None,
    };
    // As the reply to the quoted packet would be seen.
    let tuple = Tuple {
        source: header[4],
        destination: header[3],
        source_port: ports[1],
        destination_port: ports[0],
        protocol,
        pad: [0; 3],
    };
    let nat = known(&tuple)?;
    let port_at = if protocol == ICMP { inner + 24 } else { inner + 20 };
    let icmp_checksum = packet.transport + 2;
    // The quoted header's address and its checksum change by opposite amounts, so that the error's own
    // checksum only has to follow the port.
    let done = ctx
        .l3_csum_replace(inner + 10, u64::from(header[3]), u64::from(nat.address), 4)
        .and_then(|()| ctx.store(inner + 12, &nat.address, 0))
        .and_then(|()| {
            ctx.l4_csum_replace(icmp_checksum, u64::from(ports[0]), u64::from(nat.port), 2)
        })
        .and_then(|()| ctx.store(port_at, &nat.port, 0))
        .and_then(|()| {
            let old = packet.destination.v4_word();
            ctx.l3_csum_replace(IP_CHECKSUM, u64::from(old), u64::from(nat.address), 4)
        })
        .and_then(|()| ctx.store(IP_DESTINATION, &nat.address, 0));
    if done.is_err() {
        tell(ctx, packet, Reason::Malformed);
        return Some(TC_ACT_SHOT as i32);
    }
    tell(ctx, packet, Reason::FromOutside);
    // SAFETY: no memory.
    Some(unsafe { bpf_redirect_peer(nat.ifindex, 0) } as i32)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// Where the transport's checksum stands, and how it is replaced.
#[inline(always)]
fn checksum(packet: &Packet) -> (usize, u64) {
    match packet.protocol {
        TCP => (packet.transport + 16, 0),
        // A zero means none, and must not become one.
        UDP => (packet.transport + 6, u64::from(BPF_F_MARK_MANGLED_0)),
        _ => (packet.transport + 2, 0),
    }
}

#[inline(always)]
fn rewrite(ctx: &TcContext, packet: &Packet, at: usize, old: u32, new: u32) -> Option<()> {
    let (sum, flags) = checksum(packet);
    if packet.protocol != ICMP {
        let flags = u64::from(BPF_F_PSEUDO_HDR) | flags | 4;
        ctx.l4_csum_replace(sum, u64::from(old), u64::from(new), flags).ok()?;
    }
    ctx.l3_csum_replace(IP_CHECKSUM, u64::from(old), u64::from(new), 4).ok()?;
    ctx.store(at, &new, 0).ok()
}

#[inline(always)]
fn rewrite_port(ctx: &TcContext, packet: &Packet, side: Side, old: u16, new: u16) -> Option<()> {
    if old == new {
        return Some(());
    }
    let (sum, flags) = checksum(packet);
    let at = match (packet.protocol, side) {
        (ICMP, _) => packet.transport + 4,
        (_, Side::Source) => packet.transport,
        (_, Side::Destination) => packet.transport + 2,
    };
    ctx.l4_csum_replace(sum, u64::from(old), u64::from(new), flags | 2).ok()?;
    ctx.store(at, &new, 0).ok()
}

/// The node is a hop like any other.
#[inline(always)]
fn decrement_ttl(ctx: &TcContext) -> Option<()> {
    let old: u16 = ctx.load(IP_TTL).ok()?;
    let ttl = u16::from_be(old) >> 8;
    if ttl <= 1 {
        return None;
    }
    let new = (u16::from_be(old) - 0x0100).to_be();
    ctx.l3_csum_replace(IP_CHECKSUM, u64::from(old), u64::from(new), 2).ok()?;
    ctx.store(IP_TTL, &new, 0).ok()
}
