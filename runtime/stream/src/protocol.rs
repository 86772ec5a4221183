//! What client and node agree on: channels in a WebSocket's messages, or SPDY, and which version of them.
//!
//! | name | transport | channel byte | how it ended | end of stdin |
//! |---|---|---|---|---|
//! | `v5.channel.k8s.io` | WebSocket | number | a Status | `255 0` |
//! | `v4.channel.k8s.io`, `v4.base64.channel.k8s.io` | WebSocket | number, digit | a Status | none |
//! | `channel.k8s.io` or no name, `base64.channel.k8s.io` | WebSocket | number, digit | text, when it failed | none |
//! | `v4.channel.k8s.io` | SPDY/3.1 | | a Status | its stream's |
//! | `v3.channel.k8s.io`, `v2…`, `channel.k8s.io` | SPDY/3.1 | | text, when it failed | its stream's |
//!
//! With base64 the messages are text. Sizes of terminals came with version 3. See
//! `k8s.io/apimachinery/pkg/util/remotecommand`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

use crate::Outcome;

/// The channels of a WebSocket, as client and node have agreed on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Empty when the client named none.
    pub(crate) name: &'static str,
    pub(crate) version: Version,
    encoding: Encoding,
}

/// Of `channel.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1,
    V2,
    V3,
    V4,
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Binary,
    Base64,
}

/// How exec and attach are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Channels(Channels),
    Spdy(Version),
}

/// How port-forward is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Two channels a port.
    Channels(Channels),
    /// SPDY/3.1 in a WebSocket's binary messages.
    Tunnel,
    Spdy,
}

const PROTOCOLS: [Channels; 6] = [
    channels("v5.channel.k8s.io", Version::V5, Encoding::Binary),
    channels("v4.channel.k8s.io", Version::V4, Encoding::Binary),
    channels("v4.base64.channel.k8s.io", Version::V4, Encoding::Base64),
    channels("channel.k8s.io", Version::V1, Encoding::Binary),
    channels("base64.channel.k8s.io", Version::V1, Encoding::Base64),
    channels("", Version::V1, Encoding::Binary),
];

/// Over SPDY.
pub(crate) const COMMANDS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

pub(crate) const FORWARD: &str = "portforward.k8s.io";
pub(crate) const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

const fn channels(name: &'static str, version: Version, encoding: Encoding) -> Channels {
    Channels {
        name,
        version,
        encoding,
    }
}

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;
/// Version 5: the channel in the next byte ends.
const CLOSE: u8 = 255;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// What a client's message says of its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Data(Bytes),
    /// No more will come.
    End,
}

/// Why a client's message says nothing. Upstream passes over such, and so do we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the message is empty")]
    Empty,
    #[error("the end of a channel is not followed by exactly its number")]
    Close,
    #[error("it is not base64")]
    Base64,
}

impl Channels {
    /// The first of the client's wishes that is known; without wishes the oldest.
    pub(crate) fn choose<'a>(wishes: impl IntoIterator<Item = &'a str>) -> Option<Channels> {
        let mut wishes = wishes.into_iter().peekable();
        if wishes.peek().is_none() {
            return Channels::named("");
        }
        wishes
            .filter(|wish| !wish.is_empty())
            .find_map(Channels::named)
    }

    pub(crate) fn named(name: &str) -> Option<Channels> {
        PROTOCOLS.into_iter().find(|known| known.name == name)
    }

    /// Reads a client's message, text or binary: its channel, and what it says of it.
    pub(crate) fn decode(self, mut message: Bytes) -> Result<(u8, Payload), Malformed> {
        let first = *message.first().ok_or(Malformed::Empty)?;
        let mut rest = message.split_off(1);
        let channel = match self.encoding {
            Encoding::Binary => first,
            Encoding::Base64 => {
                rest = STANDARD
                    .decode(&rest)
                    .map_err(|_| Malformed::Base64)?
                    .into();
                // A byte that is no digit is no channel either.
                first.wrapping_sub(b'0')
            }
        };
        match channel {
            CLOSE if self.version >= Version::V5 => match rest.as_ref() {
                [channel] => Ok((*channel, Payload::End)),
                _ => Err(Malformed::Close),
            },
            channel => Ok((channel, Payload::Data(rest))),
        }
    }

    /// A message with what a stream has brought.
    pub(crate) fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self.encoding {
            Encoding::Binary => {
                let mut message = BytesMut::with_capacity(1 + data.len());
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Encoding::Base64 => {
                let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
                text.push(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }
}

impl Version {
    /// How it ended, as the error stream says it. The old versions tell only failures.
    pub(crate) fn outcome(self, outcome: &Outcome) -> Option<Vec<u8>> {
        match self {
            Version::V1 | Version::V2 | Version::V3 => Some(outcome.failure()?.into_bytes()),
            Version::V4 | Version::V5 => Some(outcome.status()),
        }
    }
}

impl Command {
    pub(crate) fn version(self) -> Version {
        match self {
            Command::Channels(channels) => channels.version,
            Command::Spdy(version) => version,
        }
    }
}

/// The sizes in a stream of them, one JSON object after the other, however it is cut: `{"Width":80,"Height":24}`.
#[derive(Default)]
pub(crate) struct Sizes(Vec<u8>);

impl Sizes {
    /// The newest size that is complete now. One without extent is none.
    pub fn push(&mut self, text: &[u8]) -> Option<Size> {
        /// What is no size after so many bytes never will be one.
        const LIMIT: usize = 4096;
        self.0.extend_from_slice(text);
        let mut sizes = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let (mut newest, mut read, mut wrong) = (None, 0, false);
        while let Some(size) = sizes.next() {
            match size {
                Ok(size) => (newest, read) = (Some(size), sizes.byte_offset()),
                Err(error) => {
                    wrong = !error.is_eof();
                    break;
                }
            }
        }
        match wrong || self.0.len() - read > LIMIT {
            true => self.0.clear(),
            false => drop(self.0.drain(..read)),
        }
        newest.filter(|size| size.width > 0 && size.height > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Channels {
        Channels::named(name).expect("known")
    }

    #[test]
    fn the_clients_first_known_wish_is_chosen() {
        for (wishes, expect) in [
            (
                &["v5.channel.k8s.io", "v4.channel.k8s.io"][..],
                Some("v5.channel.k8s.io"),
            ),
            (
                &["v4.channel.k8s.io", "v5.channel.k8s.io"],
                Some("v4.channel.k8s.io"),
            ),
            (
                &["v9.channel.k8s.io", "base64.channel.k8s.io"],
                Some("base64.channel.k8s.io"),
            ),
            (&[], Some("")),
            (&["SPDY/3.1+portforward.k8s.io"], None),
            (&[""], None),
        ] {
            let chosen = Channels::choose(wishes.iter().copied()).map(|p| p.name);
            assert_eq!(chosen, expect, "{wishes:?}");
        }
    }

    #[test]
    fn clients_messages_are_understood() {
        let data = |channel, text: &'static [u8]| Ok((channel, Payload::Data(text.into())));
        let end = |channel| Ok((channel, Payload::End));
        for (protocol, message, expect) in [
            ("v5.channel.k8s.io", &b"\x00abc"[..], data(STDIN, b"abc")),
            ("v5.channel.k8s.io", b"\x00", data(STDIN, b"")),
            ("v5.channel.k8s.io", b"\xff\x00", end(STDIN)),
            ("v5.channel.k8s.io", b"\xff\x01", end(STDOUT)),
            ("v5.channel.k8s.io", b"\xff", Err(Malformed::Close)),
            ("v5.channel.k8s.io", b"\xff\x00\x00", Err(Malformed::Close)),
            // Only the newest can end a channel.
            ("v4.channel.k8s.io", b"\xff\x00", data(255, b"\0")),
            ("v4.channel.k8s.io", b"\x04{}", data(RESIZE, b"{}")),
            ("v4.channel.k8s.io", b"", Err(Malformed::Empty)),
            ("base64.channel.k8s.io", b"0YWJj", data(STDIN, b"abc")),
            ("base64.channel.k8s.io", b"0YWJ", Err(Malformed::Base64)),
            ("base64.channel.k8s.io", b"/YWJj", data(255, b"abc")),
            ("v4.base64.channel.k8s.io", b"4e30=", data(RESIZE, b"{}")),
        ] {
            let found = named(protocol).decode(Bytes::from_static(message));
            assert_eq!(found, expect, "{protocol} {message:?}");
        }
    }

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let size = |width, height| Some(Size { width, height });
        for (pieces, expect) in [
            (&[r#"{"Width":80,"Height":24}"#][..], size(80, 24)),
            (
                &["{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}\n"],
                size(81, 25),
            ),
            (&[r#"{"Width":80,"#, r#""Height":24}"#], size(80, 24)),
            (&["nonsense", r#"{"Width":1,"Height":2}"#], size(1, 2)),
            (&[r#"{"Width":0,"Height":24}"#], None),
            (&[r#"{"Width":99999,"Height":24}"#], None),
            (&[""], None),
        ] {
            let mut sizes = Sizes::default();
            let found = pieces
                .iter()
                .map(|piece| sizes.push(piece.as_bytes()))
                .last();
            assert_eq!(found, Some(expect), "{pieces:?}");
        }
    }

    #[test]
    fn output_names_its_channel() {
        for (protocol, expect) in [
            (
                "v5.channel.k8s.io",
                Message::Binary(Bytes::from_static(b"\x02abc")),
            ),
            (
                "channel.k8s.io",
                Message::Binary(Bytes::from_static(b"\x02abc")),
            ),
            ("v4.base64.channel.k8s.io", Message::text("2YWJj")),
        ] {
            assert_eq!(named(protocol).encode(STDERR, b"abc"), expect, "{protocol}");
        }
    }

    #[test]
    fn the_old_versions_tell_only_failures() {
        for old in [Version::V1, Version::V2, Version::V3] {
            assert_eq!(old.outcome(&Outcome::Exited(0)), None);
            let failed = old.outcome(&Outcome::Failed("no".into()));
            assert_eq!(failed.as_deref(), Some(&b"Internal error occurred: no"[..]));
        }
        let told = Version::V4.outcome(&Outcome::Exited(0));
        assert_eq!(told, Some(Outcome::Exited(0).status()));
    }
}
