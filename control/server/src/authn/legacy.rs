//! ServiceAccount tokens of the elder form: without an end, kept in Secrets of the type
//! `kubernetes.io/service-account-token`, and good for as long as that Secret holds them.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::{Value, meta};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AuthnError, BoundObjects, same_secret};
use crate::{
    handler::{Pipeline, WriteRequest, params::DryRun},
    state::State,
    user::{SERVICE_ACCOUNT_PREFIX, UserInfo},
};

/// `iss` of these tokens.
pub const ISSUER: &str = "kubernetes/serviceaccount";

/// The day of the token's last use, on its Secret.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Set by upstream's cleaner on Secrets that nobody has used for long.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LegacyClaims {
    pub iss: String,
    pub sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    pub account_uid: String,
}

impl LegacyClaims {
    /// `namespace/name` of the Secret.
    pub fn secret_key(&self) -> String {
        format!("{}/{}", self.namespace, self.secret)
    }
}

/// Whose token it is, if its Secret still holds it and its account is still the same.
pub fn check(
    objects: &BoundObjects,
    claims: &LegacyClaims,
    token: &str,
) -> Result<UserInfo, AuthnError> {
    let refuse = |why: String| Err(AuthnError::Unbound(why));
    for (claim, value) in [
        ("namespace", &claims.namespace),
        ("secretName", &claims.secret),
        ("serviceAccountName", &claims.account),
        ("serviceAccountUID", &claims.account_uid),
    ] {
        if value.is_empty() {
            return refuse(format!("{claim} claim is missing"));
        }
    }
    let account = format!("{}/{}", claims.namespace, claims.account);
    if claims.sub.strip_prefix(SERVICE_ACCOUNT_PREFIX) != Some(account.replace('/', ":").as_str()) {
        return refuse("sub claim is invalid".to_owned());
    }
    let secret = objects.secrets.get(&claims.secret_key());
    let Some(secret) = secret.filter(|secret| !secret.index.deleting) else {
        return refuse("Token has been invalidated".to_owned());
    };
    let tree = secret.tree();
    let held = tree
        .pointer("/data/token")
        .and_then(Value::as_str)
        .and_then(|text| STANDARD.decode(text).ok())
        .unwrap_or_default();
    if !same_secret(&held, token.as_bytes()) {
        return refuse("Token does not match server's copy".to_owned());
    }
    let Some(found) = objects.service_accounts.get(&account) else {
        return refuse(format!("serviceaccounts {:?} not found", claims.account));
    };
    if found.index.deleting {
        return refuse(format!("ServiceAccount {account} has been deleted"));
    }
    if *found.index.uid != *claims.account_uid {
        return refuse(format!(
            "ServiceAccount UID ({}) does not match claim ({})",
            found.index.uid, claims.account_uid
        ));
    }
    if secret
        .index
        .label(INVALID_SINCE)
        .is_some_and(|since| !since.is_empty())
    {
        return refuse(format!(
            "the token in secret {} for service account {account} has been marked invalid. Use tokens from the \
             TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the \
             secret to temporarily allow use of this token",
            claims.secret_key()
        ));
    }
    Ok(UserInfo::service_account(
        &claims.namespace,
        &claims.account,
        &claims.account_uid,
    ))
}

/// Notes on the Secret (`namespace/name`), at most once a day and beside the request, that its token was used.
pub fn note_use(state: &Arc<State>, key: &str) {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let known = state
        .cache
        .resource("secrets")
        .and_then(|cache| cache.get(key));
    if known.is_none_or(|secret| secret.index.label(LAST_USED) == Some(&today)) {
        return;
    }
    let (state, key) = (state.clone(), key.to_owned());
    tokio::spawn(async move {
        let (user, snapshot) = (UserInfo::apiserver(), state.registry.load_full());
        let Some(served) = snapshot.get("", "secrets") else {
            return;
        };
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let request = WriteRequest {
            state: &state,
            snapshot: &snapshot,
            served,
            version: "v1",
            user: &user,
            namespace,
            subresource: None,
            dry_run: DryRun::No,
            manager: "kube-apiserver".to_owned(),
            pipeline: Pipeline::Full,
            notes: None,
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            let labels = meta::metadata_mut(&mut new)
                .entry("labels")
                .or_insert_with(|| json!({}));
            labels[LAST_USED] = today.as_str().into();
            Ok(new)
        };
        if let Err(failure) = request.update(name, None, &change).await {
            tracing::debug!(key, error = %failure.error, "noting the use of a ServiceAccount's token");
        }
    });
}
