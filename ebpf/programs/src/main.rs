//! The eBPF programs: Services translated at the socket, pods connected past the node's stack.
//!
//! ```text
//!  connect, sendmsg ── netns known? ── service? ── backend ── address rewritten, original remembered
//!  recvmsg, getpeername ── remembered? ── original put back
//!  a packet leaves a pod ── source its own? ── local pod: redirect_peer │ node │ outside │ stack
//!  a packet comes in ── known conversation? node port? ── redirect_peer │ stack
//! ```
//!
//! **Invariant:** whatever goes wrong in a hook, a socket of a namespace that isn't in `NETNS` passes
//! unchanged: the first step of every hook is that lookup.

#![no_std]
#![no_main]

mod flows;
mod nat;
mod packet;
mod select;
mod socket;
mod tables;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, socket::Family::V4)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, socket::Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::send(&ctx, socket::Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::send(&ctx, socket::Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::receive(&ctx, socket::Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::receive(&ctx, socket::Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::peer_name(&ctx, socket::Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::peer_name(&ctx, socket::Family::V6)
}

#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    packet::from_pod(&ctx)
}

#[classifier]
fn from_uplink(ctx: TcContext) -> i32 {
    packet::from_uplink(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
