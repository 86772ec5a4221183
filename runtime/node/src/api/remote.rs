//! `exec`: a process more in a running container, its streams over an upgraded connection.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use http::{Request, StatusCode};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use kernelet_pod_plan::ContainerId;
use kernelet_shim_client::{Exec, ExecIo, ShimError, Stdio};
use kernelet_stream::{Ended, Handshake, Limits, Outcome, Pipe, Streams};
use kernelet_sys::{fd, process, terminal};
use nix::fcntl::OFlag;
use tokio::time::timeout;

use super::{Answer, Api, pairs, summary::is_running, text};
use crate::{errors::chain, pod::PodHome, steps::spec_id};

/// A caller that was told to go on and doesn't is forgotten.
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);
/// What programs are told of the terminal they get, as by other runtimes.
const TERM: &str = "TERM=xterm";

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
        if wish.command.is_empty() {
            return Err("you must specify a command for the container");
        }
        // Both streams are one on a terminal.
        wish.stderr &= !wish.tty;
        if !(wish.stdin || wish.stdout || wish.stderr) {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(wish)
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
    Exec(String),
    #[error("prepare the streams")]
    Streams(#[source] std::io::Error),
}

impl Api {
    /// Everything that can be refused is refused before the upgrade; what fails later is told on the error channel.
    pub(super) fn exec(
        &self,
        mut request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Answer {
        let found = self.pods.get().and_then(|pods| pods.home(namespace, pod));
        let Some((home, view)) = found else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let wish = match Wish::parse(request.uri().query()) {
            Ok(wish) => wish,
            Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
        };
        let id = view.containers.get(container).map(|(id, _)| id.clone());
        let Some(id) = id.filter(|_| is_running(&view, container)) else {
            // Upstream's status for it, too; clients print the text.
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("container not found ({container:?})"),
            );
        };
        let handshake = match Handshake::of(request.headers()) {
            Ok(handshake) => handshake,
            Err(problem) => return text(StatusCode::BAD_REQUEST, problem.to_string()),
        };
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return text(
                StatusCode::BAD_REQUEST,
                "this connection can't be upgraded; use HTTP/1.1",
            );
        };
        let protocol = handshake.protocol;
        let shutdown = self.ctx.shutdown.clone();
        tokio::spawn(async move {
            let session = async {
                let connection = match timeout(UPGRADE_WITHIN, upgrade).await {
                    Ok(Ok(connection)) => TokioIo::new(connection),
                    Ok(Err(error)) => {
                        return tracing::debug!(%error, "a session's upgrade failed");
                    }
                    Err(_) => return tracing::debug!("a session's upgrade never came"),
                };
                let limits = Limits::default();
                let ended = match start(&home, &id, wish).await {
                    Ok((streams, exec)) => {
                        let end = outcome(exec);
                        kernelet_stream::serve(connection, protocol, streams, end, limits).await
                    }
                    Err(error) => {
                        let why =
                            format!("error executing command in container: {}", chain(&error));
                        let (streams, end) = (Streams::default(), async { Outcome::Failed(why) });
                        kernelet_stream::serve(connection, protocol, streams, end, limits).await
                    }
                };
                if ended != Ended::Told {
                    tracing::debug!(pod = %home.id.name, ?ended, "an exec was ended");
                }
            };
            tokio::select! {
                // Cancelled: the connection closes, and the process is killed with the shim's session.
                () = shutdown.cancelled() => {}
                () = session => {}
            }
        });
        handshake
            .answer::<String>()
            .map(|_| http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new()))
    }
}

/// The process, and our ends of its streams. Dropping the exec kills it.
async fn start(
    home: &Arc<PodHome>,
    id: &ContainerId,
    wish: Wish,
) -> Result<(Streams, Exec), SessionError> {
    let shim = home.shim().ok_or(SessionError::Shim)?;
    let id = spec_id(id).map_err(|e| SessionError::Exec(e.message))?;
    let mut plan = home
        .exec_plan(&id, wish.command.clone(), None)
        .ok_or(SessionError::Container)?;
    plan.terminal = wish.tty;
    if wish.tty && !plan.process.env.iter().any(|e| e.starts_with("TERM=")) {
        plan.process.env.push(TERM.to_owned());
    }
    let refused = |e: &ShimError| SessionError::Exec(home.shim_error(e));
    let prepare = |e: kernelet_sys::SysError| SessionError::Streams(e.errno.into());
    let null = || fd::open("/dev/null".as_ref(), OFlag::O_RDWR, 0).map_err(prepare);
    let ours = |end: OwnedFd| Pipe::new(end).map(Arc::new).map_err(SessionError::Streams);
    let mut streams = Streams::default();
    let theirs = if wish.tty {
        // The terminal is made where the container's devpts is, and comes with the answer.
        Stdio {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        }
    } else {
        let stdin = if wish.stdin {
            let (read, write) = process::pipe().map_err(prepare)?;
            streams.stdin = Some(ours(write)?);
            read
        } else {
            null()?
        };
        let mut ends = Vec::new();
        for (wanted, stream) in [
            (wish.stdout, &mut streams.stdout),
            (wish.stderr, &mut streams.stderr),
        ] {
            ends.push(if wanted {
                let (read, write) = process::pipe().map_err(prepare)?;
                *stream = Some(ours(read)?);
                write
            } else {
                null()?
            });
        }
        let [stdout, stderr] = ends.try_into().expect("two streams make two ends");
        Stdio {
            stdin,
            stdout,
            stderr,
        }
    };
    let exec = shim.exec(&id, &plan, ExecIo::Passed(theirs)).await;
    let mut exec = exec.map_err(|e| refused(&e))?;
    if let Some(control) = exec.terminal.take() {
        let control = ours(control)?;
        streams.stdin = wish.stdin.then(|| control.clone());
        streams.stdout = wish.stdout.then(|| control.clone());
        streams.resize = Some(Box::new(move |size| {
            if let Err(error) = terminal::resize(control.fd().as_fd(), size.height, size.width) {
                tracing::debug!(error = %chain(&error), "resize a terminal");
            }
        }));
    }
    Ok((streams, exec))
}

async fn outcome(exec: Exec) -> Outcome {
    match exec.wait().await {
        Ok(exit) => Outcome::Exited(exit.exit_code),
        Err(error) => Outcome::Failed(format!(
            "error executing command in container: {}",
            chain(&error)
        )),
    }
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
        for nothing in [
            None,
            Some("output=1"),
            Some("command=sh"),
            Some("command=sh&error=1&tty=1"),
        ] {
            assert!(Wish::parse(nothing).is_err(), "{nothing:?}");
        }
    }
}
