//! Authentication: who sent a request.
//!
//! A client certificate (the TLS layer has verified it; CN is the user, each O a group) or a ServiceAccount's
//! bearer token. There is no anonymous user: what shows neither gets 401.

pub mod tokens;

use std::sync::Arc;

use http::{HeaderMap, header};
use kernelet_pki::{PeerCertificates, peer_identity};

use crate::{cache::ResourceCache, user::UserInfo};
use tokens::{Claims, TokenError, Tokens};

/// The caches that a token's bound objects are looked up in.
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

/// Why a request has no identity. Clients only see 401; the text is for the log and for TokenReview.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("no credentials")]
    Anonymous,
    #[error("the client certificate names nobody")]
    Certificate,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{what} {name:?} of the token is gone")]
    Unbound { what: &'static str, name: String },
}

impl Authenticator {
    pub fn new(tokens: Tokens, objects: BoundObjects) -> Authenticator {
        Authenticator { tokens, objects }
    }

    /// The identity of a request that came over the network.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerCertificates>,
    ) -> Result<UserInfo, AuthnError> {
        if let Some(certificate) = peer.and_then(|peer| peer.0.first()) {
            let identity = peer_identity(certificate).ok_or(AuthnError::Certificate)?;
            return Ok(UserInfo::new(identity.common_name, identity.organizations));
        }
        let token = bearer(headers).ok_or(AuthnError::Anonymous)?;
        self.review(token, &[]).map(|(user, _)| user)
    }

    /// Verifies a token for any of these audiences (none: the server's own); answers the audiences that matched.
    pub fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), AuthnError> {
        let claims = self.tokens.verify(token)?;
        let accepted = self.tokens.accepted_audiences(&claims, audiences);
        if accepted.is_empty() {
            return Err(TokenError::Audience.into());
        }
        self.check_bound(&claims)?;
        Ok((claims.user(), accepted))
    }

    /// The objects that a token is bound to must still be there, the same ones and not long deleted.
    fn check_bound(&self, claims: &Claims) -> Result<(), AuthnError> {
        let bound = &claims.kubernetes;
        let namespace = &bound.namespace;
        let live = |cache: &ResourceCache, what: &'static str, key: String, uid: &str| {
            cache
                .get(&key)
                .filter(|object| &*object.index.uid == uid && !object.index.deleting)
                .map(|_| ())
                .ok_or(AuthnError::Unbound { what, name: key })
        };
        let account = &bound.service_account;
        let objects = &self.objects;
        live(
            &objects.service_accounts,
            "ServiceAccount",
            format!("{namespace}/{}", account.name),
            &account.uid,
        )?;
        if let Some(pod) = &bound.pod {
            // A pod that is being deleted keeps its identity until it is gone: its last requests are its clean-up.
            let key = format!("{namespace}/{}", pod.name);
            if objects
                .pods
                .get(&key)
                .is_none_or(|found| *found.index.uid != *pod.uid)
            {
                return Err(AuthnError::Unbound {
                    what: "Pod",
                    name: key,
                });
            }
        } else if let Some(secret) = &bound.secret {
            live(
                &objects.secrets,
                "Secret",
                format!("{namespace}/{}", secret.name),
                &secret.uid,
            )?;
        } else if let Some(node) = &bound.node {
            live(&objects.nodes, "Node", node.name.clone(), &node.uid)?;
        }
        Ok(())
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
