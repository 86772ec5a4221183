//! The subprotocols `*.channel.k8s.io`: each message's first byte names its channel.
//!
//! | name | channel byte | how it ended (channel 3) | end of stdin |
//! |---|---|---|---|
//! | `v5.channel.k8s.io` | number | a Status | `255 0` |
//! | `v4.channel.k8s.io`, `v4.base64.channel.k8s.io` | number, digit | a Status | none |
//! | `channel.k8s.io` or no name, `base64.channel.k8s.io` | number, digit | text, when it failed | none |
//!
//! With base64 the messages are text. See `k8s.io/apimachinery/pkg/util/remotecommand`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

use crate::Outcome;

/// A subprotocol, as client and node have agreed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Empty when the client named none.
    pub(crate) name: &'static str,
    version: Version,
    encoding: Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V1,
    V4,
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Binary,
    Base64,
}

const PROTOCOLS: [Protocol; 6] = [
    protocol("v5.channel.k8s.io", Version::V5, Encoding::Binary),
    protocol("v4.channel.k8s.io", Version::V4, Encoding::Binary),
    protocol("v4.base64.channel.k8s.io", Version::V4, Encoding::Base64),
    protocol("channel.k8s.io", Version::V1, Encoding::Binary),
    protocol("base64.channel.k8s.io", Version::V1, Encoding::Base64),
    protocol("", Version::V1, Encoding::Binary),
];

const fn protocol(name: &'static str, version: Version, encoding: Encoding) -> Protocol {
    Protocol {
        name,
        version,
        encoding,
    }
}

/// What the node sends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout = 1,
    Stderr = 2,
    Error = 3,
}

const STDIN: u8 = 0;
const RESIZE: u8 = 4;
/// Version 5: the channel in the next byte ends.
const CLOSE: u8 = 255;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// What a client's message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Stdin(Bytes),
    /// No more will come for stdin.
    EndOfStdin,
    Resize(Size),
}

/// Why a client's message says nothing. Upstream passes over such, and so do we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the message is empty")]
    Empty,
    #[error("clients don't write to channel {0}")]
    Channel(u8),
    #[error("the end of channel {0} is none that clients can tell")]
    Close(u8),
    #[error("the end of a channel is not followed by exactly its number")]
    CloseLength,
    #[error("it is not base64")]
    Base64,
    #[error("it is no terminal's size")]
    Size,
}

impl Protocol {
    /// The first of the client's wishes that is known; without wishes the oldest.
    pub fn choose<'a>(wishes: impl IntoIterator<Item = &'a str>) -> Option<Protocol> {
        let mut wishes = wishes.into_iter().peekable();
        if wishes.peek().is_none() {
            return Protocol::named("");
        }
        wishes
            .filter(|wish| !wish.is_empty())
            .find_map(Protocol::named)
    }

    fn named(name: &str) -> Option<Protocol> {
        PROTOCOLS.into_iter().find(|known| known.name == name)
    }

    /// Reads a client's message, text or binary.
    pub fn decode(self, mut message: Bytes) -> Result<Event, Malformed> {
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
                [STDIN] => Ok(Event::EndOfStdin),
                [other] => Err(Malformed::Close(*other)),
                _ => Err(Malformed::CloseLength),
            },
            STDIN => Ok(Event::Stdin(rest)),
            RESIZE => size(&rest).map(Event::Resize).ok_or(Malformed::Size),
            other => Err(Malformed::Channel(other)),
        }
    }

    /// A message with what a stream has brought.
    pub fn encode(self, channel: Channel, data: &[u8]) -> Message {
        match self.encoding {
            Encoding::Binary => {
                let mut message = BytesMut::with_capacity(1 + data.len());
                message.put_u8(channel as u8);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Encoding::Base64 => {
                let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
                text.push(char::from(b'0' + channel as u8));
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// How it ended, as the last message. The oldest version tells only failures.
    pub fn encode_outcome(self, outcome: &Outcome) -> Option<Message> {
        let body = match self.version {
            Version::V1 => outcome.failure()?.into_bytes(),
            Version::V4 | Version::V5 => outcome.status(),
        };
        Some(self.encode(Channel::Error, &body))
    }
}

/// The last of the sizes in a message: `{"Width":80,"Height":24}`. None has no extent.
fn size(text: &[u8]) -> Option<Size> {
    let sizes = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let last = sizes.map_while(Result::ok).last()?;
    (last.width > 0 && last.height > 0).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Protocol {
        Protocol::named(name).expect("known")
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
            let chosen = Protocol::choose(wishes.iter().copied()).map(|p| p.name);
            assert_eq!(chosen, expect, "{wishes:?}");
        }
    }

    #[test]
    fn clients_messages_are_understood() {
        let stdin = |text: &'static [u8]| Ok(Event::Stdin(Bytes::from_static(text)));
        let resize = |width, height| Ok(Event::Resize(Size { width, height }));
        for (protocol, message, expect) in [
            ("v5.channel.k8s.io", &b"\x00abc"[..], stdin(b"abc")),
            ("v5.channel.k8s.io", b"\x00", stdin(b"")),
            ("v5.channel.k8s.io", b"\xff\x00", Ok(Event::EndOfStdin)),
            ("v5.channel.k8s.io", b"\xff\x01", Err(Malformed::Close(1))),
            ("v5.channel.k8s.io", b"\xff", Err(Malformed::CloseLength)),
            (
                "v5.channel.k8s.io",
                b"\xff\x00\x00",
                Err(Malformed::CloseLength),
            ),
            // Only the newest can end a channel.
            (
                "v4.channel.k8s.io",
                b"\xff\x00",
                Err(Malformed::Channel(255)),
            ),
            ("v4.channel.k8s.io", b"\x01x", Err(Malformed::Channel(1))),
            ("v4.channel.k8s.io", b"", Err(Malformed::Empty)),
            (
                "v4.channel.k8s.io",
                b"\x04{\"Width\":80,\"Height\":24}",
                resize(80, 24),
            ),
            (
                "v4.channel.k8s.io",
                b"\x04{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}\n",
                resize(81, 25),
            ),
            (
                "v4.channel.k8s.io",
                b"\x04{\"Width\":0,\"Height\":24}",
                Err(Malformed::Size),
            ),
            (
                "v4.channel.k8s.io",
                b"\x04{\"Width\":99999,\"Height\":24}",
                Err(Malformed::Size),
            ),
            ("v4.channel.k8s.io", b"\x04", Err(Malformed::Size)),
            ("base64.channel.k8s.io", b"0YWJj", stdin(b"abc")),
            ("base64.channel.k8s.io", b"0YWJ", Err(Malformed::Base64)),
            (
                "base64.channel.k8s.io",
                b"/YWJj",
                Err(Malformed::Channel(255)),
            ),
            (
                "v4.base64.channel.k8s.io",
                b"4eyJXaWR0aCI6MSwiSGVpZ2h0IjoyfQ==",
                resize(1, 2),
            ),
        ] {
            let found = named(protocol).decode(Bytes::from_static(message));
            assert_eq!(found, expect, "{protocol} {message:?}");
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
            assert_eq!(
                named(protocol).encode(Channel::Stderr, b"abc"),
                expect,
                "{protocol}"
            );
        }
    }

    #[test]
    fn the_oldest_version_tells_only_failures() {
        let old = named("channel.k8s.io");
        assert_eq!(old.encode_outcome(&Outcome::Exited(0)), None);
        assert_eq!(
            old.encode_outcome(&Outcome::Failed("no".into())),
            Some(Message::Binary(Bytes::from_static(
                b"\x03Internal error occurred: no"
            )))
        );
    }
}
