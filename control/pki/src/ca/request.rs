//! Signing requests, as upstream's signing controllers do (`PermissiveSigningPolicy`): the usages that were asked for, at
//! most the authority's usual life, every name, and of the subject what upstream keeps, in the order in which Go writes it.

use std::time;

use ::time::{Duration, OffsetDateTime};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose as Extended, IsCa, KeyUsagePurpose,
    SigningKey,
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    pem::parse_x509_pem,
    prelude::{FromDer, X509Certificate},
};

use super::{Ca, PkiError, serial};

/// How far certificates reach back, for clocks that differ a little.
const BACKDATE: Duration = Duration::minutes(5);
/// A certificate with a shorter life ends when it was asked to, not five minutes earlier.
const SHORT: Duration = Duration::hours(8);
/// What a shorter life is made to.
const SHORTEST: time::Duration = time::Duration::from_secs(600);

/// Why a certificate signing request cannot be signed; the text is for the request's condition.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    #[error("the request cannot be parsed")]
    Parse(#[source] rcgen::Error),
    #[error("the request cannot be parsed")]
    Malformed,
    #[error("unrecognized usage values: {0:?}")]
    Usages(Vec<String>),
    #[error("the signer has expired: NotAfter={0}")]
    Expired(OffsetDateTime),
    #[error(transparent)]
    Sign(#[from] PkiError),
}

impl Ca {
    /// Signs a request (PEM) with its own subject and names, for `usages` (the API's words: `client auth`) and for
    /// `life`, if that is less than the authority's usual one. Answers PEM.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        usages: &[String],
        life: Option<time::Duration>,
    ) -> Result<String, CsrError> {
        let issue = |source| PkiError::Issue {
            subject: "certificate request".into(),
            source,
        };
        let mut request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(CsrError::Parse)?;
        let subject = subject(csr_pem).ok_or(CsrError::Malformed)?;
        let params = &mut request.params;
        (params.key_usages, params.extended_key_usages) = purposes(usages)?;
        let life = life.map_or(self.lifetimes.leaf, |life| {
            life.max(SHORTEST).min(self.lifetimes.leaf)
        });
        (params.not_before, params.not_after) = validity(
            OffsetDateTime::now_utc(),
            life,
            self.ends().ok_or(CsrError::Malformed)?,
        )?;
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let issuer = self.issuer().map_err(issue)?;
        let signed = request.signed_by(&issuer).map_err(issue)?;
        // rcgen keeps one value of each kind of attribute: of several organizations all but one would be lost. So the
        // subject is put in afterwards, and what has it is signed again.
        let tbs = with_subject(signed.der(), &subject).ok_or(CsrError::Malformed)?;
        let signature = issuer.key().sign(&tbs).map_err(issue)?;
        let whole = replaced(signed.der(), &tbs, &signature).ok_or(CsrError::Malformed)?;
        Ok(pem(&whole))
    }

    fn ends(&self) -> Option<OffsetDateTime> {
        let (_, pem) = parse_x509_pem(self.cert_pem.as_bytes()).ok()?;
        let (_, cert) = X509Certificate::from_der(&pem.contents).ok()?;
        Some(cert.validity().not_after.to_datetime())
    }
}

/// From when until when; never longer than the authority itself.
fn validity(
    now: OffsetDateTime,
    life: time::Duration,
    authority_ends: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), CsrError> {
    if now >= authority_ends {
        return Err(CsrError::Expired(authority_ends));
    }
    let life = Duration::seconds(i64::try_from(life.as_secs()).unwrap_or(i64::MAX));
    let end = match life < SHORT {
        true => now.checked_add(life),
        false => now.checked_add(life - BACKDATE),
    };
    Ok((
        now - BACKDATE,
        end.unwrap_or(authority_ends).min(authority_ends),
    ))
}

/// The API's usages as X.509's; what is asked for twice counts once.
fn purposes(usages: &[String]) -> Result<(Vec<KeyUsagePurpose>, Vec<Extended>), CsrError> {
    use KeyUsagePurpose as Plain;
    let (mut plain, mut extended, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for usage in usages {
        match usage.as_str() {
            "signing" | "digital signature" => plain.push(Plain::DigitalSignature),
            "content commitment" => plain.push(Plain::ContentCommitment),
            "key encipherment" => plain.push(Plain::KeyEncipherment),
            "key agreement" => plain.push(Plain::KeyAgreement),
            "data encipherment" => plain.push(Plain::DataEncipherment),
            "cert sign" => plain.push(Plain::KeyCertSign),
            "crl sign" => plain.push(Plain::CrlSign),
            "encipher only" => plain.push(Plain::EncipherOnly),
            "decipher only" => plain.push(Plain::DecipherOnly),
            // With their places in Go's order.
            "any" => extended.push((0, Extended::Any)),
            "server auth" => extended.push((1, Extended::ServerAuth)),
            "client auth" => extended.push((2, Extended::ClientAuth)),
            "code signing" => extended.push((3, Extended::CodeSigning)),
            "email protection" | "s/mime" => extended.push((4, Extended::EmailProtection)),
            "ipsec end system" => extended.push((5, other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]))),
            "ipsec tunnel" => extended.push((6, other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]))),
            "ipsec user" => extended.push((7, other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]))),
            "timestamping" => extended.push((8, Extended::TimeStamping)),
            "ocsp signing" => extended.push((9, Extended::OcspSigning)),
            "microsoft sgc" => extended.push((10, other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]))),
            "netscape sgc" => extended.push((11, other(&[2, 16, 840, 1, 113_730, 4, 1]))),
            _ => unknown.push(usage.clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(CsrError::Usages(unknown));
    }
    extended.sort_by_key(|(place, _)| *place);
    extended.dedup_by_key(|(place, _)| *place);
    let mut kept: Vec<KeyUsagePurpose> = Vec::new();
    for usage in plain {
        if !kept.contains(&usage) {
            kept.push(usage);
        }
    }
    Ok((kept, extended.into_iter().map(|(_, usage)| usage).collect()))
}

fn other(oid: &[u64]) -> Extended {
    Extended::Other(oid.to_vec())
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;

/// The attributes below 2.5.4 that Go's `pkix.Name` keeps, in its order: country, organization, unit, locality,
/// province, street and postal code with all their values in one set, then the last common name and serial number.
const SEVERAL: [u8; 7] = [6, 10, 11, 7, 8, 9, 17];
const ONE: [u8; 2] = [3, 5];

/// A request's subject, in DER, as Go would write it.
fn subject(csr_pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = parse_x509_pem(csr_pem.as_bytes()).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let values = |number: u8| -> Vec<Vec<u8>> {
        subject
            .iter_attributes()
            .filter(|attribute| attribute.attr_type().as_bytes() == [85, 4, number])
            .filter_map(|attribute| attribute.as_str().ok())
            .filter(|text| !text.is_empty())
            .map(|text| {
                let value = der(string_type(text), text.as_bytes());
                der(
                    SEQUENCE,
                    &[der(OBJECT_ID, &[85, 4, number]), value].concat(),
                )
            })
            .collect()
    };
    let several = SEVERAL.into_iter().map(|number| {
        let mut values = values(number);
        values.sort();
        values
    });
    let one = ONE
        .into_iter()
        .map(|number| values(number).pop().into_iter().collect());
    let sets = several.chain(one).filter(|values| !values.is_empty());
    let sets: Vec<Vec<u8>> = sets.map(|values| der(SET, &values.concat())).collect();
    Some(der(SEQUENCE, &sets.concat()))
}

fn string_type(text: &str) -> u8 {
    let printable = |byte: u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte);
    match text.bytes().all(printable) {
        true => PRINTABLE,
        false => UTF8,
    }
}

/// A value in DER with its head.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match content.len() {
        0..0x80 => out.push(content.len() as u8),
        _ => {
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// The content of the first value of `bytes`, and what stands behind that value.
fn open(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().try_fold(0_usize, |sum, byte| {
                Some(sum.checked_mul(256)? + usize::from(*byte))
            })?;
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

/// What is signed of a certificate, with another subject.
fn with_subject(certificate: &[u8], subject: &[u8]) -> Option<Vec<u8>> {
    let (content, _) = open(open(certificate)?.0)?;
    // version, serialNumber, signature, issuer and validity stand before it (RFC 5280, 4.1).
    let mut rest = content;
    for _ in 0..5 {
        rest = open(rest)?.1;
    }
    let before = &content[..content.len() - rest.len()];
    let after = open(rest)?.1;
    Some(der(SEQUENCE, &[before, subject, after].concat()))
}

/// The certificate with another signed part and its signature.
fn replaced(certificate: &[u8], tbs: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = open(open(certificate)?.0)?;
    let algorithm = &rest[..rest.len() - open(rest)?.1.len()];
    let signature = der(BIT_STRING, &[&[0], signature].concat());
    Some(der(SEQUENCE, &[tbs, algorithm, &signature].concat()))
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lifetimes;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use x509_parser::pem::Pem;

    fn words(usages: &[&str]) -> Vec<String> {
        usages.iter().map(|&usage| usage.to_owned()).collect()
    }

    /// A request with this subject, which rcgen itself could not write.
    fn request(subject: &[u8], names: &[&str]) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "x");
        params.subject_alt_names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().expect("ASCII")))
            .collect();
        let made = params.serialize_request(&key).expect("a request");
        // CertificationRequestInfo: version, subject, the rest.
        let (info, behind) = open(open(made.der()).expect("DER").0).expect("DER");
        let rest = open(info).expect("a version").1;
        let version = &info[..info.len() - rest.len()];
        let after = open(rest).expect("a subject").1;
        let info = der(SEQUENCE, &[version, subject, after].concat());
        let algorithm = &behind[..behind.len() - open(behind).expect("DER").1.len()];
        let signature = key.sign(&info).expect("a signature");
        let signature = der(BIT_STRING, &[&[0], &signature[..]].concat());
        let whole = der(SEQUENCE, &[&info[..], algorithm, &signature].concat());
        pem(&whole).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    }

    fn attribute(number: u8, tag: u8, text: &str) -> Vec<u8> {
        let value = [der(OBJECT_ID, &[85, 4, number]), der(tag, text.as_bytes())].concat();
        der(SET, &der(SEQUENCE, &value))
    }

    fn parsed<R>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> R) -> R {
        let pem = Pem::iter_from_buffer(pem.as_bytes())
            .next()
            .expect("a block");
        let pem = pem.expect("PEM");
        look(&pem.parse_x509().expect("a certificate"))
    }

    #[test]
    fn every_organization_of_a_request_is_in_its_certificate_and_the_signature_holds() {
        let ca = Ca::create(Lifetimes::default()).expect("an authority");
        let subject = [
            attribute(3, UTF8, "ann"),
            attribute(10, UTF8, "ops"),
            attribute(10, PRINTABLE, "devs"),
            attribute(10, UTF8, "größe"),
            attribute(11, UTF8, "unit"),
        ];
        let csr = request(&der(SEQUENCE, &subject.concat()), &["a.example"]);
        let signed = ca
            .sign_csr(&csr, &words(&["client auth"]), None)
            .expect("signed");
        let authority = x509_parser::pem::parse_x509_pem(ca.cert_pem().as_bytes())
            .expect("PEM")
            .1;
        let authority = authority.parse_x509().expect("a certificate");
        parsed(&signed, |cert| {
            cert.verify_signature(Some(authority.public_key()))
                .expect("the authority's");
            assert_eq!(
                cert.subject().to_string(),
                "O=ops + O=devs + O=größe, OU=unit, CN=ann"
            );
            assert_eq!(
                crate::tls::identity_of(cert).organizations,
                ["ops", "devs", "größe"]
            );
            let names = cert
                .subject_alternative_name()
                .expect("well-formed")
                .expect("names");
            assert_eq!(names.value.general_names.len(), 1);
        });
    }

    #[test]
    fn usages_are_those_that_were_asked_for() {
        let ca = Ca::create(Lifetimes::default()).expect("an authority");
        let csr = request(&der(SEQUENCE, &attribute(3, UTF8, "x")), &[]);
        let usages = words(&[
            "server auth",
            "digital signature",
            "signing",
            "ipsec user",
            "client auth",
        ]);
        let signed = ca.sign_csr(&csr, &usages, None).expect("signed");
        parsed(&signed, |cert| {
            let plain = cert
                .key_usage()
                .expect("well-formed")
                .expect("usages")
                .value;
            assert!(plain.digital_signature() && !plain.key_encipherment());
            let extended = cert
                .extended_key_usage()
                .expect("well-formed")
                .expect("usages")
                .value;
            assert!(extended.server_auth && extended.client_auth && !extended.any);
            assert_eq!(extended.other.len(), 1);
        });
        assert!(matches!(
            ca.sign_csr(&csr, &words(&["cooking"]), None),
            Err(CsrError::Usages(unknown)) if unknown == ["cooking"]
        ));
    }

    #[test]
    fn a_certificate_never_outlives_its_authority_and_short_ones_last_as_long_as_asked() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let check = |life: u64, authority: Duration, expect: Duration| {
            let (start, end) =
                validity(now, time::Duration::from_secs(life), now + authority).expect("not over");
            assert_eq!((now - start, end - now), (BACKDATE, expect), "{life}");
        };
        let year = Duration::days(365);
        check(600, year, Duration::minutes(10));
        check(8 * 3600, year, Duration::hours(8) - BACKDATE);
        check(365 * 86_400, year * 10, year - BACKDATE);
        check(365 * 86_400, Duration::days(2), Duration::days(2));
        assert!(matches!(
            validity(now, SHORTEST, now),
            Err(CsrError::Expired(_))
        ));
    }
}
