//! What a server is told at start; everything else it finds in the store.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc};

use kernelet_pki::ServiceAccountKeys;

use crate::{admission::PodSecurityConfig, audit::AuditConfig, encrypt::Encryption};

/// Everything that differs from one server to another.
#[derive(Clone)]
pub struct ServerConfig {
    /// The address at which clients reach this server; the endpoint of the `kubernetes` Service.
    pub advertise: IpAddr,
    /// The port that goes with `advertise`.
    pub port: u16,
    /// Ranges that Services get their cluster IPs from; the first is the primary family.
    pub service_cidrs: Vec<Cidr>,
    /// Ports that NodePort Services may use on every node.
    pub node_ports: RangeInclusive<u16>,
    /// `iss` of the tokens of ServiceAccounts, and their default audience.
    pub issuer: String,
    /// Signs and verifies the tokens of ServiceAccounts.
    pub service_account_keys: ServiceAccountKeys,
    /// TLS of [`crate::Server::serve`]: the serving identity, and the authority that client certificates are
    /// verified against. Client certificates must be *offered*, not required: tokens come without one.
    pub tls: Arc<rustls::ServerConfig>,
    /// TLS towards the nodes' kubelet API: the server's client certificate, and the authority that the nodes'
    /// serving certificates are verified against.
    pub kubelet_client: Arc<rustls::ClientConfig>,
    /// The cluster authority's certificates (PEM), published to clients.
    pub cluster_ca_pem: String,
    /// Seals Secrets in the store; none leaves them plain there.
    pub encryption: Option<Arc<Encryption>>,
    /// Logs who asked for what; none logs nothing.
    pub audit: Option<AuditConfig>,
    /// Of pods in namespaces whose labels say nothing, and of whom nothing is asked.
    pub pod_security: PodSecurityConfig,
}

impl ServerConfig {
    /// The address of the `kubernetes` Service: the first of the primary service range.
    pub fn kubernetes_service_ip(&self) -> Option<IpAddr> {
        self.service_cidrs.first().and_then(|cidr| cidr.nth(1))
    }
}

/// An address range, `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an address range such as 10.96.0.0/16")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    fn bits(self) -> u8 {
        if self.base.is_ipv4() { 32 } else { 128 }
    }

    pub fn is_ipv4(self) -> bool {
        self.base.is_ipv4()
    }

    /// How many addresses the range holds, saturating.
    pub fn size(self) -> u128 {
        1u128
            .checked_shl(u32::from(self.bits() - self.prefix))
            .unwrap_or(u128::MAX)
    }

    /// The address at that offset, if it lies in the range.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        match self.base {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).ok()?;
                Some(IpAddr::V4(base.to_bits().checked_add(offset)?.into()))
            }
            IpAddr::V6(base) => Some(IpAddr::V6(base.to_bits().checked_add(offset)?.into())),
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u128::from(address.to_bits()).wrapping_sub(u128::from(base.to_bits())) < self.size()
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                address.to_bits().wrapping_sub(base.to_bits()) < self.size()
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            let cidr = Cidr {
                base: base.parse().ok()?,
                prefix: prefix.parse().ok()?,
            };
            if cidr.prefix > cidr.bits() {
                return None;
            }
            let host_bits = cidr.size().wrapping_sub(1);
            let base = match cidr.base {
                IpAddr::V4(base) => u128::from(base.to_bits()),
                IpAddr::V6(base) => base.to_bits(),
            };
            // A base with host bits set is a typing error more often than an intention.
            (base & host_bits == 0 || cidr.prefix == 0).then_some(cidr)
        };
        parse().ok_or_else(|| CidrError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_addresses() {
        let cidr: Cidr = "10.96.0.0/16".parse().unwrap();
        assert_eq!(cidr.nth(1), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(cidr.nth(65536), None);
        assert!(cidr.contains("10.96.255.255".parse().unwrap()));
        assert!(!cidr.contains("10.97.0.0".parse().unwrap()));
        assert!(!cidr.contains("10.95.255.255".parse().unwrap()));
        let six: Cidr = "fd00::/112".parse().unwrap();
        assert!(six.contains("fd00::ffff".parse().unwrap()));
        assert!(!six.contains("10.96.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["10.96.0.0", "10.96.0.0/33", "10.96.0.1/16", "x/8", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
