//! `containerLogs`: a container's log as a stream, followed without polling.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use kernelet_pod_plan::ContainerId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Answer,
    log_file::Open,
    log_source::{source, status_of},
    text,
};
use crate::{
    context::Context,
    inotify::Folders,
    logs::{LogWish, Renderer},
    worker::View,
};

pub(super) async fn answer(
    ctx: &Arc<Context>,
    view: watch::Receiver<View>,
    container: &str,
    query: &HashMap<String, String>,
) -> Answer {
    let wish = match wish(query, Timestamp::now()) {
        Ok(wish) => wish,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let previous = is_true(query.get("previous"));
    let source = match source(ctx, &view.borrow(), container, previous) {
        Ok(source) => source,
        Err((status, problem)) => return text(status, problem),
    };
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    let shutdown = ctx.shutdown.clone();
    tokio::spawn(async move {
        let reader = Reader {
            view,
            container: source.container,
            id: source.id,
            wish,
            sender,
        };
        tokio::select! {
            // Cancelled: the connection ends, and the client sees that it isn't whole.
            () = shutdown.cancelled() => {}
            () = reader.run(source.log) => {}
        }
    });
    let mut answer = Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync());
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    answer
}

fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|v| matches!(v.as_str(), "true" | "1" | "t" | "True" | "TRUE"))
}

fn wish(query: &HashMap<String, String>, now: Timestamp) -> Result<LogWish, String> {
    let number = |name: &str, least: u64| match query.get(name).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(n) if n >= least => Ok(Some(n)),
            _ => Err(format!(
                "{name} must be greater than or equal to {least}: {text:?}"
            )),
        },
    };
    let since_seconds = number("sinceSeconds", 1)?;
    let since_time = query.get("sinceTime").filter(|v| !v.is_empty());
    let since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => {
            return Err("at most one of sinceTime or sinceSeconds may be specified".to_owned());
        }
        (Some(secs), None) => now.checked_sub(Duration::from_secs(secs)).ok(),
        (None, Some(text)) => Some(text.parse().map_err(|e| format!("sinceTime: {e}"))?),
        (None, None) => None,
    };
    let stream = match query.get("stream").map(String::as_str) {
        None | Some("" | "All") => None,
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        Some(other) => {
            return Err(format!(
                "stream: unsupported value {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
            ));
        }
    };
    Ok(LogWish {
        follow: is_true(query.get("follow")),
        timestamps: is_true(query.get("timestamps")),
        tail_lines: number("tailLines", 0)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        since,
        limit_bytes: number("limitBytes", 1)?,
        stream,
    })
}

struct Reader {
    view: watch::Receiver<View>,
    container: String,
    id: ContainerId,
    wish: LogWish,
    sender: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
}

impl Reader {
    async fn run(mut self, log: PathBuf) {
        if let Err(error) = self.read(&log).await {
            tracing::debug!(%error, log = %log.display(), "reading a log");
        }
    }

    async fn read(&mut self, log: &Path) -> io::Result<()> {
        // Before the first look at the file, so that nothing written after it goes unnoticed.
        let folder = log.parent().unwrap_or(Path::new("/"));
        let mut written = match self.wish.follow {
            true => Some(Folders::get()?.watch(folder)?),
            false => None,
        };
        let mut renderer = Renderer::new(self.wish.clone());
        let mut open = Open::begin(log, self.wish.tail_lines)?;
        loop {
            // What has ended before the reading has all its output in the file.
            let ended = !self.runs();
            let alive = self.drain(&mut open, &mut renderer).await?;
            if !alive || renderer.is_full() {
                return Ok(());
            }
            if open.go_on()? {
                continue;
            }
            let Some(written) = &mut written else {
                return Ok(());
            };
            if ended {
                return Ok(());
            }
            tokio::select! {
                changed = written.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                // The pod's task is gone: what is there is all there will be.
                changed = self.view.changed() => {
                    if changed.is_err() {
                        self.id = ContainerId(String::new());
                    }
                }
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// Whether the run that is read still writes.
    fn runs(&self) -> bool {
        let view = self.view.borrow();
        let status = &view.status;
        let same = view
            .containers
            .get(&self.container)
            .is_some_and(|(id, _)| *id == self.id);
        let state = status_of(status, &self.container)
            .and_then(|s| s.state.clone())
            .unwrap_or_default();
        same && state.terminated.is_none() && (state.waiting.is_none() || self.is_starting(&state))
    }

    /// A run that was created and isn't shown as running yet.
    fn is_starting(&self, state: &k8s_openapi::api::core::v1::ContainerState) -> bool {
        let reason = state.waiting.as_ref().and_then(|w| w.reason.as_deref());
        matches!(reason, Some("ContainerCreating" | "PodInitializing"))
    }

    /// Sends all that is there; false when the client has gone.
    async fn drain(&mut self, open: &mut Open, renderer: &mut Renderer) -> io::Result<bool> {
        loop {
            let mut lines = Vec::new();
            if !open.read_lines(&mut lines)? {
                return Ok(true);
            }
            let mut out = Vec::with_capacity(lines.len());
            renderer.render(&lines, &mut out);
            if !out.is_empty()
                && self
                    .sender
                    .send(Ok(Frame::data(Bytes::from(out))))
                    .await
                    .is_err()
            {
                return Ok(false);
            }
            if renderer.is_full() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_checked() {
        let now = Timestamp::from_second(1_700_000_000).expect("in range");
        let query = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let good = wish(
            &query(&[
                ("tailLines", "5"),
                ("sinceSeconds", "10"),
                ("follow", "true"),
            ]),
            now,
        )
        .expect("fits");
        assert_eq!(
            (
                good.tail_lines,
                good.follow,
                good.since.map(|t| t.as_second())
            ),
            (Some(5), true, Some(1_699_999_990))
        );
        for bad in [
            [("tailLines", "-1")],
            [("limitBytes", "0")],
            [("sinceTime", "yesterday")],
            [("stream", "stdin")],
        ] {
            assert!(wish(&query(&bad), now).is_err(), "{bad:?}");
        }
    }
}
