//! Port-forward: connections of the client's machine, each a pair of streams, to ports of a pod.
//!
//! ```text
//! data stream  ◄─► a connection to the port, made by the caller's `dial`
//! error stream  ◄─ one text, when that failed
//! ```
//! A side's end is passed on and the other may still send, until it has been silent for a while: clients often end
//! theirs when they are gone altogether.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    Ended, Forward, Limits,
    mux::{self, Out, Stream},
    session::drive,
};

/// What is read from a pod's port at once.
const CHUNK: usize = 32 << 10;
/// So many streams may wait for the second of their pair.
const HALVES: usize = 1024;
/// A pair's second stream comes within this time.
const SECOND_WITHIN: Duration = Duration::from_secs(30);
/// A connection that one side has ended may be silent for so long.
const HALF_OPEN: Duration = Duration::from_secs(30);

/// Makes the connections to a pod's ports. The error is told to the client as it is.
pub trait Dial: Clone + Send + Sync + 'static {
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn dial(&self, port: u16) -> impl Future<Output = Result<Self::Connection, String>> + Send;
}

/// Carries connections until the client goes. `ports` are those of the request, which only channels need.
pub async fn forward<S, D>(
    connection: S,
    protocol: Forward,
    ports: &[u16],
    dial: D,
    limits: Limits,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dial,
{
    match protocol {
        Forward::Spdy => {
            let (source, sink) = mux::plain(connection);
            let spdy = mux::spdy(source, sink, limits.heartbeat);
            let work = serve_pairs(spdy.streams, dial);
            drive(&spdy.hub, spdy.reading, spdy.writing, work, limits).await
        }
        Forward::Tunnel => {
            let (source, sink) = mux::tunnel(connection).await;
            let spdy = mux::spdy(source, sink, limits.heartbeat);
            let work = serve_pairs(spdy.streams, dial);
            drive(&spdy.hub, spdy.reading, spdy.writing, work, limits).await
        }
        Forward::Channels(channels) => {
            let count = u8::try_from(2 * ports.len()).unwrap_or(u8::MAX - 1);
            let mux = mux::channels(connection, channels, count, limits.heartbeat).await;
            let out = mux.out;
            let work = serve_ports(mux.streams, ports, dial, out);
            drive(&mux.hub, mux.reading, mux.writing, work, limits).await
        }
    }
}

/// The pairs of channels, one a port, until all their connections have ended.
async fn serve_ports<D: Dial>(
    streams: Vec<Stream>,
    ports: &[u16],
    dial: D,
    out: mpsc::Sender<Out>,
) {
    let mut streams = streams.into_iter();
    let mut tasks = JoinSet::new();
    for port in ports {
        let (Some(data), Some(error)) = (streams.next(), streams.next()) else {
            break;
        };
        let named = Bytes::copy_from_slice(&port.to_le_bytes());
        let _ = data.outgoing.send(named.clone()).await;
        let _ = error.outgoing.send(named).await;
        tasks.spawn(serve_pair(data, error, *port, dial.clone()));
    }
    while tasks.join_next().await.is_some() {}
    let _ = out.send(Out::End).await;
}

/// A request's streams as far as they have come.
struct Half {
    data: Option<(Stream, u16)>,
    error: Option<Stream>,
    since: Instant,
}

enum Kind {
    Data,
    Error,
}

/// What a stream's headers say: its request, its kind, its port.
fn read_headers(stream: &Stream) -> Result<(String, Kind, u16), &'static str> {
    let headers = &stream.headers;
    let port = headers.get("port").ok_or("it names no port")?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or("its port is none")?;
    let kind = match headers.get("streamtype") {
        Some("data") => Kind::Data,
        Some("error") => Kind::Error,
        _ => return Err("its type is neither data nor error"),
    };
    let request = headers.get("requestid").filter(|id| !id.is_empty());
    let request = request.map(str::to_owned).unwrap_or_else(|| {
        // Old clients name no request and open the error stream first, then the data stream.
        let id = stream.outgoing.id();
        match kind {
            Kind::Error => format!("stream {id}"),
            Kind::Data => format!("stream {}", id.saturating_sub(2)),
        }
    });
    Ok((request, kind, port))
}

/// The pairs that a client of SPDY opens, until it goes.
async fn serve_pairs<D: Dial>(mut streams: mpsc::Receiver<Stream>, dial: D) {
    let mut tasks = JoinSet::new();
    let mut halves: HashMap<String, Half> = HashMap::new();
    loop {
        let oldest = halves.values().map(|half| half.since).min();
        let too_late = async {
            match oldest {
                Some(since) => time::sleep_until(since + SECOND_WITHIN).await,
                None => future::pending().await,
            }
        };
        let stream = tokio::select! {
            // All three can be dropped while they wait.
            stream = streams.recv() => match stream {
                Some(stream) => stream,
                // The client is gone; `drive` ends us, and with us the tasks.
                None => return future::pending().await,
            },
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            () = too_late => {
                expire(&mut halves).await;
                continue;
            }
        };
        let (request, kind, port) = match read_headers(&stream) {
            Ok(read) => read,
            Err(problem) => {
                tracing::debug!(problem, "refused a stream");
                stream.outgoing.give_up().await;
                continue;
            }
        };
        if halves.len() >= HALVES && !halves.contains_key(&request) {
            stream.outgoing.give_up().await;
            continue;
        }
        stream.outgoing.accept().await;
        let half = halves.entry(request.clone()).or_insert_with(|| Half {
            data: None,
            error: None,
            since: Instant::now(),
        });
        match kind {
            Kind::Data if half.data.is_none() => half.data = Some((stream, port)),
            Kind::Error if half.error.is_none() => half.error = Some(stream),
            Kind::Data | Kind::Error => stream.outgoing.give_up().await,
        }
        if half.data.is_some()
            && half.error.is_some()
            && let Some(Half {
                data: Some((data, port)),
                error: Some(error),
                ..
            }) = halves.remove(&request)
        {
            tasks.spawn(serve_pair(data, error, port, dial.clone()));
        }
    }
}

/// Gives up the streams whose second never came.
async fn expire(halves: &mut HashMap<String, Half>) {
    let late: Vec<String> = halves
        .iter()
        .filter(|(_, half)| half.since + SECOND_WITHIN <= Instant::now())
        .map(|(request, _)| request.clone())
        .collect();
    for request in late {
        let Some(half) = halves.remove(&request) else {
            continue;
        };
        if let Some(error) = half.error {
            let text = format!("(request={request}) timed out waiting for streams");
            let _ = error.outgoing.send(text.into()).await;
            error.outgoing.finish().await;
        }
        if let Some((data, _)) = half.data {
            data.outgoing.give_up().await;
        }
    }
}

/// One connection.
async fn serve_pair<D: Dial>(data: Stream, error: Stream, port: u16, dial: D) {
    let given_up = data.outgoing.given_up();
    let dialled = tokio::select! {
        () = given_up.cancelled() => None,
        dialled = dial.dial(port) => Some(dialled),
    };
    match dialled {
        None => {}
        Some(Ok(connection)) => carry(data, connection).await,
        Some(Err(text)) => {
            tracing::debug!(text, "a forwarded connection failed");
            let _ = error.outgoing.send(text.into()).await;
            error.outgoing.finish().await;
            return data.outgoing.give_up().await;
        }
    }
    error.outgoing.finish().await;
}

async fn carry(data: Stream, connection: impl AsyncRead + AsyncWrite) {
    let Stream {
        mut incoming,
        outgoing,
        ..
    } = data;
    let (mut read, mut write) = tokio::io::split(connection);
    let last = Mutex::new(Instant::now());
    let moved = || *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    let half = Notify::new();
    let up = async {
        while let Some(bytes) = incoming.next().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
            moved();
        }
        // What else comes is for nobody, and must not hold the other streams back.
        drop(incoming);
        let _ = write.shutdown().await;
        moved();
        half.notify_one();
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) => return Err::<(), io::Error>(error),
            }
            if outgoing.send(buffer.split().freeze()).await.is_err() {
                break;
            }
            moved();
        }
        outgoing.finish().await;
        moved();
        half.notify_one();
        Ok(())
    };
    let silent = async {
        half.notified().await;
        loop {
            let until = *last.lock().unwrap_or_else(PoisonError::into_inner) + HALF_OPEN;
            if until <= Instant::now() {
                return;
            }
            time::sleep_until(until).await;
        }
    };
    let given_up = outgoing.given_up();
    let broken = tokio::select! {
        (_, down) = future::join(up, down) => down.is_err(),
        () = given_up.cancelled() => false,
        () = silent => true,
    };
    if broken {
        outgoing.give_up().await;
    }
}

#[cfg(test)]
mod tests;
