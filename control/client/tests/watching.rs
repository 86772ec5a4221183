//! Stores against a scripted server: what a lost connection, a compaction and a restart do.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use k8s_openapi::api::core::v1::ConfigMap;
use kernelet_client::{Informers, from_service};
use kube::client::Body;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What the server does about the next request.
enum Turn {
    List(&'static str, Vec<Value>),
    /// Watch lines, then the end of the connection.
    Watch(Vec<Value>),
    /// Watch lines, and the connection stays.
    Hold(Vec<Value>),
    Fail(u16, &'static str),
}

#[derive(Clone, Default)]
struct Script {
    turns: Arc<Mutex<VecDeque<Turn>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

fn config(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
        {"name": name, "namespace": "x", "uid": name, "resourceVersion": version}})
}

fn event(type_: &str, object: Value) -> Value {
    json!({"type": type_, "object": object})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason})
}

impl Script {
    fn answer(&self, request: &Request<Body>) -> Response<BoxBody<Bytes, Infallible>> {
        let query = request.uri().query().unwrap_or_default();
        let wanted: Vec<_> = query
            .split('&')
            .filter(|part| part.starts_with("resourceVersion=") || part.starts_with("watch="))
            .collect();
        self.asked.lock().unwrap().push(wanted.join("&"));
        let turn = self.turns.lock().unwrap().pop_front();
        let lines = |lines: Vec<Value>| -> Bytes {
            lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>()
                .into()
        };
        let (code, body, held) = match turn {
            Some(Turn::List(version, items)) => {
                let list = json!({"kind": "ConfigMapList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": version}, "items": items});
                (200, list.to_string().into(), false)
            }
            Some(Turn::Watch(events)) => (200, lines(events), false),
            Some(Turn::Hold(events)) => (200, lines(events), true),
            Some(Turn::Fail(code, reason)) => {
                (code, status(code, reason).to_string().into(), false)
            }
            None => (
                500,
                status(500, "the script is over").to_string().into(),
                false,
            ),
        };
        let first = futures::stream::iter([Ok(Frame::data(body))]);
        let body = if held {
            let rest = futures::stream::pending();
            StreamBody::new(futures::StreamExt::chain(first, rest)).boxed()
        } else {
            StreamBody::new(first).boxed()
        };
        Response::builder().status(code).body(body).unwrap()
    }
}

async fn run(turns: Vec<Turn>, expected: &[&str]) -> Vec<String> {
    let script = Script::default();
    *script.turns.lock().unwrap() = turns.into();
    let server = script.clone();
    let client = from_service(tower::service_fn(move |request: Request<Body>| {
        let answer = server.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    }));
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let configs = Informers::new(client, shutdown).all::<ConfigMap>();
    let mut changed = configs.changed();
    let names = || -> Vec<String> {
        let all = configs.list();
        all.iter()
            .map(|config| {
                let meta = &config.metadata;
                let (name, version) = (meta.name.as_ref(), meta.resource_version.as_ref());
                format!("{}@{}", name.unwrap(), version.unwrap())
            })
            .collect()
    };
    let reached = async {
        while names() != expected {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached)
        .await
        .unwrap_or_else(|_| panic!("{expected:?} was not reached but {:?}", names()));
    // The script must be over: each request was as expected.
    script.asked.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_resumes_where_it_was() {
    let asked = run(
        vec![
            Turn::List("5", vec![config("a", "3")]),
            Turn::Watch(vec![event("ADDED", config("b", "6"))]),
            Turn::Fail(503, "down"),
            Turn::Hold(vec![event("ADDED", config("c", "7"))]),
        ],
        &["a@3", "b@6", "c@7"],
    )
    .await;
    assert_eq!(
        asked,
        [
            "",
            "watch=true&resourceVersion=5",
            "watch=true&resourceVersion=6",
            "watch=true&resourceVersion=6",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_compacted_revision_lists_again() {
    for gone in [
        Turn::Hold(vec![event("ERROR", status(410, "Expired"))]),
        Turn::Fail(410, "Expired"),
    ] {
        let asked = run(
            vec![
                Turn::List("5", vec![config("a", "3"), config("gone", "4")]),
                gone,
                Turn::List("9", vec![config("a", "8")]),
                Turn::Hold(vec![event("ADDED", config("b", "10"))]),
            ],
            &["a@8", "b@10"],
        )
        .await;
        assert_eq!(asked.last().unwrap(), "watch=true&resourceVersion=9");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    run(
        vec![
            Turn::Fail(503, "starting"),
            Turn::Fail(403, "no rights yet"),
            Turn::List("5", vec![config("a", "3")]),
            Turn::Hold(vec![
                event("BOOKMARK", config("", "8")),
                event("DELETED", config("a", "9")),
                event("ADDED", config("b", "10")),
            ]),
        ],
        &["b@10"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hurry() {
    let mut turns = vec![Turn::List("5", vec![config("a", "3")])];
    turns.extend((0..6).map(|_| Turn::Watch(vec![])));
    turns.push(Turn::Hold(vec![event("ADDED", config("b", "6"))]));
    let begun = tokio::time::Instant::now();
    run(turns, &["a@3", "b@6"]).await;
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn one_kind_is_watched_once() {
    let script = Script::default();
    *script.turns.lock().unwrap() =
        vec![Turn::List("5", vec![config("a", "3")]), Turn::Hold(vec![])].into();
    let server = script.clone();
    let client = from_service(tower::service_fn(move |request: Request<Body>| {
        let answer = server.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    }));
    let shutdown = CancellationToken::new();
    let informers = Informers::new(client, shutdown.clone());
    let first = informers.all::<ConfigMap>();
    first.wait_until_synced().await;
    let second = informers.clone().all::<ConfigMap>();
    assert_eq!(second.len(), 1);
    assert!(script.asked.lock().unwrap().len() <= 2);
    shutdown.cancel();
}
