//! The sockets.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use hickory_proto::rr::Name;
use hickory_server::Server;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    answer::Zone, config::DnsConfig, forward::Forwarder, handler::Handler, records::Records,
};

/// An idle TCP connection is closed after this time.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_BUFFERED_ANSWERS: usize = 32;
/// How often a port is looked for that is free for both protocols.
const PORT_ATTEMPTS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the cluster domain {0:?} is not a DNS name")]
    Domain(String),
    #[error("binding the cluster's DNS to {0}")]
    Bind(SocketAddr, #[source] io::Error),
}

/// The running server. Ends when the token given to [`Dns::start`] is cancelled.
pub struct Dns {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Dns {
    /// Binds, and serves `records` from then on.
    pub async fn start(
        config: DnsConfig,
        records: Records,
        shutdown: CancellationToken,
    ) -> Result<Self, DnsError> {
        let mut domain = Name::from_ascii(&config.cluster_domain)
            .map_err(|_| DnsError::Domain(config.cluster_domain.clone()))?
            .to_lowercase();
        domain.set_fqdn(true);
        let (udp, tcp) = bind(config.bind).await?;
        let address = udp
            .local_addr()
            .map_err(|error| DnsError::Bind(config.bind, error))?;

        let mut own: Vec<IpAddr> = config.cluster_dns.clone();
        let probe = probe_name(&domain);
        let zone = Zone {
            domain,
            records,
            own: own.clone(),
        };
        // Port 53 of our own address is somebody else's, but a resolver there that is reached by our address is us.
        if address.port() == 53 && !address.ip().is_unspecified() {
            own.push(address.ip());
        }
        let forwarder = Arc::new(Forwarder::new(config.upstreams, own));
        let handler = Handler {
            zone,
            forwarder: forwarder.clone(),
            turn: AtomicUsize::new(0),
        };
        let mut server = Server::new(handler);
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFERED_ANSWERS);

        let serving = tokio::spawn(async move {
            let probing = tokio::spawn(async move { forwarder.watch_for_loops(probe).await });
            shutdown.cancelled().await;
            probing.abort();
            if let Err(error) = server.shutdown_gracefully().await {
                warn!(%error, "ending the cluster's DNS");
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it listens, for UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended.
    pub async fn join(self) {
        if let Err(error) = self.serving.await {
            warn!(%error, "the cluster's DNS ended");
        }
    }
}

/// Both sockets on one port.
async fn bind(wanted: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let udp = UdpSocket::bind(wanted)
            .await
            .map_err(|error| DnsError::Bind(wanted, error))?;
        let address = udp
            .local_addr()
            .map_err(|error| DnsError::Bind(wanted, error))?;
        match TcpListener::bind(address).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = error,
        }
        if wanted.port() != 0 {
            break;
        }
    }
    Err(DnsError::Bind(wanted, last))
}

/// A name outside the cluster domain that nobody else asks for.
fn probe_name(domain: &Name) -> Name {
    // The standard library's only source of randomness: the keys of its hash maps. No known top-level domain: resolvers
    // answer for those that are reserved by themselves, and would hide the loop.
    let nonce = || RandomState::new().hash_one(domain);
    let mut name = Name::from_ascii(format!("{}.{}", nonce(), nonce())).unwrap_or_default();
    name.set_fqdn(true);
    name
}
