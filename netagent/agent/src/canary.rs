//! The proof that the path works: a connection to a virtual address of the agent's own, which only the
//! hooks can bring to the agent's socket. Programs that are loaded, attached and pinned prove nothing:
//! they may hang on a cgroup that nobody's process is in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use kernelet_ebpf_abi::{TCP, service_flags};
use kernelet_net_plan::{BackendSpec, Cidr, ServiceSpec, key};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

const OWNER: &str = "#canary";
/// A connection on the loopback takes well under a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Canary {
    listener: TcpListener,
    /// The service range's first address, which no Service ever gets.
    address: SocketAddr,
}

impl Canary {
    pub async fn bind(services: &Cidr) -> io::Result<Self> {
        let loopback: IpAddr = if services.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        let listener = TcpListener::bind(SocketAddr::new(loopback, 0)).await?;
        Ok(Self {
            listener,
            address: SocketAddr::new(services.address(), 1),
        })
    }

    pub fn owner(&self) -> &'static str {
        OWNER
    }

    /// The entry that leads to the canary's socket.
    pub fn spec(&self) -> io::Result<ServiceSpec> {
        let to = self.listener.local_addr()?;
        Ok(ServiceSpec {
            key: key(self.address.ip(), self.address.port(), TCP),
            name: "kernelet/canary:1".into(),
            affinity_s: 0,
            flags: service_flags::CANARY,
            backends: [BackendSpec {
                address: to.ip(),
                port: to.port(),
            }]
            .into(),
        })
    }

    /// Connects; the answer is why that failed.
    pub async fn prove(&self) -> Result<(), String> {
        let connect = timeout(PATIENCE, TcpStream::connect(self.address));
        let stream = match connect.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("connect to {}: {error}", self.address)),
            Err(_) => return Err(format!("connect to {}: no answer", self.address)),
        };
        let ours = stream.local_addr().map_err(|error| error.to_string())?;
        // Whoever accepted it must have been this socket: a network may answer for any address.
        loop {
            match timeout(PATIENCE, self.listener.accept()).await {
                Ok(Ok((_, peer))) if peer == ours => return Ok(()),
                // Left from an earlier try that gave up.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("accept the connection: {error}")),
                Err(_) => {
                    return Err(format!("{} was answered by somebody else", self.address));
                }
            }
        }
    }
}
