//! TLS towards pods: a probe asks whether something answers, not who it is, as upstream's do.

use kernelet_pki::client_config_for_anyone;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0:?} is no name for a TLS server")]
    Name(String),
    #[error("TLS handshake")]
    Handshake(#[source] std::io::Error),
}

/// Speaks TLS with whoever answers; nothing secret is ever sent over it.
pub(crate) async fn accept_any(
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    TlsConnector::from(client_config_for_anyone())
        .connect(name, stream)
        .await
        .map_err(TlsError::Handshake)
}
