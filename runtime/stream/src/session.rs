//! One session of exec or attach: a process's streams to the client's and back, until one of them has ended.
//!
//! All of it is one task. The client's reading sets the pace: at most two chunks wait for it, then our pipes fill and
//! the process waits. Nothing here outlives the session; who drops it closes every descriptor.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{self, BoxFuture, join, try_join};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Command, Outcome, Pipe, Size,
    mux::{self, Hub, Incoming, Out, Outgoing},
    protocol::{ERROR, RESIZE, STDERR, STDIN, STDOUT, Sizes, Version},
};

/// What is read from a stream at once: kubectl's own measure.
const CHUNK: usize = 32 << 10;
/// After the process's end at most so much is taken of what it left in a pipe: who still holds the other end may
/// write for ever. Above any pipe's capacity that an unprivileged process can set.
const LEFT: usize = 1 << 20;
/// A client of SPDY opens all its streams within this time.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

/// A process's streams; those that nobody asked for are `None`.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<Arc<Pipe>>,
    pub stdout: Option<Arc<Pipe>>,
    pub stderr: Option<Arc<Pipe>>,
    /// Called with every new size of the client's terminal.
    pub resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    /// Hears why nothing more comes for stdin.
    pub stdin_ended: Option<oneshot::Sender<StdinEnd>>,
    /// Ctrl-P, Ctrl-Q in stdin leaves the session; the two aren't passed on.
    pub detachable: bool,
}

/// Why nothing more comes for stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinEnd {
    /// The client has ended it.
    Client,
    /// By its detach keys.
    Detached,
    /// The process doesn't read any more.
    Process,
}

/// What ends a session.
pub enum End {
    /// The process's end: what it left in its pipes is still sent.
    Process(BoxFuture<'static, Outcome>),
    /// The end of all the output, or this, if it comes before; only this, when no output was asked for.
    Output(BoxFuture<'static, Outcome>),
}

/// Which streams a client has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub terminal: bool,
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

/// Carries a process's streams over an upgraded connection. The process is made by `start` when the client's streams
/// are there; its end is the caller's business: when this returns, nobody wants it any more.
pub async fn serve<S>(
    connection: S,
    protocol: Command,
    wants: Wants,
    start: impl Future<Output = (Streams, End)>,
    limits: Limits,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let version = protocol.version();
    match protocol {
        Command::Channels(channels) => {
            let mux = mux::channels(connection, channels, RESIZE + 1, limits.heartbeat).await;
            let remote = Remote::of_channels(mux.streams, wants);
            let out = mux.out;
            let work = async move {
                remote.greet().await;
                let (streams, end) = start.await;
                carry(remote, streams, end, version, out).await;
            };
            drive(&mux.hub, mux.reading, mux.writing, work, limits).await
        }
        Command::Spdy(_) => {
            let (source, sink) = mux::plain(connection);
            let spdy = mux::spdy(source, sink, limits.heartbeat);
            let (out, mut streams) = (spdy.out, spdy.streams);
            let work = async move {
                let opened = Remote::opened(&mut streams, wants, version);
                let Ok(remote) = time::timeout(STREAMS_WITHIN, opened).await else {
                    tracing::debug!("a client has not opened its streams in time");
                    let _ = out.send(Out::End).await;
                    return;
                };
                // More of them have no meaning.
                drop(streams);
                let (streams, end) = start.await;
                carry(remote, streams, end, version, out).await;
            };
            drive(&spdy.hub, spdy.reading, spdy.writing, work, limits).await
        }
    }
}

/// Lives a connection's life: `work` sends [`Out::End`] when it is done.
pub(crate) async fn drive(
    hub: &Hub,
    reading: impl Future<Output = ()>,
    writing: impl Future<Output = io::Result<()>>,
    work: impl Future<Output = ()>,
    limits: Limits,
) -> Ended {
    let mut reading = std::pin::pin!(reading);
    let work = async {
        work.await;
        Ok(())
    };
    tokio::select! {
        // Cancelled: the session is over, and with it what the others were waiting for.
        () = &mut reading => Ended::ClientGone,
        // A client that can't be written to is gone, whatever the process still does.
        written = try_join(work, writing) => match written {
            Ok(((), ())) => {
                // A connection closed with unread data in it is reset, and the client could lose the end.
                let _ = time::timeout(limits.close, reading).await;
                Ended::Told
            }
            Err::<_, io::Error>(_) => Ended::ClientGone,
        },
        () = hub.idle(limits.idle) => Ended::Idle,
    }
}

/// The client's streams.
#[derive(Default)]
struct Remote {
    stdin: Option<Incoming>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    error: Option<Outgoing>,
    resize: Option<Incoming>,
}

impl Remote {
    fn of_channels(streams: Vec<mux::Stream>, wants: Wants) -> Remote {
        let mut remote = Remote::default();
        for (channel, stream) in (0_u8..).zip(streams) {
            match channel {
                STDIN if wants.stdin => remote.stdin = Some(stream.incoming),
                STDOUT if wants.stdout => remote.stdout = Some(stream.outgoing),
                STDERR if wants.stderr => remote.stderr = Some(stream.outgoing),
                ERROR => remote.error = Some(stream.outgoing),
                RESIZE => remote.resize = Some(stream.incoming),
                _ => {}
            }
        }
        remote
    }

    /// All that the client wants; those beyond it are refused.
    async fn opened(
        streams: &mut mpsc::Receiver<mux::Stream>,
        wants: Wants,
        version: Version,
    ) -> Remote {
        let mut remote = Remote::default();
        let resizes = wants.terminal && version >= Version::V3;
        while remote.error.is_none()
            || wants.stdin && remote.stdin.is_none()
            || wants.stdout && remote.stdout.is_none()
            || wants.stderr && remote.stderr.is_none()
            || resizes && remote.resize.is_none()
        {
            let Some(stream) = streams.recv().await else {
                // The client is gone, and the caller ends us.
                return future::pending().await;
            };
            let kind = stream.headers.get("streamtype").unwrap_or_default();
            if !matches!(kind, "error" | "stdin" | "stdout" | "stderr" | "resize") {
                stream.outgoing.give_up().await;
                continue;
            }
            stream.outgoing.accept().await;
            match kind {
                "error" => remote.error = Some(stream.outgoing),
                "stdin" => remote.stdin = Some(stream.incoming),
                "stdout" => remote.stdout = Some(stream.outgoing),
                "stderr" => remote.stderr = Some(stream.outgoing),
                _ => remote.resize = Some(stream.incoming),
            }
        }
        remote
    }

    /// Tells the client that the streams are there, as upstream does.
    async fn greet(&self) {
        let first = self.stdout.as_ref().or(self.stderr.as_ref());
        if let Some(first) = first.or(self.error.as_ref()) {
            first.greet().await;
        }
    }
}

async fn carry(
    remote: Remote,
    streams: Streams,
    end: End,
    version: Version,
    out: mpsc::Sender<Out>,
) {
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        stdin_ended,
        detachable,
    } = streams;
    let over = CancellationToken::new();
    let input = async {
        if let Some(incoming) = remote.stdin {
            let why = copy_in(incoming, stdin, detachable).await;
            if let Some(hears) = stdin_ended {
                let _ = hears.send(why);
            }
        }
    };
    let sizes = async {
        let (Some(mut incoming), Some(resize)) = (remote.resize, resize) else {
            return;
        };
        let mut sizes = Sizes::default();
        while let Some(text) = incoming.next().await {
            if let Some(size) = sizes.push(&text) {
                resize(size);
            }
        }
    };
    let silent = stdout.is_none() && stderr.is_none();
    let output = join(
        copy_out(stdout, remote.stdout, &over),
        copy_out(stderr, remote.stderr, &over),
    );
    let process = async {
        match end {
            End::Process(end) => {
                let end = async {
                    let outcome = end.await;
                    over.cancel();
                    outcome
                };
                join(output, end).await.1
            }
            End::Output(end) => tokio::select! {
                // Cancelled: what is still in the pipes is nobody's any more.
                _ = output, if !silent => Outcome::Exited(0),
                outcome = end => outcome,
            },
        }
    };
    let forever = async {
        join(input, sizes).await;
        future::pending().await
    };
    let outcome = tokio::select! {
        outcome = process => outcome,
        // Cancelled at the process's end: who would read it has ended.
        () = forever => return,
    };
    if let Some(error) = remote.error {
        if let Some(text) = version.outcome(&outcome) {
            let _ = error.send(text.into()).await;
        }
        error.finish().await;
    }
    let _ = out.send(Out::End).await;
}

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// The client's bytes to the process, until one of them ends it.
async fn copy_in(mut incoming: Incoming, pipe: Option<Arc<Pipe>>, detachable: bool) -> StdinEnd {
    // The first of the detach keys has come; whether the second follows decides what it meant.
    let mut held = false;
    while let Some(bytes) = incoming.next().await {
        let Some(pipe) = &pipe else { continue };
        let mut bytes = bytes;
        if detachable {
            if std::mem::take(&mut held) {
                bytes = [&[CTRL_P], bytes.as_ref()].concat().into();
            }
            if let Some(at) = bytes.windows(2).position(|keys| keys == [CTRL_P, CTRL_Q]) {
                let _ = pipe.write_all(&bytes[..at]).await;
                return StdinEnd::Detached;
            }
            if bytes.last() == Some(&CTRL_P) {
                held = true;
                bytes.truncate(bytes.len() - 1);
            }
        }
        if pipe.write_all(&bytes).await.is_err() {
            // It has closed its stdin: what else comes is for nobody, and is read no more.
            return StdinEnd::Process;
        }
    }
    StdinEnd::Client
}

/// A stream's bytes to the client, until its end. After the process's end what it has left in the pipe, too; a
/// grandchild that holds the other end is not waited for.
async fn copy_out(stream: Option<Arc<Pipe>>, to: Option<Outgoing>, over: &CancellationToken) {
    let Some(to) = to else { return };
    let Some(stream) = stream else {
        // Asked for, and the process hasn't it: on a terminal all output is one stream.
        return to.finish().await;
    };
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
            break;
        }
        if over.is_cancelled() {
            match left.checked_sub(read) {
                Some(less) => left = less,
                None => break,
            }
        }
        if to
            .send(Bytes::copy_from_slice(&buffer[..read]))
            .await
            .is_err()
        {
            break;
        }
    }
    to.finish().await;
}

#[cfg(test)]
mod tests;
