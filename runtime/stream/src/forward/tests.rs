use futures::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{
    Channels,
    spdy::{Decoder, Encoder, Frame, Headers},
};

/// Answers with what it got, in upper case; port 7 refuses, port 9 never reads.
#[derive(Clone)]
struct Shout(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Shout {
    type Connection = DuplexStream;

    async fn dial(&self, port: u16) -> Result<DuplexStream, String> {
        if port == 7 {
            return Err("refused".into());
        }
        let (near, mut far) = tokio::io::duplex(1024);
        if port == 9 {
            self.0.send(far).expect("held");
            return Ok(near);
        }
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok(n @ 1..) = far.read(&mut buffer).await {
                let shout = buffer[..n].to_ascii_uppercase();
                far.write_all(&shout).await.expect("written");
            }
        });
        Ok(near)
    }
}

struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    next: u32,
    _held: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Client {
    fn new() -> (Client, DuplexStream, Shout) {
        let (io, far) = tokio::io::duplex(4096);
        let (sender, held) = mpsc::unbounded_channel();
        let client = Client {
            io,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            next: 1,
            _held: held,
        };
        (client, far, Shout(sender))
    }

    async fn send(&mut self, frame: Frame) {
        let bytes = self.encoder.encode(&frame);
        self.io.write_all(&bytes).await.expect("sent");
    }

    async fn receive(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.take().expect("frames") {
                return frame;
            }
            let mut buffer = [0; 4096];
            let n = self.io.read(&mut buffer).await.expect("read");
            assert!(n > 0, "the connection ended");
            self.decoder.push(&buffer[..n]);
        }
    }

    async fn open(&mut self, headers: &[(&str, &str)]) -> (u32, Frame) {
        let (id, headers) = (self.next, Headers::new(headers));
        self.next += 2;
        let fin = false;
        self.send(Frame::SynStream { id, headers, fin }).await;
        (id, self.receive().await)
    }

    /// Error and data stream of a forwarded connection.
    async fn pair(&mut self, port: &str, request: &str) -> (u32, u32) {
        let mut ids = Vec::new();
        for kind in ["error", "data"] {
            let headers = [("streamType", kind), ("port", port), ("requestID", request)];
            let (id, answer) = self.open(&headers).await;
            assert!(
                matches!(answer, Frame::SynReply { id: of, .. } if of == id),
                "{answer:?}"
            );
            ids.push(id);
        }
        (ids[0], ids[1])
    }
}

fn data(id: u32, data: &[u8], fin: bool) -> Frame {
    Frame::Data {
        id,
        data: Bytes::copy_from_slice(data),
        fin,
    }
}

#[tokio::test]
async fn connections_are_carried_and_failures_told() {
    let (mut client, far, dial) = Client::new();
    let session = tokio::spawn(forward(far, Forward::Spdy, &[], dial, Limits::default()));
    let (error, stream) = client.pair("80", "0").await;
    client.send(data(stream, b"hello", false)).await;
    assert_eq!(client.receive().await, data(stream, b"HELLO", false));
    client.send(data(stream, b" world", true)).await;
    assert_eq!(client.receive().await, data(stream, b" WORLD", false));
    // Its end comes back, and then the error stream's, which said nothing.
    assert_eq!(client.receive().await, data(stream, b"", true));
    assert_eq!(client.receive().await, data(error, b"", true));

    let (error, stream) = client.pair("7", "1").await;
    assert_eq!(client.receive().await, data(error, b"refused", false));
    assert_eq!(client.receive().await, data(error, b"", true));
    assert_eq!(
        client.receive().await,
        Frame::Reset {
            id: stream,
            status: 5
        }
    );

    for wrong in [
        &[("streamType", "data")][..],
        &[("streamType", "data"), ("port", "0")],
        &[("streamType", "data"), ("port", "65536")],
        &[("streamType", "other"), ("port", "80")],
        &[("port", "80")],
    ] {
        let (id, answer) = client.open(wrong).await;
        assert_eq!(answer, Frame::Reset { id, status: 5 }, "{wrong:?}");
    }
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::ClientGone);
}

#[tokio::test]
async fn a_port_that_never_reads_holds_back_only_its_own_connection() {
    let (mut client, far, dial) = Client::new();
    let _session = tokio::spawn(forward(far, Forward::Spdy, &[], dial, Limits::default()));
    let (_, deaf) = client.pair("9", "0").await;
    client.send(data(deaf, &[0; 500_000], false)).await;
    let (error, stream) = client.pair("80", "1").await;
    client.send(data(stream, b"quick", true)).await;
    assert_eq!(client.receive().await, data(stream, b"QUICK", false));
    assert_eq!(client.receive().await, data(stream, b"", true));
    assert_eq!(client.receive().await, data(error, b"", true));
    // Given up, it gives back what was held for it: as much again goes through.
    client
        .send(Frame::Reset {
            id: deaf,
            status: 5,
        })
        .await;
    let ended = client.receive().await;
    assert!(matches!(ended, Frame::Data { fin: true, .. }), "{ended:?}");
    for request in 2..10 {
        let (_, deaf) = client.pair("9", &request.to_string()).await;
        client.send(data(deaf, &[0; 1_000_000], false)).await;
        client
            .send(Frame::Reset {
                id: deaf,
                status: 5,
            })
            .await;
        let ended = client.receive().await;
        assert!(matches!(ended, Frame::Data { fin: true, .. }), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_is_given_up_after_its_time() {
    let (mut client, far, dial) = Client::new();
    let limits = Limits {
        heartbeat: Duration::from_secs(3600),
        ..Limits::default()
    };
    let _session = tokio::spawn(forward(far, Forward::Spdy, &[], dial, limits));
    let headers = [("streamType", "error"), ("port", "80"), ("requestID", "x")];
    let (id, _) = client.open(&headers).await;
    let text = b"(request=x) timed out waiting for streams";
    assert_eq!(client.receive().await, data(id, text, false));
    assert_eq!(client.receive().await, data(id, b"", true));
}

#[tokio::test]
async fn channels_name_their_ports_first() {
    let (near, far) = tokio::io::duplex(4096);
    let (sender, _held) = mpsc::unbounded_channel();
    let channels = Channels::named("v4.channel.k8s.io").expect("known");
    let session = tokio::spawn(forward(
        far,
        Forward::Channels(channels),
        &[80, 7],
        Shout(sender),
        Limits::default(),
    ));
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let mut found: [Vec<u8>; 4] = Default::default();
    client
        .send(Message::binary(b"\0abc".to_vec()))
        .await
        .expect("sent");
    while found[0].len() < 5 || found[1].len() < 2 || found[3].len() < 9 {
        if let Some(Ok(Message::Binary(message))) = client.next().await {
            found[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
    }
    let expect = [&b"\x50\0ABC"[..], b"\x50\0", b"\x07\0", b"\x07\0refused"];
    assert_eq!(found, expect.map(<[u8]>::to_vec));
    drop(client);
    assert_eq!(session.await.expect("no panic"), Ended::ClientGone);
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel_of_messages() {
    let (near, far) = tokio::io::duplex(4096);
    let (sender, _held) = mpsc::unbounded_channel();
    let dial = Shout(sender);
    let _session = tokio::spawn(forward(far, Forward::Tunnel, &[], dial, Limits::default()));
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for (id, kind) in [(1, "error"), (3, "data")] {
        let headers = Headers::new(&[("streamType", kind), ("port", "80")]);
        let open = encoder.encode(&Frame::SynStream {
            id,
            headers,
            fin: false,
        });
        // Cut anywhere: messages are no frames.
        for piece in open.chunks(7) {
            client
                .send(Message::binary(piece.to_vec()))
                .await
                .expect("sent");
        }
    }
    let hello = encoder.encode(&data(3, b"hello", false));
    client.send(Message::binary(hello)).await.expect("sent");
    let mut replies = 0;
    loop {
        while let Some(frame) = decoder.take().expect("frames") {
            match frame {
                Frame::SynReply { .. } => replies += 1,
                other => {
                    assert_eq!((other, replies), (data(3, b"HELLO", false), 2));
                    return;
                }
            }
        }
        if let Some(Ok(Message::Binary(message))) = client.next().await {
            decoder.push(&message);
        }
    }
}
