//! The server as a client of the nodes' kubelet API, with a certificate of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{TryStreamExt, stream::Stream};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty, Limited};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use kernelet_api::{ApiError, Value};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::TlsConnector;

use crate::body::BoxError;

const CONNECT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 10250;
/// How much of a node's error text is passed on.
const ERROR_TEXT: usize = 16 * 1024;

/// Where a node serves the kubelet API: its InternalIP and the port it publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

impl Endpoint {
    pub fn of(node: &Value) -> Option<Endpoint> {
        let addresses = node.pointer("/status/addresses")?.as_array()?;
        let address = ["InternalIP", "ExternalIP"].iter().find_map(|ty| {
            addresses
                .iter()
                .find(|a| a["type"] == **ty)?
                .get("address")?
                .as_str()?
                .parse()
                .ok()
        })?;
        let port = node
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        Some(Endpoint {
            address,
            port: port.unwrap_or(DEFAULT_PORT),
        })
    }
}

type NodeSender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// A connection to a node, and the authority it has in requests.
async fn connect(
    tls: Arc<rustls::ClientConfig>,
    endpoint: Endpoint,
    failed: &(dyn Fn(&str, &dyn std::fmt::Display) -> ApiError + Sync),
) -> Result<(NodeSender, String), ApiError> {
    let authority = match endpoint.address {
        IpAddr::V4(address) => format!("{address}:{}", endpoint.port),
        IpAddr::V6(address) => format!("[{address}]:{}", endpoint.port),
    };
    let connect = async {
        let tcp = TcpStream::connect((endpoint.address, endpoint.port))
            .await
            .map_err(|error| failed(&authority, &error))?;
        // What is typed into a session goes out at once.
        let _ = tcp.set_nodelay(true);
        let name = ServerName::IpAddress(endpoint.address.into());
        let tls = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|error| failed(&authority, &error))?;
        hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|error| failed(&authority, &error))
    };
    let (sender, connection) = time::timeout(CONNECT, connect)
        .await
        .map_err(|_| failed(&authority, &"timed out"))??;
    // The connection lives as long as the body that is read from it, or as what it was upgraded to.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection to a node ended");
        }
    });
    Ok((sender, authority))
}

/// GETs `path` from a node and answers the body as it comes.
pub async fn get(
    tls: Arc<rustls::ClientConfig>,
    endpoint: Endpoint,
    path: &str,
) -> Result<impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static, ApiError> {
    let failed = |authority: &str, error: &dyn std::fmt::Display| {
        ApiError::internal(format!("Get \"https://{authority}{path}\": {error}"))
    };
    let (mut sender, authority) = connect(tls, endpoint, &failed).await?;
    let failed = |error: &dyn std::fmt::Display| failed(&authority, error);
    let request = Request::get(path)
        .header(header::HOST, &authority)
        .header(header::USER_AGENT, "kernelet-server")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let status = response.status();
    let body = response.into_body();
    if !status.is_success() {
        return Err(passed_on(status, &error_text(body).await));
    }
    Ok(BodyStream::new(body)
        .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
        .map_err(BoxError::from))
}

async fn error_text(body: Incoming) -> String {
    let text = Limited::new(body, ERROR_TEXT)
        .collect()
        .await
        .map(|text| text.to_bytes())
        .unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// What a node says to a request for an upgrade.
pub enum Upgrade {
    /// 101 with these headers; the connection comes when the answer has been sent.
    Granted(HeaderMap, OnUpgrade),
    /// Its status and text, as the client is to see them.
    Refused(StatusCode, String),
}

/// Asks a node to upgrade a connection to whatever `headers` name.
pub async fn upgrade(
    tls: Arc<rustls::ClientConfig>,
    endpoint: Endpoint,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> Result<Upgrade, ApiError> {
    let failed = |authority: &str, error: &dyn std::fmt::Display| {
        ApiError::internal(format!(
            "error dialing backend: dial tcp {authority}: {error}"
        ))
    };
    let (mut sender, authority) = connect(tls, endpoint, &failed).await?;
    let failed = |error: &dyn std::fmt::Display| failed(&authority, error);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &authority)
        .header(header::USER_AGENT, "kernelet-server")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    request.headers_mut().extend(headers);
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let connection = hyper::upgrade::on(&mut response);
        return Ok(Upgrade::Granted(response.headers().clone(), connection));
    }
    // A node that answers 200 hasn't understood; a client must not take it for success.
    let status = if status.is_success() {
        StatusCode::BAD_GATEWAY
    } else {
        status
    };
    let text = error_text(response.into_body()).await;
    Ok(Upgrade::Refused(status, text))
}

/// A node's error as the API's.
fn passed_on(status: StatusCode, text: &str) -> ApiError {
    let text = text.trim();
    let text = if text.is_empty() {
        status.canonical_reason().unwrap_or("the node refused")
    } else {
        text
    };
    let reason = match status.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    ApiError::new(status.as_u16(), reason, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_reached_at_its_internal_address_and_published_port() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.5"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}},
        }});
        let expect = Endpoint {
            address: "10.0.0.5".parse().unwrap(),
            port: 10999,
        };
        assert_eq!(Endpoint::of(&node), Some(expect));
        assert_eq!(
            Endpoint::of(&json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}]}})),
            None
        );
    }
}
