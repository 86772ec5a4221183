//! Finding free addresses and ports, and judging those that a request names.

use std::{collections::BTreeSet, net::IpAddr};

use kernelet_api::{ApiError, FieldError, Value, meta};
use kernelet_store::{Key, Range};
use rand::RngExt;
use serde_json::{Map, json};

use super::{Claims, Held, IPS, PORTS, needs_node_ports, number, text};
use crate::{
    config::Cidr,
    handler::{WriteRequest, store_error},
};

/// Guesses before every claim is read to find a free one.
const GUESSES: usize = 16;

/// Completes a Service's addresses and ports; answers what is to be claimed and given back.
pub async fn allocate(
    request: &WriteRequest<'_>,
    new: &mut Value,
    held: &Held,
) -> Result<Claims, ApiError> {
    let name = meta::name(new).to_owned();
    let owner = format!("{}/{name}", request.namespace);
    let config = &request.state.config;
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(Claims::default());
    };
    let invalid = |error: FieldError| ApiError::invalid("", "Service", &name, &[error]);
    if text(spec, "type") != "ExternalName" {
        cluster_ips(request, spec, held, &config.service_cidrs)
            .await
            .map_err(|refusal| refusal.into_error(&name))?;
    }
    if needs_node_ports(spec) {
        let wanted = spec
            .get("allocateLoadBalancerNodePorts")
            .and_then(Value::as_bool)
            .unwrap_or(true)
            || text(spec, "type") == "NodePort";
        let mut own: BTreeSet<u16> = Held {
            ports: spec
                .get("ports")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|port| number(port.get("nodePort")))
                .chain(number(spec.get("healthCheckNodePort")))
                .collect(),
            ..Held::default()
        }
        .ports;
        let ports = spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .map(std::mem::take)
            .unwrap_or_default();
        let mut done = Vec::new();
        for (index, mut port) in ports.into_iter().enumerate() {
            match number(port.get("nodePort")) {
                Some(number) => {
                    let path = format!("spec.ports[{index}].nodePort");
                    check_port(request, number, held, &path)
                        .await?
                        .map_err(invalid)?;
                }
                None if wanted => {
                    let number = free_port(request, &own).await?;
                    own.insert(number);
                    port["nodePort"] = number.into();
                }
                None => {}
            }
            done.push(port);
        }
        spec.insert("ports".to_owned(), done.into());
        if text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local" {
            match number(spec.get("healthCheckNodePort")) {
                Some(number) => {
                    check_port(request, number, held, "spec.healthCheckNodePort")
                        .await?
                        .map_err(invalid)?;
                }
                None => {
                    let number = free_port(request, &own).await?;
                    spec.insert("healthCheckNodePort".to_owned(), number.into());
                }
            }
        }
    }
    let (before, after) = (held.keys(), Held::of(new).keys());
    Ok(Claims {
        take: after.difference(&before).cloned().map(Key::from).collect(),
        give: before.difference(&after).cloned().map(Key::from).collect(),
        owner,
    })
}

/// Why no address could be had.
enum Refusal {
    Field(FieldError),
    Api(ApiError),
}

impl Refusal {
    fn into_error(self, name: &str) -> ApiError {
        match self {
            Refusal::Field(error) => ApiError::invalid("", "Service", name, &[error]),
            Refusal::Api(error) => error,
        }
    }
}

/// Sets `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
async fn cluster_ips(
    request: &WriteRequest<'_>,
    spec: &mut Map<String, Value>,
    held: &Held,
    cidrs: &[Cidr],
) -> Result<(), Refusal> {
    let family = |cidr: Cidr| if cidr.is_ipv4() { "IPv4" } else { "IPv6" };
    let policy = match text(spec, "ipFamilyPolicy") {
        "" => "SingleStack".to_owned(),
        policy => policy.to_owned(),
    };
    if policy == "RequireDualStack" && cidrs.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        return Err(Refusal::Field(FieldError::invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            why,
        )));
    }
    spec.insert("ipFamilyPolicy".to_owned(), policy.as_str().into());
    let mut families: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let mut ips: Vec<String> = spec
        .get("clusterIPs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    match text(spec, "clusterIP") {
        "" => {}
        ip if ips.is_empty() => ips.push(ip.to_owned()),
        _ => {}
    }
    // Families follow from given addresses; otherwise the cluster's first, or all for dual stack.
    if families.is_empty() {
        families = ips
            .iter()
            .filter_map(|ip| ip.parse::<IpAddr>().ok())
            .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned())
            .collect();
    }
    let wanted = if policy == "SingleStack" {
        1
    } else {
        cidrs.len().min(2)
    };
    for cidr in cidrs {
        let own = family(*cidr);
        if families.len() < wanted && !families.iter().any(|known| known == own) {
            families.push(own.to_owned());
        }
    }
    if let Some(unknown) = families
        .iter()
        .position(|f| !cidrs.iter().any(|cidr| family(*cidr) == f))
    {
        let path = format!("spec.ipFamilies[{unknown}]");
        let why = "not configured on this cluster";
        return Err(Refusal::Field(FieldError::invalid(
            path,
            families[unknown].as_str(),
            why,
        )));
    }
    spec.insert("ipFamilies".to_owned(), json!(families));
    if ips.first().is_some_and(|ip| ip == "None") {
        spec.insert("clusterIP".to_owned(), "None".into());
        spec.insert("clusterIPs".to_owned(), json!(["None"]));
        return Ok(());
    }
    for (index, family_wanted) in families.iter().enumerate() {
        let Some(cidr) = cidrs
            .iter()
            .copied()
            .find(|cidr| family(*cidr) == family_wanted)
        else {
            continue;
        };
        match ips.get(index) {
            Some(given) => check_ip(request, given, cidr, held, index).await?,
            None => ips.push(
                free_ip(request, cidr)
                    .await
                    .map_err(Refusal::Api)?
                    .to_string(),
            ),
        }
    }
    if let Some(first) = ips.first() {
        spec.insert("clusterIP".to_owned(), first.as_str().into());
    }
    spec.insert("clusterIPs".to_owned(), json!(ips));
    Ok(())
}

async fn check_ip(
    request: &WriteRequest<'_>,
    given: &str,
    cidr: Cidr,
    held: &Held,
    index: usize,
) -> Result<(), Refusal> {
    let path = format!("spec.clusterIPs[{index}]");
    let refuse = |why: String| {
        Err(Refusal::Field(FieldError::invalid(
            path.clone(),
            json!([given]),
            why,
        )))
    };
    let Ok(ip) = given.parse::<IpAddr>() else {
        // The schema's validation has told it already.
        return Ok(());
    };
    if held.ips.contains(&ip) {
        return Ok(());
    }
    if !cidr.contains(ip) || Some(ip) == cidr.nth(0) {
        return refuse(format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
        ));
    }
    if is_claimed(request, format!("{IPS}{ip}"))
        .await
        .map_err(Refusal::Api)?
    {
        return refuse(format!(
            "failed to allocate IP {ip}: provided IP is already allocated"
        ));
    }
    Ok(())
}

/// A refusal of the port inside, an error of the store outside.
async fn check_port(
    request: &WriteRequest<'_>,
    port: u16,
    held: &Held,
    path: &str,
) -> Result<Result<(), FieldError>, ApiError> {
    if held.ports.contains(&port) {
        return Ok(Ok(()));
    }
    let range = &request.state.config.node_ports;
    if !range.contains(&port) {
        let why = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        );
        return Ok(Err(FieldError::invalid(path, port, why)));
    }
    if is_claimed(request, format!("{PORTS}{port}")).await? {
        return Ok(Err(FieldError::invalid(
            path,
            port,
            "provided port is already allocated",
        )));
    }
    Ok(Ok(()))
}

async fn is_claimed(request: &WriteRequest<'_>, key: String) -> Result<bool, ApiError> {
    let range = Range {
        keys_only: true,
        ..Range::key(key)
    };
    Ok(!request
        .state
        .store
        .range(range)
        .await
        .map_err(store_error)?
        .kvs
        .is_empty())
}

/// A free address above the band that upstream leaves to addresses chosen by hand.
async fn free_ip(request: &WriteRequest<'_>, cidr: Cidr) -> Result<IpAddr, ApiError> {
    let size = cidr.size().min(1 << 20);
    // The first is the network's; of IPv4 the last is for broadcasts.
    let last = if cidr.is_ipv4() {
        size.saturating_sub(2)
    } else {
        size.saturating_sub(1)
    };
    let band = (size / 16).clamp(16, 256).min(size / 2);
    let first = band.max(1);
    let candidate = |offset: u128| cidr.nth(offset);
    for _ in 0..GUESSES {
        if first > last {
            break;
        }
        let offset = rand::rng().random_range(first..=last);
        if let Some(ip) = candidate(offset)
            && !is_claimed(request, format!("{IPS}{ip}")).await?
        {
            return Ok(ip);
        }
    }
    let claimed = claimed(request, IPS).await?;
    (first..=last)
        .chain(2..first)
        .filter_map(candidate)
        .find(|ip| !claimed.contains(&ip.to_string()))
        .ok_or_else(|| {
            ApiError::internal(format!(
                "failed to allocate a serviceIP: range {cidr} is full"
            ))
        })
}

async fn free_port(request: &WriteRequest<'_>, own: &BTreeSet<u16>) -> Result<u16, ApiError> {
    let range = request.state.config.node_ports.clone();
    let size = range.end().saturating_sub(*range.start());
    let band = if size < 16 {
        0
    } else {
        (size / 32).clamp(16, 128).min(size / 2)
    };
    let first = range.start().saturating_add(band);
    for _ in 0..GUESSES {
        let port = rand::rng().random_range(first..=*range.end());
        if !own.contains(&port) && !is_claimed(request, format!("{PORTS}{port}")).await? {
            return Ok(port);
        }
    }
    let claimed = claimed(request, PORTS).await?;
    (first..=*range.end())
        .chain(*range.start()..first)
        .find(|port| !own.contains(port) && !claimed.contains(&port.to_string()))
        .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))
}

async fn claimed(request: &WriteRequest<'_>, prefix: &str) -> Result<BTreeSet<String>, ApiError> {
    let range = Range {
        keys_only: true,
        ..Range::prefix(prefix.to_owned())
    };
    let response = request
        .state
        .store
        .range(range)
        .await
        .map_err(store_error)?;
    Ok(response
        .kvs
        .iter()
        .filter_map(|kv| {
            std::str::from_utf8(&kv.key)
                .ok()?
                .strip_prefix(prefix)
                .map(str::to_owned)
        })
        .collect())
}
