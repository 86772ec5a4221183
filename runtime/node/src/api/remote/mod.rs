//! Sessions: `exec`, `attach` and `portForward`, over upgraded connections.

mod attach;
mod exec;
mod forward;

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use kernelet_pod_plan::ContainerId;
use kernelet_stream::{Command, Ended, Handshake, Pipe, Size, Wants};
use kernelet_sys::terminal;
use tokio::time::timeout;

use super::{Answer, Api, pairs, summary::is_running, text};
use crate::{errors::chain, pod::PodHome, worker::View};

/// A caller that was told to go on and doesn't is forgotten.
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);

/// What the caller wants, in the words of the kubelet's API.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wish {
    fn parse(query: Option<&str>) -> Result<Wish, &'static str> {
        let mut wish = Wish::default();
        for (name, value) in pairs(query) {
            let on = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" => wish.command.push(value),
                "input" => wish.stdin = on,
                "output" => wish.stdout = on,
                "error" => wish.stderr = on,
                "tty" => wish.tty = on,
                _ => {}
            }
        }
        // Both streams are one on a terminal.
        wish.stderr &= !wish.tty;
        if !(wish.stdin || wish.stdout || wish.stderr) {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(wish)
    }

    fn wants(&self) -> Wants {
        Wants {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            terminal: self.tty,
        }
    }
}

/// Why no session came about.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the pod's shim is gone")]
    Shim,
    #[error("the container is gone")]
    Container,
    #[error("{0}")]
    Refused(String),
    #[error("prepare the streams")]
    Streams(#[source] std::io::Error),
}

impl Api {
    /// A pod and, when it runs, one of its containers; or that there is no such pod.
    #[expect(clippy::result_large_err, reason = "an answer is what a caller gets")]
    fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<(Arc<PodHome>, View, Option<ContainerId>), Answer> {
        let found = self.pods.get().and_then(|pods| pods.home(namespace, pod));
        let Some((home, view)) = found else {
            return Err(text(StatusCode::NOT_FOUND, "pod does not exist"));
        };
        let id = view.containers.get(container).map(|(id, _)| id.clone());
        let id = id.filter(|_| is_running(&view, container));
        Ok((home, view, id))
    }

    /// An exec's or attach's upgrade.
    fn command<F>(
        &self,
        request: Request<Incoming>,
        session: impl FnOnce(TokioIo<Upgraded>, Command) -> F + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        match Handshake::of_command(request.headers()) {
            Ok(handshake) => {
                let protocol = handshake.protocol;
                self.upgrade(request, &handshake, move |connection| {
                    session(connection, protocol)
                })
            }
            Err(problem) => text(problem.status(), problem.to_string()),
        }
    }

    /// Answers 101, and lives the session on the connection.
    fn upgrade<P, F>(
        &self,
        mut request: Request<Incoming>,
        handshake: &Handshake<P>,
        session: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return text(
                StatusCode::BAD_REQUEST,
                "this connection can't be upgraded; use HTTP/1.1",
            );
        };
        let path = request.uri().path().to_owned();
        let shutdown = self.ctx.shutdown.clone();
        tokio::spawn(async move {
            let session = async {
                match timeout(UPGRADE_WITHIN, upgrade).await {
                    Ok(Ok(connection)) => {
                        let ended = session(TokioIo::new(connection)).await;
                        if ended != Ended::Told {
                            tracing::debug!(path, ?ended, "a session was ended");
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a session's upgrade failed"),
                    Err(_) => tracing::debug!("a session's upgrade never came"),
                }
            };
            tokio::select! {
                // Cancelled: the connection closes, and a process is killed with the shim's session.
                () = shutdown.cancelled() => {}
                () = session => {}
            }
        });
        handshake
            .answer::<String>()
            .map(|_| http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new()))
    }
}

/// Sets a terminal's size.
fn resizes(control: Arc<Pipe>) -> Box<dyn Fn(Size) + Send + Sync> {
    Box::new(move |size| {
        if let Err(error) = terminal::resize(control.fd().as_fd(), size.height, size.width) {
            tracing::debug!(error = %chain(&error), "resize a terminal");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_as_the_kubelet_reads_them() {
        let wish = Wish::parse(Some(
            "command=sh&command=-c&command=a%20%26+b&command=&input=1&output=1&error=1&tty=0",
        ));
        assert_eq!(
            wish,
            Ok(Wish {
                command: ["sh", "-c", "a & b", ""].map(str::to_owned).to_vec(),
                stdin: true,
                stdout: true,
                stderr: true,
                tty: false,
            })
        );
        let terminal = Wish::parse(Some("command=sh&output=true&error=true&tty=true"));
        assert!(terminal.is_ok_and(|wish| wish.tty && wish.stdout && !wish.stderr));
        for nothing in [None, Some("command=sh"), Some("command=sh&error=1&tty=1")] {
            assert!(Wish::parse(nothing).is_err(), "{nothing:?}");
        }
    }
}
