//! Connections to backends, and their failures in the words that Go's `net` has for them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use kernelet_pki::client_config_for_anyone;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

use super::target::{Scheme, Target, Trust};

/// Upstream's figure.
const CONNECT: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What bytes go over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to the backend. `kubelet`: how nodes are spoken to.
///
/// The error is a sentence such as `dial tcp 10.0.0.7:80: connect: connection refused`.
pub async fn dial(target: &Target, kubelet: &Arc<ClientConfig>) -> Result<Box<dyn Stream>, String> {
    let address = target.address;
    let tcp = match time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(format!("dial tcp {address}: connect: {}", words(&error))),
        Err(_) => return Err(format!("dial tcp {address}: i/o timeout")),
    };
    // Small answers to small questions go out at once.
    let _ = tcp.set_nodelay(true);
    if target.scheme == Scheme::Http {
        return Ok(Box::new(tcp));
    }
    let config = match target.trust {
        Trust::Kubelet => kubelet.clone(),
        // A pod's certificate can't be checked against anything.
        Trust::Anyone => client_config_for_anyone(),
    };
    let name = ServerName::IpAddress(address.ip().into());
    match time::timeout(HANDSHAKE, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(tls)) => Ok(Box::new(tls)),
        Ok(Err(error)) => Err(tls_words(address, &error)),
        Err(_) => Err("net/http: TLS handshake timeout".to_owned()),
    }
}

fn tls_words(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        io::ErrorKind::InvalidData => format!("tls: {error}"),
        _ => format!("read tcp {address}: read: {}", words(error)),
    }
}

/// The system's text without Rust's number behind it.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_as_go_tells_them() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(words(&refused), "connection refused");
        assert_eq!(
            words(&io::Error::from_raw_os_error(113)),
            "no route to host"
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let target = Target {
            scheme: Scheme::Http,
            address,
            trust: Trust::Anyone,
        };
        let error = dial(&target, &client_config_for_anyone())
            .await
            .err()
            .unwrap();
        assert_eq!(
            error,
            format!("dial tcp {address}: connect: connection refused")
        );
    }

    #[tokio::test]
    async fn a_certificate_of_nobodys_is_taken_and_the_kubelets_is_not() {
        let ca = kernelet_pki::Ca::create(kernelet_pki::Lifetimes::default()).unwrap();
        let other = kernelet_pki::Ca::create(kernelet_pki::Lifetimes::default()).unwrap();
        let spec = kernelet_pki::IdentitySpec {
            common_name: "pod".to_owned(),
            organization: None,
            dns_names: vec![],
            ips: vec![[127, 0, 0, 1].into()],
            usage: kernelet_pki::Usage::Both,
        };
        let identity = ca.issue(&spec).unwrap();
        let server = Arc::new(kernelet_pki::server_config(&identity, ca.cert_pem()).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(server);
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = acceptor.accept(tcp).await;
            }
        });
        let kubelet = Arc::new(kernelet_pki::client_config(other.cert_pem(), None).unwrap());
        let target = |trust| Target {
            scheme: Scheme::Https,
            address,
            trust,
        };
        assert!(dial(&target(Trust::Anyone), &kubelet).await.is_ok());
        let refused = dial(&target(Trust::Kubelet), &kubelet).await.err().unwrap();
        assert!(refused.starts_with("tls: "), "{refused}");
    }
}
