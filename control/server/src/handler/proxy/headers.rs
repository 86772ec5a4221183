//! Which headers pass the proxy.
//!
//! What is about one connection stays on it; what proves who the client is was meant for this server, not for a pod;
//! what a pod allows to other origins is not for it to allow at this one.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, HOST,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// RFC 9110, section 7.6.1, and what came before it.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
const CORS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];
/// Headers by which a client, or a proxy before this server, says who asks.
const IDENTITY: [&str; 4] = [
    "impersonate-",
    "x-remote-user",
    "x-remote-group",
    "x-remote-extra-",
];
const REMOTE_UID: &str = "x-remote-uid";
/// A browser's way to send a token with a WebSocket.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether a request asks for another protocol, by the reading of those who dial backends for it.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// A request's headers as its backend gets them. `client`: who is connected, if it is known.
pub fn request(headers: &HeaderMap, client: Option<IpAddr>, uri: &str) -> HeaderMap {
    let mut passed = without_identity(headers);
    let trailers = passed.get_all(TE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|v| v.to_ascii_lowercase().contains("trailers"))
    });
    drop_hop_by_hop(&mut passed);
    if trailers {
        passed.insert(TE, HeaderValue::from_static("trailers"));
    }
    forwarded_for(&mut passed, client);
    if let Ok(uri) = HeaderValue::from_str(uri) {
        passed.insert(FORWARDED_URI, uri);
    }
    passed
}

/// The same for a request of another protocol, whose terms are the client's and the backend's.
pub fn upgrade(headers: &HeaderMap, client: Option<IpAddr>) -> HeaderMap {
    let mut passed = without_identity(headers);
    let offered: Vec<String> = passed
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    if offered
        .iter()
        .any(|protocol| protocol.starts_with(TOKEN_PROTOCOL))
    {
        passed.remove(SEC_WEBSOCKET_PROTOCOL);
        let kept: Vec<String> = offered
            .into_iter()
            .filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL))
            .collect();
        if let Ok(value) = HeaderValue::from_str(&kept.join(","))
            && !kept.is_empty()
        {
            passed.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    forwarded_for(&mut passed, client);
    passed
}

/// A backend's headers as the client gets them.
pub fn response(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    for name in CORS {
        headers.remove(name);
    }
}

fn without_identity(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let secret = *name == AUTHORIZATION
            || text == REMOTE_UID
            || IDENTITY.iter().any(|prefix| text.starts_with(prefix));
        if !secret && *name != HOST {
            passed.append(name, value.clone());
        }
    }
    passed
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn forwarded_for(headers: &mut HeaderMap, client: Option<IpAddr>) {
    let Some(client) = client else { return };
    let mut chain: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect();
    chain.push(client.to_canonical().to_string());
    if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        map
    }

    fn list(headers: &HeaderMap) -> Vec<String> {
        let mut list: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        list.sort();
        list
    }

    #[test]
    fn a_backend_learns_neither_secrets_nor_what_is_about_the_connection() {
        let sent = map(&[
            ("host", "api:6443"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("impersonate-extra-scopes", "x"),
            ("x-remote-user", "root"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-a", "b"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, deflate"),
            ("x-forwarded-for", "192.0.2.1"),
            ("cookie", "a=b"),
            ("accept", "text/html"),
        ]);
        let client = Some("203.0.113.9".parse().unwrap());
        assert_eq!(
            list(&request(&sent, client, "/p/x")),
            [
                "accept: text/html",
                "cookie: a=b",
                "te: trailers",
                "x-forwarded-for: 192.0.2.1, 203.0.113.9",
                "x-forwarded-uri: /p/x",
            ]
        );
    }

    #[test]
    fn the_terms_of_an_upgrade_pass_but_not_the_token_among_them() {
        let sent = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("authorization", "Bearer secret"),
            (
                "sec-websocket-protocol",
                "chat, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            ),
            ("sec-websocket-key", "k"),
        ]);
        assert!(is_upgrade(&sent) && !is_upgrade(&map(&[("connection", "close")])));
        assert_eq!(
            list(&upgrade(&sent, None)),
            [
                "connection: keep-alive, Upgrade",
                "sec-websocket-key: k",
                "sec-websocket-protocol: chat",
                "upgrade: websocket",
            ]
        );
    }

    #[test]
    fn an_answer_keeps_what_is_the_clients() {
        let mut answer = map(&[
            ("access-control-allow-origin", "*"),
            ("connection", "close"),
            ("set-cookie", "a=b"),
            ("content-length", "5"),
        ]);
        response(&mut answer);
        assert_eq!(list(&answer), ["content-length: 5", "set-cookie: a=b"]);
    }
}
