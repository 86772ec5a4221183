//! The TLS accept loop: HTTP/1.1 (with upgrades) and HTTP/2 by ALPN, who called in the request's extensions.
//!
//! One task a connection. A failed handshake or a broken connection ends that connection and nothing else;
//! on shutdown each connection finishes the requests it has, within the given time.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{net::TcpListener, sync::Semaphore, time};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::PeerCertificate;

/// The caller's verified certificate, if it showed one: read once for all requests of its connection.
#[derive(Clone, Debug)]
pub struct Peer(pub Option<Arc<PeerCertificate>>);

/// Where the caller's connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub SocketAddr);

/// How much strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Open connections; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// A client that takes longer over its TLS handshake is dropped.
    pub handshake: Duration,
    /// A client that takes longer over one request's head is dropped.
    pub head: Duration,
    /// A longer head is answered with 431.
    pub head_bytes: usize,
    /// After shutdown began, how long running requests may go on.
    pub drain: Duration,
}

/// What an HTTP/2 stream may hold of an answer that its client doesn't read. There may be thousands.
const STREAM_BUFFER: usize = 64 * 1024;
/// What a client may send on a stream ahead of its reader: upstream's figure, most request bodies.
const STREAM_WINDOW: u32 = 256 * 1024;

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            head_bytes: 128 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

/// Accepts until `shutdown`; `handle` answers each request.
pub async fn serve_tls<H, F, B>(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    limits: ServeLimits,
    handle: H,
    shutdown: CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory: connections that end free some. Accepting again at
                    // once would only spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let (acceptor, handle) = (acceptor.clone(), handle.clone());
        let watcher = connections.watcher();
        tokio::spawn(async move {
            let _slot = slot;
            let stream = match time::timeout(limits.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%remote, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%remote, "TLS handshake took too long");
                    return;
                }
            };
            let shown = stream.get_ref().1.peer_certificates();
            let leaf = shown.and_then(<[_]>::first);
            let peer = Peer(leaf.map(|leaf| Arc::new(PeerCertificate::of(leaf))));
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(RemoteAddr(remote));
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(limits.head_bytes)
                .http2()
                .max_header_list_size(limits.head_bytes as u32)
                .timer(TokioTimer::new())
                .max_concurrent_streams(1000)
                // A stream that its client doesn't read keeps no more than this; neither does one that isn't read here.
                .max_send_buf_size(STREAM_BUFFER)
                .initial_stream_window_size(STREAM_WINDOW)
                .keep_alive_interval(Duration::from_secs(30));
            let connection = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            let served: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(watcher.watch(connection));
            if let Err(error) = served.await {
                tracing::debug!(%remote, %error, "connection ended");
            }
        });
    }
    drop(listener);
    if time::timeout(limits.drain, connections.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("requests were still running when the server stopped");
    }
}
