//! Moving a network device into another network namespace, with its addresses: the few netlink messages that it
//! takes, made by hand, because the network's crates are the other half of this project's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

use crate::{
    error::{Result, SysError},
    namespace as ns,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_EXCLUSIVE: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NODAD: u32 = 0x02;

/// An address of a device: its family, prefix, and the address itself (4 or 16 bytes).
struct Address {
    family: u8,
    prefix: u8,
    local: Vec<u8>,
    peer: Vec<u8>,
}

/// Moves the device `name` of the calling thread's network namespace into the one behind `target`, where it is
/// called `new_name`, has the permanent addresses of global scope that it had, and is up. `own`: the way back for the
/// calling thread, which has to be its process's only one.
pub fn move_device(
    name: &str,
    new_name: &str,
    target: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
) -> Result<()> {
    let here = open()?;
    let index = index_of(&here, name).map_err(|e| {
        said(
            format!("link not found for interface {name} on runtime namespace"),
            e,
        )
    })?;
    // Before it goes down, with which it would lose those of IPv6.
    let addresses = addresses(&here, index).map_err(|e| said("fail to get ip addresses", e))?;
    // Down: nothing else on the host is to use it on its way.
    set_up(&here, index, false).map_err(|e| said("fail to set link down", e))?;
    // Name and namespace in one step: in between it could meet another of that name.
    let mut message = Message::new(RTM_NEWLINK, REQUEST | ACK);
    message.link(index, 0, 0);
    message.attribute(IFLA_IFNAME, &terminated(new_name));
    message.attribute(IFLA_NET_NS_FD, &target.as_raw_fd().to_ne_bytes());
    request(&here, message).map_err(|e| {
        said(
            format!("fail to move network device {name} to network namespace"),
            e,
        )
    })?;
    drop(here);
    ns::enter(target, ns::NEWNET)?;
    let done = arrive(new_name, &addresses);
    ns::enter(own, ns::NEWNET)?;
    done
}

fn said(what: impl Into<String>, error: SysError) -> SysError {
    SysError::new(what.into(), error.errno)
}

fn arrive(name: &str, addresses: &[Address]) -> Result<()> {
    let there = open()?;
    let index = index_of(&there, name).map_err(|e| {
        said(
            format!("link not found for interface {name} on namespace"),
            e,
        )
    })?;
    for address in addresses {
        let mut message = Message::new(RTM_NEWADDR, REQUEST | ACK | CREATE_EXCLUSIVE);
        message
            .bytes
            .extend([address.family, address.prefix, IFA_F_PERMANENT as u8, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.attribute(IFA_LOCAL, &address.local);
        message.attribute(IFA_ADDRESS, &address.peer);
        message.attribute(IFA_FLAGS, &(IFA_F_PERMANENT | IFA_F_NODAD).to_ne_bytes());
        request(&there, message).map_err(|e| said("fail to set up address on namespace", e))?;
    }
    set_up(&there, index, true)
        .map_err(|e| said(format!("fail to set up interface {name} on namespace"), e))
}

fn open() -> Result<OwnedFd> {
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .map_err(|e| SysError::new("open a netlink socket", e))
}

/// A request being put together; its length is filled in when it is sent.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence and sender: one request at a time on a socket of our own needs neither.
        bytes.extend([0; 8]);
        Message { bytes }
    }

    /// struct ifinfomsg.
    fn link(&mut self, index: i32, flags: u32, change: u32) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(index.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(change.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Sends a request and gives back the payloads (behind their headers) that answer it.
fn request(socket: &OwnedFd, mut message: Message) -> Result<Vec<Vec<u8>>> {
    let dump = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]) & DUMP == DUMP;
    let ack = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]) & ACK != 0;
    let length = message.bytes.len() as u32;
    message.bytes[..4].copy_from_slice(&length.to_ne_bytes());
    let failed = |e| SysError::new("ask over netlink", e);
    send(socket.as_raw_fd(), &message.bytes, MsgFlags::empty()).map_err(failed)?;
    let mut answers = Vec::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let n = match recv(socket.as_fd().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(failed)?,
        };
        let mut rest = &buffer[..n];
        while let Some((kind, payload, next)) = split(rest) {
            rest = next;
            match kind {
                NLMSG_ERROR => {
                    let code = payload
                        .first_chunk::<4>()
                        .map_or(-libc::EIO, |c| i32::from_ne_bytes(*c));
                    return match code {
                        0 => Ok(answers),
                        code => Err(failed(Errno::from_raw(-code))),
                    };
                }
                NLMSG_DONE => return Ok(answers),
                _ => answers.push(payload.to_vec()),
            }
        }
        if !dump && !ack {
            return Ok(answers);
        }
    }
}

/// The first message of a buffer: its kind, its payload, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let payload = bytes.get(16..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload, next))
}

fn index_of(socket: &OwnedFd, name: &str) -> Result<i32> {
    let mut message = Message::new(RTM_GETLINK, REQUEST);
    message.link(0, 0, 0);
    message.attribute(IFLA_IFNAME, &terminated(name));
    let answers = request(socket, message)?;
    let index = answers
        .first()
        .and_then(|answer| answer.get(4..8)?.first_chunk::<4>());
    index
        .map(|bytes| i32::from_ne_bytes(*bytes))
        .ok_or_else(|| SysError::new("find a network device", Errno::ENODEV))
}

fn set_up(socket: &OwnedFd, index: i32, up: bool) -> Result<()> {
    let flag = libc::IFF_UP as u32;
    let mut message = Message::new(RTM_NEWLINK, REQUEST | ACK);
    message.link(index, if up { flag } else { 0 }, flag);
    request(socket, message).map(drop)
}

/// The permanent addresses of global scope: others are the host's, or follow by themselves.
fn addresses(socket: &OwnedFd, index: i32) -> Result<Vec<Address>> {
    let mut message = Message::new(RTM_GETADDR, REQUEST | DUMP);
    message.bytes.extend([0; 8]);
    let answers = request(socket, message)?;
    Ok(answers
        .iter()
        .filter_map(|answer| address(answer, index))
        .collect())
}

fn address(answer: &[u8], index: i32) -> Option<Address> {
    let [family, prefix, flags, scope, i0, i1, i2, i3, ..] = *answer else {
        return None;
    };
    if i32::from_ne_bytes([i0, i1, i2, i3]) != index || scope != 0 {
        return None;
    }
    let (mut local, mut peer, mut flags) = (Vec::new(), Vec::new(), u32::from(flags));
    let mut rest = answer.get(8..)?;
    while let (Some(length), Some(kind)) = (rest.first_chunk::<2>(), rest.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([kind[0], kind[1]]) {
            IFA_LOCAL => local = value.to_vec(),
            IFA_ADDRESS => peer = value.to_vec(),
            IFA_FLAGS => flags = u32::from_ne_bytes(*value.first_chunk::<4>()?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // IPv6 has no IFA_LOCAL unless there is a peer.
    if local.is_empty() {
        local.clone_from(&peer);
    }
    (flags & IFA_F_PERMANENT != 0 && !local.is_empty()).then_some(Address {
        family,
        prefix,
        local,
        peer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_and_its_addresses_are_the_hosts() {
        let socket = open().unwrap();
        let index = index_of(&socket, "lo").unwrap();
        assert!(index > 0);
        assert!(
            addresses(&socket, index).unwrap().is_empty(),
            "127.0.0.1 is not of global scope"
        );
        assert_eq!(
            index_of(&socket, "nothing-here").unwrap_err().errno,
            Errno::ENODEV
        );
    }
}
