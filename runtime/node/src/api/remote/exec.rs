//! `exec`: a process more in a running container.

use std::{os::fd::OwnedFd, sync::Arc};

use futures::{FutureExt, future};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use kernelet_pod_plan::ContainerId;
use kernelet_shim_client::{Exec, ExecIo, ShimError, Stdio};
use kernelet_stream::{End, Limits, Outcome, Pipe, Streams};
use kernelet_sys::{fd, process};
use nix::fcntl::OFlag;

use super::{SessionError, Wish, resizes};
use crate::{
    api::{Answer, Api, text},
    errors::chain,
    pod::PodHome,
    steps::spec_id,
};

/// What programs are told of the terminal they get, as by other runtimes.
const TERM: &str = "TERM=xterm";

impl Api {
    /// Everything that can be refused is refused before the upgrade; what fails later is told on the error channel.
    pub(in crate::api) fn exec(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Answer {
        let wish = match Wish::parse(request.uri().query()) {
            Ok(wish) => wish,
            Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
        };
        if wish.command.is_empty() {
            return text(
                StatusCode::BAD_REQUEST,
                "you must specify a command for the container",
            );
        }
        let (home, id) = match self.running(namespace, pod, container) {
            Ok((home, _, Some(id))) => (home, id),
            Ok((_, _, None)) => {
                // Upstream's status for it, too; clients print the text.
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("container not found ({container:?})"),
                );
            }
            Err(refusal) => return refusal,
        };
        self.command(request, move |connection, protocol| async move {
            let wants = wish.wants();
            let start = async {
                match start(&home, &id, wish).await {
                    Ok((streams, exec)) => (streams, End::Process(outcome(exec).boxed())),
                    Err(error) => {
                        let why =
                            format!("error executing command in container: {}", chain(&error));
                        let failed = future::ready(Outcome::Failed(why));
                        (Streams::default(), End::Process(failed.boxed()))
                    }
                }
            };
            let limits = Limits::default();
            kernelet_stream::serve(connection, protocol, wants, start, limits).await
        })
    }
}

/// The process, and our ends of its streams. Dropping the exec kills it.
async fn start(
    home: &Arc<PodHome>,
    id: &ContainerId,
    wish: Wish,
) -> Result<(Streams, Exec), SessionError> {
    let shim = home.shim().ok_or(SessionError::Shim)?;
    let id = spec_id(id).map_err(|e| SessionError::Refused(e.message))?;
    let mut plan = home
        .exec_plan(&id, wish.command.clone(), None)
        .ok_or(SessionError::Container)?;
    plan.terminal = wish.tty;
    if wish.tty && !plan.process.env.iter().any(|e| e.starts_with("TERM=")) {
        plan.process.env.push(TERM.to_owned());
    }
    let refused = |e: &ShimError| SessionError::Refused(home.shim_error(e));
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
        streams.resize = Some(resizes(control));
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
