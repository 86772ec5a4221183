//! What a certificate signing request asks for, and which of them may be granted. Pure.

use k8s_openapi::api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    core::v1::Node,
};
use kube::ResourceExt;
use std::{collections::BTreeSet, net::IpAddr};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer,
};

pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// v1 refuses new requests of it; one that is stored is signed, whatever it asks for.
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const MASTERS: &str = "system:masters";

/// Why a signer doesn't sign a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unable to parse csr: {0}")]
    Unreadable(String),
    #[error("subject organization is not system:nodes")]
    Organization,
    #[error("subject common name does not begin with system:node:")]
    CommonName,
    #[error("Email subjectAltNames are not allowed")]
    Emails,
    #[error("URI subjectAltNames are not allowed")]
    Uris,
    #[error("DNS subjectAltNames are not allowed")]
    DnsNames,
    #[error("IP subjectAltNames are not allowed")]
    Ips,
    #[error("DNS or IP subjectAltName is required")]
    NoNames,
    #[error("usages did not match [{0}]")]
    Usages(&'static str),
    #[error("invalid usage for client certificate: {0}")]
    InvalidUsage(String),
    #[error("missing required usage for client certificate: client auth")]
    MissingUsage,
    #[error("the signer does not sign for the group system:masters")]
    Masters,
}

/// The subject and names of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: usize,
    pub uris: usize,
}

impl Request {
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, Refusal> {
        let bad = |why: &dyn ToString| Refusal::Unreadable(why.to_string());
        let (_, pem) = parse_x509_pem(pem).map_err(|error| bad(&error))?;
        let (_, request) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|error| bad(&error))?;
        request.verify_signature().map_err(|error| bad(&error))?;
        let subject = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).ok()
        };
        let mut parsed = Self {
            common_name: subject
                .iter_common_name()
                .find_map(text)
                .unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => parsed.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        let ip = address(bytes);
                        parsed
                            .ips
                            .push(ip.ok_or_else(|| bad(&"an IP is malformed"))?);
                    }
                    GeneralName::RFC822Name(_) => parsed.emails += 1,
                    // Whatever else it is, it names something that isn't checked here.
                    _ => parsed.uris += 1,
                }
            }
        }
        Ok(parsed)
    }

    /// The node that the subject names.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.common_name.strip_prefix(NODE_PREFIX)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Whether the request has the form that its signer signs.
pub(crate) fn check(spec: &CertificateSigningRequestSpec) -> Result<Request, Refusal> {
    let request = Request::parse(&spec.request.0)?;
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    match spec.signer_name.as_str() {
        KUBELET_SERVING => {
            of_nodes(&request)?;
            if request.dns_names.is_empty() && request.ips.is_empty() {
                return Err(Refusal::NoNames);
            }
            refuse(request.emails > 0, Refusal::Emails)?;
            refuse(request.uris > 0, Refusal::Uris)?;
            let all = "digital signature key encipherment server auth";
            exactly(&usages, "server auth", all)?;
            of_a_node(&request)?;
        }
        KUBELET_CLIENT => {
            of_nodes(&request)?;
            refuse(!request.dns_names.is_empty(), Refusal::DnsNames)?;
            refuse(request.emails > 0, Refusal::Emails)?;
            refuse(!request.ips.is_empty(), Refusal::Ips)?;
            refuse(request.uris > 0, Refusal::Uris)?;
            of_a_node(&request)?;
            let all = "client auth digital signature key encipherment";
            exactly(&usages, "client auth", all)?;
        }
        LEGACY => {}
        _ => {
            if request.organizations.iter().any(|group| group == MASTERS) {
                return Err(Refusal::Masters);
            }
            let allowed = ["client auth", "digital signature", "key encipherment"];
            let wanted = spec.usages.iter().flatten();
            if let Some(foreign) = wanted
                .into_iter()
                .find(|usage| !allowed.contains(&usage.as_str()))
            {
                return Err(Refusal::InvalidUsage(foreign.clone()));
            }
            if !usages.contains("client auth") {
                return Err(Refusal::MissingUsage);
            }
        }
    }
    Ok(request)
}

fn refuse(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    match holds {
        true => Err(refusal),
        false => Ok(()),
    }
}

fn of_nodes(request: &Request) -> Result<(), Refusal> {
    refuse(request.organizations != [NODES], Refusal::Organization)
}

fn of_a_node(request: &Request) -> Result<(), Refusal> {
    let named = request.node_name().is_some_and(|name| !name.is_empty());
    refuse(!named, Refusal::CommonName)
}

/// Digital signature and the purpose; key encipherment is only for RSA keys. `all` are the three, sorted.
fn exactly(
    usages: &BTreeSet<&str>,
    purpose: &'static str,
    all: &'static str,
) -> Result<(), Refusal> {
    let mut rest = usages.iter().filter(|usage| **usage != "key encipherment");
    let wanted = BTreeSet::from(["digital signature", purpose]);
    refuse(!rest.by_ref().eq(wanted.iter()), Refusal::Usages(all))
}

/// What has to be true for a request to be approved without a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// The requester may create one of these subresources of requests (by RBAC), tried in this order.
    IfMayCreate(&'static [Permission]),
    /// The node's object has every address and name that is asked for.
    IfNodeHas(Request),
    Never,
}

/// A subresource of requests, and what the approval says that follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub subresource: &'static str,
    pub message: &'static str,
}

const OF_NODES: [Permission; 2] = [
    Permission {
        subresource: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    },
    Permission {
        subresource: "nodeclient",
        message: "Auto approving kubelet client certificate after SubjectAccessReview.",
    },
];

pub(crate) fn approval(spec: &CertificateSigningRequestSpec, request: &Request) -> Approval {
    let own = spec.username.as_ref() == Some(&request.common_name);
    let is_node = spec.groups.iter().flatten().any(|group| group == NODES);
    match spec.signer_name.as_str() {
        KUBELET_CLIENT if own => Approval::IfMayCreate(&OF_NODES),
        KUBELET_CLIENT => Approval::IfMayCreate(&OF_NODES[1..]),
        KUBELET_SERVING if own && is_node => Approval::IfNodeHas(request.clone()),
        _ => Approval::Never,
    }
}

/// Whether every name and address of the request is the node's: one that could have another
/// node's address in its certificate could pose as it.
pub(crate) fn has_all(node: &Node, request: &Request) -> bool {
    let name = node.name_any();
    let addresses: Vec<&str> = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .map(|address| address.address.as_str())
        .collect();
    request.node_name() == Some(&name)
        && request
            .dns_names
            .iter()
            .all(|dns| *dns == name || addresses.contains(&dns.as_str()))
        && request
            .ips
            .iter()
            .all(|ip| addresses.iter().any(|address| address.parse() == Ok(*ip)))
}

/// A condition's time, if the request has the condition.
pub(crate) fn since_condition(
    request: &CertificateSigningRequest,
    type_: &str,
) -> Option<jiff::Timestamp> {
    let status = request.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    let time = condition.last_update_time.as_ref();
    Some(time.map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Whether the first certificate of that PEM has ended.
pub(crate) fn expired(pem: &[u8], now: jiff::Timestamp) -> bool {
    parse_x509_pem(pem).is_ok_and(|(_, pem)| {
        pem.parse_x509()
            .is_ok_and(|certificate| certificate.validity().not_after.timestamp() < now.as_second())
    })
}
