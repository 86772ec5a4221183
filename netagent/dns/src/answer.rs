//! A question's answer from the records. Pure.
//!
//! The difference between "no such name" (NXDOMAIN) and "no record of this type" (an empty answer) matters: a resolver
//! goes on through its search list after the first and stops at the second, and some remember it for every type.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};

use crate::{
    records::{Pointer, Records, ServiceKey},
    service::{Endpoint, Port, ServiceRecords},
};

/// Low, so that a change is seen soon; the server is one hop away.
pub(crate) const TTL: u32 = 5;
const VERSION: &str = "1.1.0";

/// What is known about a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Not about the cluster: ask elsewhere.
    Elsewhere,
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is another name for this one.
    Alias(Name),
    /// The name exists, but has no record of this type.
    NoData,
    NoName,
}

/// The names of one cluster.
#[derive(Clone)]
pub(crate) struct Zone {
    pub domain: Name,
    pub records: Records,
    /// Where this server is reached.
    pub own: Vec<IpAddr>,
}

impl Zone {
    /// `turn` rotates lists of addresses, so that clients which take the first one spread.
    pub(crate) fn answer(&self, name: &Name, ty: RecordType, turn: usize) -> Answer {
        if self.domain.zone_of(name) {
            let below = name.num_labels().saturating_sub(self.domain.num_labels());
            let labels: Option<Vec<String>> = name
                .iter()
                .take(usize::from(below))
                .map(|label| std::str::from_utf8(label).ok().map(str::to_lowercase))
                .collect();
            let question = Question {
                zone: self,
                name,
                ty,
                turn,
            };
            return labels.map_or(Answer::NoName, |labels| {
                question.inside(&labels.iter().map(String::as_str).collect::<Vec<_>>())
            });
        }
        match reversed(name).and_then(|ip| self.records.pointers(ip)) {
            Some(pointers) if ty == RecordType::PTR => self.pointers(name, &pointers),
            Some(_) => Answer::NoData,
            None => Answer::Elsewhere,
        }
    }

    /// The record that negative answers carry: its last field says how long they hold.
    pub(crate) fn soa(&self) -> Record {
        let soa = SOA::new(
            self.below(&["ns", "dns"]),
            self.below(&["hostmaster"]),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// A name below the cluster domain. Labels come from names that the API has checked; one that is too long for DNS
    /// leaves the domain itself.
    fn below(&self, labels: &[&str]) -> Name {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))
            .and_then(|name| name.append_domain(&self.domain))
            .unwrap_or_else(|_| self.domain.clone())
    }

    fn service_name(&self, key: &ServiceKey, host: Option<&str>) -> Name {
        let service = [key.name.as_str(), key.namespace.as_str(), "svc"];
        match host {
            Some(host) => self.below(&[&[host], &service[..]].concat()),
            None => self.below(&service),
        }
    }

    fn pointers(&self, name: &Name, pointers: &[Pointer]) -> Answer {
        let record = |pointer: &Pointer| {
            let target = self.service_name(&pointer.service, pointer.host.as_deref());
            Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)))
        };
        found(pointers.iter().map(record).collect())
    }
}

fn found(answers: Vec<Record>) -> Answer {
    Answer::Found {
        answers,
        additionals: Vec::new(),
    }
}

/// One question about a name in the cluster domain.
struct Question<'q> {
    zone: &'q Zone,
    name: &'q Name,
    ty: RecordType,
    turn: usize,
}

impl Question<'_> {
    /// `labels` are those before the cluster domain.
    fn inside(&self, labels: &[&str]) -> Answer {
        match labels {
            [] => self.apex(),
            ["dns-version"] => self.text(VERSION),
            ["ns", "dns"] => self.addresses(&self.zone.own),
            ["svc" | "pod" | "dns"] => Answer::NoData,
            [namespace, "svc" | "pod"] => self.exists(self.zone.records.has_namespace(namespace)),
            [ip, _namespace, "pod"] => self.pod(ip),
            [name, namespace, "svc"] => self.service(name, namespace, |it| it.addresses()),
            [part, name, namespace, "svc"] => {
                self.service(name, namespace, |service| service.host_or_protocol(part))
            }
            [port, protocol, name, namespace, "svc"] => {
                self.service(name, namespace, |service| service.port(port, protocol))
            }
            _ => Answer::NoName,
        }
    }

    fn exists(&self, exists: bool) -> Answer {
        if exists {
            Answer::NoData
        } else {
            Answer::NoName
        }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    fn apex(&self) -> Answer {
        match self.ty {
            RecordType::SOA => found(vec![self.zone.soa()]),
            RecordType::NS => found(vec![
                self.record(RData::NS(NS(self.zone.below(&["ns", "dns"])))),
            ]),
            _ => Answer::NoData,
        }
    }

    fn text(&self, text: &str) -> Answer {
        match self.ty {
            RecordType::TXT => found(vec![
                self.record(RData::TXT(TXT::new(vec![text.to_owned()]))),
            ]),
            _ => Answer::NoData,
        }
    }

    /// Those of the addresses that the question asks for. The name exists, whatever they are.
    fn addresses(&self, addresses: &[IpAddr]) -> Answer {
        let mut records: Vec<Record> = addresses
            .iter()
            .filter_map(|address| address_data(*address, self.ty))
            .map(|data| self.record(data))
            .collect();
        if records.is_empty() {
            return Answer::NoData;
        }
        let first = self.turn % records.len();
        records.rotate_left(first);
        found(records)
    }

    /// `10-244-0-7.default.pod`: the address is in the name.
    fn pod(&self, ip: &str) -> Answer {
        let dotted = ip.replace('-', ".").parse().map(IpAddr::V4);
        let address = dotted.or_else(|_| ip.replace('-', ":").parse().map(IpAddr::V6));
        match address {
            Ok(address) => self.addresses(&[address]),
            Err(_) => Answer::NoName,
        }
    }

    fn service(
        &self,
        name: &str,
        namespace: &str,
        then: impl FnOnce(&Service<'_>) -> Answer,
    ) -> Answer {
        let key = ServiceKey::new(namespace, name);
        match self.zone.records.service(&key) {
            Some(records) => then(&Service {
                question: self,
                key: &key,
                records: &records,
            }),
            None => Answer::NoName,
        }
    }
}

fn address_data(address: IpAddr, ty: RecordType) -> Option<RData> {
    match (address, ty) {
        (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(ip))),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    }
}

/// A question about one Service.
struct Service<'q> {
    question: &'q Question<'q>,
    key: &'q ServiceKey,
    records: &'q ServiceRecords,
}

impl Service<'_> {
    /// The Service's own name.
    fn addresses(&self) -> Answer {
        if let Some(target) = &self.records.external_name {
            return match Name::from_utf8(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    if self.question.ty == RecordType::CNAME {
                        found(vec![self.question.record(RData::CNAME(CNAME(target)))])
                    } else {
                        Answer::Alias(target)
                    }
                }
                Err(_) => Answer::NoName,
            };
        }
        if self.records.headless && self.records.endpoints.is_empty() {
            return Answer::NoName;
        }
        if self.question.ty == RecordType::SRV {
            return self.srv(|_| true);
        }
        if !self.records.headless {
            return self.question.addresses(&self.records.cluster_ips);
        }
        let mut addresses: Vec<IpAddr> =
            self.records.endpoints.iter().map(|it| it.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.question.addresses(&addresses)
    }

    /// `web-0.…`, or the `_tcp.…` that SRV names pass through.
    fn host_or_protocol(&self, part: &str) -> Answer {
        if let Some(protocol) = part.strip_prefix('_') {
            return self
                .question
                .exists(self.ports().any(|port| port.protocol == protocol));
        }
        let addresses: Vec<IpAddr> = self
            .records
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.host == part)
            .map(|endpoint| endpoint.address)
            .collect();
        if addresses.is_empty() {
            Answer::NoName
        } else {
            self.question.addresses(&addresses)
        }
    }

    /// `_http._tcp.…`
    fn port(&self, port: &str, protocol: &str) -> Answer {
        let (Some(name), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Answer::NoName;
        };
        let wanted = |port: &Port| port.name == name && port.protocol == protocol;
        match self.ports().any(wanted) {
            true if self.question.ty == RecordType::SRV => self.srv(wanted),
            exists => self.question.exists(exists),
        }
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        let of_endpoints = self
            .records
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.ports);
        self.records.ports.iter().chain(of_endpoints)
    }

    fn srv(&self, wanted: impl Fn(&Port) -> bool) -> Answer {
        let mut targets: Vec<(u16, Name, IpAddr)> = Vec::new();
        if self.records.headless {
            for endpoint in &self.records.endpoints {
                let Endpoint {
                    host,
                    address,
                    ports,
                } = endpoint;
                let target = self.question.zone.service_name(self.key, Some(host));
                targets.extend(
                    ports
                        .iter()
                        .filter(|port| wanted(port))
                        .map(|port| (port.number, target.clone(), *address)),
                );
            }
        } else {
            let target = self.question.zone.service_name(self.key, None);
            for port in self.records.ports.iter().filter(|port| wanted(port)) {
                targets.extend(
                    self.records
                        .cluster_ips
                        .iter()
                        .map(|ip| (port.number, target.clone(), *ip)),
                );
            }
        }
        if targets.is_empty() {
            return Answer::NoData;
        }
        let mut answers: Vec<Record> = Vec::new();
        let mut additionals: Vec<Record> = Vec::new();
        for (port, target, address) in targets {
            let answer = self
                .question
                .record(RData::SRV(SRV::new(0, 100, port, target.clone())));
            if !answers.contains(&answer) {
                answers.push(answer);
            }
            let data = match address {
                IpAddr::V4(ip) => RData::A(A(ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
            };
            let additional = Record::from_rdata(target, TTL, data);
            if !additionals.contains(&additional) {
                additionals.push(additional);
            }
        }
        Answer::Found {
            answers,
            additionals,
        }
    }
}

/// The address in a name below `in-addr.arpa` or `ip6.arpa`, if it holds a whole one.
fn reversed(name: &Name) -> Option<IpAddr> {
    let labels: Vec<String> = name
        .iter()
        .map(|label| std::str::from_utf8(label).map(str::to_lowercase))
        .collect::<Result<_, _>>()
        .ok()?;
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => {
            let octet = |text: &str| text.parse::<u8>().ok();
            Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let digit =
                |text: &&str| (text.len() == 1).then(|| u128::from_str_radix(text, 16).ok())?;
            let bits = nibbles
                .iter()
                .rev()
                .try_fold(0u128, |bits, nibble| Some(bits << 4 | digit(nibble)?))?;
            Some(std::net::Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}
