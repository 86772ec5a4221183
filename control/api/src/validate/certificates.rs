//! CertificateSigningRequests.

use super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value, codec};
use std::collections::BTreeSet;
use x509_parser::{certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const MIN_SECONDS: i64 = 600;

pub fn csr(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    spec(&root.get("spec"), &mut errors);
    conditions(&root.get("status").get("conditions"), &mut errors);
    errors.into_vec()
}

fn spec(spec: &Node<'_>, errors: &mut Errors) {
    let request = spec.get("request");
    if let Err(why) = check_request(request.text()) {
        errors.push(request.invalid(why));
    }
    let usages = spec.get("usages");
    errors.require(&usages);
    for usage in usages.each() {
        if !USAGES.contains(&usage.text()) {
            errors.push(usage.not_supported(USAGES));
        }
    }
    let mut seen = BTreeSet::new();
    for usage in usages.each() {
        if !seen.insert(usage.text()) {
            errors.push(usage.duplicate());
        }
    }
    let signer = spec.get("signerName");
    if signer.text() == "kubernetes.io/legacy-unknown" {
        errors.push(signer.invalid("the legacy signerName is not allowed via this API version"));
    } else {
        signer_name(&signer, errors);
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|n| n < MIN_SECONDS) {
        errors
            .push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
}

/// One PEM block with a request whose signature holds.
fn check_request(base64: &str) -> Result<(), String> {
    const NO_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = codec::decode_base64(base64)?;
    let pem = Pem::iter_from_buffer(&bytes)
        .next()
        .and_then(Result::ok)
        .ok_or(NO_REQUEST)?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(NO_REQUEST.to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|_| "asn1: structure error: tags don't match".to_owned())?;
    request
        .verify_signature()
        .map_err(|_| "x509: signature verification failed".to_owned())
}

const MAX_SEGMENT: usize = 63;
const MAX_SIGNER_PATH: usize = 253 + 1 + 63;

/// `domain/path`: the domain has at least two labels.
fn signer_name(signer: &Node<'_>, errors: &mut Errors) {
    if !errors.require(signer) {
        return;
    }
    let name = signer.text();
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return errors.push(signer.invalid(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
    };
    for message in names::dns_subdomain(domain) {
        errors.push(signer.invalid(format!("validating label {domain:?}: {message}")));
    }
    if !domain.contains('.') {
        errors.push(
            signer.invalid("should be a domain with at least two segments separated by dots"),
        );
    }
    for segment in path.split('.') {
        for message in names::dns_label(segment) {
            errors.push(signer.invalid(format!("validating label {segment:?}: {message}")));
        }
        if segment.len() > MAX_SEGMENT {
            break;
        }
    }
    if path.len() > MAX_SIGNER_PATH {
        errors.push(FieldError::too_long(&signer.path, MAX_SIGNER_PATH));
    }
}

fn conditions(list: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let (mut approved, mut denied) = (false, false);
    for condition in list.each() {
        let (ty, status) = (condition.get("type"), condition.get("status"));
        errors.require(&ty);
        let allowed: &[&str] = match ty.text() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        errors.one_of(&status, allowed);
        approved |= ty.text() == "Approved";
        denied |= ty.text() == "Denied";
        if approved && denied && matches!(ty.text(), "Approved" | "Denied") {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&list.path, ty.text(), detail));
        }
        if !seen.insert(ty.text()) {
            errors.push(ty.duplicate());
        }
    }
}

pub fn csr_update(new: &Value, old: &Value) -> Vec<FieldError> {
    // The spec never changes ([`crate::Resource::prepare_for_update`] sees to it), so only the rest is looked at.
    transition(new, old, Writes::Nothing)
}

/// `approval` writes Approved and Denied, `status` the certificate and the other conditions.
pub fn csr_status(new: &Value, old: &Value, subresource: &str) -> Vec<FieldError> {
    transition(
        new,
        old,
        if subresource == "approval" {
            Writes::Approval
        } else {
            Writes::Certificate
        },
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Nothing,
    Approval,
    Certificate,
}

fn transition(new: &Value, old: &Value, writes: Writes) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (status, before) = (Node::root(new).get("status"), Node::root(old).get("status"));
    let list = status.get("conditions");
    conditions(&list, &mut errors);
    let of = |status: &Node<'_>, ty: &str| -> Vec<Value> {
        status
            .get("conditions")
            .each()
            .filter(|c| c.get("type").text() == ty)
            .map(|c| c.value.clone())
            .collect()
    };
    for ty in ["Approved", "Denied", "Failed"] {
        if of(&status, ty).len() < of(&before, ty).len() {
            errors
                .push(list.forbidden(format!("updates may not remove a condition of type {ty:?}")));
        }
    }
    if writes != Writes::Approval {
        for ty in ["Approved", "Denied"] {
            let (now, was) = (of(&status, ty), of(&before, ty));
            if now.len() > was.len() {
                errors.push(
                    list.forbidden(format!("updates may not add a condition of type {ty:?}")),
                );
            } else if now.len() == was.len() && now != was {
                errors.push(
                    list.forbidden(format!("updates may not modify a condition of type {ty:?}")),
                );
            }
        }
    }
    let (certificate, had) = (status.get("certificate"), before.get("certificate"));
    if certificate.value != had.value {
        if writes != Writes::Certificate {
            errors.push(certificate.forbidden("updates may not set certificate content"));
        } else if had.len() > 0 {
            errors
                .push(certificate.forbidden("updates may not modify existing certificate content"));
        } else if let Err(why) = check_certificate(certificate.text()) {
            errors.push(FieldError::invalid(
                &certificate.path,
                "<certificate data>",
                why,
            ));
        }
    }
    errors.into_vec()
}

fn check_certificate(base64: &str) -> Result<(), String> {
    let bytes = codec::decode_base64(base64)?;
    let mut blocks = 0;
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|_| "must contain at least one CERTIFICATE PEM block")?;
        if pem.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                pem.label
            ));
        }
        pem.parse_x509()
            .map_err(|_| "x509: malformed certificate")?;
        blocks += 1;
    }
    if blocks == 0 && !bytes.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}
