use std::os::fd::OwnedFd;

use futures::future::pending;
use tokio::{io::DuplexStream, sync::oneshot};

use super::*;

type Client = WebSocketStream<DuplexStream>;

fn protocol() -> Protocol {
    Protocol::choose(["v5.channel.k8s.io"]).expect("known")
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
    let session = tokio::spawn(serve(
        far,
        protocol(),
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
    let session = tokio::spawn(serve(far, protocol(), streams, outcome, Limits::default()));
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
    let session = tokio::spawn(serve(
        far,
        protocol(),
        streams,
        pending(),
        Limits::default(),
    ));
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
    let session = tokio::spawn(serve(far, protocol(), streams, pending(), limits));
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
    let ended = serve(far, protocol(), Streams::default(), pending(), limits).await;
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
    let session = tokio::spawn(serve(far, protocol(), streams, outcome, Limits::default()));
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
