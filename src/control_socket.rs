//! The instance's own socket (`<run dir>/kernelet.sock`, 0600): `status` and `down` speak through it.
//!
//! One request a connection, a line of JSON each way. `stop` is answered when the pods have ended that it asked to
//! end, and before the process does; whoever wants to know when that is over waits for the process.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::status::StatusReport;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    Status,
    Stop { pods: bool },
}

/// What became of the pods that a stop asked to end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    pub pods_ended: usize,
    /// Those that would not end.
    pub pods_left: Vec<String>,
}

/// A stop, handed to whoever owns the node.
pub struct Stop {
    pub pods: bool,
    pub answer: oneshot::Sender<Stopped>,
}

/// Answers until `shutdown`; a stop goes to `stops`.
pub fn serve<F, R>(
    path: &Path,
    report: F,
    stops: mpsc::Sender<Stop>,
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = StatusReport> + Send,
{
    // What is there is a dead predecessor's: this process holds the instance's lock.
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let path = path.to_owned();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the instance's socket");
                        continue;
                    }
                },
            };
            let (report, stops) = (report.clone(), stops.clone());
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut line = String::new();
                let limit = Duration::from_secs(10);
                let read = tokio::io::BufReader::new(read).read_line(&mut line).await;
                if read.is_err() {
                    return;
                }
                let answer = match serde_json::from_str(&line) {
                    Ok(Request::Status) => serde_json::to_string(&report().await),
                    Ok(Request::Stop { pods }) => {
                        let (answer, stopped) = oneshot::channel();
                        let _ = stops.send(Stop { pods, answer }).await;
                        serde_json::to_string(&stopped.await.unwrap_or_default())
                    }
                    Err(error) => Ok(serde_json::json!({ "error": error.to_string() }).to_string()),
                };
                if let Ok(answer) = answer {
                    let _ =
                        tokio::time::timeout(limit, write.write_all((answer + "\n").as_bytes()))
                            .await;
                }
            });
        }
        let _ = fs::remove_file(path);
    });
    Ok(())
}

/// A connection to the running instance.
pub struct Connection {
    stream: UnixStream,
    /// The process that answers.
    pub pid: i32,
}

/// `None` when nothing runs there.
pub fn connect(path: &Path) -> anyhow::Result<Option<Connection>> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let pid = getsockopt(&stream, PeerCredentials)
                .context("cannot ask who runs")?
                .pid();
            Ok(Some(Connection { stream, pid }))
        }
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", path.display())),
    }
}

impl Connection {
    /// Asks, and returns the answering line.
    pub fn ask(mut self, request: Request) -> anyhow::Result<String> {
        self.stream
            .write_all((serde_json::to_string(&request)? + "\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(self.stream)
            .read_line(&mut line)
            .context("the running kernelet did not answer")?;
        Ok(line)
    }
}
