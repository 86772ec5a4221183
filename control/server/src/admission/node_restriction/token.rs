//! Tokens that a node asks for: bound to a pod that runs on it, for an audience that this pod names.

use kernelet_api::{ApiError, Value, meta};

use super::{super::Request, pods::node_of};
use crate::authz::{Attributes, Decision, Target};

pub fn check(request: &Request<'_>, node: &str, token: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(token), why));
    let bound = |field: &str| {
        token
            .pointer(&format!("/spec/boundObjectRef/{field}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (name, uid) = (bound("name"), bound("uid"));
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || name.is_empty() {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let pods = request.state.cache.resource("pods");
    let key = format!("{}/{name}", request.namespace);
    let Some(pod) = pods.and_then(|pods| pods.get(&key)) else {
        return Err(ApiError::not_found("", "pods", name));
    };
    if *pod.index.uid != *uid {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    let pod = pod.tree();
    if node_of(&pod) != node {
        return refuse(
            "node requested token bound to a pod scheduled on a different node".to_owned(),
        );
    }
    audience(request, token, &pod).or_else(refuse)
}

/// The audience stands in a projected volume of the pod, or the node was given the verb for it. By now no audience
/// has become the server's own.
fn audience(request: &Request<'_>, token: &Value, pod: &Value) -> Result<(), String> {
    let list = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let audiences = list(token, "/spec/audiences");
    let wanted = match audiences.as_slice() {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let own = request.state.authn.tokens.issuer();
    let named = |source: &Value| {
        let Some(projection) = source.get("serviceAccountToken").filter(|p| p.is_object()) else {
            return false;
        };
        let audience = projection.get("audience").and_then(Value::as_str);
        let audience = audience.unwrap_or_default();
        audience == wanted || (audience.is_empty() && wanted == own)
    };
    let volumes = list(pod, "/spec/volumes");
    if volumes
        .iter()
        .flat_map(|volume| list(volume, "/projected/sources"))
        .any(|source| named(&source))
    {
        return Ok(());
    }
    let attributes = Attributes {
        user: request.user,
        verb: "request-serviceaccounts-token-audience",
        target: Target::Resource {
            group: "",
            resource: wanted,
            subresource: "",
            namespace: request.namespace,
            name: meta::name(token),
            field_selector: "",
        },
    };
    match request.state.authz.decide(&attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::No(_) => Err(format!(
            "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            request.user.name
        )),
    }
}
