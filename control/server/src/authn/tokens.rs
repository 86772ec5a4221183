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

use crate::user::UserInfo;

/// Signatures that were verified are remembered for so many tokens.
const REMEMBERED: usize = 4096;

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
    /// With a pod: the node that it ran on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Ref>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    pub uid: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token can't be verified")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    #[error("the token has expired or isn't valid yet")]
    Time,
    #[error("the token is for another audience")]
    Audience,
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
    public_pem: String,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    pub fn new(keys: &ServiceAccountKeys, issuer: &str) -> Result<Tokens, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(hex(&Sha256::digest(keys.public_pem.as_bytes())[..16]));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer]);
        // Time and audience are judged on every use, also of a remembered token; here only the signature is.
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
        Ok(Tokens {
            encoding: EncodingKey::from_ec_pem(keys.private_pem.as_bytes())
                .map_err(TokenError::Keys)?,
            decoding: DecodingKey::from_ec_pem(keys.public_pem.as_bytes())
                .map_err(TokenError::Keys)?,
            header,
            validation,
            issuer: issuer.to_owned(),
            public_pem: keys.public_pem.clone(),
            verified: Mutex::default(),
        })
    }

    /// The public key as a JSON Web Key Set, for whoever verifies tokens elsewhere.
    pub fn jwks(&self) -> Value {
        let base64: String = self
            .public_pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        // A P-256 SubjectPublicKeyInfo ends with the point's two coordinates.
        let der = STANDARD.decode(base64).unwrap_or_default();
        let point = &der[der.len().saturating_sub(64)..];
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
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.lock().get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let data = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
                    .map_err(TokenError::Invalid)?;
                let claims = Arc::new(data.claims);
                let mut verified = self.lock();
                if verified.len() >= REMEMBERED {
                    verified.clear();
                }
                verified.insert(digest, claims.clone());
                claims
            }
        };
        let now = Timestamp::now().as_second();
        if claims.exp <= now || claims.nbf > now + 60 {
            return Err(TokenError::Time);
        }
        Ok(claims)
    }

    /// Which of the wanted audiences (none: this server's) a token is for.
    pub fn accepted_audiences(&self, claims: &Claims, wanted: &[String]) -> Vec<String> {
        let own = [self.issuer.clone()];
        let wanted = if wanted.is_empty() { &own[..] } else { wanted };
        wanted
            .iter()
            .filter(|audience| claims.aud.contains(audience))
            .cloned()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Claims>>> {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_says_who_and_for_whom() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let (token, _) = tokens
            .issue(bound(), vec![], HOUR, Timestamp::now())
            .unwrap();
        let claims = tokens.verify(&token).unwrap();
        assert_eq!(claims.user().name, "system:serviceaccount:ns:sa");
        assert!(claims.user().in_group("system:serviceaccounts:ns"));
        assert_eq!(tokens.accepted_audiences(&claims, &[]), ["https://issuer"]);
        assert!(
            tokens
                .accepted_audiences(&claims, &["vault".to_owned()])
                .is_empty()
        );
    }

    #[test]
    fn foreign_changed_and_late_tokens_are_refused() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let other = Tokens::new(&keys(), "https://issuer").unwrap();
        let (foreign, _) = other
            .issue(bound(), vec![], HOUR, Timestamp::now())
            .unwrap();
        assert!(matches!(
            tokens.verify(&foreign),
            Err(TokenError::Invalid(_))
        ));
        let (token, _) = tokens
            .issue(bound(), vec![], HOUR, Timestamp::now())
            .unwrap();
        let (head, signature) = token.rsplit_once('.').unwrap();
        let changed = format!("{head}A.{signature}");
        assert!(matches!(
            tokens.verify(&changed),
            Err(TokenError::Invalid(_))
        ));
        let past = Timestamp::from_second(Timestamp::now().as_second() - 7200).unwrap();
        let (late, _) = tokens.issue(bound(), vec![], HOUR, past).unwrap();
        assert!(matches!(tokens.verify(&late), Err(TokenError::Time)));
    }

    #[test]
    fn the_published_key_verifies_tokens() {
        let tokens = Tokens::new(&keys(), "https://issuer").unwrap();
        let (token, _) = tokens
            .issue(bound(), vec![], HOUR, Timestamp::now())
            .unwrap();
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(tokens.jwks()).unwrap();
        let key = DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
        assert!(jsonwebtoken::decode::<Claims>(&token, &key, &tokens.validation).is_ok());
    }

    #[test]
    fn another_issuers_token_is_refused() {
        let keys = keys();
        let tokens = Tokens::new(&keys, "https://issuer").unwrap();
        let other = Tokens::new(&keys, "https://else").unwrap();
        let (token, _) = other
            .issue(bound(), vec![], HOUR, Timestamp::now())
            .unwrap();
        assert!(matches!(tokens.verify(&token), Err(TokenError::Invalid(_))));
    }
}
