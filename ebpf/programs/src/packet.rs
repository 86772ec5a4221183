//! Packets that leave a pod, at the node's end of its link; packets that come in by an uplink.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_redirect_peer},
    programs::TcContext,
};
use kernelet_ebpf_abi::{Address, Hook, Reason, config_flags};

use crate::{
    flows, nat,
    tables::{CONFIG, HOST_ADDRESSES, PODS},
};

pub const ETH_HEADER: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// What a decision needs of a packet.
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    pub protocol: u8,
    /// Where the transport header stands; 0 in a fragment.
    pub transport: usize,
    hook: Hook,
}

pub fn from_pod(ctx: &TcContext) -> i32 {
    let packet = match parse(ctx, Hook::FromPod) {
        Parsed::Ip(packet) => packet,
        Parsed::Other => return TC_ACT_OK as i32,
        Parsed::Malformed => {
            flows::count(Reason::Malformed);
            return TC_ACT_SHOT as i32;
        }
    };
    let ifindex = ingress(ctx);
    // SAFETY: `PODS` isn't preallocated; one word is read.
    let owner = unsafe { PODS.get(packet.source) }.map(|pod| pod.ifindex);
    if owner != Some(ifindex) {
        // The link's own (neighbour discovery, router solicitation) never leaves the link.
        if is_link_local(&packet.source) {
            return TC_ACT_OK as i32;
        }
        return drop(ctx, &packet, Reason::ForeignSource);
    }
    // SAFETY: as above.
    if let Some(pod) = unsafe { PODS.get(packet.destination) } {
        tell(ctx, &packet, Reason::ToLocalPod);
        // Straight into the other pod's namespace: no hook of netfilter on the node is met.
        // SAFETY: no memory.
        return unsafe { bpf_redirect_peer(pod.ifindex, 0) } as i32;
    }
    // SAFETY: one word, only its presence counts.
    if unsafe { HOST_ADDRESSES.get(packet.destination) }.is_some() {
        return to_node(ctx, &packet);
    }
    if let Some(verdict) = nat::outward(ctx, &packet) {
        return verdict;
    }
    tell(ctx, &packet, Reason::ToStack);
    TC_ACT_OK as i32
}

pub fn from_uplink(ctx: &TcContext) -> i32 {
    match parse(ctx, Hook::FromOutside) {
        Parsed::Ip(packet) => nat::inward(ctx, &packet).unwrap_or(TC_ACT_OK as i32),
        // What is malformed here is the stack's to judge.
        Parsed::Other | Parsed::Malformed => TC_ACT_OK as i32,
    }
}

/// The node's own sockets stand behind its input chain, which nothing passes by. Where somebody's
/// policy there is `drop`, the packet enters again as what it is, the machine talking to itself: on
/// `lo`, which every such rule set accepts.
#[inline(always)]
fn to_node(ctx: &TcContext, packet: &Packet) -> i32 {
    tell(ctx, packet, Reason::ToNode);
    let Some(config) = CONFIG.get(0) else {
        return TC_ACT_OK as i32;
    };
    if config.flags & config_flags::HOST_BY_LOOPBACK == 0 {
        return TC_ACT_OK as i32;
    }
    // `lo` has the address 00:00:00:00:00:00; with another one the packet would be somebody else's.
    let address = [0_u8; 6];
    if ctx.store(0, &address, 0).is_err() {
        return drop(ctx, packet, Reason::Malformed);
    }
    // SAFETY: no memory.
    unsafe { bpf_redirect(config.loopback_ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

enum Parsed {
    Ip(Packet),
    Other,
    Malformed,
}

#[inline(always)]
fn parse(ctx: &TcContext, hook: Hook) -> Parsed {
    // SAFETY: the context is valid for the call; the field is one aligned word.
    let protocol = unsafe { (&raw const (*ctx.skb.skb).protocol).read_volatile() } as u16;
    match u16::from_be(protocol) {
        ETH_P_IP => match parse_v4(ctx, hook) {
            Some(packet) => Parsed::Ip(packet),
            None => Parsed::Malformed,
        },
        ETH_P_IPV6 => match parse_v6(ctx, hook) {
            Some(packet) => Parsed::Ip(packet),
            None => Parsed::Malformed,
        },
        _ => Parsed::Other,
    }
}

#[inline(always)]
fn parse_v4(ctx: &TcContext, hook: Hook) -> Option<Packet> {
    let header: [u32; 5] = ctx.load(ETH_HEADER).ok()?;
    let length = ((u32::from_be(header[0]) >> 24) & 0xf) as usize * 4;
    // Neither an offset nor more to come.
    let whole = u32::from_be(header[1]) & 0x3fff == 0;
    Some(Packet {
        source: Address::v4(header[3]),
        destination: Address::v4(header[4]),
        protocol: (u32::from_be(header[2]) >> 16) as u8,
        transport: if whole { ETH_HEADER + length } else { 0 },
        hook,
    })
}

#[inline(always)]
fn parse_v6(ctx: &TcContext, hook: Hook) -> Option<Packet> {
    let next: u8 = ctx.load(ETH_HEADER + 6).ok()?;
    Some(Packet {
        source: Address(ctx.load(ETH_HEADER + 8).ok()?),
        destination: Address(ctx.load(ETH_HEADER + 24).ok()?),
        protocol: next,
        transport: ETH_HEADER + 40,
        hook,
    })
}

#[inline(always)]
pub fn ingress(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the call; the field is one aligned word.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}

#[inline(always)]
fn is_link_local(address: &Address) -> bool {
    let first = u32::from_be(address.0[0]);
    first >> 22 == 0xfe80 >> 6 || *address == Address::UNSPECIFIED
}

#[inline(always)]
fn drop(ctx: &TcContext, packet: &Packet, reason: Reason) -> i32 {
    tell(ctx, packet, reason);
    TC_ACT_SHOT as i32
}

#[inline(always)]
pub fn tell(ctx: &TcContext, packet: &Packet, reason: Reason) {
    flows::count(reason);
    if !flows::wanted() {
        return;
    }
    let ports: [u16; 2] = if packet.transport != 0 && matches!(packet.protocol, 6 | 17) {
        ctx.load(packet.transport).unwrap_or([0; 2])
    } else {
        [0; 2]
    };
    flows::emit(|flow| {
        // SAFETY: `emit` gives a whole, zeroed element.
        unsafe {
            (*flow).source = packet.source;
            (*flow).destination = packet.destination;
            (*flow).source_port = ports[0];
            (*flow).destination_port = ports[1];
            (*flow).protocol = packet.protocol;
            (*flow).reason = reason as u8;
            (*flow).ifindex = ingress(ctx);
            (*flow).hook = packet.hook as u8;
        }
    });
}
