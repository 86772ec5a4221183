use std::os::fd::OwnedFd;

use futures::{SinkExt, StreamExt, future::pending};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::oneshot,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{
    Channels,
    spdy::{Decoder, Encoder, Frame, Headers},
};

type Client = WebSocketStream<DuplexStream>;

const ALL: Wants = Wants {
    stdin: true,
    stdout: true,
    stderr: true,
    terminal: false,
};

/// A session of a client of channels, version 5.
async fn serve_channels(
    far: DuplexStream,
    streams: Streams,
    ended: impl Future<Output = Outcome> + Send + 'static,
    limits: Limits,
) -> Ended {
    let protocol = Command::Channels(Channels::named("v5.channel.k8s.io").expect("known"));
    let start = async { (streams, End::Process(Box::pin(ended))) };
    serve(far, protocol, ALL, start, limits).await
}

fn pipe() -> (OwnedFd, OwnedFd) {
    kernelet_sys::process::pipe().expect("a pipe")
}

fn ours(fd: OwnedFd) -> Option<Arc<Pipe>> {
    Some(Arc::new(Pipe::new(fd).expect("it can be waited for")))
}

async fn client() -> (Client, DuplexStream) {
    // Small, so that what isn't read holds the session back.
    let (near, far) = tokio::io::duplex(4096);
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    (client, far)
}

/// Everything up to the connection's close, by channel.
async fn received(client: &mut Client) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    channels
}

#[tokio::test]
async fn what_the_process_left_in_its_pipes_comes_before_its_end() {
    let (mut client, far) = client().await;
    let ((out, out_end), (err, err_end)) = (pipe(), pipe());
    let streams = Streams {
        stdout: ours(out),
        stderr: ours(err),
        ..Streams::default()
    };
    let written = vec![b'x'; 50_000];
    assert_eq!(nix::unistd::write(&out_end, &written), Ok(written.len()));
    assert_eq!(nix::unistd::write(&err_end, b"oops"), Ok(4));
    // The ends stay open, as if a grandchild had them.
    let session = tokio::spawn(serve_channels(
        far,
        streams,
        async { Outcome::Exited(3) },
        Limits::default(),
    ));
    let [_, stdout, stderr, error] = received(&mut client).await;
    assert_eq!(
        (stdout.len(), stderr.as_slice()),
        (written.len(), &b"oops"[..])
    );
    assert_eq!(error, Outcome::Exited(3).status());
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::Told);
    drop((out_end, err_end));
}

#[tokio::test]
async fn stdin_arrives_whole_and_ends_when_the_client_says_so() {
    let (mut client, far) = client().await;
    let (theirs, stdin) = pipe();
    let (end, ended) = oneshot::channel::<()>();
    let streams = Streams {
        stdin: ours(stdin),
        ..Streams::default()
    };
    let outcome = async move {
        ended.await.expect("told");
        Outcome::Exited(0)
    };
    let session = tokio::spawn(serve_channels(far, streams, outcome, Limits::default()));
    let reader = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(theirs), &mut all).expect("read");
        all
    });
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    for chunk in data.chunks(7000) {
        let message = [&[0], chunk].concat();
        client.send(Message::binary(message)).await.expect("sent");
    }
    client
        .send(Message::binary(vec![255, 0]))
        .await
        .expect("sent");
    assert_eq!(reader.await.expect("no panic"), data);
    end.send(()).expect("awaited");
    let [.., error] = received(&mut client).await;
    assert_eq!(error, Outcome::Exited(0).status());
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::Told);
}

#[tokio::test]
async fn a_client_that_goes_ends_the_session() {
    let (client, far) = client().await;
    let (out, _out_end) = pipe();
    let streams = Streams {
        stdout: ours(out),
        ..Streams::default()
    };
    let session = tokio::spawn(serve_channels(far, streams, pending(), Limits::default()));
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::ClientGone);
}

#[tokio::test]
async fn a_client_that_goes_while_nobody_reads_stdin_is_noticed_by_the_heartbeat() {
    let (mut client, far) = client().await;
    let (_theirs, stdin) = pipe();
    let streams = Streams {
        stdin: ours(stdin),
        ..Streams::default()
    };
    let limits = Limits {
        heartbeat: Duration::from_millis(10),
        ..Limits::default()
    };
    let session = tokio::spawn(serve_channels(far, streams, pending(), limits));
    // More than the pipe takes, in one message: the session waits for the process, not for the client.
    let message = Message::binary(vec![0; 200_000]);
    client.send(message).await.expect("sent");
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::ClientGone);
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends_after_its_time() {
    let (_client, far) = client().await;
    let limits = Limits::default();
    let begun = Instant::now();
    let ended = serve_channels(far, Streams::default(), pending(), limits).await;
    assert_eq!(ended, Ended::Idle);
    assert!(begun.elapsed() >= limits.idle);
}

#[tokio::test]
async fn a_process_that_closes_its_stdin_still_gets_its_output_through() {
    let (mut client, far) = client().await;
    let ((theirs, stdin), (out, out_end)) = (pipe(), pipe());
    drop(theirs);
    let streams = Streams {
        stdin: ours(stdin),
        stdout: ours(out),
        ..Streams::default()
    };
    let (end, ended) = oneshot::channel::<()>();
    let outcome = async move {
        ended.await.expect("told");
        Outcome::Exited(0)
    };
    let session = tokio::spawn(serve_channels(far, streams, outcome, Limits::default()));
    for _ in 0..3 {
        client
            .send(Message::binary(vec![0; 5000]))
            .await
            .expect("sent");
    }
    assert_eq!(nix::unistd::write(&out_end, b"fine"), Ok(4));
    end.send(()).expect("awaited");
    let [_, stdout, ..] = received(&mut client).await;
    assert_eq!(stdout, b"fine");
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::Told);
}

/// A client of SPDY: opens streams, and collects what comes.
struct Spdy {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
}

impl Spdy {
    fn new() -> (Spdy, DuplexStream) {
        let (io, far) = tokio::io::duplex(4096);
        let client = Spdy {
            io,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
        };
        (client, far)
    }

    async fn send(&mut self, frame: Frame) {
        let bytes = self.encoder.encode(&frame);
        self.io.write_all(&bytes).await.expect("sent");
    }

    async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.take().expect("frames") {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.io.read(&mut buffer).await.expect("read") {
                0 => return None,
                n => self.decoder.push(&buffer[..n]),
            }
        }
    }

    /// Opens the streams, numbered from 1, and awaits their replies.
    async fn open(&mut self, kinds: &[&str]) {
        for (id, kind) in (1..).step_by(2).zip(kinds) {
            let headers = Headers::new(&[("streamType", kind)]);
            let fin = false;
            self.send(Frame::SynStream { id, headers, fin }).await;
            match self.receive().await {
                Some(Frame::SynReply { id: of, .. }) => assert_eq!(of, id),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn spdy_carries_streams_and_the_end_of_stdin() {
    let (mut client, far) = Spdy::new();
    let ((theirs, stdin), (out, out_end)) = (pipe(), pipe());
    let (sized, mut sizes) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel::<()>();
    let streams = Streams {
        stdin: ours(stdin),
        stdout: ours(out),
        resize: Some(Box::new(move |size| sized.send(size).expect("awaited"))),
        ..Streams::default()
    };
    let outcome = async move {
        ended.await.expect("told");
        Outcome::Exited(7)
    };
    let wants = Wants {
        stdin: true,
        stdout: true,
        terminal: true,
        ..Wants::default()
    };
    let start = async { (streams, End::Process(Box::pin(outcome))) };
    let protocol = Command::Spdy(Version::V4);
    let session = tokio::spawn(serve(far, protocol, wants, start, Limits::default()));
    client.open(&["error", "stdin", "stdout", "resize"]).await;
    let size = Bytes::from_static(br#"{"Width":80,"Height":24}"#);
    let resize = Frame::Data {
        id: 7,
        data: size,
        fin: false,
    };
    client.send(resize).await;
    let size = sizes.recv().await.expect("a size");
    assert_eq!((size.width, size.height), (80, 24));
    let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let reader = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(theirs), &mut all).expect("read");
        all
    });
    // One frame larger than any buffer, and the stream's end in it.
    let stdin = Frame::Data {
        id: 3,
        data: data.clone().into(),
        fin: true,
    };
    client.send(stdin).await;
    assert_eq!(reader.await.expect("no panic"), data);
    client.send(Frame::Ping(1)).await;
    assert_eq!(client.receive().await, Some(Frame::Ping(1)));
    assert_eq!(nix::unistd::write(&out_end, b"fine"), Ok(4));
    drop(out_end);
    end.send(()).expect("awaited");
    let mut found: [(Vec<u8>, bool); 8] = Default::default();
    let mut away = false;
    while let Some(frame) = client.receive().await {
        match frame {
            Frame::Data { id, data, fin } => {
                found[id as usize].0.extend_from_slice(&data);
                found[id as usize].1 |= fin;
            }
            Frame::GoAway { .. } => away = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(away);
    assert_eq!(found[5], (b"fine".to_vec(), true));
    assert_eq!(found[1], (Outcome::Exited(7).status(), true));
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::Told);
}

#[tokio::test]
async fn windows_hold_back_only_for_peers_that_name_them() {
    for named in [false, true] {
        let (mut client, far) = Spdy::new();
        let (out, out_end) = pipe();
        let streams = Streams {
            stdout: ours(out),
            ..Streams::default()
        };
        let wants = Wants {
            stdout: true,
            ..Wants::default()
        };
        let start = async { (streams, End::Process(Box::pin(pending()))) };
        let protocol = Command::Spdy(Version::V4);
        let _session = tokio::spawn(serve(far, protocol, wants, start, Limits::default()));
        if named {
            client.send(Frame::Settings(vec![(7, 10_000)])).await;
        }
        client.open(&["error", "stdout"]).await;
        assert_eq!(nix::unistd::write(&out_end, &[b'x'; 60_000]), Ok(60_000));
        let mut found = 0;
        let mut granted = false;
        while found < 60_000 {
            match client.receive().await.expect("a frame") {
                Frame::Data { id: 3, data, .. } => found += data.len(),
                other => panic!("{other:?}"),
            }
            if named && found == 10_000 && !granted {
                // Nothing but the answer to a ping comes until the window grows.
                client.send(Frame::Ping(9)).await;
                assert_eq!(client.receive().await, Some(Frame::Ping(9)));
                granted = true;
                client
                    .send(Frame::WindowUpdate {
                        id: 3,
                        delta: 1 << 20,
                    })
                    .await;
            }
            assert!(!named || granted || found <= 10_000, "{found}");
        }
        assert_eq!(granted, named);
    }
}

#[tokio::test]
async fn detach_keys_leave_the_session_and_the_rest_is_passed_on() {
    for (pieces, passed, why) in [
        (&[&b"ab\x10\x11cd"[..]][..], &b"ab"[..], StdinEnd::Detached),
        (&[b"a\x10", b"\x11"], b"a", StdinEnd::Detached),
        (&[b"a\x10", b"b\x11"], b"a\x10b\x11", StdinEnd::Client),
    ] {
        let (mut client, far) = client().await;
        let (theirs, stdin) = pipe();
        let (told, hears) = oneshot::channel();
        let streams = Streams {
            stdin: ours(stdin),
            stdin_ended: Some(told),
            detachable: true,
            ..Streams::default()
        };
        let outcome = async {
            // The session would end with the sender, before the client's end is heard.
            pending::<()>().await;
            Outcome::Exited(0)
        };
        let _session = tokio::spawn(serve_channels(far, streams, outcome, Limits::default()));
        for piece in pieces {
            let message = [&[0], *piece].concat();
            client.send(Message::binary(message)).await.expect("sent");
        }
        client
            .send(Message::binary(vec![255, 0]))
            .await
            .expect("sent");
        assert_eq!(hears.await, Ok(why));
        let mut found = [0; 64];
        let n = nix::unistd::read(&theirs, &mut found).expect("read");
        assert_eq!(&found[..n], passed);
    }
}

#[tokio::test]
async fn streams_that_mean_nothing_are_given_up() {
    let (mut client, far) = Spdy::new();
    let start = async {
        let end = End::Process(Box::pin(pending()));
        (Streams::default(), end)
    };
    let wants = Wants {
        stdout: true,
        ..Wants::default()
    };
    let protocol = Command::Spdy(Version::V4);
    let _session = tokio::spawn(serve(far, protocol, wants, start, Limits::default()));
    client.open(&["error"]).await;
    // Of an unknown type, with a number that isn't the client's, with one that was there already.
    for (id, kind, status) in [(3, "other", 5), (4, "stdout", 1), (1, "stdout", 1)] {
        let headers = Headers::new(&[("streamType", kind)]);
        let fin = false;
        client.send(Frame::SynStream { id, headers, fin }).await;
        assert_eq!(client.receive().await, Some(Frame::Reset { id, status }));
    }
    let headers = Headers::new(&[("streamType", "stdout")]);
    let open = Frame::SynStream {
        id: 5,
        headers,
        fin: false,
    };
    client.send(open).await;
    // Accepted; and as the process has none, it ends at once.
    let replied = client.receive().await;
    assert!(
        matches!(replied, Some(Frame::SynReply { id: 5, .. })),
        "{replied:?}"
    );
    let ended = client.receive().await;
    assert!(
        matches!(
            ended,
            Some(Frame::Data {
                id: 5,
                fin: true,
                ..
            })
        ),
        "{ended:?}"
    );
    for id in (7..80).step_by(2) {
        let headers = Headers::new(&[("streamType", "stdout")]);
        let fin = false;
        client.send(Frame::SynStream { id, headers, fin }).await;
        assert_eq!(client.receive().await, Some(Frame::Reset { id, status: 5 }));
    }
}
