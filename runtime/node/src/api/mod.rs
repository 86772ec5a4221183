//! The kubelet's HTTPS API: logs, pods, health, statistics. Callers prove who they are and that they may.

mod access;
mod log_file;
mod log_source;
mod log_stream;
mod metrics;
mod pages;
mod remote;
mod summary;

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use kernelet_pki::{ServeLimits, serve_tls};
use serde_json::json;
use tokio::{net::TcpListener, sync::OnceCell};

use crate::{context::Context, pods::Pods, worker::View};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

#[derive(Clone)]
struct Api {
    ctx: Arc<Context>,
    pods: Arc<OnceCell<Arc<Pods>>>,
}

pub(crate) async fn serve(
    ctx: Arc<Context>,
    pods: Arc<OnceCell<Arc<Pods>>>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) {
    let shutdown = ctx.shutdown.clone();
    let api = Api { ctx, pods };
    let handle = move |request| {
        let api = api.clone();
        async move { api.answer(request).await }
    };
    serve_tls(listener, tls, ServeLimits::default(), handle, shutdown).await;
}

impl Api {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let user = match access::identify(&self.ctx, &request).await {
            Ok(user) => user,
            Err(refusal) => return refusal.answer(),
        };
        if let Err(refusal) =
            access::authorize(&self.ctx, &user, request.method(), request.uri().path()).await
        {
            return refusal.answer();
        }
        let path = request.uri().path().to_owned();
        let _counted = self.ctx.counters.request(request.method().as_str(), &path);
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container]
                if get || request.method() == Method::POST =>
            {
                self.exec(request, namespace, pod, container)
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container]
                if get || request.method() == Method::POST =>
            {
                self.attach(request, namespace, pod, container)
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _]
                if get || request.method() == Method::POST =>
            {
                self.port_forward(request, namespace, pod)
            }
            ["run" | "cri", ..] => text(
                StatusCode::NOT_IMPLEMENTED,
                format!("{path} is not implemented by this node yet\n"),
            ),
            _ if !get => text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n"),
            ["healthz"] | ["healthz", "ping" | "log"] => text(StatusCode::OK, "ok"),
            ["healthz", "syncloop"] if self.pods.initialized() => text(StatusCode::OK, "ok"),
            ["healthz", "syncloop"] => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the pods are not known yet",
            ),
            ["pods"] | ["runningpods"] => self.pods(parts[0] == "runningpods"),
            ["stats" | "metrics" | "configz", ..] => self.page(&parts, request.uri().query()).await,
            ["containerLogs", namespace, pod, container] => {
                let query = query(request.uri().query());
                match self.pods.get().and_then(|pods| pods.find(namespace, pod)) {
                    Some(view) => log_stream::answer(&self.ctx, view, container, &query).await,
                    None => text(
                        StatusCode::NOT_FOUND,
                        format!("pod \"{pod}\" does not exist"),
                    ),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn views(&self) -> Vec<View> {
        self.pods.get().map(|p| p.views()).unwrap_or_default()
    }

    fn pods(&self, running: bool) -> Answer {
        let with_status = |view: View| Pod {
            status: Some(view.status),
            ..(*view.pod).clone()
        };
        let items: Vec<Pod> = self
            .views()
            .into_iter()
            .filter(|v| !running || v.status.phase.as_deref() == Some("Running"))
            .map(with_status)
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

pub(crate) fn text(status: StatusCode, message: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", message)
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    answer
}

fn json_answer(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn metrics_answer(text: String) -> Answer {
    typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text,
    )
}

/// The query's first value of each name, percent-decoded.
fn query(query: Option<&str>) -> HashMap<String, String> {
    let mut all = HashMap::new();
    for (name, value) in pairs(query) {
        all.entry(name).or_insert(value);
    }
    all
}

/// The query's names and values in their order, percent-decoded.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = query(Some(
            "sinceTime=2026-11-21T09%3A00%3A00Z&follow=true&x&y=a+b%2&follow=false",
        ));
        assert_eq!(query["sinceTime"], "2026-11-21T09:00:00Z");
        assert_eq!(
            (
                query["follow"].as_str(),
                query["x"].as_str(),
                query["y"].as_str()
            ),
            ("true", "", "a b%2")
        );
    }
}
