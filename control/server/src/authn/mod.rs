//! Authentication: who sent a request.
//!
//! A client certificate (the TLS layer has verified it; CN is the user, each O a group), a ServiceAccount's bearer
//! token (bound, or the elder form kept in a Secret), or a bootstrap token. Who shows nothing gets 401 everywhere
//! but on [`PUBLIC`], where he is `system:anonymous`: upstream's `AuthenticationConfiguration` with
//! `anonymous.conditions` of that one path.

pub mod bootstrap_token;
mod bound;
pub mod impersonation;
pub mod legacy;
pub mod tokens;

use std::sync::Arc;

use http::{HeaderMap, header};
use kernelet_pki::Peer;

use crate::{
    cache::ResourceCache,
    user::{ANONYMOUS, SYSTEM_UNAUTHENTICATED, UserInfo},
};
use tokens::{TokenError, Tokens, Verified};

/// What a machine that is about to join has to read before it can know whom to trust.
const PUBLIC: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// The caches that a token's objects are looked up in.
pub struct BoundObjects {
    pub service_accounts: Arc<ResourceCache>,
    pub pods: Arc<ResourceCache>,
    pub secrets: Arc<ResourceCache>,
    pub nodes: Arc<ResourceCache>,
}

/// Establishes identities.
pub struct Authenticator {
    pub tokens: Tokens,
    objects: BoundObjects,
}

/// Who asks, and what the credentials said beside that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: UserInfo,
    /// Of the wanted audiences those that the token is for; empty for certificates.
    pub audiences: Vec<String>,
    /// `namespace/name` of the Secret that holds the token, where it is one of the elder form.
    pub legacy_secret: Option<String>,
}

impl From<UserInfo> for Identity {
    fn from(user: UserInfo) -> Identity {
        Identity {
            user,
            audiences: Vec::new(),
            legacy_secret: None,
        }
    }
}

/// Why a request has no identity. Clients only see 401; the text is for the log and for TokenReview, in upstream's
/// words.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("no credentials")]
    Anonymous,
    #[error("the client certificate names nobody")]
    Certificate,
    /// Nothing here issues tokens like this one, or what backed it is gone.
    #[error("invalid bearer token")]
    Unknown,
    #[error("[invalid bearer token, {0}]")]
    Token(TokenError),
    #[error("[invalid bearer token, {0}]")]
    Unbound(String),
}

impl From<TokenError> for AuthnError {
    fn from(error: TokenError) -> AuthnError {
        match error {
            TokenError::NotOurs => AuthnError::Unknown,
            error => AuthnError::Token(error),
        }
    }
}

impl Authenticator {
    pub fn new(tokens: Tokens, objects: BoundObjects) -> Authenticator {
        Authenticator { tokens, objects }
    }

    /// The identity of a request that came over the network.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        path: &str,
    ) -> Result<Identity, AuthnError> {
        if let Some(certificate) = peer.and_then(|peer| peer.0.as_ref()) {
            let identity = certificate.identity.clone();
            let identity = identity.ok_or(AuthnError::Certificate)?;
            let mut user = UserInfo::new(identity.common_name, identity.organizations);
            user.extra.insert(
                "authentication.kubernetes.io/credential-id".to_owned(),
                vec![format!("X509SHA256={}", certificate.fingerprint)],
            );
            return Ok(user.into());
        }
        match bearer(headers) {
            Some(token) => self.review(token, &[]),
            // Wrong credentials are no better than none, but never are they overlooked.
            None if path == PUBLIC && !headers.contains_key(header::AUTHORIZATION) => {
                let user = UserInfo {
                    name: ANONYMOUS.to_owned(),
                    groups: vec![SYSTEM_UNAUTHENTICATED.to_owned()],
                    ..UserInfo::default()
                };
                Ok(user.into())
            }
            None => Err(AuthnError::Anonymous),
        }
    }

    /// Verifies a token for any of these audiences (none: the server's own); answers the audiences that matched.
    pub fn review(&self, token: &str, audiences: &[String]) -> Result<Identity, AuthnError> {
        if let Some((id, secret)) = bootstrap_token::parse(token) {
            let user = bootstrap_token::authenticate(&self.objects.secrets, id, secret)
                .ok_or(AuthnError::Unknown)?;
            return Ok(Identity {
                audiences: self.tokens.own_audiences(audiences),
                ..user.into()
            });
        }
        match self.tokens.verify(token)? {
            Verified::Bound(claims) => {
                let audiences = self.tokens.accepted_audiences(&claims, audiences)?;
                bound::check(&self.objects, &claims)?;
                Ok(Identity {
                    user: claims.user(),
                    audiences,
                    legacy_secret: None,
                })
            }
            Verified::Legacy(claims) => {
                let user = legacy::check(&self.objects, &claims, token)?;
                let audiences = self.tokens.own_audiences(audiences);
                if audiences.is_empty() {
                    return Err(TokenError::ImplicitAudience.into());
                }
                Ok(Identity {
                    user,
                    audiences,
                    legacy_secret: Some(claims.secret_key()),
                })
            }
        }
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether two secrets are the same, in a time that tells nothing but their lengths.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0_u8, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}
