//! `portForward`: connections to ports of a pod, made inside its network namespace.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use kernelet_stream::{Dial, Forward, Handshake, Limits};
use kernelet_sys::namespace;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    api::{Answer, Api, pairs, text},
    errors::chain,
};

impl Api {
    pub(in crate::api) fn port_forward(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
    ) -> Answer {
        let found = self.pods.get().and_then(|pods| pods.home(namespace, pod));
        let Some((home, _)) = found else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let Some(sandbox) = home.sandbox() else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("pod not found (\"{pod}_{namespace}\")"),
            );
        };
        let handshake = match Handshake::of_forward(request.headers()) {
            Ok(handshake) => handshake,
            Err(problem) => return text(problem.status(), problem.to_string()),
        };
        let ports = match handshake.protocol {
            Forward::Channels(_) => match ports(request.uri().query()) {
                Ok(ports) => ports,
                Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
            },
            Forward::Spdy | Forward::Tunnel => Vec::new(),
        };
        let (protocol, dial) = (
            handshake.protocol,
            PodPorts {
                net: sandbox.net,
                uid: home.id.uid.clone().into(),
            },
        );
        self.upgrade(request, &handshake, move |connection| async move {
            kernelet_stream::forward(connection, protocol, &ports, dial, Limits::default()).await
        })
    }
}

/// Two channels a port must fit into a byte.
const PORTS: usize = 100;

/// The ports of a request for channels, in the kubelet's words.
fn ports(query: Option<&str>) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (_, list) in pairs(query).filter(|(name, _)| name == "port" || name == "ports") {
        if list.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for port in list.split(',') {
            match port.parse::<u16>() {
                Ok(0) => return Err(format!("port {port:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => {
                    return Err(format!("unable to parse {list:?} as a port: {error}"));
                }
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".into()),
        n if n > PORTS => Err(format!("{n} ports are more than {PORTS}")),
        _ => Ok(ports),
    }
}

/// A pod's ports as its own processes reach them.
#[derive(Clone)]
struct PodPorts {
    /// `None`: the host's network.
    net: Option<Arc<OwnedFd>>,
    uid: Arc<str>,
}

impl PodPorts {
    /// Two sockets that belong to the pod's namespace, wherever they are connected.
    async fn sockets(&self) -> Result<[std::io::Result<TcpSocket>; 2], String> {
        let net = self.net.clone();
        let (sender, made) = tokio::sync::oneshot::channel();
        // A thread that has entered a namespace is no one else's: it is made for this, and ends with it.
        let thread = move || {
            let entered = match &net {
                Some(net) => namespace::enter(net.as_fd(), namespace::NEWNET),
                None => Ok(()),
            };
            let made = entered.map(|()| [TcpSocket::new_v4(), TcpSocket::new_v6()]);
            // Who waited may have gone.
            let _ = sender.send(made);
        };
        std::thread::Builder::new()
            .name("port-forward".into())
            .spawn(thread)
            .map_err(|error| format!("start a thread: {error}"))?;
        match made.await {
            Ok(Ok(sockets)) => Ok(sockets),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the thread ended".into()),
        }
    }

    /// IPv4 first, as upstream.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let [v4, v6] = self.sockets().await?;
        let to = |ip: std::net::IpAddr| SocketAddr::new(ip, port);
        let reach = async |socket: std::io::Result<TcpSocket>, to| match socket {
            Ok(socket) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        let first = match reach(v4, to(Ipv4Addr::LOCALHOST.into())).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        match reach(v6, to(Ipv6Addr::LOCALHOST.into())).await {
            Ok(connection) => Ok(connection),
            Err(second) => Err(format!(
                "failed to connect to localhost:{port} inside namespace \"{}\", IPv4: dial tcp4 127.0.0.1:{port}: connect: {} \
                 IPv6 dial tcp6 [::1]:{port}: connect: {} ",
                self.uid,
                reason(&first),
                reason(&second)
            )),
        }
    }
}

/// As other programs spell it: in lower case, without the number.
fn reason(error: &std::io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    text.to_lowercase()
}

impl Dial for PodPorts {
    type Connection = TcpStream;

    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let connected = self.connect(port).await;
        let connection = connected.map_err(|why| {
            let (uid, place) = (&self.uid, if self.net.is_some() { &self.uid } else { "host" });
            format!(
                "error forwarding port {port} to pod {uid}, uid : failed to execute portforward in network \
                 namespace {place:?}: {why}"
            )
        })?;
        // What is typed goes out at once.
        let _ = connection.set_nodelay(true);
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_the_kubelet_reads_them() {
        for (query, expect) in [
            (Some("port=80"), Ok(vec![80])),
            (Some("port=80,81&ports=82&x=1"), Ok(vec![80, 81, 82])),
            (None, Err("query parameter \"port\" is required")),
            (
                Some("port="),
                Err("query parameter \"port\" cannot be empty"),
            ),
            (Some("port=0"), Err("port \"0\" must be > 0")),
        ] {
            assert_eq!(ports(query), expect.map_err(str::to_owned), "{query:?}");
        }
        assert!(
            ports(Some("port=http"))
                .is_err_and(|e| e.starts_with("unable to parse \"http\" as a port"))
        );
    }

    #[tokio::test]
    async fn a_port_is_reached_over_either_family_and_a_refusal_names_both() {
        let host = PodPorts {
            net: None,
            uid: "u".into(),
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                println!("SKIP: this machine has no {address}");
                continue;
            };
            let port = listener.local_addr().expect("bound").port();
            host.dial(port).await.expect(address);
            drop(listener);
            let refused = host.dial(port).await.expect_err("nobody listens");
            assert!(refused.starts_with(&format!(
                "error forwarding port {port} to pod u, uid : failed to execute portforward in network namespace \
                 \"host\": failed to connect to localhost:{port} inside namespace \"u\", IPv4: dial tcp4 \
                 127.0.0.1:{port}: connect: connection refused IPv6 dial tcp6 [::1]:{port}: connect: "
            )), "{refused}");
        }
    }
}
