//! `attach`: a container's own stdin and output, from now on.
//!
//! As containerd has it: the client's end of stdin ends the session and leaves the container's stdin open; with
//! `stdinOnce`, and without a terminal, it ends the container's stdin, and the output still comes. Ctrl-P, Ctrl-Q on
//! a terminal leaves the session, as CRI-O has it: else there would be no way out but killing the client.

use std::sync::Arc;

use futures::{FutureExt, future};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::{Container, Pod};
use kernelet_pod_plan::ContainerId;
use kernelet_shim_client::{AttachWish, Phase, Shim};
use kernelet_stream::{End, Limits, Outcome, Pipe, StdinEnd, Streams};
use tokio::sync::oneshot;

use super::{SessionError, Wish, resizes};
use crate::{
    api::{Answer, Api, text},
    errors::chain,
    pod::PodHome,
    steps::spec_id,
};

/// What the container's manifest says of its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Own {
    stdin_once: bool,
    tty: bool,
}

impl Own {
    fn of(pod: &Pod, container: &str) -> Own {
        let Some(spec) = &pod.spec else {
            return Own::default();
        };
        let init = spec.init_containers.iter().flatten();
        let all = spec.containers.iter().chain(init);
        let of = |c: &Container| Own {
            stdin_once: c.stdin_once == Some(true),
            tty: c.tty == Some(true),
        };
        if let Some(found) = all.into_iter().find(|c| c.name == container) {
            return of(found);
        }
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        let found = ephemeral.find(|c| c.name == container);
        found.map_or_else(Own::default, |c| Own {
            stdin_once: c.stdin_once == Some(true),
            tty: c.tty == Some(true),
        })
    }
}

impl Api {
    pub(in crate::api) fn attach(
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
        let (home, view, id) = match self.running(namespace, pod, container) {
            Ok((home, view, Some(id))) => (home, view, id),
            Ok((_, _, None)) => {
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("container {container} not found in pod {pod}_{namespace}"),
                );
            }
            Err(refusal) => return refusal,
        };
        // Whether there is a terminal was decided when the container was made.
        let own = Own::of(&view.pod, container);
        self.command(request, move |connection, protocol| async move {
            let wants = wish.wants();
            let closes = wish.stdin && own.stdin_once && !own.tty;
            let start = async {
                match start(&home, &id, &wish, own).await {
                    Ok(started) => started,
                    Err(error) => {
                        let why = format!("error attaching to container: {}", chain(&error));
                        let failed = future::ready(Outcome::Failed(why));
                        (Streams::default(), End::Process(failed.boxed()))
                    }
                }
            };
            let limits = Limits::default();
            let ended = kernelet_stream::serve(connection, protocol, wants, start, limits).await;
            if closes {
                // The one session that may write to it is over, however it ended.
                close_stdin(&home, &id).await;
            }
            ended
        })
    }
}

async fn close_stdin(home: &PodHome, id: &ContainerId) {
    let (Some(shim), Ok(id)) = (home.shim(), spec_id(id)) else {
        return;
    };
    if let Err(error) = shim.close_stdin(&id).await {
        tracing::debug!(error = %chain(&error), "close a container's stdin");
    }
}

async fn start(
    home: &Arc<PodHome>,
    id: &ContainerId,
    wish: &Wish,
    own: Own,
) -> Result<(Streams, End), SessionError> {
    let shim = home.shim().ok_or(SessionError::Shim)?;
    let runtime_id = spec_id(id).map_err(|e| SessionError::Refused(e.message))?;
    let asked = AttachWish {
        stdin: wish.stdin,
        stdout: wish.stdout,
        // All output of a terminal is one.
        stderr: wish.stderr && !own.tty,
    };
    let attached = shim.attach(&runtime_id, asked).await;
    let attached = attached.map_err(|e| SessionError::Refused(home.shim_error(&e)))?;
    let ours = |fd: Option<std::os::fd::OwnedFd>| {
        fd.map(|fd| Pipe::new(fd).map(Arc::new))
            .transpose()
            .map_err(SessionError::Streams)
    };
    let (told, stdin_ended) = oneshot::channel();
    let streams = Streams {
        stdin: ours(attached.stdin)?,
        stdout: ours(attached.stdout)?,
        stderr: ours(attached.stderr)?,
        resize: ours(attached.terminal)?.map(resizes),
        stdin_ended: Some(told),
        detachable: own.tty,
    };
    let silent = streams.stdout.is_none() && streams.stderr.is_none();
    let (home, id) = (home.clone(), id.clone());
    let end = async move {
        let left = async {
            match stdin_ended.await {
                Ok(StdinEnd::Client) if own.stdin_once && !own.tty => {
                    close_stdin(&home, &id).await;
                    future::pending().await
                }
                Ok(StdinEnd::Client | StdinEnd::Detached) => Outcome::Exited(0),
                // What it still writes is wanted.
                Ok(StdinEnd::Process) | Err(_) => future::pending().await,
            }
        };
        tokio::select! {
            outcome = left => outcome,
            // With output its end says so, and after all of it.
            () = exited(&shim, &runtime_id), if silent => Outcome::Exited(0),
        }
    };
    Ok((streams, End::Output(end.boxed())))
}

/// Until the container has ended, or nobody knows of it.
async fn exited(shim: &Shim, id: &kernelet_spec::ContainerId) {
    let mut observed = shim.watch();
    let over = observed.wait_for(|observed| {
        let container = observed.state.containers.get(id);
        container.is_none_or(|container| matches!(container.phase, Phase::Exited(_)))
    });
    // An error is the shim's end, and with it the container's.
    let _ = over.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_streams_are_its_manifests() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [{"name": "a", "stdinOnce": true}, {"name": "b", "tty": true}],
            "ephemeralContainers": [{"name": "c", "tty": true, "stdinOnce": true}],
        }}))
        .expect("a pod");
        for (name, stdin_once, tty) in [
            ("a", true, false),
            ("b", false, true),
            ("c", true, true),
            ("d", false, false),
        ] {
            assert_eq!(Own::of(&pod, name), Own { stdin_once, tty }, "{name}");
        }
    }
}
