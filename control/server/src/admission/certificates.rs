//! Certificate requests: the server notes who asked, and only who may act for a signer approves or signs.

use kernelet_api::{ApiError, Value, meta};
use serde_json::json;

use super::{Operation, Request};
use crate::{
    authz::{Attributes, Decision, Target},
    user::SYSTEM_MASTERS,
};

/// `spec.username`, `uid`, `groups` and `extra` are the caller's, whatever the body said.
pub fn stamp(request: &Request<'_>, new: &mut Value) {
    let user = request.user;
    let spec = meta::child_mut(new, "spec");
    spec.insert("username".to_owned(), user.name.as_str().into());
    if user.uid.is_empty() {
        spec.remove("uid");
    } else {
        spec.insert("uid".to_owned(), user.uid.as_str().into());
    }
    spec.insert("groups".to_owned(), json!(user.groups));
    if user.extra.is_empty() {
        spec.remove("extra");
    } else {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

pub fn validate(request: &Request<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let name = meta::name(new);
    let signer = new
        .pointer("/spec/signerName")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match (request.operation, request.subresource) {
        (Operation::Create, "") => subject(request, new, signer),
        (Operation::Update, "approval") => {
            if new.pointer("/status/conditions")
                == old.and_then(|old| old.pointer("/status/conditions"))
            {
                return Ok(());
            }
            if !may(request, "approve", signer) {
                return Err(request.forbidden(
                    name,
                    format!("user not permitted to approve requests with signerName {signer:?}"),
                ));
            }
            Ok(())
        }
        (Operation::Update, "status") => {
            let certificate = |value: &Value| value.pointer("/status/certificate").cloned();
            if old.and_then(certificate) == certificate(new) {
                return Ok(());
            }
            if !may(request, "sign", signer) {
                return Err(request.forbidden(
                    name,
                    format!("user not permitted to sign requests with signerName {signer:?}"),
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Nobody asks for a certificate of the administrators' group through the general client signer.
fn subject(request: &Request<'_>, new: &Value, signer: &str) -> Result<(), ApiError> {
    use base64::{Engine, engine::general_purpose::STANDARD};

    if signer != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let csr = new
        .pointer("/spec/request")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let Some(pem) = STANDARD
        .decode(csr)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
    else {
        return Ok(());
    };
    if kernelet_pki::csr_identity(&pem).is_some_and(|identity| {
        identity
            .organizations
            .iter()
            .any(|group| group == SYSTEM_MASTERS)
    }) {
        let why = format!(
            "use of {signer} signer with {} group is not allowed",
            SYSTEM_MASTERS
        );
        return Err(request.forbidden(meta::name(new), why));
    }
    Ok(())
}

/// The verb on this signer, or on every signer of its domain.
fn may(request: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")]
        .iter()
        .any(|name| {
            let attributes = Attributes {
                user: request.user,
                verb,
                target: Target::Resource {
                    group: "certificates.k8s.io",
                    resource: "signers",
                    subresource: "",
                    namespace: "",
                    name,
                    field_selector: "",
                },
            };
            matches!(request.state.authz.decide(&attributes), Decision::Allow(_))
        })
}
