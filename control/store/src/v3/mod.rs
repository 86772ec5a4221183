//! etcd's v3 API on a store: KV, Watch, Lease and Maintenance's Status, so that etcd's clients work on it.
//!
//! [`V3`] is a `tower` service for any HTTP/2 connection; who may connect, and how, is the business of whoever
//! accepts it. [`serve`] accepts plain connections, for loopback and for tests.

mod convert;
mod proto;
mod watch;

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt as _;
use http_body::Body as HttpBody;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxStream, StdError, http},
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

use self::convert::{MEMBER, header, status};
use crate::{LeaseId, Op, OpResponse, Revision, Store, StoreError, Txn};

/// The release whose API this is: clients decide by it what they may ask for.
const VERSION: &str = "3.5.16";
/// The largest request, above what the store takes, so that the store says so.
const MAX_REQUEST: usize = 16 << 20;
/// What etcd allows at most: a thousand million seconds or so.
const MAX_TTL: i64 = 9_000_000_000;

/// The API as a service.
#[derive(Clone, Debug)]
pub struct V3 {
    store: Store,
}

impl V3 {
    /// Serves `store`.
    #[must_use]
    pub fn new(store: Store) -> V3 {
        V3 { store }
    }
}

/// Serves plain connections until `listener` fails or the future is dropped.
pub async fn serve(store: Store, listener: TcpListener) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancelled: no connection is lost, it waits in the kernel.
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                stream.set_nodelay(true)?;
                let service = TowerToHyperService::new(V3::new(store.clone()));
                connections.spawn(async move {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder
                        .timer(TokioTimer::new())
                        .initial_stream_window_size(1 << 20)
                        .initial_connection_window_size(8 << 20)
                        .max_concurrent_streams(None)
                        .keep_alive_interval(Duration::from_secs(30));
                    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, %peer, "an etcd client's connection ended");
                    }
                });
            }
            // Cancelled: whoever ended is taken the next time.
            Some(_) = connections.join_next() => {}
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<B> tower::Service<http::Request<B>> for V3
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        let store = self.store.clone();
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => unary(request, move |m| range(store, m)),
            "/etcdserverpb.KV/Put" => unary(request, move |m| put(store, m)),
            "/etcdserverpb.KV/DeleteRange" => unary(request, move |m| delete(store, m)),
            "/etcdserverpb.KV/Txn" => unary(request, move |m| txn(store, m)),
            "/etcdserverpb.KV/Compact" => unary(request, move |m| compact(store, m)),
            "/etcdserverpb.Watch/Watch" => {
                streaming(request, move |requests| watch::serve(store, requests))
            }
            "/etcdserverpb.Lease/LeaseGrant" => unary(request, move |m| lease_grant(store, m)),
            "/etcdserverpb.Lease/LeaseRevoke" => unary(request, move |m| lease_revoke(store, m)),
            "/etcdserverpb.Lease/LeaseKeepAlive" => {
                streaming(request, move |requests| keep_alive(store, requests))
            }
            "/etcdserverpb.Lease/LeaseTimeToLive" => {
                unary(request, move |m| lease_time_to_live(store, m))
            }
            "/etcdserverpb.Lease/LeaseLeases" => unary(request, move |m| leases(store, m)),
            "/etcdserverpb.Maintenance/Status" => unary(request, move |m| maintenance(store, m)),
            path => {
                let error = Status::unimplemented(format!("{path} is not served here"));
                Box::pin(ready(Ok(error.into_http())))
            }
        }
    }
}

/// A function as tonic's service of one message.
struct Unary<F>(Option<F>);

impl<F, Fut, M, R> UnaryService<M> for Unary<F>
where
    F: FnOnce(M) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    type Response = R;
    type Future = Fut;

    fn call(&mut self, request: Request<M>) -> Fut {
        let handler = self.0.take().expect("tonic calls it once a request");
        handler(request.into_inner())
    }
}

fn unary<B, M, R, F, Fut>(request: http::Request<B>, handler: F) -> Answer
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send,
    M: prost::Message + Default + Send + 'static,
    R: prost::Message + Default + Send + 'static,
    F: FnOnce(M) -> Fut + Send + 'static,
    Fut: Future<Output = Result<R, Status>> + Send + 'static,
{
    let handler = move |message| async move { handler(message).await.map(Response::new) };
    Box::pin(async move {
        let mut grpc = Grpc::new(ProstCodec::<R, M>::default())
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(usize::MAX);
        Ok(grpc.unary(Unary(Some(handler)), request).await)
    })
}

/// A function as tonic's service of a stream.
struct Bidirectional<F>(Option<F>);

impl<F, M, R> StreamingService<M> for Bidirectional<F>
where
    F: FnOnce(Streaming<M>) -> BoxStream<R>,
    R: 'static,
{
    type Response = R;
    type ResponseStream = BoxStream<R>;
    type Future = std::future::Ready<Result<Response<BoxStream<R>>, Status>>;

    fn call(&mut self, request: Request<Streaming<M>>) -> Self::Future {
        let handler = self.0.take().expect("tonic calls it once a request");
        ready(Ok(Response::new(handler(request.into_inner()))))
    }
}

fn streaming<B, M, R, F>(request: http::Request<B>, handler: F) -> Answer
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send,
    M: prost::Message + Default + Send + 'static,
    R: prost::Message + Default + Send + 'static,
    F: FnOnce(Streaming<M>) -> BoxStream<R> + Send + 'static,
{
    Box::pin(async move {
        let mut grpc = Grpc::new(ProstCodec::<R, M>::default())
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(usize::MAX);
        Ok(grpc.streaming(Bidirectional(Some(handler)), request).await)
    })
}

async fn range(store: Store, request: proto::RangeRequest) -> Result<proto::RangeResponse, Status> {
    let (range, shape) = convert::range(request);
    let response = store.range(range).await.map_err(status)?;
    Ok(convert::range_response(response, &shape))
}

/// Runs one step as a transaction.
async fn step(store: &Store, op: Op) -> Result<(Revision, OpResponse), Status> {
    let mut response = store.txn(Txn::of([op])).await.map_err(status)?;
    let answer = response.responses.pop().expect("a step has an answer");
    Ok((response.revision, answer))
}

async fn put(store: Store, request: proto::PutRequest) -> Result<proto::PutResponse, Status> {
    match step(&store, Op::Put(convert::put(request))).await? {
        (revision, OpResponse::Put(response)) => Ok(convert::put_response(revision, response)),
        (_, other) => unreachable!("a put is answered with {other:?}"),
    }
}

async fn delete(
    store: Store,
    request: proto::DeleteRangeRequest,
) -> Result<proto::DeleteRangeResponse, Status> {
    match step(&store, Op::Delete(convert::delete(request))).await? {
        (revision, OpResponse::Delete(response)) => {
            Ok(convert::delete_response(revision, response))
        }
        (_, other) => unreachable!("a deletion is answered with {other:?}"),
    }
}

async fn txn(store: Store, request: proto::TxnRequest) -> Result<proto::TxnResponse, Status> {
    let (txn, shapes) = convert::txn(request)?;
    let response = store.txn(txn).await.map_err(status)?;
    Ok(convert::txn_response(response, &shapes))
}

async fn compact(
    store: Store,
    request: proto::CompactionRequest,
) -> Result<proto::HeaderResponse, Status> {
    store
        .compact(Revision(request.revision))
        .await
        .map_err(status)?;
    Ok(proto::HeaderResponse {
        header: now(&store).await?,
    })
}

/// A header for answers that have no revision of their own.
async fn now(store: &Store) -> Result<Option<proto::ResponseHeader>, Status> {
    Ok(header(store.revision().await.map_err(status)?))
}

async fn lease_grant(
    store: Store,
    request: proto::LeaseGrantRequest,
) -> Result<proto::LeaseGrantResponse, Status> {
    if request.ttl > MAX_TTL {
        return Err(Status::out_of_range("etcdserver: too large lease TTL"));
    }
    // etcd gives the shortest lease it can for nothing or less.
    let ttl = Duration::from_secs(u64::try_from(request.ttl.max(1)).expect("at least one"));
    let id = (request.id != 0).then_some(LeaseId(request.id));
    let lease = store.lease_grant(id, ttl).await.map_err(status)?;
    Ok(proto::LeaseGrantResponse {
        header: now(&store).await?,
        id: lease.id.0,
        ttl: seconds(lease.granted),
        error: String::new(),
    })
}

async fn lease_revoke(
    store: Store,
    request: proto::LeaseRequest,
) -> Result<proto::HeaderResponse, Status> {
    let revision = store
        .lease_revoke(LeaseId(request.id))
        .await
        .map_err(status)?;
    Ok(proto::HeaderResponse {
        header: header(revision),
    })
}

fn keep_alive(
    store: Store,
    requests: Streaming<proto::LeaseRequest>,
) -> BoxStream<proto::LeaseKeepAliveResponse> {
    Box::pin(requests.then(move |request| {
        let store = store.clone();
        async move {
            let id = request?.id;
            let ttl = match store.lease_keep_alive(LeaseId(id)).await {
                Ok(ttl) => seconds(ttl),
                // Not an error: no time is left.
                Err(StoreError::LeaseNotFound(_)) => 0,
                Err(error) => return Err(status(error)),
            };
            Ok(proto::LeaseKeepAliveResponse {
                header: now(&store).await?,
                id,
                ttl,
            })
        }
    }))
}

async fn lease_time_to_live(
    store: Store,
    request: proto::LeaseTimeToLiveRequest,
) -> Result<proto::LeaseTimeToLiveResponse, Status> {
    let mut response = proto::LeaseTimeToLiveResponse {
        header: now(&store).await?,
        id: request.id,
        ttl: -1,
        ..Default::default()
    };
    match store.lease_time_to_live(LeaseId(request.id)).await {
        Ok(lease) => {
            response.ttl = seconds(lease.remaining);
            response.granted_ttl = seconds(lease.granted);
            if request.keys {
                response.keys = lease.keys;
            }
        }
        Err(StoreError::LeaseNotFound(_)) => {}
        Err(error) => return Err(status(error)),
    }
    Ok(response)
}

async fn leases(store: Store, _: proto::Empty) -> Result<proto::LeaseLeasesResponse, Status> {
    let leases = store.leases().await.map_err(status)?;
    Ok(proto::LeaseLeasesResponse {
        header: now(&store).await?,
        leases: leases
            .into_iter()
            .map(|id| proto::LeaseStatus { id: id.0 })
            .collect(),
    })
}

async fn maintenance(store: Store, _: proto::Empty) -> Result<proto::StatusResponse, Status> {
    let stats = store.stats().await.map_err(status)?;
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    // There is no raft; what its clients look at is that the index moves, and that there is a leader.
    let index = u64::try_from(stats.revision.0).unwrap_or(0);
    Ok(proto::StatusResponse {
        header: header(stats.revision),
        version: VERSION.to_owned(),
        db_size: bytes(stats.file_bytes),
        leader: MEMBER,
        raft_index: index,
        raft_term: 1,
        raft_applied_index: index,
        errors: Vec::new(),
        db_size_in_use: bytes(stats.file_bytes - stats.free_bytes),
        is_learner: false,
    })
}

/// Whole seconds, rounded up, so that a living lease never shows none.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}
