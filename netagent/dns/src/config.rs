//! What the server is told, and where it asks for names that are not the cluster's.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// How the DNS is served.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// UDP and TCP. Port 0 picks one that is free for both.
    pub bind: SocketAddr,
    /// `cluster.local`, without a dot at the end.
    pub cluster_domain: String,
    /// The addresses under which pods reach this server. Never forwarded to.
    pub cluster_dns: Vec<IpAddr>,
    pub upstreams: Upstreams,
}

/// The resolvers for everything outside the cluster domain.
#[derive(Clone, Debug)]
pub enum Upstreams {
    Fixed(Vec<SocketAddr>),
    /// The `nameserver` lines of this file, read again when it has changed.
    ResolvConf(PathBuf),
}

impl Upstreams {
    /// The host's own resolvers.
    pub fn of_host() -> Self {
        // Where systemd-resolved runs, resolv.conf names its stub, which knows per-link and split DNS; it is reachable
        // from here, since this server runs in the host's network namespace.
        Self::ResolvConf(PathBuf::from("/etc/resolv.conf"))
    }
}

/// The name servers of a resolv.conf, in their order, without those in `not`.
pub(crate) fn name_servers(resolv_conf: &str, not: &[IpAddr]) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(parse_server)
        .filter(|server| !not.contains(&server.ip()))
        .collect()
}

/// An address, perhaps with an interface for link-local ones (`fe80::1%2`, by index).
fn parse_server(text: &str) -> Option<SocketAddr> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, 53)),
        Err(_) => {
            let (address, scope) = text.split_once('%')?;
            let index: u32 = scope.parse().ok()?;
            Some(std::net::SocketAddrV6::new(address.parse().ok()?, 53, 0, index).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order_and_our_own_address_is_left_out() {
        let file = "# comment\nsearch example.com\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n\
                    nameserver 2001:db8::1\nnameserver fe80::1%2\noptions ndots:5\nnameserver broken\n";
        let not = ["10.96.0.10".parse().unwrap()];
        let servers: Vec<String> = name_servers(file, &not)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            servers,
            ["1.1.1.1:53", "[2001:db8::1]:53", "[fe80::1%2]:53"]
        );
    }
}
