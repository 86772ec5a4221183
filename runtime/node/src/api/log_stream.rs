//! `containerLogs`: a container's log as a stream, followed without polling.
//!
//! The reader knows files by inode: when the shim rotates, the old file is read to its end before the new one.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
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
    log_source::{source, status_of},
    text,
};
use crate::{
    context::Context,
    inotify::Folders,
    logs::{LogWish, Renderer, files, tail_start},
    worker::View,
};

const CHUNK: usize = 32 << 10;

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
            if open.next_file(log)? {
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

/// The file being read.
struct Open {
    file: File,
    inode: u64,
    /// The beginning of a line whose end isn't written yet.
    partial: Vec<u8>,
    /// Files still to come that were rotated before the reading began.
    later: Vec<PathBuf>,
}

impl Open {
    /// At the first line that is wanted: with a tail that may be in a rotated file.
    fn begin(log: &Path, tail: Option<usize>) -> io::Result<Self> {
        let mut files = files(log);
        let mut wanted = tail.unwrap_or(usize::MAX);
        for index in (0..files.len()).rev() {
            let path = files[index].clone();
            let mut file = match File::open(&path) {
                Ok(file) => file,
                // Nothing has been written yet, or it was rotated away just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound && index > 0 => continue,
                Err(e) => return Err(e),
            };
            let (start, found) = if wanted == usize::MAX {
                (0, 0)
            } else {
                tail_start(&mut file, wanted)?
            };
            if index == 0 || (tail.is_some() && found >= wanted) || (tail.is_some() && wanted == 0)
            {
                file.seek(SeekFrom::Start(start))?;
                let inode = file.metadata()?.ino();
                let later = files.split_off(index + 1);
                return Ok(Self {
                    file,
                    inode,
                    partial: Vec::new(),
                    later,
                });
            }
            wanted = wanted
                .saturating_sub(found)
                .max(usize::from(tail.is_none()) * usize::MAX);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Reads complete lines; false at the end of the file.
    fn read_lines(&mut self, lines: &mut Vec<u8>) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut chunk)?;
            if n == 0 {
                return Ok(false);
            }
            self.partial.extend_from_slice(&chunk[..n]);
            if let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') {
                lines.extend(self.partial.drain(..=end));
                return Ok(true);
            }
        }
    }

    /// Goes on to the file after this one, if this one is finished.
    fn next_file(&mut self, log: &Path) -> io::Result<bool> {
        let next = if self.later.is_empty() {
            match std::fs::metadata(log) {
                Ok(meta) if meta.ino() != self.inode => Some(log.to_path_buf()),
                _ => None,
            }
        } else {
            Some(self.later.remove(0))
        };
        let Some(path) = next else { return Ok(false) };
        match File::open(&path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if inode == self.inode {
                    return Ok(!self.later.is_empty());
                }
                self.inode = inode;
                self.file = file;
                self.partial.clear();
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(!self.later.is_empty()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(log: &Path, tail: Option<usize>) -> String {
        let mut open = Open::begin(log, tail).expect("opens");
        let mut all = Vec::new();
        loop {
            while open.read_lines(&mut all).expect("reads") {}
            if !open.next_file(log).expect("goes on") {
                return String::from_utf8(all).expect("text");
            }
        }
    }

    #[test]
    fn rotated_files_are_read_in_order_and_the_tail_reaches_back_into_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(dir.path().join("0.log.20261121-080000"), "a\nb\n").expect("written");
        std::fs::write(dir.path().join("0.log.20261121-090000"), "c\nd\n").expect("written");
        std::fs::write(&log, "e\n").expect("written");
        assert_eq!(read_all(&log, None), "a\nb\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(1)), "e\n");
        assert_eq!(read_all(&log, Some(2)), "d\ne\n");
        assert_eq!(read_all(&log, Some(4)), "b\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(9)), "a\nb\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(0)), "");
    }

    #[test]
    fn a_file_rotated_under_the_reader_is_finished_before_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(&log, "a\n").expect("written");
        let mut open = Open::begin(&log, None).expect("opens");
        let mut all = Vec::new();
        while open.read_lines(&mut all).expect("reads") {}
        assert!(!open.next_file(&log).expect("same file"));
        std::fs::rename(&log, dir.path().join("0.log.20261121-090000")).expect("rotated");
        std::fs::write(&log, "c\n").expect("written");
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("0.log.20261121-090000"))
            .and_then(|mut f| io::Write::write_all(&mut f, b"b\n"))
            .expect("the shim's last line");
        while open.read_lines(&mut all).expect("reads") {}
        assert!(open.next_file(&log).expect("goes on"));
        while open.read_lines(&mut all).expect("reads") {}
        assert_eq!(all, b"a\nb\nc\n");
    }

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
