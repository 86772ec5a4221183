//! `pods/exec`, `attach` and `portforward`: checked and authorised here, granted by the node, then bytes both ways.
//!
//! What the bytes are is between client and node: the headers of the upgrade are passed on as they are, both ways, and
//! so is a node's refusal, whose text clients print.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kernelet_api::ApiError;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::copy_bidirectional_with_sizes;

use super::{
    Call, Failure,
    container::{self, Found},
    params::boolean,
};
use crate::{
    body::ResponseBody,
    http::respond,
    kubelet::{self, Upgrade},
};

/// What is held of a session in each direction.
const BUFFER: usize = 32 << 10;

/// The headers by which client and node come to terms.
const TERMS: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// A pod's subresource that is a session with its node.
pub async fn connect(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let forwards = call.target.subresource == "portforward";
    let (node, place) = match forwards {
        true => {
            let node = container::find_node(call).await?;
            (node, format!("/portForward/{namespace}/{name}"))
        }
        false => {
            let Found { container, node } = container::find(call).await?;
            let what = &call.target.subresource;
            (node, format!("/{what}/{namespace}/{name}/{container}"))
        }
    };
    let Some(node) = node else {
        let text = format!("pod {name} does not have a host assigned");
        return Err(ApiError::bad_request(text).into());
    };
    let endpoint = container::endpoint(call, &node)?;
    let Some(client) = call.upgrade.clone() else {
        return Err(ApiError::bad_request("Upgrade request required").into());
    };
    let options = match forwards {
        true => ports(call)?,
        false => options(call)?,
    };
    let path = format!("{place}{options}");
    // A WebSocket begins with nothing but GET (RFC 6455), whatever the verb is called here.
    let method = match call.headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        true => Method::GET,
        false => Method::POST,
    };
    let tls = call.state.config.kubelet_client.clone();
    match kubelet::upgrade(tls, endpoint, method, &path, terms(&call.headers)).await? {
        Upgrade::Refused(status, text) => Ok(respond::text(status, text)),
        Upgrade::Granted(headers, node) => {
            let shutdown = call.state.shutdown.clone();
            tokio::spawn(async move {
                tokio::select! {
                    // Cancelled: both connections close.
                    () = shutdown.cancelled() => {}
                    () = splice(client, node) => {}
                }
            });
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }
}

fn terms(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in TERMS {
        for value in headers.get_all(&name) {
            passed.append(&name, value.clone());
        }
    }
    passed
}

/// PodPortForwardOptions in the words of the kubelet's API.
fn ports(call: &Call) -> Result<String, ApiError> {
    let mut ports: Vec<String> = Vec::new();
    for list in call.query.all("ports").filter(|list| !list.is_empty()) {
        for port in list.split(',') {
            let port: i32 = port.parse().map_err(|_| {
                ApiError::bad_request(format!("unable to parse {list:?} as a list of ports"))
            })?;
            ports.push(port.to_string());
        }
    }
    Ok(match ports.is_empty() {
        true => String::new(),
        false => format!("?port={}", ports.join(",")),
    })
}

/// PodExecOptions and PodAttachOptions in the words of the kubelet's API.
fn options(call: &Call) -> Result<String, ApiError> {
    let query = &call.query;
    let mut text = String::new();
    let mut push = |key: &str, value: &str| {
        let separator = if text.is_empty() { '?' } else { '&' };
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        let _ = write!(text, "{separator}{key}={value}");
    };
    for (ours, theirs, default) in [
        ("stdin", "input", false),
        ("stdout", "output", true),
        ("stderr", "error", true),
        ("tty", "tty", false),
    ] {
        if boolean(query, ours)?.unwrap_or(default) {
            push(theirs, "1");
        }
    }
    let mut commanded = false;
    for part in query.all("command") {
        push("command", part);
        commanded = true;
    }
    if call.target.subresource == "exec" && !commanded {
        return Err(ApiError::bad_request(
            "you must specify a command for the container",
        ));
    }
    Ok(text)
}

/// Copies bytes both ways until either side ends.
pub(super) async fn splice(client: OnUpgrade, node: OnUpgrade) {
    let (client, node) = match tokio::try_join!(client, node) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a session's upgrade failed"),
    };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    let copied = copy_bidirectional_with_sizes(&mut client, &mut node, BUFFER, BUFFER).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a session's connection broke");
    }
}
