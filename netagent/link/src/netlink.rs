//! One synchronous netlink conversation: requests go out in one send, their acknowledgements come
//! back in order. Every other module builds messages; only this one talks.
//!
//! Synchronous on purpose: a conversation takes some ten microseconds, some of them must happen on a
//! thread that stands in another network namespace, and a future could be dropped in between.

use std::{io, os::fd::AsRawFd};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols};

use crate::LinkError;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const ACK_TLVS: u16 = 0x200;
const CAPPED: u16 = 0x100;

/// A message without its header's length, sequence number and port.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub kind: u16,
    pub flags: u16,
    pub body: Vec<u8>,
    /// What it does, for the error.
    pub what: String,
}

impl Message {
    pub fn new(kind: u16, flags: u16, body: Vec<u8>, what: impl Into<String>) -> Self {
        Self {
            kind,
            flags: flags | REQUEST,
            body,
            what: what.into(),
        }
    }

    pub fn route(message: RouteNetlinkMessage, flags: u16, what: impl Into<String>) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self::new(message.message_type(), flags, body, what)
    }
}

pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// In the calling thread's network namespace, and in that one for ever.
    pub fn open(protocol: isize) -> Result<Self, LinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors say in words what was wrong, and don't repeat the request.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| LinkError::new("open a netlink socket", source))?;
        Ok(Self {
            socket,
            sequence: 1,
        })
    }

    pub fn route() -> Result<Self, LinkError> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    /// Sends `messages` at once and waits for all of them. The kernel works on each even when one
    /// before it failed; the first failure is the answer, unless `forgive` says that it is none.
    pub fn apply(
        &mut self,
        messages: Vec<Message>,
        forgive: impl Fn(&Message, &io::Error) -> bool,
    ) -> Result<(), LinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        let mut buffer = Vec::new();
        for message in &messages {
            self.put(&mut buffer, message, ACK);
        }
        self.send(
            &buffer,
            messages.first().map_or("send", |message| &message.what),
        )?;
        let mut failed = None;
        let mut open = messages.len();
        while open > 0 {
            for reply in self.receive()? {
                let index = reply.sequence.wrapping_sub(first) as usize;
                let Some(message) = messages.get(index) else {
                    continue;
                };
                if reply.kind != ERROR {
                    continue;
                }
                open -= 1;
                if let Some(error) = reply.error()
                    && !forgive(message, &error)
                    && failed.is_none()
                {
                    failed = Some(LinkError::new(message.what.clone(), error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends a netfilter batch, whose messages are acknowledged one by one, but for its begin and end.
    pub fn apply_batch(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> Result<(), LinkError> {
        let mut buffer = Vec::new();
        self.put(&mut buffer, &begin, 0);
        let first = self.sequence;
        for message in &messages {
            self.put(&mut buffer, message, ACK);
        }
        self.put(&mut buffer, &end, 0);
        self.send(&buffer, &begin.what)?;
        let mut open = messages.len();
        while open > 0 {
            for reply in self.receive()? {
                if reply.kind != ERROR {
                    continue;
                }
                let index = reply.sequence.wrapping_sub(first) as usize;
                let what = messages
                    .get(index)
                    .map_or(&begin.what, |message| &message.what);
                if let Some(error) = reply.error() {
                    // One failure undoes the whole batch, and what follows it may go unanswered.
                    return Err(LinkError::new(what.clone(), error));
                }
                open -= 1;
            }
        }
        Ok(())
    }

    /// Every message that answers a dump request.
    pub fn dump(&mut self, message: Message) -> Result<Vec<Reply>, LinkError> {
        let sequence = self.sequence;
        let mut buffer = Vec::new();
        self.put(&mut buffer, &message, DUMP);
        self.send(&buffer, &message.what)?;
        let mut all = Vec::new();
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.kind {
                    DONE => return Ok(all),
                    ERROR => {
                        if let Some(error) = reply.error() {
                            return Err(LinkError::new(message.what, error));
                        }
                    }
                    _ => all.push(reply),
                }
            }
        }
    }

    /// The one message that answers a get request, which asks for no acknowledgement.
    pub fn get(&mut self, message: Message) -> Result<Reply, LinkError> {
        let sequence = self.sequence;
        let mut buffer = Vec::new();
        self.put(&mut buffer, &message, 0);
        self.send(&buffer, &message.what)?;
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                if reply.kind != ERROR {
                    return Ok(reply);
                }
                if let Some(error) = reply.error() {
                    return Err(LinkError::new(message.what, error));
                }
            }
        }
    }

    pub fn dump_route(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        let replies = self.dump(Message::route(message, 0, what))?;
        replies.iter().map(|reply| reply.route(what)).collect()
    }

    fn put(&mut self, buffer: &mut Vec<u8>, message: &Message, flags: u16) {
        let length = HEADER + message.body.len();
        buffer.extend((length as u32).to_ne_bytes());
        buffer.extend(message.kind.to_ne_bytes());
        buffer.extend((message.flags | flags).to_ne_bytes());
        buffer.extend(self.sequence.to_ne_bytes());
        buffer.extend(0_u32.to_ne_bytes());
        buffer.extend(&message.body);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn send(&self, buffer: &[u8], what: &str) -> Result<(), LinkError> {
        self.socket
            .send(buffer, 0)
            .map(drop)
            .map_err(|source| LinkError::new(what, source))
    }

    fn receive(&self) -> Result<Vec<Reply>, LinkError> {
        let error = |source| LinkError::new("read the kernel's netlink answer", source);
        let (datagram, _) = self.socket.recv_from_full().map_err(error)?;
        Ok(split(&datagram))
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// One message of the kernel's.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn route(&self, what: &str) -> Result<RouteNetlinkMessage, LinkError> {
        let mut header = NetlinkHeader::default();
        header.length = (HEADER + self.body.len()) as u32;
        header.message_type = self.kind;
        header.flags = self.flags;
        header.sequence_number = self.sequence;
        RouteNetlinkMessage::deserialize(&header, &self.body)
            .map_err(|source| LinkError::new(what, io::Error::other(source.to_string())))
    }

    /// The error that an acknowledgement carries, with the kernel's own words if it gave any.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        if code == 0 {
            return None;
        }
        let error = io::Error::from_raw_os_error(-code);
        match self.words() {
            // The number must stay readable for those who ask for it: keep the plain error then.
            Some(words) => {
                tracing::debug!(%error, words, "netlink");
                Some(error)
            }
            None => Some(error),
        }
    }

    fn words(&self) -> Option<String> {
        if self.flags & ACK_TLVS == 0 {
            return None;
        }
        let request = u32::from_ne_bytes(self.body.get(4..8)?.try_into().ok()?) as usize;
        let start = 4 + if self.flags & CAPPED != 0 {
            HEADER
        } else {
            request.next_multiple_of(4)
        };
        attributes(self.body.get(start..)?)
            .find(|(kind, _)| *kind == 1)
            .map(|(_, text)| {
                String::from_utf8_lossy(text)
                    .trim_end_matches('\0')
                    .to_owned()
            })
    }
}

/// The messages of one datagram.
pub(crate) fn split(mut datagram: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while datagram.len() >= HEADER {
        let word = |at: usize| {
            u32::from_ne_bytes([
                datagram[at],
                datagram[at + 1],
                datagram[at + 2],
                datagram[at + 3],
            ])
        };
        let half = |at: usize| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let length = word(0) as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        replies.push(Reply {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            body: datagram[HEADER..length].to_vec(),
        });
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    replies
}

/// Walks attributes: (type without its flags, value).
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Builds attributes.
#[derive(Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A text with the zero byte that the kernel wants.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// netfilter's numbers are big-endian.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    pub fn nested(self, kind: u16, inner: Self) -> Self {
        self.with(kind | 0x8000, &inner.0)
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_round_trip() {
        let bytes = Attributes::default()
            .text(1, "kernelet")
            .be32(2, 7)
            .nested(3, Attributes::default().with(1, &[1, 2, 3]))
            .bytes();
        assert_eq!(bytes.len() % 4, 0);
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], (1, b"kernelet\0".as_slice()));
        assert_eq!(all[1], (2, [0, 0, 0, 7].as_slice()));
        assert_eq!(all[2].0, 3);
        assert_eq!(
            attributes(all[2].1).collect::<Vec<_>>(),
            vec![(1, [1, 2, 3].as_slice())]
        );
    }

    #[test]
    fn a_cut_datagram_ends_the_walk() {
        let mut datagram = vec![0_u8; 20];
        datagram[0] = 20;
        assert_eq!(split(&datagram).len(), 1);
        datagram[0] = 21;
        assert!(split(&datagram).is_empty());
        assert!(split(&[1, 0, 0]).is_empty());
        assert!(attributes(&[9, 0, 1, 0, 1]).next().is_none());
    }
}
