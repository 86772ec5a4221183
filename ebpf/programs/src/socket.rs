//! Services at the socket: the destination is translated once, when a connection is made (or, for
//! unconnected UDP, for each datagram), so that the packets of a connection cost nothing.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_netns_cookie,
        bpf_get_socket_cookie, bpf_set_retval,
    },
    programs::SockAddrContext,
};
use kernelet_ebpf_abi::{
    Address, Backend, Connected, Hook, NetnsKind, Reason, Service, ServiceKey, Sticky, StickyKey,
    TCP, UDP, UdpKey, UdpOrigin,
};

use crate::{
    flows, select,
    tables::{CONNECTED, HOST_ADDRESSES, NETNS, STICKY, UDP_ORIGIN},
};

const ALLOW: i32 = 1;
const REJECT: i32 = 0;
const ECONNREFUSED: i32 = 111;
const IPPROTO_MPTCP: u32 = 262;

/// Whether the kernel has `bpf_set_retval`.
#[unsafe(no_mangle)]
static SET_RETVAL: u32 = 1;

/// Which fields of the context hold the address. A constant in every caller, and everything here is
/// inlined: the verifier takes no offset into the context that isn't one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// An address as the socket's caller gave it or is going to see it.
#[derive(Clone, Copy)]
struct Name {
    address: Address,
    port: u16,
}

/// Where a destination leads.
enum Route {
    /// No service: unchanged.
    Direct,
    /// A service without a usable backend.
    Refused(u32),
    Backend { service: u32, to: Name },
}

#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some((netns, kind)) = known_netns(ctx) else {
        return ALLOW;
    };
    let Some(protocol) = protocol(ctx) else {
        return ALLOW;
    };
    let asked = name(ctx, family);
    match route(ctx, netns, kind, protocol, asked) {
        Route::Direct => {
            // A UDP socket may be connected anew; what an earlier connect left must not label this.
            if protocol == UDP {
                forget(ctx, asked);
            }
            ALLOW
        }
        Route::Refused(service) => refuse(ctx, netns, protocol, asked, service, Hook::Connect),
        Route::Backend { service, to } => {
            let mut connected = Connected {
                asked: asked.address,
                got: to.address,
                asked_port: asked.port,
                got_port: to.port,
                service,
            };
            // SAFETY: the context's socket is alive during the call; the pointer is checked.
            unsafe {
                let stored = CONNECTED.get_or_insert_ptr_mut(ctx, Some(&mut connected));
                if stored.is_null() {
                    flows::count(Reason::NoMemory);
                } else {
                    *stored = connected;
                }
            }
            set_name(ctx, family, to);
            tell(ctx, netns, protocol, asked, to, service, Hook::Connect);
            ALLOW
        }
    }
}

/// `sendmsg` with a destination, on UDP.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some((netns, kind)) = known_netns(ctx) else {
        return ALLOW;
    };
    let asked = name(ctx, family);
    match route(ctx, netns, kind, UDP, asked) {
        Route::Direct => {
            forget(ctx, asked);
            ALLOW
        }
        Route::Refused(service) => refuse(ctx, netns, UDP, asked, service, Hook::Send),
        Route::Backend { service, to } => {
            let key = udp_key(ctx, to);
            let origin = UdpOrigin {
                address: asked.address,
                port: asked.port,
                pad: 0,
                service,
            };
            if UDP_ORIGIN.insert(key, origin, 0).is_err() {
                flows::count(Reason::NoMemory);
            }
            set_name(ctx, family, to);
            tell(ctx, netns, UDP, asked, to, service, Hook::Send);
            ALLOW
        }
    }
}

/// `recvmsg` that asks for the sender, on UDP.
#[inline(always)]
pub fn receive(ctx: &SockAddrContext, family: Family) -> i32 {
    if known_netns(ctx).is_none() {
        return ALLOW;
    }
    let from = name(ctx, family);
    if let Some(asked) = connected_origin(ctx, from) {
        set_name(ctx, family, asked);
    } else {
        // SAFETY: the value is copied before anything else runs; an LRU element recycled in between
        // would have to take the same slot within these few instructions, and then mislabels one
        // datagram's sender.
        if let Some(origin) = unsafe { UDP_ORIGIN.get(udp_key(ctx, from)) } {
            let asked = Name { address: origin.address, port: origin.port };
            set_name(ctx, family, asked);
        }
    }
    ALLOW
}

#[inline(always)]
pub fn peer_name(ctx: &SockAddrContext, family: Family) -> i32 {
    if known_netns(ctx).is_none() {
        return ALLOW;
    }
    if let Some(asked) = connected_origin(ctx, name(ctx, family)) {
        set_name(ctx, family, asked);
    }
    ALLOW
}

/// The socket's namespace, when it is one of ours.
#[inline(always)]
fn known_netns(ctx: &SockAddrContext) -> Option<(u64, u32)> {
    // SAFETY: the context is the kernel's own; the element is copied at once.
    unsafe {
        let cookie = bpf_get_netns_cookie(ctx.as_ptr());
        NETNS.get(cookie).map(|netns| (cookie, netns.kind))
    }
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the context is valid for the call; the field is one aligned word.
    match unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() } {
        6 | IPPROTO_MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

#[inline(always)]
fn route(ctx: &SockAddrContext, netns: u64, kind: u32, protocol: u8, asked: Name) -> Route {
    let mut key = ServiceKey { address: asked.address, port: asked.port, protocol, pad: 0 };
    let mut service = select::service(&key);
    if service.is_none() && is_node_port(kind, asked) {
        key.address =
            if asked.address.is_v4() { Address::v4(0) } else { Address::UNSPECIFIED };
        service = select::service(&key);
    }
    let Some(service) = service else {
        return Route::Direct;
    };
    if let Some(backend) = choose(ctx, netns, protocol, &service) {
        return to_backend(service.id, backend);
    }
    // The set of backends was swapped between reading the service and its extent: once more.
    let Some(service) = select::service(&key) else {
        return Route::Direct;
    };
    match choose(ctx, netns, protocol, &service) {
        Some(backend) => to_backend(service.id, backend),
        None => Route::Refused(service.id),
    }
}

/// The node's own address and a port that node ports or host ports may have.
#[inline(always)]
fn is_node_port(kind: u32, asked: Name) -> bool {
    if asked.address.is_loopback() {
        return kind == NetnsKind::Node as u32;
    }
    // SAFETY: the element is one word, read at once.
    unsafe { HOST_ADDRESSES.get(asked.address) }.is_some()
}

#[inline(always)]
fn to_backend(service: u32, backend: &Backend) -> Route {
    Route::Backend { service, to: Name { address: backend.address, port: backend.port } }
}

/// Affinity first, then the socket's own backend (UDP), then any.
#[inline(always)]
fn choose(
    ctx: &SockAddrContext,
    netns: u64,
    protocol: u8,
    service: &Service,
) -> Option<&'static Backend> {
    if service.count == 0 {
        return None;
    }
    if service.affinity_s != 0 {
        return select::affine(select::by_netns(netns, service.id), service);
    }
    if protocol == UDP {
        return select_sticky(ctx, netns, service);
    }
    select::any(service).map(|(_, backend)| backend)
}

#[inline(always)]
fn select_sticky(
    ctx: &SockAddrContext,
    netns: u64,
    service: &Service,
) -> Option<&'static Backend> {
    // SAFETY: the context is the kernel's own.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let key = StickyKey { socket, service: service.id, pad: 0 };
    // SAFETY: one word is read; should the element be recycled, the id it gives is checked below.
    if let Some(sticky) = unsafe { STICKY.get(key) }
        && let Some(backend) = select::backend(sticky.backend)
        && backend.service == service.id
    {
        return Some(backend);
    }
    let (id, backend) = select::any(service)?;
    let value = Sticky { backend: id, pad: 0, netns };
    if STICKY.insert(key, value, 0).is_err() {
        flows::count(Reason::NoMemory);
    }
    Some(backend)
}

/// The socket addresses `to` itself: answers from there carry their own address again.
#[inline(always)]
fn forget(ctx: &SockAddrContext, to: Name) {
    let _ = UDP_ORIGIN.remove(udp_key(ctx, to));
    // SAFETY: the context's socket is alive during the call; the pointer is checked.
    unsafe {
        let connected = CONNECTED.get_ptr_mut(ctx);
        if !connected.is_null()
            && (*connected).got == to.address
            && (*connected).got_port == to.port
        {
            // No address is `got` any more; the storage itself goes with the socket.
            (*connected).got_port = 0;
        }
    }
}

#[inline(always)]
fn connected_origin(ctx: &SockAddrContext, peer: Name) -> Option<Name> {
    // SAFETY: the context's socket is alive during the call; the pointer is checked.
    unsafe {
        let connected = CONNECTED.get_ptr_mut(ctx);
        if connected.is_null()
            || (*connected).got_port != peer.port
            || (*connected).got != peer.address
        {
            return None;
        }
        Some(Name { address: (*connected).asked, port: (*connected).asked_port })
    }
}

#[inline(always)]
fn udp_key(ctx: &SockAddrContext, backend: Name) -> UdpKey {
    UdpKey {
        // SAFETY: the context is the kernel's own.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        address: backend.address,
        port: backend.port,
        pad: [0; 3],
    }
}

/// The address in the context. Reads are single words: the verifier takes no others here.
#[inline(always)]
fn name(ctx: &SockAddrContext, family: Family) -> Name {
    let raw = ctx.sock_addr;
    // SAFETY: the context is valid for the call, and every field is one aligned word.
    unsafe {
        let address = match family {
            Family::V4 => Address::v4((&raw const (*raw).user_ip4).read_volatile()),
            Family::V6 => {
                let words = (&raw const (*raw).user_ip6).cast::<u32>();
                Address([
                    words.read_volatile(),
                    words.add(1).read_volatile(),
                    words.add(2).read_volatile(),
                    words.add(3).read_volatile(),
                ])
            }
        };
        Name { address, port: (&raw const (*raw).user_port).read_volatile() as u16 }
    }
}

#[inline(always)]
fn set_name(ctx: &SockAddrContext, family: Family, name: Name) {
    let raw = ctx.sock_addr;
    // SAFETY: as in `name`; these fields may be written in these hooks.
    unsafe {
        match family {
            Family::V4 => {
                (&raw mut (*raw).user_ip4).write_volatile(name.address.v4_word());
            }
            Family::V6 => {
                let words = (&raw mut (*raw).user_ip6).cast::<u32>();
                words.write_volatile(name.address.0[0]);
                words.add(1).write_volatile(name.address.0[1]);
                words.add(2).write_volatile(name.address.0[2]);
                words.add(3).write_volatile(name.address.0[3]);
            }
        }
        (&raw mut (*raw).user_port).write_volatile(u32::from(name.port));
    }
}

#[inline(always)]
fn refuse(
    ctx: &SockAddrContext,
    netns: u64,
    protocol: u8,
    asked: Name,
    service: u32,
    hook: Hook,
) -> i32 {
    flows::count(Reason::NoBackend);
    if flows::wanted() {
        let none = Name { address: Address::UNSPECIFIED, port: 0 };
        flow(ctx, netns, protocol, asked, none, service, hook, Reason::NoBackend);
    }
    // Without a value the caller sees EPERM. Before Linux 5.18 there is no such helper: the loader says
    // so in this constant, and the verifier leaves out what is never reached.
    // SAFETY: a plain word; volatile, because the loader changes it behind the compiler's back.
    if unsafe { (&raw const SET_RETVAL).read_volatile() } != 0 {
        // SAFETY: no memory.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REJECT
}

#[inline(always)]
fn tell(
    ctx: &SockAddrContext,
    netns: u64,
    protocol: u8,
    asked: Name,
    to: Name,
    service: u32,
    hook: Hook,
) {
    flows::count(Reason::Translated);
    if flows::wanted() {
        flow(ctx, netns, protocol, asked, to, service, hook, Reason::Translated);
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn flow(
    _ctx: &SockAddrContext,
    netns: u64,
    protocol: u8,
    asked: Name,
    to: Name,
    service: u32,
    hook: Hook,
    reason: Reason,
) {
    flows::emit(|flow| {
        // SAFETY: `emit` gives a whole, zeroed element.
        unsafe {
            (*flow).netns = netns;
            (*flow).destination = asked.address;
            (*flow).destination_port = asked.port;
            (*flow).translated = to.address;
            (*flow).translated_port = to.port;
            (*flow).protocol = protocol;
            (*flow).reason = reason as u8;
            (*flow).service = service;
            (*flow).hook = hook as u8;
            (*flow).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            if let Ok(command) = bpf_get_current_comm() {
                (*flow).command = command;
            }
        }
    });
}
