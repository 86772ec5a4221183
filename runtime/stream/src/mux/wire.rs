//! A connection as a source and a sink of bytes: itself, or the binary messages of a WebSocket on it.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt, future, sink, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// What is read at once: kubectl's own measure.
pub(super) const CHUNK: usize = 32 << 10;
/// Larger messages end the session; the figure is upstream's.
const MESSAGE: usize = 32 << 20;

/// Bytes, or the connection's polite end.
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

/// The connection's own bytes.
pub(crate) fn plain<S>(
    connection: S,
) -> (
    impl Stream<Item = io::Result<Bytes>>,
    impl Sink<Piece, Error = io::Error>,
)
where
    S: AsyncRead + AsyncWrite,
{
    let (read, write) = tokio::io::split(connection);
    let source = stream::try_unfold(
        (read, BytesMut::new()),
        |(mut read, mut buffer)| async move {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await? {
                0 => Ok(None),
                _ => Ok(Some((buffer.split().freeze(), (read, buffer)))),
            }
        },
    );
    let sink = sink::unfold(write, |mut write, piece| async move {
        match piece {
            Piece::Bytes(bytes) => {
                write.write_all(&bytes).await?;
                write.flush().await?;
            }
            Piece::End => write.shutdown().await?,
        }
        Ok(write)
    });
    (source, sink)
}

/// The node's end of a WebSocket.
pub(super) async fn websocket<S>(connection: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// The bytes in the messages of a WebSocket on the connection.
pub(crate) async fn tunnel<S>(
    connection: S,
) -> (
    impl Stream<Item = io::Result<Bytes>>,
    impl Sink<Piece, Error = io::Error>,
)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, frames) = websocket(connection).await.split();
    let source = frames.filter_map(|message| {
        future::ready(match message {
            Ok(Message::Binary(data)) => Some(Ok(data)),
            Ok(Message::Text(_)) => Some(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a text message in a tunnel of bytes",
            ))),
            // Answered by the library; the connection's end follows a close.
            Ok(_) => None,
            Err(error) => Some(Err(broken(error))),
        })
    });
    let sink = sink.sink_map_err(broken).with(|piece: Piece| {
        future::ok::<_, io::Error>(match piece {
            Piece::Bytes(bytes) => Message::Binary(bytes),
            Piece::End => goodbye(),
        })
    });
    (source, sink)
}

pub(super) fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
