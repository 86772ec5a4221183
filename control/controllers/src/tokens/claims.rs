//! What such a token says, signed.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, errors::Error};
use k8s_openapi::api::core::v1::ServiceAccount;
use kernelet_pki::ServiceAccountKeys;
use kube::ResourceExt;
use ring::digest;
use serde_json::{Value, json};

const ISSUER: &str = "kubernetes/serviceaccount";

pub(super) struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    pub(super) fn new(keys: &ServiceAccountKeys) -> Result<Signer, Error> {
        let der: String = keys
            .public_pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let der = STANDARD.decode(der).unwrap_or_default();
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        // The name under which the server publishes the key.
        header.kid = Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der)));
        Ok(Signer {
            key: EncodingKey::from_ec_pem(keys.private_pem.as_bytes())?,
            header,
        })
    }

    /// The token of an account that is kept in the Secret of that name. It has no end.
    pub(super) fn token(&self, account: &ServiceAccount, secret: &str) -> Result<String, Error> {
        jsonwebtoken::encode(&self.header, &claims(account, secret), &self.key)
    }
}

fn claims(account: &ServiceAccount, secret: &str) -> Value {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid().unwrap_or_default(),
    })
}
