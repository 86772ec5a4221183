//! Connections: many, silent, slow, over-long, and torn down as fast as they are made.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use crate::child::{LONG, Server, count, others_are_served};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_take_little_memory_each() {
    let connections = count(300, 2000);
    let server = Server::start();
    others_are_served(&server).await;
    let before = server.memory();
    let open: Vec<_> = stream::iter(0..connections)
        .map(|_| server.tls(b"http/1.1"))
        .buffer_unordered(32)
        .collect()
        .await;
    others_are_served(&server).await;
    let each = server.memory().saturating_sub(before) / connections;
    println!("{each} bytes a connection");
    assert!(each < 256 << 10, "{each} bytes a connection");
    drop(open);
}

/// Whether the server closes within that time; what it says before doesn't matter.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin), within: Duration) -> bool {
    let end = async {
        let mut buffer = [0; 4096];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    time::timeout(within, end).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_shakes_hands_is_dropped_and_harms_nobody() {
    let connections = count(300, 2000);
    let server = Server::start();
    others_are_served(&server).await;
    let before = server.memory();
    let mut silent = Vec::new();
    for _ in 0..connections {
        silent.push(server.tcp().await);
    }
    others_are_served(&server).await;
    let each = server.memory().saturating_sub(before) / connections;
    assert!(each < 64 << 10, "{each} bytes a silent connection");
    for stream in &mut silent {
        assert!(closes(stream, LONG).await, "its ten seconds are over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_head_too_slowly_or_too_long_is_refused() {
    let server = Server::start();
    let mut slow = server.tls(b"http/1.1").await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: loc")
        .await
        .unwrap();
    let answer = async |head: String| {
        let mut stream = server.tls(b"http/1.1").await;
        let _ = stream.write_all(head.as_bytes()).await;
        let mut text = vec![0; 1024];
        let size = time::timeout(LONG, stream.read(&mut text))
            .await
            .expect("it is answered")
            .unwrap_or(0);
        String::from_utf8_lossy(&text[..size]).into_owned()
    };
    let long = format!(
        "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(MIB)
    );
    let told = answer(long).await;
    assert!(told.starts_with("HTTP/1.1 431"), "{told}");
    let uri = format!(
        "GET /livez?{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x".repeat(20 << 10)
    );
    let told = answer(uri).await;
    assert!(told.starts_with("HTTP/1.1 414"), "{told}");
    others_are_served(&server).await;
    assert!(closes(&mut slow, LONG).await, "its thirty seconds are over");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_trickle_are_given_up_and_harm_nobody() {
    let clients = count(100, 500);
    let server = Server::start();
    others_are_served(&server).await;
    let began = Instant::now();
    let mut trickling = Vec::new();
    for _ in 0..clients {
        let mut stream = server.tls(b"http/1.1").await;
        let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: application/json\r\ncontent-length: 1000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        trickling.push(stream);
    }
    let mut answers = Vec::new();
    while answers.len() < clients {
        assert!(
            began.elapsed() < LONG,
            "{} of {clients} are given up",
            answers.len()
        );
        others_are_served(&server).await;
        let mut still = Vec::new();
        for mut stream in trickling {
            let mut text = [0; 12];
            match stream.read(&mut text).now_or_never() {
                Some(read) => answers.push(text[..read.unwrap_or(0)].to_vec()),
                None => {
                    let _ = stream.write_all(b" ").await;
                    still.push(stream);
                }
            }
        }
        trickling = still;
        time::sleep(Duration::from_secs(1)).await;
    }
    for answer in answers {
        assert_eq!(answer, b"HTTP/1.1 408");
    }
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;

/// Rapid reset: requests that are taken back before they are answered, as many as the connection lets through.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_are_cut_off() {
    let requests = count(20_000, 200_000);
    let server = Server::start();
    others_are_served(&server).await;
    let before = server.memory();
    let mut stream = server.tls(b"h2").await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let streams = settings
        .chunks(6)
        .find(|setting| setting[..2] == [0, 3])
        .map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()));
    assert!(
        streams.is_some_and(|streams| streams <= 1000),
        "{streams:?}"
    );

    let (mut reading, mut writing) = tokio::io::split(stream);
    let cut_off = tokio::spawn(async move { closes(&mut reading, LONG).await });
    let mut made = 0;
    for number in 0..requests {
        let id = 2 * u32::try_from(number).unwrap() + 1;
        // GET https://localhost/, its headers by HPACK's static table.
        let mut both = frame(HEADERS, 5, id, b"\x82\x87\x84\x01\x09localhost");
        both.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
        if writing.write_all(&both).await.is_err() {
            break;
        }
        made += 1;
    }
    let _ = writing.flush().await;
    println!("cut off after at most {made} of {requests}");
    assert!(cut_off.await.unwrap(), "it is cut off");
    let kept = server.memory().saturating_sub(before);
    assert!(kept < 64 * MIB, "{} MiB", kept / MIB);
    others_are_served(&server).await;
}
