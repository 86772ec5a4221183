//! The upgrade's request and answer (RFC 6455, section 4.2).

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Protocol;

/// A request for an upgrade that can be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub protocol: Protocol,
    accept: String,
}

/// Why it can't. The texts are the answer's body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("Upgrade request required")]
    NoUpgrade,
    #[error("upgrading to {0:?} is not supported, only to websocket")]
    Unknown(String),
    #[error("the request's Sec-WebSocket-Version is not 13, or its key is missing")]
    Version,
    #[error("none of the subprotocols that the client offers is supported: {0}")]
    Protocol(String),
}

impl Handshake {
    pub fn of(headers: &HeaderMap) -> Result<Handshake, HandshakeError> {
        let wants =
            list(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
        let upgrade = list(headers, header::UPGRADE).next();
        let to = upgrade.filter(|_| wants).ok_or(HandshakeError::NoUpgrade)?;
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
        let wishes: Vec<&str> = list(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
        let protocol = Protocol::choose(wishes.iter().copied())
            .ok_or_else(|| HandshakeError::Protocol(wishes.join(", ")))?;
        Ok(Handshake {
            protocol,
            accept: derive_accept_key(key.as_bytes()),
        })
    }

    /// 101. Names a subprotocol only if the client did.
    pub fn answer<B: Default>(&self) -> Response<B> {
        let mut answer = Response::new(B::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::from_str(&self.accept).expect("base64 is a header's text");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if !self.protocol.name.is_empty() {
            let name = HeaderValue::from_static(self.protocol.name);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
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

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const UPGRADE: [(&str, &str); 3] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn an_upgrade_is_granted_with_the_keys_digest_and_one_subprotocol() {
        let mut lines = UPGRADE.to_vec();
        lines.extend([
            KEY,
            (
                "sec-websocket-protocol",
                "v9.channel.k8s.io, v4.channel.k8s.io",
            ),
        ]);
        let answer = Handshake::of(&headers(&lines))
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
    fn other_requests_are_refused() {
        let offered = ("sec-websocket-protocol", "chat");
        for (lines, expect) in [
            (vec![], HandshakeError::NoUpgrade),
            (vec![("upgrade", "websocket")], HandshakeError::NoUpgrade),
            (
                vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")],
                HandshakeError::Unknown("SPDY/3.1".into()),
            ),
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
            assert_eq!(Handshake::of(&headers(&lines)), Err(expect), "{lines:?}");
        }
    }
}
