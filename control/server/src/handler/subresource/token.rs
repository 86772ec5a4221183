//! `serviceaccounts/token`: a bound token for an audience and a time.

use std::time::Duration;

use http::{Response, StatusCode};
use jiff::Timestamp;
use kernelet_api::{ApiError, FieldError, Gvk, Value, meta};
use serde_json::json;

use super::super::{Call, Failure, params::WriteOptions, read::reach};
use crate::{
    admission::{self, Operation},
    authn::tokens::{Bound, Ref},
    body::ResponseBody,
    cache::CachedObject,
    http::negotiate::Endpoint,
    registry::Stored,
};

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let mut request = call.decode(
        &Gvk::new("authentication.k8s.io", "v1", "TokenRequest"),
        options.field_validation,
    )?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    if !meta::name(&request).is_empty() && meta::name(&request) != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            meta::name(&request)
        ))
        .into());
    }
    reach(call, None).await?;
    let account = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    admission::Request {
        state: &call.state,
        user: &call.user,
        operation: Operation::Create,
        resource: &call.served.resource,
        subresource: "token",
        namespace,
    }
    .validate(&request, None)
    .await?;
    let seconds = request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    let refuse = |why: &str| {
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &[error])
    };
    if seconds < SHORTEST {
        return Err(refuse("may not specify a duration less than 10 minutes").into());
    }
    if seconds > LONGEST {
        return Err(refuse("may not specify a duration larger than 2^32 seconds").into());
    }
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        service_account: Ref {
            name: name.to_owned(),
            uid: account.index.uid.to_string(),
        },
        pod: None,
        secret: None,
        node: None,
    };
    if let Some(object) = request
        .pointer("/spec/boundObjectRef")
        .filter(|object| object.is_object())
    {
        bind_to(call, object, &mut bound)?;
    }
    let audiences: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let life = Duration::from_secs(seconds.unsigned_abs());
    let now = Timestamp::now();
    let (token, claims) = call
        .state
        .authn
        .tokens
        .issue(bound, audiences, life, now)
        .map_err(ApiError::internal)?;
    let expires = Timestamp::from_second(claims.exp)
        .map(|time| time.to_string())
        .unwrap_or_default();
    meta::set(&mut request, "name", name);
    meta::set(&mut request, "namespace", namespace);
    meta::set(
        &mut request,
        "creationTimestamp",
        &Timestamp::from_second(now.as_second())
            .unwrap_or(now)
            .to_string(),
    );
    let spec = meta::child_mut(&mut request, "spec");
    spec.insert("expirationSeconds".to_owned(), seconds.into());
    spec.insert("audiences".to_owned(), json!(claims.aud));
    request["status"] = json!({"token": token, "expirationTimestamp": expires});
    Ok(call.answer_value(StatusCode::CREATED, output, &request))
}

/// Binds to a pod (with its node), secret or node, which must exist.
fn bind_to(call: &Call, object: &Value, bound: &mut Bound) -> Result<(), ApiError> {
    let text = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let find = |plural: &str, namespace: &str| -> Result<std::sync::Arc<CachedObject>, ApiError> {
        let not_found = || ApiError::not_found("", plural, name);
        let stored = call
            .snapshot
            .get("", plural)
            .and_then(|served| served.stored.as_ref())
            .ok_or_else(not_found)?;
        let found = stored
            .cache
            .get(&Stored::cache_key(namespace, name))
            .ok_or_else(not_found)?;
        if !uid.is_empty() && *found.index.uid != *uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict("", plural, name, why));
        }
        Ok(found)
    };
    let to = |found: &CachedObject| Ref {
        name: found.name().to_owned(),
        uid: found.index.uid.to_string(),
    };
    match kind {
        "Pod" => {
            let pod = find("pods", &bound.namespace)?;
            let tree = pod.tree();
            let spec = |field: &str| {
                tree.pointer(&format!("/spec/{field}"))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            if spec("serviceAccountName") != bound.service_account.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    bound.service_account.name
                )));
            }
            bound.pod = Some(to(&pod));
            let node = spec("nodeName");
            let nodes = call
                .snapshot
                .get("", "nodes")
                .and_then(|served| served.stored.as_ref());
            bound.node = nodes
                .and_then(|stored| stored.cache.get(&node))
                .map(|node| to(&node));
        }
        "Secret" => bound.secret = Some(to(&*find("secrets", &bound.namespace)?)),
        "Node" => bound.node = Some(to(&*find("nodes", "")?)),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {other:?}: supported are Pod, Secret and Node"
            )));
        }
    }
    Ok(())
}
