//! One session: frames to streams and back, until the process has ended or the client has gone.
//!
//! All of it is one task. The client's reading sets the pace: at most two chunks wait for it, then our pipes fill and
//! the process waits. Nothing here outlives the session; who drops it closes every descriptor.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    SinkExt, Stream, StreamExt,
    future::{join, try_join},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{Channel, Event, Outcome, Pipe, Protocol, Size};

/// What is read from a stream at once: kubectl's own measure.
const CHUNK: usize = 32 << 10;
/// Larger messages end the session; the figure is upstream's.
const MESSAGE: usize = 32 << 20;
/// After the process's end at most so much is taken of what it left in a pipe: who still holds the other end may
/// write for ever. Above any pipe's capacity that an unprivileged process can set.
const LEFT: usize = 1 << 20;

/// A process's streams; those that nobody asked for are `None`.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<Arc<Pipe>>,
    pub stdout: Option<Arc<Pipe>>,
    pub stderr: Option<Arc<Pipe>>,
    /// Called with every new size of the client's terminal.
    pub resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
}

/// How long a session may be silent, and what keeps it alive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without data either way for so long, the session ends. Pings are no data.
    pub idle: Duration,
    /// So often the client hears of us, also while we don't read it because the process doesn't read its stdin: kubectl
    /// gives up a connection that was silent for a minute, and a client that is gone shows when it is written to.
    pub heartbeat: Duration,
    /// So long a client may take to close the connection after the last message.
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(4 * 3600),
            heartbeat: Duration::from_secs(15),
            close: Duration::from_secs(10),
        }
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client was told how the process ended.
    Told,
    ClientGone,
    Idle,
}

/// Carries a process's streams over an upgraded connection until `ended` says how it ended, or the client goes. The
/// process's end is the caller's business: when this returns, nobody wants it any more.
pub async fn serve<S>(
    connection: S,
    protocol: Protocol,
    streams: Streams,
    ended: impl Future<Output = Outcome>,
    limits: Limits,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    let (mut sink, frames) = socket.split();
    let activity = Activity::default();
    let over = CancellationToken::new();
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
    } = streams;
    let first = match (&stdout, &stderr) {
        (Some(_), _) => Channel::Stdout,
        (None, Some(_)) => Channel::Stderr,
        (None, None) => Channel::Error,
    };
    let (sender, mut messages) = mpsc::channel(2);
    let process = async {
        // Tells the client that the streams are there, as upstream does.
        let _ = sender.send(protocol.encode(first, &[])).await;
        let output = join(
            copy_out(stdout, protocol, Channel::Stdout, &sender, &over),
            copy_out(stderr, protocol, Channel::Stderr, &sender, &over),
        );
        let end = async {
            let outcome = ended.await;
            over.cancel();
            outcome
        };
        let (_, outcome) = join(output, end).await;
        if let Some(message) = protocol.encode_outcome(&outcome) {
            let _ = sender.send(message).await;
        }
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = sender.send(Message::Close(Some(normal))).await;
        drop(sender);
        Ok(())
    };
    let writing = async {
        let mut heartbeat = time::interval(limits.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            // Both arms can be dropped while they wait; what is sent is sent outside of them.
            let message = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => message,
                    None => return Ok(()),
                },
                _ = heartbeat.tick() => Message::Pong(Bytes::new()),
            };
            if !message.is_pong() {
                activity.now();
            }
            sink.send(message).await?;
        }
    };
    let reading = read(frames, protocol, stdin, resize, &activity, &over);
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        // Cancelled: the session is over, and with it what the others were waiting for.
        () = &mut reading => Ended::ClientGone,
        // A client that can't be written to is gone, whatever the process still does.
        written = try_join(process, writing) => match written {
            Ok(((), ())) => {
                // A connection closed with unread data in it is reset, and the client could lose the end.
                let _ = time::timeout(limits.close, reading).await;
                Ended::Told
            }
            Err::<_, tungstenite::Error>(_) => Ended::ClientGone,
        },
        () = activity.idle(limits.idle) => Ended::Idle,
    }
}

/// The client's messages, until it closes the connection or the connection breaks.
async fn read(
    mut frames: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    protocol: Protocol,
    mut stdin: Option<Arc<Pipe>>,
    resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    activity: &Activity,
    over: &CancellationToken,
) {
    while let Some(message) = frames.next().await {
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            // Answered by the library.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            // It answers this, too; the connection's end follows.
            Ok(Message::Close(_)) => continue,
            Err(error) => {
                tracing::debug!(%error, "a session's connection broke");
                return;
            }
        };
        activity.now();
        match protocol.decode(data) {
            Ok(Event::Stdin(data)) => {
                let Some(pipe) = &stdin else { continue };
                let written = tokio::select! {
                    // Cancelled: who would read it has ended.
                    () = over.cancelled() => false,
                    written = pipe.write_all(&data) => written.is_ok(),
                };
                if !written {
                    // It has closed its stdin: what else comes is for nobody.
                    stdin = None;
                }
                activity.now();
            }
            Ok(Event::EndOfStdin) => stdin = None,
            Ok(Event::Resize(size)) => {
                if let Some(resize) = &resize {
                    resize(size);
                }
            }
            Err(problem) => tracing::debug!(%problem, "passed over a client's message"),
        }
    }
}

/// A stream's bytes to the client, until its end. After the process's end what it has left in the pipe, too; a
/// grandchild that holds the other end is not waited for.
async fn copy_out(
    stream: Option<Arc<Pipe>>,
    protocol: Protocol,
    channel: Channel,
    sender: &mpsc::Sender<Message>,
    over: &CancellationToken,
) {
    let Some(stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    let mut left = LEFT;
    loop {
        let read = if over.is_cancelled() {
            // Asked of the kernel, not of the runtime: that may not have heard yet of what was written last.
            match stream.read_now(&mut buffer) {
                Ok(read) => read.unwrap_or(0),
                Err(_) => 0,
            }
        } else {
            tokio::select! {
                // Cancelled: nothing was read; once more round for what is left.
                () = over.cancelled() => continue,
                read = stream.read(&mut buffer) => read.unwrap_or(0),
            }
        };
        if read == 0 {
            return;
        }
        if over.is_cancelled() {
            match left.checked_sub(read) {
                Some(less) => left = less,
                None => return,
            }
        }
        let message = protocol.encode(channel, &buffer[..read]);
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

/// When data went either way last.
struct Activity(Mutex<Instant>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Activity {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn idle(&self, limit: Duration) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let until = last + limit;
            if until <= Instant::now() {
                return;
            }
            time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests;
