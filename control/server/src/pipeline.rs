//! A request's way through the server: parse → authenticate → impersonate → take a seat → authorise → read → handle →
//! answer.
//!
//! In process or over TLS, the way is the same; only where the identity comes from differs.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, request::Parts};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use kernelet_api::ApiError;
use kernelet_pki::Peer;
use tokio::time;

use crate::{
    audit::{self, Trail},
    authn::{
        impersonation::{impersonate, without_credentials},
        legacy,
    },
    body::{self, BoxError, ReadError, ResponseBody},
    flow::{self, Ticket},
    handler::{self, Call, Failure},
    http::{
        negotiate::{self, Endpoint, Output},
        respond,
    },
    meta_api,
    metrics::RequestLabels,
    query::Query,
    request::RequestInfo,
    state::State,
    user::UserInfo,
};

/// Requests that aren't watches or followed logs are answered in this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A body that takes longer than this is read without a seat.
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// Longer URIs are refused.
const MAX_URI: usize = 16 * 1024;

/// Answers one request. `user` is given by the in-process transport; over the network it is established here.
pub async fn serve<B>(
    state: Arc<State>,
    user: Option<Arc<UserInfo>>,
    request: Request<B>,
) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let started = Instant::now();
    let _inflight = state.metrics.request_started(request.method());
    let (parts, body) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let mut labels = RequestLabels::of_method(&parts.method);
    let mut trail = Trail::new(audit_id(&parts.headers));
    let run = answer(&state, user, &parts, body, &mut labels, &mut trail);
    let mut response = match AssertUnwindSafe(run).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            trail.panicked = true;
            tracing::error!(method = %parts.method, uri = %parts.uri, panic = %text, "a request's handler panicked");
            failure(
                &state,
                &parts.headers,
                &ApiError::internal("the request's handler panicked; see the server's log").into(),
            )
        }
    };
    if let Ok(id) = HeaderValue::from_str(&trail.id) {
        response.headers_mut().insert("audit-id", id);
    }
    labels.code = response.status().as_u16();
    state.metrics.request_done(labels, started.elapsed());
    let mut response = audit::answered(&state, trail, &parts, response);
    if head {
        *response.body_mut() = ResponseBody::empty();
    }
    response
}

async fn answer<B>(
    state: &Arc<State>,
    user: Option<Arc<UserInfo>>,
    parts: &Parts,
    body: B,
    labels: &mut RequestLabels,
    trail: &mut Trail,
) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut ticket = None;
    let tried = try_answer(state, user, parts, body, labels, trail, &mut ticket).await;
    let mut response = match tried {
        Ok(response) => response,
        Err(error) => failure(state, &parts.headers, &error),
    };
    if let Some(ticket) = &ticket {
        ticket.note(response.headers_mut());
    }
    response
}

/// An error in the format that the client accepts, or in JSON.
fn failure(state: &State, headers: &HeaderMap, failure: &Failure) -> Response<ResponseBody> {
    let output = negotiate::output(headers, Endpoint::Object, false).unwrap_or(Output::JSON);
    let schema = &state.registry.load().api.schema;
    let mut response = respond::error(schema, output, &failure.error);
    if let Some(token) = &failure.continue_token {
        let mut status = failure.error.to_status();
        status["metadata"] = serde_json::json!({"continue": token});
        response = respond::value(schema, response.status(), output, &status);
    }
    response
}

async fn try_answer<B>(
    state: &Arc<State>,
    user: Option<Arc<UserInfo>>,
    parts: &Parts,
    body: B,
    labels: &mut RequestLabels,
    trail: &mut Trail,
    ticket: &mut Option<Ticket>,
) -> Result<Response<ResponseBody>, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if parts
        .uri
        .path_and_query()
        .is_some_and(|text| text.as_str().len() > MAX_URI)
    {
        return Err(ApiError::new(
            414,
            "",
            format!("the request's URI is longer than {MAX_URI} bytes"),
        )
        .into());
    }
    let user = match user {
        Some(user) => user,
        None => authenticate(state, parts)?,
    };
    trail.user = Some(user.clone());
    let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
    let query = Query::parse(parts.uri.query().unwrap_or_default()).map_err(|error| bad(&error))?;
    let info =
        RequestInfo::parse(&parts.method, parts.uri.path(), &query).map_err(|error| bad(&error))?;
    let snapshot = state.registry.load_full();
    labels.understand(&info, &snapshot, &query, &parts.headers);
    trail.info = Some(info.clone());
    let asking = user.clone();
    let user = impersonate(&state.authz, user, &parts.headers)?;
    trail.impersonated = (!Arc::ptr_eq(&asking, &user)).then(|| user.clone());
    // From here on, the request takes its turn among all others.
    let wait = timeout(&query).unwrap_or(REQUEST_TIMEOUT) / 4;
    let width = |widest| flow::width(&info, &query, &snapshot, widest);
    *ticket = state
        .flows
        .classify(&user, &info, width, wait.min(flow::LONGEST_WAIT));
    if let Some(ticket) = ticket.as_mut()
        && let Err(refusal) = ticket.enter().await
    {
        return Ok(refusal);
    }
    let selector = query.get("fieldSelector").unwrap_or_default();
    match state.authz.check(&user, &info, selector) {
        Ok(reason) => trail.decision = Some((true, reason)),
        Err((error, reason)) => {
            trail.decision = Some((false, reason));
            return Err(error.into());
        }
    }
    let Some(mut target) = info.resource else {
        return Ok(
            meta_api::handle(state, &parts.method, &info.path, &query, &parts.headers).await?,
        );
    };
    let served = snapshot
        .get(&target.gvr.group, &target.gvr.resource)
        .filter(|served| served.version(&target.gvr.version).is_some())
        .cloned()
        .ok_or_else(ApiError::page_not_found)?;
    if served.resource.group.is_empty() && served.resource.plural == "namespaces" {
        // Authorisation sees a namespace as lying in itself; it is stored as every cluster-scoped object is.
        target.namespace.clear();
    }
    // What is proxied passes piece by piece, however long it takes.
    let (stream, body) = if target.subresource == "proxy" {
        (Some(handler::proxy::body(body)), Ok(Ok(Bytes::new())))
    } else {
        let mut reading = std::pin::pin!(body::read(body));
        let body = match time::timeout(BODY_PATIENCE, &mut reading).await {
            Ok(body) => Ok(body),
            Err(_) => {
                // Who sends slowly keeps nobody from a seat meanwhile.
                if let Some(ticket) = ticket.as_mut() {
                    ticket.leave();
                }
                let body = time::timeout(REQUEST_TIMEOUT, reading).await;
                if let Some(ticket) = ticket.as_mut()
                    && let Err(refusal) = ticket.enter().await
                {
                    return Ok(refusal);
                }
                body
            }
        };
        (None, body)
    };
    let body = match body {
        Ok(Ok(body)) => body,
        Ok(Err(ReadError::TooLarge)) => {
            let limit = body::MAX_REQUEST_BYTES;
            return Err(ApiError::too_large(format!("limit is {limit}")).into());
        }
        Ok(Err(error)) => return Err(bad(&error).into()),
        Err(_) => {
            return Err(
                ApiError::new(408, "Timeout", "the request's body did not arrive in time").into(),
            );
        }
    };
    trail.body = body.clone();
    let deprecation = served.resource.deprecation(&target.gvr.version);
    let call = Call {
        state: state.clone(),
        snapshot,
        served,
        user,
        verb: info.verb,
        target,
        query,
        headers: without_credentials(&parts.headers),
        body,
        upgrade: parts.extensions.get::<OnUpgrade>().cloned(),
        notes: Mutex::default(),
        labels: labels.clone(),
    };
    if let Some(body) = stream {
        return handler::proxy::handle(&call, parts, body).await;
    }
    let mut response = match time::timeout(timeout(&call.query)?, handler::handle(&call)).await {
        // What the client should know is told beside an error, too.
        Ok(Err(error)) => failure(state, &parts.headers, &error),
        Ok(Ok(response)) => response,
        Err(_) => {
            return Err(ApiError::timeout(
                "request did not complete within the allotted timeout",
                0,
            )
            .into());
        }
    };
    let notes = call
        .notes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    trail.annotations = notes.annotations;
    let mut told: Vec<String> = deprecation.map(str::to_owned).into_iter().collect();
    for warning in notes.warnings {
        // A patch that was tried again noted its warnings again.
        if !told.contains(&warning) {
            told.push(warning);
        }
    }
    respond::warn(&mut response, &told);
    Ok(response)
}

/// The client's own name for its request, if it gave one that can be kept.
fn audit_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("audit-id")?.to_str().ok()?;
    (!id.is_empty() && id.len() <= 64).then(|| id.to_owned())
}

/// `timeout=5s`, if it is shorter than the server's own.
fn timeout(query: &Query) -> Result<Duration, ApiError> {
    let Some(text) = query.non_empty("timeout") else {
        return Ok(REQUEST_TIMEOUT);
    };
    let invalid = || {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL: time: invalid duration {text:?}"
        ))
    };
    let duration = if text.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(text.parse().map_err(|_| invalid())?)
    } else {
        let span: jiff::SignedDuration = text.parse().map_err(|_| invalid())?;
        Duration::try_from(span).map_err(|_| invalid())?
    };
    Ok(if duration.is_zero() {
        REQUEST_TIMEOUT
    } else {
        duration.min(REQUEST_TIMEOUT)
    })
}

fn authenticate(state: &Arc<State>, parts: &Parts) -> Result<Arc<UserInfo>, ApiError> {
    let peer = parts.extensions.get::<Peer>();
    let found = state
        .authn
        .authenticate(&parts.headers, peer, parts.uri.path());
    match found {
        Ok(identity) => {
            if let Some(secret) = &identity.legacy_secret {
                legacy::note_use(state, secret);
            }
            Ok(Arc::new(identity.user))
        }
        Err(error) => {
            tracing::debug!(uri = %parts.uri, %error, "a request has no identity");
            Err(ApiError::unauthorized())
        }
    }
}
