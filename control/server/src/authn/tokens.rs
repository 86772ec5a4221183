//! ServiceAccount tokens: signed (ES256) with the cluster's keys, bound to an object, for an audience, for a time.
//!
//! The claims are upstream's, so that what reads a projected token elsewhere finds what it expects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use kernelet_api::Value;
use kernelet_pki::ServiceAccountKeys;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::legacy::{self, LegacyClaims};
use crate::{authz::rules::quoted, user::UserInfo};

/// Signatures that were verified are remembered for so many tokens.
const REMEMBERED: usize = 4096;
/// How much clocks may differ, upstream's figure.
const LEEWAY_SECONDS: i64 = 60;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// What a token is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(rename = "serviceaccount")]
    pub service_account: Ref,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Ref>,
    /// With a pod: the node that it ran on, without a uid if the node's object isn't there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Ref>,
    /// The end that was asked for, of a token that was given a later one.
    #[serde(rename = "warnafter", skip_serializing_if = "Option::is_none", default)]
    pub warn_after: Option<i64>,
}

/// A token with a good signature.
#[derive(Clone, Debug)]
pub enum Verified {
    Bound(Arc<Claims>),
    Legacy(Arc<LegacyClaims>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uid: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token is of another issuer")]
    NotOurs,
    #[error("the token can't be verified")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {has} is invalid for the target audiences {wanted}")]
    Audience { has: String, wanted: String },
    #[error("the token is for the API server alone")]
    ImplicitAudience,
    #[error("the ServiceAccount keys are not usable")]
    Keys(#[source] jsonwebtoken::errors::Error),
    #[error("signing the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Issues and verifies.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    header: Header,
    validation: Validation,
    issuer: String,
    public_der: Vec<u8>,
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

impl Tokens {
    pub fn new(keys: &ServiceAccountKeys, issuer: &str) -> Result<Tokens, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        let public_der = der(&keys.public_pem);
        header.kid = Some(URL_SAFE_NO_PAD.encode(Sha256::digest(&public_der)));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer, legacy::ISSUER]);
        // Time and audience are judged on every use, also of a remembered token; here only the signature is.
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["iss", "sub"]);
        Ok(Tokens {
            encoding: EncodingKey::from_ec_pem(keys.private_pem.as_bytes())
                .map_err(TokenError::Keys)?,
            decoding: DecodingKey::from_ec_pem(keys.public_pem.as_bytes())
                .map_err(TokenError::Keys)?,
            header,
            validation,
            issuer: issuer.to_owned(),
            public_der,
            verified: Mutex::default(),
        })
    }

    /// The public key as a JSON Web Key Set, for whoever verifies tokens elsewhere.
    pub fn jwks(&self) -> Value {
        // A P-256 SubjectPublicKeyInfo ends with the point's two coordinates.
        let point = &self.public_der[self.public_der.len().saturating_sub(64)..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.header.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token; without audiences it is for this server.
    pub fn issue(
        &self,
        bound: Bound,
        audiences: Vec<String>,
        life: Duration,
        now: Timestamp,
    ) -> Result<(String, Claims), TokenError> {
        let audiences = if audiences.is_empty() {
            vec![self.issuer.clone()]
        } else {
            audiences
        };
        let now = now.as_second();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                bound.namespace, bound.service_account.name
            ),
            aud: audiences,
            exp: now.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
            iat: now,
            nbf: now,
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: bound,
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .map_err(TokenError::Sign)?;
        Ok((token, claims))
    }

    /// Signature, issuer and time. Audience and bound objects are the caller's.
    pub fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.lock().get(&digest).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => {
                let verified = self.decode(token)?;
                let mut all = self.lock();
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(digest, verified.clone());
                verified
            }
        };
        if let Verified::Bound(claims) = &verified {
            let now = Timestamp::now().as_second();
            if claims.exp < now - LEEWAY_SECONDS {
                return Err(TokenError::Expired);
            }
            if claims.nbf > now + LEEWAY_SECONDS {
                return Err(TokenError::NotYet);
            }
        }
        Ok(verified)
    }

    fn decode(&self, token: &str) -> Result<Verified, TokenError> {
        match issuer_of(token) {
            Some(issuer) if issuer == self.issuer => {
                jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
                    .map(|data| Verified::Bound(Arc::new(data.claims)))
            }
            Some(issuer) if issuer == legacy::ISSUER => {
                jsonwebtoken::decode::<LegacyClaims>(token, &self.decoding, &self.validation)
                    .map(|data| Verified::Legacy(Arc::new(data.claims)))
            }
            _ => return Err(TokenError::NotOurs),
        }
        .map_err(TokenError::Invalid)
    }

    /// Which of the wanted audiences (none: this server's) a token is for; at least one.
    pub fn accepted_audiences(
        &self,
        claims: &Claims,
        wanted: &[String],
    ) -> Result<Vec<String>, TokenError> {
        let own = [self.issuer.clone()];
        let wanted = if wanted.is_empty() { &own[..] } else { wanted };
        let accepted: Vec<String> = wanted
            .iter()
            .filter(|audience| claims.aud.contains(audience))
            .cloned()
            .collect();
        if accepted.is_empty() {
            return Err(TokenError::Audience {
                has: quoted(&claims.aud),
                wanted: quoted(wanted),
            });
        }
        Ok(accepted)
    }

    /// Which of the wanted audiences (none: all) are this server's: what credentials that name none are for.
    pub fn own_audiences(&self, wanted: &[String]) -> Vec<String> {
        if wanted.is_empty() || wanted.contains(&self.issuer) {
            vec![self.issuer.clone()]
        } else {
            Vec::new()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    /// The identity that the token proves.
    pub fn user(&self) -> UserInfo {
        let account = &self.kubernetes.service_account;
        let mut user =
            UserInfo::service_account(&self.kubernetes.namespace, &account.name, &account.uid);
        let mut extra = BTreeMap::new();
        let mut note = |key: &str, value: &str| {
            extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                vec![value.to_owned()],
            );
        };
        note("credential-id", &format!("JTI={}", self.jti));
        if let Some(pod) = &self.kubernetes.pod {
            note("pod-name", &pod.name);
            note("pod-uid", &pod.uid);
        }
        if let Some(node) = &self.kubernetes.node {
            note("node-name", &node.name);
            note("node-uid", &node.uid);
        }
        user.extra = extra;
        user
    }
}

/// What a token says of its issuer, unverified: it only decides what to verify it as.
fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let issuer: Issuer = serde_json::from_slice(&payload).ok()?;
    Some(issuer.iss)
}

/// The bytes within PEM.
fn der(pem: &str) -> Vec<u8> {
    let base64: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    STANDARD.decode(base64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ServiceAccountKeys {
        let dir = tempfile::tempdir().unwrap();
        ServiceAccountKeys::load_or_create(dir.path()).unwrap()
    }

    fn bound() -> Bound {
        Bound {
            namespace: "ns".into(),
            service_account: Ref {
                name: "sa".into(),
                uid: "u".into(),
            },
            pod: None,
            secret: None,
            node: None,
            warn_after: None,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn issue(tokens: &Tokens, since: Timestamp) -> String {
        tokens.issue(bound(), vec![], HOUR, since).unwrap().0
    }

    #[test]
    fn a_token_says_who_and_for_whom() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let token = issue(&tokens, Timestamp::now());
        let Verified::Bound(claims) = tokens.verify(&token).unwrap() else {
            panic!("not a bound token");
        };
        assert_eq!(claims.user().name, "system:serviceaccount:ns:sa");
        assert!(claims.user().in_group("system:serviceaccounts:ns"));
        let accepted = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&w| w.to_owned()).collect();
            let found = tokens.accepted_audiences(&claims, &wanted);
            found.map_err(|error| error.to_string())
        };
        assert_eq!(accepted(&[]).unwrap(), ["https://issuer"]);
        assert_eq!(
            accepted(&["vault", "https://issuer"]).unwrap(),
            ["https://issuer"]
        );
        assert_eq!(
            accepted(&["vault"]).unwrap_err(),
            r#"token audiences ["https://issuer"] is invalid for the target audiences ["vault"]"#
        );
    }

    #[test]
    fn foreign_changed_and_late_tokens_are_refused() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let other = Tokens::new(&keys(), "https://issuer").unwrap();
        let foreign = issue(&other, Timestamp::now());
        assert!(matches!(
            tokens.verify(&foreign),
            Err(TokenError::Invalid(_))
        ));
        let token = issue(&tokens, Timestamp::now());
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap();
        parts[1] = URL_SAFE_NO_PAD.encode(claims.replace("\"sa\"", "\"sb\""));
        assert!(matches!(
            tokens.verify(&parts.join(".")),
            Err(TokenError::Invalid(_))
        ));
        let past = Timestamp::from_second(Timestamp::now().as_second() - 7200).unwrap();
        let late = tokens.verify(&issue(&tokens, past));
        assert!(matches!(late, Err(TokenError::Expired)));
        let coming = Timestamp::from_second(Timestamp::now().as_second() + 600).unwrap();
        let early = tokens.verify(&issue(&tokens, coming));
        assert!(matches!(early, Err(TokenError::NotYet)));
        assert!(matches!(tokens.verify("a.b.c"), Err(TokenError::NotOurs)));
    }

    #[test]
    fn the_published_key_verifies_tokens() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let token = issue(&tokens, Timestamp::now());
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(tokens.jwks()).unwrap();
        let key = DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
        let head = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(head.kid, jwks.keys[0].common.key_id);
        assert!(jsonwebtoken::decode::<Claims>(&token, &key, &tokens.validation).is_ok());
    }

    #[test]
    fn another_issuers_token_is_refused() {
        let keys = keys();
        let tokens = Tokens::new(&keys, "https://issuer").unwrap();
        let other = Tokens::new(&keys, "https://else").unwrap();
        let token = issue(&other, Timestamp::now());
        assert!(matches!(tokens.verify(&token), Err(TokenError::NotOurs)));
    }
}
