//! Ending UDP sockets that are connected to a backend which is none any more.
//!
//! A connected UDP socket would send to the dead address for ever: the kernel never asks the hooks
//! again. `SOCK_DESTROY` makes its owner's next call fail with ECONNABORTED, and the owner connects
//! anew. TCP is left alone: a connection to a removed backend may end in its own time.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::{
    LinkError,
    netlink::{Message, Netlink},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const ESTABLISHED: u32 = 1 << 1;
/// `inet_diag_sockid` in a request and, at another offset, in an answer.
const ID_LENGTH: usize = 48;
const ID_IN_ANSWER: usize = 4;
const COOKIE_IN_ID: usize = 40;

/// A connected UDP socket of the calling thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpSocketObserved {
    family: u8,
    id: [u8; ID_LENGTH],
    /// What `bpf_get_socket_cookie` gives for it.
    pub cookie: u64,
    pub peer: IpAddr,
    pub peer_port: u16,
}

fn request(family: u8, states: u32, id: &[u8; ID_LENGTH]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// The connected UDP sockets of the calling thread's namespace.
pub fn connected_udp() -> Result<Vec<UdpSocketObserved>, LinkError> {
    let mut netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let body = request(family, ESTABLISHED, &[0; ID_LENGTH]);
        let message = Message::new(SOCK_DIAG_BY_FAMILY, 0, body, "list the UDP sockets");
        for reply in netlink.dump(message)? {
            found.extend(decode(&reply.body));
        }
    }
    Ok(found)
}

fn decode(body: &[u8]) -> Option<UdpSocketObserved> {
    let family = *body.first()?;
    let id: [u8; ID_LENGTH] = body
        .get(ID_IN_ANSWER..ID_IN_ANSWER + ID_LENGTH)?
        .try_into()
        .ok()?;
    let peer: [u8; 16] = id[20..36].try_into().ok()?;
    let peer = if family == libc::AF_INET as u8 {
        IpAddr::from([peer[0], peer[1], peer[2], peer[3]])
    } else {
        Ipv6Addr::from(peer).to_canonical()
    };
    let word = |at: usize| u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
    Some(UdpSocketObserved {
        family,
        cookie: u64::from(word(COOKIE_IN_ID)) | u64::from(word(COOKIE_IN_ID + 4)) << 32,
        peer,
        peer_port: u16::from_be_bytes([id[2], id[3]]),
        id,
    })
}

/// Ends the sockets with these cookies that are still connected to these peers; how many there were.
/// One that closed meanwhile is no error.
pub fn destroy_udp(wanted: &HashSet<(u64, IpAddr, u16)>) -> Result<usize, LinkError> {
    let found: Vec<_> = connected_udp()?
        .into_iter()
        .filter(|socket| wanted.contains(&(socket.cookie, socket.peer, socket.peer_port)))
        .collect();
    let messages = found
        .iter()
        .map(|socket| {
            let body = request(socket.family, ESTABLISHED, &socket.id);
            let what = format!("end the UDP socket to {}:{}", socket.peer, socket.peer_port);
            Message::new(SOCK_DESTROY, 0, body, what)
        })
        .collect();
    Netlink::open(NETLINK_SOCK_DIAG)?.apply(messages, |_, error| {
        error.raw_os_error() == Some(libc::ENOENT)
    })?;
    Ok(found.len())
}
