//! `pods/proxy`, `services/proxy`, `nodes/proxy`: a request handed on to a backend, its answer handed back.
//!
//! ```text
//!   target (who is meant) ─► dial ─► headers, path ─► request ──► answer ─► links ─► client
//!                                                       └─ 101 ─► bytes both ways
//! ```
//! Bodies pass piece by piece both ways, each as fast as its reader; no time limits them. Each request has a connection of
//! its own, which ends with it: whoever goes away first takes the other side with it.

mod dial;
mod headers;
mod html;
mod links;
mod page;
mod path;
mod target;

use std::{net::IpAddr, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts,
};
use http_body_util::{BodyExt, BodyStream, Empty, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use kernelet_api::ApiError;
use kernelet_pki::RemoteAddr;

use self::{links::Links, target::Target};
use super::{Call, Failure, connect};
use crate::{
    body::{BoxError, ResponseBody},
    metrics::Gauge,
};

/// A request's body as it comes.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;
type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// What upstream proxies; its own TRACE and CONNECT it doesn't.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
];

/// Hands the request on. `parts` are the request's own, `body` what it carries.
pub async fn handle(
    call: &Call,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Failure> {
    let open = call.state.metrics.long_running(&call.labels);
    let resource = &call.served.resource;
    // Another group may have resources of the same names: rights on those are no rights on these.
    if resource.subresource("proxy").is_none()
        || resource.namespaced == call.target.namespace.is_empty()
    {
        return Err(ApiError::page_not_found().into());
    }
    if !METHODS.contains(&parts.method) {
        return Err(ApiError::method_not_allowed().into());
    }
    if call.query.get("dryRun").is_some() {
        return Err(ApiError::bad_request("dryRun is not supported").into());
    }
    super::read::reach(call, None).await?;
    let target = target::find(call)?;
    let asked = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy();
    let below = path::below(&call.target.rest, &asked);
    if headers::is_upgrade(&parts.headers) {
        return upgrade(call, parts, &target, &below, open).await;
    }
    if below.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(to_the_root(&parts.uri));
    }
    let prefix = path::escape(asked.strip_suffix(below.as_str()).unwrap_or(&asked));
    let mut request = request(
        parts,
        &below,
        body,
        headers::request(
            &parts.headers,
            client(parts),
            &path::join(&prefix, &path::escape(&below)),
        ),
    )?;
    let unreachable = |why: String| {
        ApiError::service_unavailable(format!("error trying to reach service: {why}"))
    };
    let stream = dial::dial(&target, &call.state.config.kubelet_client)
        .await
        .map_err(unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(http_words(&error)))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a proxied backend ended");
        }
    });
    // The backend's host is no name that anything knows; a page must see the one that the client used.
    let host = host(parts, &target);
    request.headers_mut().insert(header::HOST, host.clone());
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(http_words(&error)))?;
    let links = Links {
        prefix,
        backend: target.address.to_string(),
        asked: host.to_str().unwrap_or_default().to_owned(),
    };
    Ok(answer(&parts.method, response, links, open))
}

/// A page must have a directory that its relative links start from.
fn to_the_root(uri: &Uri) -> Response<ResponseBody> {
    let query = uri.query().map(|query| format!("?{query}"));
    let location = format!("{}/{}", uri.path(), query.unwrap_or_default());
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn client(parts: &Parts) -> Option<IpAddr> {
    let remote = parts.extensions.get::<RemoteAddr>()?;
    Some(remote.0.ip())
}

/// What the client calls this server: HTTP/2 has it in the URI.
fn host(parts: &Parts, target: &Target) -> HeaderValue {
    let named = parts.headers.get(header::HOST).cloned().or_else(|| {
        let authority = parts.uri.authority()?;
        HeaderValue::from_str(authority.as_str()).ok()
    });
    named.unwrap_or_else(|| {
        HeaderValue::from_str(&target.address.to_string())
            .expect("an address and a port are printable")
    })
}

fn request<B>(
    parts: &Parts,
    below: &str,
    body: B,
    headers: HeaderMap,
) -> Result<Request<B>, ApiError> {
    let path = if below.is_empty() { "/" } else { below };
    let query = parts.uri.query().map(|query| format!("?{query}"));
    let uri = format!("{}{}", path::escape(path), query.unwrap_or_default());
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(uri)
        .body(body)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A failure of the exchange itself, after the connection stood.
fn http_words(error: &hyper::Error) -> String {
    use std::error::Error;
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return "net/http: HTTP/1.x transport connection broken: malformed HTTP response"
            .to_owned();
    }
    match error
        .source()
        .and_then(|e| e.downcast_ref::<std::io::Error>())
    {
        Some(io) => dial::words(io),
        None => error.to_string(),
    }
}

/// The backend's answer as the client gets it.
fn answer(
    method: &Method,
    response: Response<Incoming>,
    links: Links,
    open: Gauge,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    headers::response(&mut parts.headers);
    let mut pieces: Pieces = Box::pin(
        BodyStream::new(body)
            .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
            .map_err(BoxError::from),
    );
    if let Some(location) = parts.headers.get(header::LOCATION) {
        if let Some(location) = location
            .to_str()
            .ok()
            .and_then(|location| links.rewrite(location))
            .and_then(|location| HeaderValue::from_str(&location).ok())
        {
            parts.headers.insert(header::LOCATION, location);
        }
    } else if *method != Method::HEAD
        && let Some(coding) = page::Coding::of_page(&parts.headers)
    {
        // Its length is known when all of it has passed.
        parts.headers.remove(header::CONTENT_LENGTH);
        pieces = page::rewritten(pieces, coding, links);
    }
    let counted = pieces.inspect(move |_| {
        let _ = &open;
    });
    let mut answer = Response::new(ResponseBody::stream(counted));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}

/// A request of another protocol: the terms are passed on, and then the bytes.
async fn upgrade(
    call: &Call,
    parts: &Parts,
    target: &Target,
    below: &str,
    open: Gauge,
) -> Result<Response<ResponseBody>, Failure> {
    let failed = |why: String| ApiError::new(500, "", why);
    let Some(client_side) = call.upgrade.clone() else {
        return Err(
            ApiError::bad_request("this connection can't be upgraded; use HTTP/1.1").into(),
        );
    };
    let headers = headers::upgrade(&parts.headers, client(parts));
    let mut request = request(parts, below, Empty::<Bytes>::new(), headers)?;
    request
        .headers_mut()
        .insert(header::HOST, host(parts, target));
    let stream = dial::dial(target, &call.state.config.kubelet_client)
        .await
        .map_err(|why| failed(format!("error dialing backend: {why}")))?;
    let broken = |error: hyper::Error| failed(http_words(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection to a proxied backend ended");
        }
    });
    let mut response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if status.as_u16() < 400 {
            let text = format!("invalid upgrade response: status code {}", status.as_u16());
            return Err(failed(text).into());
        }
        let (parts, body) = response.into_parts();
        let mut answer = Response::new(ResponseBody::stream(
            BodyStream::new(body)
                .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
                .map_err(BoxError::from),
        ));
        *answer.status_mut() = status;
        *answer.headers_mut() = parts.headers;
        headers::response(answer.headers_mut());
        return Ok(answer);
    }
    let backend_side = hyper::upgrade::on(&mut response);
    let shutdown = call.state.shutdown.clone();
    tokio::spawn(async move {
        let _open = open;
        tokio::select! {
            // Cancelled: both connections close.
            () = shutdown.cancelled() => {}
            () = connect::splice(client_side, backend_side) => {}
        }
    });
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    Ok(answer)
}

/// A body of any kind as one that passes piece by piece.
pub fn body<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}
