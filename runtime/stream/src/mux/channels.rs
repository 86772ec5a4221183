//! A WebSocket whose messages name their channel: each is a stream, and all are there from the beginning.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, Stream as Source, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{self, MissedTickBehavior},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Hub, Out, Stream, wire};
use crate::{Channels, protocol::Payload, spdy::Headers};

/// As [`super::spdy::Spdy`], but for the streams: one a channel, by number.
pub(crate) struct Channelled<R, W> {
    pub hub: Arc<Hub>,
    pub streams: Vec<Stream>,
    pub out: mpsc::Sender<Out>,
    pub reading: R,
    pub writing: W,
}

pub(crate) async fn channels<S>(
    connection: S,
    protocol: Channels,
    count: u8,
    heartbeat: Duration,
) -> Channelled<impl Future<Output = ()>, impl Future<Output = io::Result<()>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, frames) = wire::websocket(connection).await.split();
    let hub = Hub::new();
    let (out, queue) = mpsc::channel(2);
    let open = |id| hub.open(u32::from(id), Headers::default(), &out);
    let streams = (0..count).map(open).collect();
    Channelled {
        streams,
        reading: read(frames, protocol, hub.clone()),
        writing: write(sink, protocol, hub.clone(), queue, heartbeat),
        hub,
        out,
    }
}

/// The client's messages, until it closes the connection or the connection breaks.
async fn read(
    mut frames: impl Source<Item = Result<Message, tungstenite::Error>> + Unpin,
    protocol: Channels,
    hub: Arc<Hub>,
) {
    while let Some(message) = frames.next().await {
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            // Answered by the library; the connection's end follows a close.
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "a session's connection broke");
                break;
            }
        };
        hub.active();
        match protocol.decode(data) {
            Ok((channel, Payload::Data(data))) => hub.dispatch(u32::from(channel), data).await,
            Ok((channel, Payload::End)) => hub.finished(u32::from(channel)),
            Err(problem) => tracing::debug!(%problem, "passed over a client's message"),
        }
    }
    hub.end();
}

async fn write(
    mut sink: impl futures::Sink<Message, Error = tungstenite::Error> + Unpin,
    protocol: Channels,
    hub: Arc<Hub>,
    mut queue: mpsc::Receiver<Out>,
    every: Duration,
) -> io::Result<()> {
    let mut heartbeat = time::interval(every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    loop {
        // Both arms can be dropped while they wait; what is sent is sent outside of them.
        let out = tokio::select! {
            out = queue.recv() => out.unwrap_or(Out::End),
            _ = heartbeat.tick() => {
                let pong = Message::Pong(Bytes::new());
                sink.send(pong).await.map_err(wire::broken)?;
                continue;
            }
        };
        match out {
            // Channels have no end that could be told.
            Out::Data {
                data, fin: true, ..
            } if data.is_empty() => {}
            Out::Data { id, data, .. } => {
                hub.active();
                let channel = u8::try_from(id).expect("channels have small numbers");
                let message = protocol.encode(channel, &data);
                sink.send(message).await.map_err(wire::broken)?;
            }
            Out::Reply(_) | Out::Reset { .. } | Out::Grant { .. } | Out::Pong(_) => {}
            Out::End => return sink.send(wire::goodbye()).await.map_err(wire::broken),
        }
    }
}
