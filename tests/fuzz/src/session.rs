//! What a client sends on an upgraded connection: SPDY frames, and whole sessions over WebSocket and SPDY.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use kernelet_stream::{
    Dial, End, Handshake, Limits, Outcome, Streams, Wants, forward, serve,
    spdy::{Decoder, Encoder, Frame},
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// Frames in any pieces; those that were read are written and read again.
pub fn spdy(data: &[u8]) {
    let Some((&cut, rest)) = data.split_first() else {
        return;
    };
    let read = |size: usize| -> Vec<Frame> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in rest.chunks(size.max(1)) {
            decoder.push(piece);
            while let Ok(Some(frame)) = decoder.take() {
                frames.push(frame);
            }
        }
        frames
    };
    read(usize::from(cut));
    let frames = read(rest.len());
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for frame in frames {
        decoder.push(&encoder.encode(&frame));
        let again = decoder.take().expect("what was written is read");
        assert_eq!(again.as_ref(), Some(&frame));
    }
}

/// Gives its bytes, then the end; takes whatever is written.
struct Script<'a>(&'a [u8]);

impl AsyncRead for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.0.len().min(buffer.remaining()).min(1024);
        let (now, later) = self.0.split_at(count);
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Each port's other end is nobody.
#[derive(Clone)]
struct Nobody;

impl Dial for Nobody {
    type Connection = DuplexStream;

    async fn dial(&self, port: u16) -> Result<DuplexStream, String> {
        if port.is_multiple_of(2) {
            Ok(duplex(64).0)
        } else {
            Err("nobody is there".to_owned())
        }
    }
}

fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
        .collect()
}

const WEB: [(header::HeaderName, &str); 4] = [
    (header::CONNECTION, "Upgrade"),
    (header::UPGRADE, "websocket"),
    (header::SEC_WEBSOCKET_VERSION, "13"),
    (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn web(protocol: &'static str) -> HeaderMap {
    let mut all = headers(&WEB);
    all.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(protocol),
    );
    all
}

fn plain(protocol: &'static str) -> HeaderMap {
    let mut all = headers(&[
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "SPDY/3.1"),
    ]);
    all.insert(
        "x-stream-protocol-version",
        HeaderValue::from_static(protocol),
    );
    all
}

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(30),
    heartbeat: Duration::from_secs(15),
    close: Duration::from_secs(1),
};

/// The first byte chooses the kind of session. Time is the runtime's own and costs nothing.
pub fn session(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be made");
    let commands = [
        web("v5.channel.k8s.io"),
        web("v4.base64.channel.k8s.io"),
        plain("v4.channel.k8s.io"),
    ];
    let forwards = [
        web("SPDY/3.1+portforward.k8s.io"),
        plain("portforward.k8s.io"),
        web("v4.channel.k8s.io"),
    ];
    let choice = usize::from(choice) % 6;
    runtime.block_on(async {
        if let Some(headers) = commands.get(choice) {
            let handshake = Handshake::of_command(headers).expect("these are known");
            let wants = Wants {
                stdin: true,
                stdout: true,
                stderr: true,
                terminal: false,
            };
            let start = async {
                let streams = Streams {
                    stdin: None,
                    stdout: None,
                    stderr: None,
                    resize: Some(Box::new(|_| {})),
                    stdin_ended: None,
                    detachable: true,
                };
                let end = async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Outcome::Exited(0)
                };
                (streams, End::Process(Box::pin(end)))
            };
            serve(Script(rest), handshake.protocol, wants, start, LIMITS).await;
        } else {
            let handshake = Handshake::of_forward(&forwards[choice - 3]).expect("these are known");
            forward(Script(rest), handshake.protocol, &[80, 81], Nobody, LIMITS).await;
        }
    });
}
