//! The server as a client of the nodes' kubelet API, with a certificate of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{TryStreamExt, stream::Stream};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty, Limited};
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
    address: IpAddr,
    port: u16,
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

/// GETs `path` from a node and answers the body as it comes.
pub async fn get(
    tls: Arc<rustls::ClientConfig>,
    endpoint: Endpoint,
    path: &str,
) -> Result<impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static, ApiError> {
    let authority = match endpoint.address {
        IpAddr::V4(address) => format!("{address}:{}", endpoint.port),
        IpAddr::V6(address) => format!("[{address}]:{}", endpoint.port),
    };
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::internal(format!("Get \"https://{authority}{path}\": {error}"))
    };
    let connect = async {
        let tcp = TcpStream::connect((endpoint.address, endpoint.port))
            .await
            .map_err(|error| failed(&error))?;
        let name = ServerName::IpAddress(endpoint.address.into());
        let tls = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|error| failed(&error))?;
        hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|error| failed(&error))
    };
    let (mut sender, connection) = time::timeout(CONNECT, connect)
        .await
        .map_err(|_| failed(&"timed out"))??;
    // The connection lives as long as the body that is read from it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a node ended");
        }
    });
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
        let text = Limited::new(body, ERROR_TEXT)
            .collect()
            .await
            .map(|text| text.to_bytes())
            .unwrap_or_default();
        return Err(passed_on(status, &String::from_utf8_lossy(&text)));
    }
    Ok(BodyStream::new(body)
        .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
        .map_err(BoxError::from))
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
