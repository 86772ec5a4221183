//! `serviceaccounts/token`: a bound token for an audience and a time.

use std::{sync::Arc, time::Duration};

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

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

/// What the ServiceAccount admission asks for in every pod: an hour, and seven seconds that tell it from others.
const OF_PODS: i64 = 3607;
/// What pods get for it, since not every client reads its token again in time; `warnafter` says what was asked for.
const EXTENDED: i64 = 365 * 24 * 3600;

pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let mut request = call.decode(&Gvk::new(GROUP, "v1", KIND), options.field_validation)?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    check_target(&request, namespace, name)?;
    reach(call, None).await?;
    let account = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    let now = Timestamp::now();
    let seconds = complete(call, &mut request, &account, now)?;
    admission::Request {
        state: &call.state,
        user: &call.user,
        operation: Operation::Create,
        resource: &call.served.resource,
        subresource: "token",
        namespace,
        notes: Some(&call.notes),
    }
    .validate(&request, None)
    .await?;
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        service_account: to(&account),
        pod: None,
        secret: None,
        node: None,
        warn_after: None,
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
    let tokens = &call.state.authn.tokens;
    let mut life = seconds;
    if bound.pod.is_some()
        && seconds == OF_PODS
        && audiences.iter().all(|audience| audience == tokens.issuer())
    {
        bound.warn_after = Some(now.as_second() + seconds);
        life = EXTENDED;
    }
    let life = Duration::from_secs(life.unsigned_abs());
    let (token, _) = tokens
        .issue(bound, audiences, life, now)
        .map_err(ApiError::internal)?;
    request["status"] =
        json!({"token": token, "expirationTimestamp": text(now.as_second() + seconds)});
    Ok(call.answer_value(StatusCode::CREATED, output, &request))
}

fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

fn to(found: &CachedObject) -> Ref {
    Ref {
        name: found.name().to_owned(),
        uid: found.index.uid.to_string(),
    }
}

/// Name and namespace in the body are the URL's, if they are there at all.
fn check_target(request: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    for (field, found, wanted) in [
        ("name", meta::name(request), name),
        ("namespace", meta::namespace(request), namespace),
    ] {
        if !found.is_empty() && found != wanted {
            let why = format!("must match the service account {field} if specified");
            let error = FieldError::invalid(format!("metadata.{field}"), found, why);
            return Err(ApiError::invalid(GROUP, KIND, name, &[error]));
        }
    }
    Ok(())
}

/// Defaults what is left out, and judges the rest; answers the seconds that the token shall be good for.
fn complete(
    call: &Call,
    request: &mut Value,
    account: &CachedObject,
    now: Timestamp,
) -> Result<i64, ApiError> {
    let uid = request
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !uid.is_empty() && *uid != *account.index.uid {
        let why = format!(
            "the UID in the token request ({uid}) does not match the UID of the service account ({})",
            account.index.uid
        );
        return Err(ApiError::conflict(GROUP, KIND, account.name(), why));
    }
    meta::set(request, "name", account.name());
    meta::set(request, "namespace", account.namespace());
    meta::set(request, "uid", &account.index.uid);
    meta::set(request, "creationTimestamp", &text(now.as_second()));
    let spec = meta::child_mut(request, "spec");
    let none = spec
        .get("audiences")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty);
    if none {
        let own = json!([call.state.authn.tokens.issuer()]);
        spec.insert("audiences".to_owned(), own);
    }
    let seconds = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    spec.insert("expirationSeconds".to_owned(), seconds.into());
    let why = if seconds < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
    Err(ApiError::invalid(GROUP, KIND, "", &[error]))
}

/// Binds to a pod (with its node), secret or node, which must exist.
fn bind_to(call: &Call, object: &Value, bound: &mut Bound) -> Result<(), ApiError> {
    let text = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let cached = |plural: &str, key: &str| {
        let served = call.snapshot.get("", plural)?;
        served.stored.as_ref()?.cache.get(key)
    };
    let find = |plural: &str, namespace: &str| -> Result<Arc<CachedObject>, ApiError> {
        let key = Stored::cache_key(namespace, name);
        cached(plural, &key).ok_or_else(|| ApiError::not_found("", plural, name))
    };
    let namespace = bound.namespace.as_str();
    let found = match (group, kind) {
        ("", "Pod") => find("pods", namespace)?,
        ("", "Secret") => find("secrets", namespace)?,
        ("", "Node") => find("nodes", "")?,
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    if kind == "Pod" {
        let pod = found.tree();
        let spec = |field: &str| {
            let value = pod.pointer(&format!("/spec/{field}"));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if spec("serviceAccountName") != bound.service_account.name {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                bound.service_account.name
            )));
        }
        let node = spec("nodeName");
        if !node.is_empty() {
            let there = cached("nodes", &node).map(|node| to(&node));
            bound.node = Some(there.unwrap_or(Ref {
                name: node,
                uid: String::new(),
            }));
        }
    }
    if !uid.is_empty() && *found.index.uid != *uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(ApiError::conflict("", kind, name, why));
    }
    match kind {
        "Pod" => bound.pod = Some(to(&found)),
        "Secret" => bound.secret = Some(to(&found)),
        _ => bound.node = Some(to(&found)),
    }
    Ok(())
}
