//! The upgrade's request and answer: WebSocket's (RFC 6455, section 4.2), and SPDY's as Kubernetes has it.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    Command, Forward,
    protocol::{COMMANDS, Channels, FORWARD, TUNNELLED},
};

/// Names the versions of what is spoken inside SPDY, both ways.
const VERSIONS: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A request for an upgrade that can be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake<P> {
    pub protocol: P,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why it can't. The texts are the answer's body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("Upgrade request required")]
    NoUpgrade,
    #[error("upgrading to {0:?} is not supported, only to websocket and SPDY/3.1")]
    Unknown(String),
    #[error("the request's Sec-WebSocket-Version is not 13, or its key is missing")]
    Version,
    #[error("none of the subprotocols that the client offers is supported: {0}")]
    Protocol(String),
    #[error(
        "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {0} headers"
    )]
    NoVersion(usize),
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports [{client}], server accepts [{server}]"
    )]
    Negotiate { client: String, server: String },
}

impl HandshakeError {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            HandshakeError::Negotiate { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What a client asks to upgrade to, and what it would speak there.
enum Asked<'a> {
    WebSocket {
        accept: String,
        wishes: Vec<&'a str>,
    },
    Spdy {
        wishes: Vec<&'a str>,
    },
}

impl Asked<'_> {
    fn of(headers: &HeaderMap) -> Result<Asked<'_>, HandshakeError> {
        let wants =
            list(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
        let upgrade = list(headers, header::UPGRADE).next();
        let to = upgrade.filter(|_| wants).ok_or(HandshakeError::NoUpgrade)?;
        if to.eq_ignore_ascii_case("spdy/3.1") {
            let wishes: Vec<&str> = list(headers, VERSIONS).collect();
            return match wishes.is_empty() {
                true => Err(HandshakeError::NoVersion(headers.len())),
                false => Ok(Asked::Spdy { wishes }),
            };
        }
        if !to.eq_ignore_ascii_case("websocket") {
            return Err(HandshakeError::Unknown(to.to_owned()));
        }
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .filter(|key| key.len() == 24)
            .ok_or(HandshakeError::Version)?;
        if headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Err(HandshakeError::Version);
        }
        Ok(Asked::WebSocket {
            accept: derive_accept_key(key.as_bytes()),
            wishes: list(headers, header::SEC_WEBSOCKET_PROTOCOL).collect(),
        })
    }
}

impl Handshake<Command> {
    /// For exec and attach.
    pub fn of_command(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        match Asked::of(headers)? {
            Asked::WebSocket { accept, wishes } => match Channels::choose(wishes.iter().copied()) {
                Some(channels) => Ok(websocket(
                    &accept,
                    channels.name,
                    Command::Channels(channels),
                )),
                None => Err(HandshakeError::Protocol(wishes.join(", "))),
            },
            Asked::Spdy { wishes } => {
                let known = |wish: &&str| COMMANDS.iter().find(|(name, _)| name == wish);
                match wishes.iter().find_map(known) {
                    Some((name, version)) => Ok(spdy(name, Command::Spdy(*version))),
                    None => Err(disagreed(&wishes, &COMMANDS.map(|(name, _)| name))),
                }
            }
        }
    }
}

impl Handshake<Forward> {
    /// For port-forward.
    pub fn of_forward(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        match Asked::of(headers)? {
            Asked::WebSocket { accept, wishes } if wishes.contains(&TUNNELLED) => {
                Ok(websocket(&accept, TUNNELLED, Forward::Tunnel))
            }
            Asked::WebSocket { accept, wishes } => {
                const KNOWN: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
                let known = wishes.iter().copied().filter(|wish| KNOWN.contains(wish));
                let chosen = match wishes.is_empty() {
                    true => Channels::named(""),
                    false => known.filter_map(Channels::named).next(),
                };
                match chosen {
                    Some(channels) => Ok(websocket(
                        &accept,
                        channels.name,
                        Forward::Channels(channels),
                    )),
                    None => Err(HandshakeError::Protocol(wishes.join(", "))),
                }
            }
            Asked::Spdy { wishes } if wishes.contains(&FORWARD) => Ok(spdy(FORWARD, Forward::Spdy)),
            Asked::Spdy { wishes } => Err(disagreed(&wishes, &[FORWARD])),
        }
    }
}

fn disagreed(client: &[&str], server: &[&str]) -> HandshakeError {
    HandshakeError::Negotiate {
        client: client.join(" "),
        server: server.join(" "),
    }
}

/// Names a subprotocol only if the client did.
fn websocket<P>(accept: &str, name: &'static str, protocol: P) -> Handshake<P> {
    let accept = HeaderValue::from_str(accept).expect("base64 is a header's text");
    let mut headers = vec![
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    if !name.is_empty() {
        let name = HeaderValue::from_static(name);
        headers.push((header::SEC_WEBSOCKET_PROTOCOL, name));
    }
    Handshake { protocol, headers }
}

fn spdy<P>(name: &'static str, protocol: P) -> Handshake<P> {
    let headers = vec![
        (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
        (VERSIONS, HeaderValue::from_static(name)),
    ];
    Handshake { protocol, headers }
}

impl<P> Handshake<P> {
    /// 101.
    pub fn answer<B: Default>(&self) -> Response<B> {
        let mut answer = Response::new(B::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.extend(self.headers.iter().cloned());
        answer
    }
}

/// The elements of a header that is a list, over all its lines.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Version;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let mut all = HeaderMap::new();
        for (name, value) in lines.iter().map(header) {
            all.append(name, value);
        }
        all
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const UPGRADE: [(&str, &str); 3] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
    ];
    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

    fn offering(name: &'static str) -> HeaderMap {
        headers(&[&UPGRADE[..], &[KEY, ("sec-websocket-protocol", name)]].concat())
    }

    fn speaking(versions: &[&'static str]) -> HeaderMap {
        let mut lines = SPDY.to_vec();
        lines.extend(
            versions
                .iter()
                .map(|version| ("x-stream-protocol-version", *version)),
        );
        headers(&lines)
    }

    #[test]
    fn an_upgrade_is_granted_with_the_keys_digest_and_one_subprotocol() {
        let asked = offering("v9.channel.k8s.io, v4.channel.k8s.io");
        let answer = Handshake::of_command(&asked)
            .expect("granted")
            .answer::<()>();
        assert_eq!(answer.status(), 101);
        // The example of RFC 6455, section 1.3.
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            answer.headers()["sec-websocket-protocol"],
            "v4.channel.k8s.io"
        );
    }

    #[test]
    fn spdy_is_granted_with_the_clients_first_version_that_is_known() {
        let granted = Handshake::of_command(&speaking(&["v5.channel.k8s.io", "v4.channel.k8s.io"]));
        let granted = granted.expect("granted");
        assert_eq!(granted.protocol, Command::Spdy(Version::V4));
        let answer = granted.answer::<()>();
        assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
        assert_eq!(
            answer.headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
        let forward = Handshake::of_forward(&speaking(&[FORWARD])).map(|h| h.protocol);
        assert_eq!(forward, Ok(Forward::Spdy));
    }

    #[test]
    fn forwards_choose_the_tunnel_before_channels() {
        for (offered, expect) in [
            ("SPDY/3.1+portforward.k8s.io", Some(Forward::Tunnel)),
            (
                "v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io",
                Some(Forward::Tunnel),
            ),
            (
                "v4.channel.k8s.io",
                Channels::named("v4.channel.k8s.io").map(Forward::Channels),
            ),
            (
                "v4.base64.channel.k8s.io",
                Channels::named("v4.base64.channel.k8s.io").map(Forward::Channels),
            ),
            ("v5.channel.k8s.io", None),
        ] {
            let found = Handshake::of_forward(&offering(offered)).ok();
            assert_eq!(found.map(|h| h.protocol), expect, "{offered}");
        }
    }

    #[test]
    fn other_requests_are_refused() {
        let offered = ("sec-websocket-protocol", "chat");
        for (lines, expect) in [
            (vec![], HandshakeError::NoUpgrade),
            (vec![("upgrade", "websocket")], HandshakeError::NoUpgrade),
            (
                vec![("connection", "Upgrade"), ("upgrade", "h2c")],
                HandshakeError::Unknown("h2c".into()),
            ),
            (SPDY.to_vec(), HandshakeError::NoVersion(2)),
            (UPGRADE.to_vec(), HandshakeError::Version),
            (
                [&UPGRADE[..2], &[KEY, ("sec-websocket-version", "8")]].concat(),
                HandshakeError::Version,
            ),
            (
                [&UPGRADE[..], &[KEY, offered]].concat(),
                HandshakeError::Protocol("chat".into()),
            ),
        ] {
            let found = Handshake::of_command(&headers(&lines));
            assert_eq!(found, Err(expect), "{lines:?}");
        }
        let refused = Handshake::of_forward(&speaking(&["v1", "v2"])).expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "unable to upgrade: unable to negotiate protocol: client supports [v1 v2], server accepts [portforward.k8s.io]"
        );
        assert_eq!(refused.status(), 403);
    }
}
