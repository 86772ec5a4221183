//! Watchers and lists: many, large, and read slowly or never.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures::{StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Barrier, watch},
    task::JoinSet,
    time,
};

use crate::child::{LONG, Sender, Server, config_map, count, ok, others_are_served, request, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: usize = 1 << 20;

/// Calls `seen` with each line of a watch until it says that it has seen enough.
async fn lines(mut body: Incoming, mut seen: impl FnMut(&[u8]) -> bool) {
    let mut line: Vec<u8> = Vec::new();
    while let Some(frame) = time::timeout(LONG, body.frame())
        .await
        .expect("something comes")
    {
        let data = frame.unwrap().into_data().unwrap_or_default();
        let mut rest = &data[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            if seen(&line) {
                return;
            }
            line.clear();
            rest = &rest[end + 1..];
        }
        line.extend_from_slice(rest);
    }
    panic!("the watch has ended");
}

/// So many watches, spread over connections; each is there when this returns.
async fn watches(server: &Server, watchers: usize) -> Vec<Incoming> {
    let connections: Vec<Sender> = stream::iter(0..watchers.div_ceil(500))
        .then(|_| server.connect())
        .collect()
        .await;
    let path = format!("{MAPS}?watch=1");
    stream::iter(0..watchers)
        .map(|number| {
            let (sender, path) = (connections[number / 500].clone(), path.clone());
            async move {
                send(&sender, request(Method::GET, &path, ""))
                    .await
                    .into_body()
            }
        })
        .buffer_unordered(64)
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_and_many_objects_take_little_memory_each() {
    let (watchers, objects) = (count(1000, 5000), count(3000, 50_000));
    const EVENTS: usize = 10;
    let server = Server::start();
    others_are_served(&server).await;
    let before = server.memory();
    let started = watches(&server, watchers).await;
    let with_watchers = server.memory();
    let delivered = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for body in started {
        let delivered = delivered.clone();
        readers.spawn(async move {
            let mut own = 0;
            lines(body, |line| {
                own += usize::from(line.windows(7).any(|window| window == b"\"event-"));
                own == EVENTS
            })
            .await;
            delivered.fetch_add(own, Relaxed);
        });
    }
    let sender = server.connect().await;
    for event in 0..EVENTS {
        ok(
            &sender,
            Method::POST,
            MAPS,
            &config_map(&format!("event-{event}"), 100),
        )
        .await;
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert_eq!(delivered.load(Relaxed), watchers * EVENTS);

    stream::iter(0..objects)
        .map(|number| {
            let sender = sender.clone();
            async move {
                let map = config_map(&format!("object-{number}"), 200);
                ok(&sender, Method::POST, MAPS, &map).await;
            }
        })
        .buffer_unordered(64)
        .collect::<Vec<()>>()
        .await;
    let list = ok(&sender, Method::GET, MAPS, "").await;
    let text = String::from_utf8_lossy(&list);
    assert!(text.matches("\"object-").count() >= objects);
    let after = server.memory();
    let a_watcher = with_watchers.saturating_sub(before) / watchers;
    let all = after.saturating_sub(before);
    println!(
        "{a_watcher} bytes a watcher, {} MiB for {watchers} of them and {objects} objects",
        all / MIB
    );
    assert!(a_watcher < 64 << 10, "{a_watcher} bytes a watcher");
    let bound = 48 * MIB + watchers * (48 << 10) + objects * (4 << 10);
    assert!(all < bound, "{} MiB", all / MIB);
    others_are_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_are_encoded_once_for_all_watchers() {
    // Fewer than the events of any size that are kept: nobody is told to list again.
    let (watchers, updates) = (count(40, 300), count(5, 12));
    let server = Server::start();
    others_are_served(&server).await;
    let before = server.memory();
    let started = watches(&server, watchers).await;
    // Nobody reads until all has been written: what is waiting for them is what the server keeps.
    let written = Arc::new(Barrier::new(watchers + 1));
    let mut readers = JoinSet::new();
    for body in started {
        let written = written.clone();
        readers.spawn(async move {
            written.wait().await;
            let mut own = 0;
            lines(body, |line| {
                own += usize::from(line.len() > MIB);
                own == updates
            })
            .await;
        });
    }
    let sender = server.connect().await;
    for number in 0..updates {
        ok(
            &sender,
            Method::POST,
            MAPS,
            &config_map(&format!("large-{number}"), MIB),
        )
        .await;
    }
    let kept = server.memory().saturating_sub(before);
    println!(
        "{} MiB for {watchers} watchers of {updates} MiB",
        kept / MIB
    );
    // The objects themselves (store, cache and what was sent), and a bounded buffer for each watcher.
    assert!(
        kept < 160 * MIB + 12 * updates * MIB + watchers * MIB / 4,
        "{} MiB",
        kept / MIB
    );
    written.wait().await;
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    others_are_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_never_reads_costs_little_and_harms_nobody() {
    let (watchers, updates) = (count(20, 200), count(60, 400));
    let server = Server::start();
    others_are_served(&server).await;
    let mut idle = Vec::new();
    for _ in 0..watchers {
        let mut stream = server.tls(b"http/1.1").await;
        let head = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let sender = server.connect().await;
    let reading = send(
        &sender,
        request(Method::GET, &format!("{MAPS}?watch=1"), ""),
    )
    .await;
    let (told, progress) = watch::channel(0);
    let reader = tokio::spawn(lines(reading.into_body(), move |line| {
        // It is written and deleted; either is told in a line of more than its own size.
        told.send_modify(|seen| *seen += usize::from(line.len() > MIB));
        *told.borrow() == 2 * updates - 1
    }));
    let before = server.memory();
    for number in 0..updates {
        // Who reads is not left behind by more than the server keeps.
        let mut progress = progress.clone();
        let caught_up = progress.wait_for(|seen| seen + 6 > 2 * number);
        time::timeout(LONG, caught_up).await.unwrap().unwrap();
        let name = format!("large-{number}");
        ok(&sender, Method::POST, MAPS, &config_map(&name, MIB)).await;
        if number > 0 {
            let path = format!("{MAPS}/large-{}", number - 1);
            ok(&sender, Method::DELETE, &path, "").await;
        }
    }
    reader.await.unwrap();
    let kept = server.memory().saturating_sub(before);
    println!(
        "{} MiB for {watchers} watchers that never read {updates} MiB",
        kept / MIB
    );
    assert!(kept < 300 * MIB + watchers * MIB, "{} MiB", kept / MIB);
    others_are_served(&server).await;
    // The one that reads at last is told that it missed something.
    let mut late = idle.pop().unwrap();
    let told = async {
        let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let size = late.read(&mut chunk).await.unwrap_or(0);
            all.extend_from_slice(&chunk[..size]);
            let from = all.len().saturating_sub(size + 512);
            if size == 0
                || all[from..]
                    .windows(10)
                    .any(|window| window == b"\"code\":410")
            {
                return size > 0;
            }
        }
    };
    assert!(time::timeout(LONG, told).await.expect("it is told"), "410");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_read_slowly_are_not_kept_for_each_reader() {
    let (readers, objects) = (count(30, 200), count(20, 100));
    let server = Server::start();
    let sender = server.connect().await;
    for number in 0..objects {
        ok(
            &sender,
            Method::POST,
            MAPS,
            &config_map(&format!("large-{number}"), MIB),
        )
        .await;
    }
    drop(ok(&sender, Method::GET, MAPS, "").await);
    let before = server.memory();
    let mut slow = Vec::new();
    for _ in 0..readers {
        let mut stream = server.tls(b"http/1.1").await;
        let head = format!("GET {MAPS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        slow.push(stream);
    }
    let kept = server.memory().saturating_sub(before);
    println!("{} MiB for {readers} readers of {objects} MiB", kept / MIB);
    assert!(kept < 100 * MIB + readers * 2 * MIB, "{} MiB", kept / MIB);
    others_are_served(&server).await;
    // And they get all of it when they read on.
    let mut one = slow.pop().unwrap();
    let whole = async {
        let (mut size, mut chunk) = (0, vec![0; MIB]);
        while size < objects * MIB {
            size += match one.read(&mut chunk).await.unwrap() {
                0 => panic!("cut off after {size} bytes"),
                count => count,
            };
        }
    };
    time::timeout(LONG, whole).await.expect("all of it comes");
}
