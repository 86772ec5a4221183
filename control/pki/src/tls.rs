//! rustls configurations, and who a certificate names.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::Identity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} is not PEM")]
    Pem {
        what: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the {what} cannot be used for TLS")]
    Unusable {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Who a client certificate names: `CN` is the user, each `O` a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Serves with `identity`; asks for a client certificate of `client_ca` without insisting on one (a caller
/// may show a token instead; who shows neither is refused by the authenticator, not by TLS).
pub fn server_config(identity: &Identity, client_ca_pem: &str) -> Result<ServerConfig, TlsError> {
    let (chain, key) = chain_and_key(identity)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(client_ca_pem)?),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(|source| TlsError::Unusable {
        what: "client CA",
        source: source.into(),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
        })
        .map_err(|source| TlsError::Unusable {
            what: "serving certificate",
            source: source.into(),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts `ca_pem` alone, and shows `identity` if there is one.
pub fn client_config(ca_pem: &str, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable {
            what: "provider",
            source: source.into(),
        })?
        .with_root_certificates(roots(ca_pem)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let (chain, key) = chain_and_key(identity)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| TlsError::Unusable {
                    what: "client certificate",
                    source: source.into(),
                })
        }
    }
}

/// What requests want to know of the certificate of their connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// `None` when it has no common name.
    pub identity: Option<PeerIdentity>,
    /// SHA-256 of the whole certificate, in lower-case hexadecimal digits.
    pub fingerprint: String,
}

impl PeerCertificate {
    pub fn of(certificate: &CertificateDer<'_>) -> PeerCertificate {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        PeerCertificate {
            identity: peer_identity(certificate),
            fingerprint: digest
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }
}

/// The identity in a verified certificate; `None` when it is no certificate or has no common name.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let identity = identity_of(&certificate);
    (!identity.common_name.is_empty()).then_some(identity)
}

/// Whom a certificate signing request (PEM) names; `None` when it is no request.
pub fn csr_identity(csr_pem: &str) -> Option<PeerIdentity> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).ok()?;
    let (_, request) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
            .ok()?;
    Some(identity_in(&request.certification_request_info.subject))
}

pub(crate) fn identity_of(certificate: &X509Certificate<'_>) -> PeerIdentity {
    identity_in(certificate.subject())
}

fn identity_in(subject: &x509_parser::x509::X509Name<'_>) -> PeerIdentity {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).ok()
    };
    PeerIdentity {
        common_name: subject
            .iter_common_name()
            .find_map(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(text).collect(),
    }
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|source| TlsError::Pem { what: "CA", source })?;
        roots
            .add(certificate)
            .map_err(|source| TlsError::Unusable {
                what: "CA",
                source: source.into(),
            })?;
    }
    Ok(roots)
}

fn chain_and_key(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            what: "certificate",
            source,
        })?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|source| {
        TlsError::Pem {
            what: "key",
            source,
        }
    })?;
    Ok((chain, key))
}
