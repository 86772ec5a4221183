//! A SPDY/3.1 connection whose streams the client opens.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream as Source, StreamExt};
use tokio::{
    sync::mpsc,
    time::{self, MissedTickBehavior},
};

use super::{Hub, Out, Stream, wire::Piece};
use crate::spdy::{Decoder, Encoder, Frame, Headers};

/// So many streams may be open at once on a connection; two are one forwarded connection.
const STREAMS: usize = 2048;
/// So many may wait to be looked at.
const OPENED: usize = 16;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;

/// A connection: the streams that the client opens, in order, and the two halves that must be driven for it to live.
/// `reading` ends with the client, `writing` after [`Out::End`].
pub(crate) struct Spdy<R, W> {
    pub hub: Arc<Hub>,
    pub streams: mpsc::Receiver<Stream>,
    pub out: mpsc::Sender<Out>,
    pub reading: R,
    pub writing: W,
}

pub(crate) fn spdy(
    source: impl Source<Item = io::Result<Bytes>>,
    sink: impl Sink<Piece, Error = io::Error>,
    heartbeat: Duration,
) -> Spdy<impl Future<Output = ()>, impl Future<Output = io::Result<()>>> {
    let hub = Hub::new();
    let (out, queue) = mpsc::channel(2);
    let (opened, streams) = mpsc::channel(OPENED);
    Spdy {
        reading: read(source, hub.clone(), opened, out.clone()),
        writing: write(sink, hub.clone(), queue, heartbeat),
        hub,
        streams,
        out,
    }
}

async fn read(
    source: impl Source<Item = io::Result<Bytes>>,
    hub: Arc<Hub>,
    opened: mpsc::Sender<Stream>,
    out: mpsc::Sender<Out>,
) {
    let mut source = std::pin::pin!(source);
    let mut decoder = Decoder::default();
    let mut newest = 0;
    while let Some(bytes) = source.next().await {
        match bytes {
            Ok(bytes) => decoder.push(&bytes),
            Err(error) => {
                tracing::debug!(%error, "a session's connection broke");
                break;
            }
        }
        loop {
            let frame = match decoder.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a client doesn't speak SPDY/3.1");
                    hub.end();
                    return;
                }
            };
            match frame {
                Frame::SynStream { id, headers, fin } => {
                    // A client's streams have odd numbers that only grow.
                    let refused = if id.is_multiple_of(2) || id <= newest {
                        Some(PROTOCOL_ERROR)
                    } else if hub.count() >= STREAMS {
                        Some(REFUSED_STREAM)
                    } else {
                        None
                    };
                    newest = newest.max(id);
                    if let Some(status) = refused {
                        let _ = out.send(Out::Reset { id, status }).await;
                        continue;
                    }
                    hub.active();
                    let stream = hub.open(id, headers, &out);
                    if fin {
                        hub.finished(id);
                    }
                    if let Err(unwanted) = opened.send(stream).await {
                        // Nobody wants more streams.
                        unwanted.0.outgoing.give_up().await;
                    }
                }
                Frame::Data { id, data, fin } => {
                    hub.dispatch(id, data).await;
                    if fin {
                        hub.finished(id);
                    }
                }
                Frame::Headers { id, fin: true, .. } => hub.finished(id),
                Frame::Reset { id, .. } => hub.reset(id),
                Frame::Settings(all) => hub.settings(&all),
                Frame::WindowUpdate { id, delta } => hub.grant(id, delta),
                // Ours have even numbers: those are answers.
                Frame::Ping(id) if !id.is_multiple_of(2) => {
                    let _ = out.send(Out::Pong(id)).await;
                }
                // The connection's end follows.
                Frame::GoAway { .. } => {}
                Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { .. } => {}
            }
        }
    }
    hub.end();
}

async fn write(
    sink: impl Sink<Piece, Error = io::Error>,
    hub: Arc<Hub>,
    mut queue: mpsc::Receiver<Out>,
    every: Duration,
) -> io::Result<()> {
    let mut sink = std::pin::pin!(sink);
    let mut encoder = Encoder::default();
    let mut heartbeat = time::interval(every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let mut ping = 0_u32;
    loop {
        // Both arms can be dropped while they wait; what is sent is sent outside of them.
        let out = tokio::select! {
            out = queue.recv() => out.unwrap_or(Out::End),
            _ = heartbeat.tick() => {
                // A client that is gone shows when it is written to.
                ping = ping.wrapping_add(2) & 0x7fff_fffe;
                Out::Pong(ping.max(2))
            }
        };
        let frame = match out {
            Out::Data { id, data, fin } => {
                hub.active();
                Frame::Data { id, data, fin }
            }
            Out::Reply(id) => Frame::SynReply {
                id,
                headers: Headers::default(),
                fin: false,
            },
            Out::Reset { id, status } => Frame::Reset { id, status },
            Out::Pong(id) => Frame::Ping(id),
            Out::Grant { id, bytes } => {
                // The stream's window and the connection's.
                for id in [id, 0] {
                    let update = Frame::WindowUpdate { id, delta: bytes };
                    sink.feed(Piece::Bytes(encoder.encode(&update))).await?;
                }
                sink.flush().await?;
                continue;
            }
            Out::End => {
                let last = Frame::GoAway { last: 0, status: 0 };
                sink.send(Piece::Bytes(encoder.encode(&last))).await?;
                return sink.send(Piece::End).await;
            }
        };
        sink.send(Piece::Bytes(encoder.encode(&frame))).await?;
    }
}
