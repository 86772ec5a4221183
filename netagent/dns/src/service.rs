//! What DNS needs to know of a Service, derived from the API objects. Pure.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice},
};

/// A Service's part of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecords {
    /// The virtual addresses; none when the Service is headless.
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    /// Of a Service that is an alias for a name elsewhere.
    pub external_name: Option<String>,
    pub ports: Vec<Port>,
    /// Ready endpoints, of headless Services and of those whose endpoints have host names.
    pub endpoints: Vec<Endpoint>,
}

/// A port with a name has an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty for a port without a name.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub number: u16,
}

/// One endpoint with a name below the Service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's host name, or its address with dashes.
    pub host: String,
    pub address: IpAddr,
    pub ports: Vec<Port>,
}

impl ServiceRecords {
    /// From a Service and its EndpointSlices.
    pub fn build<'a>(
        service: &Service,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let Some(spec) = &service.spec else {
            return Self::default();
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            let external_name = spec.external_name.clone().filter(|name| !name.is_empty());
            return Self {
                external_name,
                ..Self::default()
            };
        }
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let headless = all.clone().any(|ip| ip == "None");
        let mut cluster_ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        cluster_ips.dedup();
        if cluster_ips.len() > 1 && cluster_ips.first() == cluster_ips.last() {
            cluster_ips.pop();
        }
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Port::new(port.name.as_deref(), port.protocol.as_deref(), port.port))
            .collect();
        let mut endpoints: Vec<Endpoint> = slices
            .into_iter()
            .flat_map(|slice| endpoints(slice, headless))
            .collect();
        endpoints.sort_by(|a, b| (&a.host, a.address).cmp(&(&b.host, b.address)));
        endpoints.dedup();
        Self {
            cluster_ips,
            headless,
            external_name: None,
            ports,
            endpoints,
        }
    }

    /// Every address that leads back to this Service, with the host name where it is an endpoint's.
    pub(crate) fn reverse(&self) -> Vec<(IpAddr, Option<String>)> {
        let own = self.cluster_ips.iter().map(|ip| (*ip, None));
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address, Some(endpoint.host.clone())));
        own.chain(endpoints).collect()
    }
}

fn endpoints(slice: &EndpointSlice, headless: bool) -> Vec<Endpoint> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| Port::new(port.name.as_deref(), port.protocol.as_deref(), port.port?))
        .collect();
    slice
        .endpoints
        .iter()
        .filter(|endpoint| is_ready(endpoint))
        // Behind a virtual address, an endpoint is only reachable by name if it was given one.
        .filter(|endpoint| {
            headless
                || endpoint
                    .hostname
                    .as_deref()
                    .is_some_and(|host| !host.is_empty())
        })
        .flat_map(|endpoint| {
            endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .map(|address: IpAddr| {
                    let host = match &endpoint.hostname {
                        Some(host) if !host.is_empty() => host.to_lowercase(),
                        _ => dashed(address),
                    };
                    Endpoint {
                        host,
                        address,
                        ports: ports.clone(),
                    }
                })
        })
        .collect()
}

/// No condition counts as ready. A Service that publishes addresses that are not ready has its slices say so.
fn is_ready(endpoint: &ApiEndpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// `10-244-0-7`, `2001-db8--7`
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

impl Port {
    fn new(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        Some(Self {
            name: name.unwrap_or_default().to_lowercase(),
            protocol: protocol.unwrap_or("TCP").to_lowercase(),
            number: u16::try_from(number).ok()?,
        })
    }
}
