//! The cluster's certificate authority and the ServiceAccount signing keys.

mod request;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{Identity, write_private, write_public};
pub use request::CsrError;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a usable certificate or key")]
    Broken {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot make the certificate of {subject}")]
    Issue {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("the name {name:?} cannot stand in a certificate")]
    BadName { name: String },
    #[error("the system gave no random bytes")]
    Random,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// Whose certificate is to be issued.
#[derive(Clone, Debug)]
pub struct IdentitySpec {
    /// Subject common name: the user's name.
    pub common_name: String,
    /// Subject organization: the user's group.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub usage: Usage,
}

/// How long certificates last, upstream's defaults: ten years for the CA, one for what it signs.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    pub ca: std::time::Duration,
    pub leaf: std::time::Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            ca: std::time::Duration::from_secs(3650 * DAY),
            leaf: std::time::Duration::from_secs(365 * DAY),
        }
    }
}

/// The cluster's certificate authority: `ca.crt` (0644) and `ca.key` (0600) in its folder.
#[derive(Clone)]
pub struct Ca {
    cert_pem: String,
    key_pem: String,
    lifetimes: Lifetimes,
}

impl Ca {
    /// Reads the authority from `dir`, or makes it there. `dir` must exist.
    pub fn load_or_create(dir: &Path, lifetimes: Lifetimes) -> Result<Self, PkiError> {
        let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if key.exists() && cert.exists() {
            let ca = Self {
                cert_pem: read(&cert)?,
                key_pem: read(&key)?,
                lifetimes,
            };
            ca.issuer().map_err(|source| PkiError::Broken {
                path: cert,
                source: source.into(),
            })?;
            return Ok(ca);
        }
        let ca = Self::create(lifetimes)?;
        // The key first: a certificate without its key would look complete and be useless.
        put_private(&key, ca.key_pem.as_bytes())?;
        put_public(&cert, ca.cert_pem.as_bytes())?;
        Ok(ca)
    }

    /// A new authority that lives in memory only.
    pub fn create(lifetimes: Lifetimes) -> Result<Self, PkiError> {
        let issue = |source| PkiError::Issue {
            subject: "kubernetes-ca".into(),
            source,
        };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = params("kubernetes-ca", None, lifetimes.ca)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let cert = params.self_signed(&key).map_err(issue)?;
        Ok(Self {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            lifetimes,
        })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a certificate with a new key.
    pub fn issue(&self, spec: &IdentitySpec) -> Result<Identity, PkiError> {
        let issue = |source| PkiError::Issue {
            subject: spec.common_name.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = params(
            &spec.common_name,
            spec.organization.as_deref(),
            self.lifetimes.leaf,
        )?;
        for name in &spec.dns_names {
            let name = name
                .clone()
                .try_into()
                .map_err(|_| PkiError::BadName { name: name.clone() })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params
            .subject_alt_names
            .extend(spec.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = usages(spec.usage);
        let issuer = self.issuer().map_err(issue)?;
        let cert = params.signed_by(&key, &issuer).map_err(issue)?;
        Ok(Identity {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Reads `<dir>/<name>.crt` and `.key`, or issues them: when they are missing, of another authority,
    /// name other addresses, or have less than a third of their life left.
    pub fn load_or_issue(
        &self,
        dir: &Path,
        name: &str,
        spec: &IdentitySpec,
    ) -> Result<Identity, PkiError> {
        let (cert, key) = (
            dir.join(format!("{name}.crt")),
            dir.join(format!("{name}.key")),
        );
        if let (Ok(cert_pem), Ok(key_pem)) = (fs::read_to_string(&cert), fs::read_to_string(&key))
            && self.still_good(&cert_pem, &key_pem, spec)
        {
            return Ok(Identity { cert_pem, key_pem });
        }
        let identity = self.issue(spec)?;
        // A crash between the two leaves a certificate that doesn't fit its key; `still_good` finds that.
        put_private(&key, identity.key_pem.as_bytes())?;
        put_public(&cert, identity.cert_pem.as_bytes())?;
        Ok(identity)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        let key = KeyPair::from_pem(&self.key_pem)?;
        Issuer::from_ca_cert_pem(&self.cert_pem, key)
    }

    fn still_good(&self, cert_pem: &str, key_pem: &str, spec: &IdentitySpec) -> bool {
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else {
            return false;
        };
        let Ok((_, cert)) = X509Certificate::from_der(&pem.contents) else {
            return false;
        };
        let Ok((_, ca_pem)) = x509_parser::pem::parse_x509_pem(self.cert_pem.as_bytes()) else {
            return false;
        };
        let Ok((_, ca)) = X509Certificate::from_der(&ca_pem.contents) else {
            return false;
        };
        if cert.verify_signature(Some(ca.public_key())).is_err() {
            return false;
        }
        let Ok(key) = KeyPair::from_pem(key_pem) else {
            return false;
        };
        if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return false;
        }
        let (start, end) = (
            cert.validity().not_before.timestamp(),
            cert.validity().not_after.timestamp(),
        );
        let now = OffsetDateTime::now_utc().unix_timestamp();
        if end - now < (end - start) / 3 {
            return false;
        }
        let subject = crate::tls::identity_of(&cert);
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = cert.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    x509_parser::prelude::GeneralName::DNSName(name) => {
                        dns.push((*name).to_owned())
                    }
                    x509_parser::prelude::GeneralName::IPAddress(bytes) => {
                        if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                            ips.push(IpAddr::from(v4));
                        } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                            ips.push(IpAddr::from(v6));
                        }
                    }
                    _ => {}
                }
            }
        }
        subject.common_name == spec.common_name
            && subject.organizations == spec.organization.iter().cloned().collect::<Vec<_>>()
            && spec.dns_names.iter().all(|name| dns.contains(name))
            && spec.ips.iter().all(|ip| ips.contains(ip))
    }
}

/// The keys that sign ServiceAccount tokens (ECDSA P-256, `ES256`), PEM.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// PKCS#8.
    pub private_pem: String,
    /// SubjectPublicKeyInfo.
    pub public_pem: String,
}

impl ServiceAccountKeys {
    /// Reads `sa.key` and `sa.pub` from `dir`, or makes them there.
    pub fn load_or_create(dir: &Path) -> Result<Self, PkiError> {
        let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
        let key = if private.exists() {
            KeyPair::from_pem(&read(&private)?).map_err(|source| PkiError::Broken {
                path: private.clone(),
                source: source.into(),
            })?
        } else {
            let key = KeyPair::generate().map_err(|source| PkiError::Issue {
                subject: "service accounts".into(),
                source,
            })?;
            put_private(&private, key.serialize_pem().as_bytes())?;
            key
        };
        let keys = Self {
            private_pem: key.serialize_pem(),
            public_pem: key.public_key_pem(),
        };
        if fs::read_to_string(&public).ok().as_deref() != Some(keys.public_pem.as_str()) {
            put_public(&public, keys.public_pem.as_bytes())?;
        }
        Ok(keys)
    }
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    life: std::time::Duration,
) -> Result<CertificateParams, PkiError> {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    let (not_before, not_after) = validity(life);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = not_before;
    params.not_after = not_after;
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Five minutes back, as upstream does, for clocks that differ a little.
fn validity(life: std::time::Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (
        now - Duration::minutes(5),
        now + Duration::seconds(life.as_secs() as i64),
    )
}

fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| PkiError::Random)?;
    bytes[0] &= 0x7f; // a serial number is positive (RFC 5280, 4.1.2.2)
    Ok(SerialNumber::from_slice(&bytes))
}

fn usages(usage: Usage) -> Vec<ExtendedKeyUsagePurpose> {
    match usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => {
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ]
        }
    }
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn put_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_private(path, bytes).map_err(|source| PkiError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn put_public(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write_public(path, bytes).map_err(|source| PkiError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
