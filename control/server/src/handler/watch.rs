//! Watch: a stream of events, pulled from the cache as fast as the client reads and no faster.
//!
//! ```text
//! initial objects as ADDED ─► bookmark "initial-events-end" ─► events ─► … ─► timeout | ERROR 410 | shutdown
//! ```
//!
//! An object that begins or stops to match the selectors is ADDED or DELETED, as upstream does it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use kernelet_api::{ApiError, Value, codec::Format};
use rand::RngExt;
use tokio::time::{self, Instant};

use super::{
    Call, Failure,
    encode::{EventType, View, bookmark, frame_json, frame_protobuf, frame_value},
    params::ListOptions,
    read::reach,
    select::Filter,
    table::{self, Header},
};
use crate::{
    body::{BoxError, ResponseBody},
    cache::{CachedObject, Event, Expired, Follower, KeyRange},
    http::negotiate::{Endpoint, Form, Output},
    metrics::Gauge,
    state::State,
};

/// Frames are gathered into chunks of about this size.
const CHUNK: usize = 64 * 1024;
/// Between two bookmarks of a watch where nothing happens.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` lasts between this and twice this.
const SHORTEST_DEFAULT: u64 = 1800;

pub async fn watch(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let options = ListOptions::parse(&call.query, true)?;
    let output = call.output(Endpoint::Watch)?;
    let stored = call.stored()?;
    let mut filter = Filter::parse(&call.served, &call.target.namespace, &call.query)?;
    if call.target.legacy_watch && !call.target.name.is_empty() {
        filter = filter.named(&call.target.name);
    }
    // Without a revision, or with 0, a watch begins with what is there, unless it says that it doesn't want that.
    let initial = match options.send_initial_events {
        Some(wanted) => wanted,
        None => options
            .resource_version
            .is_none_or(|revision| revision == 0),
    };
    let (objects, position) = if initial {
        let applied = reach(call, options.resource_version).await?;
        let range = KeyRange {
            namespace: &filter.namespace,
            after: "",
        };
        stored
            .cache
            .list(range, applied, |object| filter.matches(object))
    } else {
        match options.resource_version {
            Some(revision) if revision > 0 => (Vec::new(), revision),
            revision => (Vec::new(), reach(call, revision).await?),
        }
    };
    let seconds = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => seconds,
        // Spread, so that clients that came together don't come back together.
        _ => rand::rng().random_range(SHORTEST_DEFAULT..2 * SHORTEST_DEFAULT),
    };
    let now = Instant::now();
    let watch = Watch {
        state: call.state.clone(),
        view: call.view(),
        renderer: table::Renderer::of(call),
        output,
        filter,
        follower: stored.cache.follow(position),
        initial: objects.into(),
        initial_end: (options.send_initial_events == Some(true) && options.bookmarks)
            .then_some(position),
        seen: position,
        bookmarks: options.bookmarks,
        header: Header::Yes,
        deadline: now + Duration::from_secs(seconds),
        next_bookmark: now + BOOKMARK_EVERY,
        ended: false,
        _open: call.state.metrics.watch_opened(),
    };
    let body = stream::unfold(watch, |mut watch| async move {
        watch.next().await.map(|chunk| (chunk, watch))
    });
    let mut response = Response::new(ResponseBody::stream(body));
    let content_type = match output.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Format::Json | Format::Yaml => "application/json",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    Ok(response)
}

struct Watch {
    state: Arc<State>,
    view: View,
    renderer: table::Renderer,
    output: Output,
    filter: Filter,
    follower: Follower,
    initial: VecDeque<Arc<CachedObject>>,
    /// The revision of the bookmark that ends the initial events, while it is still owed.
    initial_end: Option<i64>,
    /// The newest revision that the client knows of.
    seen: i64,
    bookmarks: bool,
    header: Header,
    deadline: Instant,
    next_bookmark: Instant,
    ended: bool,
    _open: Gauge,
}

/// What a watch waits for.
enum Next {
    Events(Result<Vec<Arc<Event>>, Expired>),
    Bookmark,
    Timeout,
    Shutdown,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        if self.ended {
            return None;
        }
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            self.put(&mut chunk, EventType::Added, &object);
        }
        if !chunk.is_empty() {
            return Some(Ok(chunk.freeze()));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(Ok(self.bookmark(revision, true)));
        }
        loop {
            let next = tokio::select! {
                // Every branch can be dropped without loss: the follower keeps its place.
                biased;
                () = self.state.shutdown.cancelled() => Next::Shutdown,
                events = self.follower.next() => Next::Events(events),
                () = time::sleep_until(self.deadline) => Next::Timeout,
                () = time::sleep_until(self.next_bookmark), if self.bookmarks => Next::Bookmark,
            };
            match next {
                Next::Events(Ok(events)) => {
                    for event in events {
                        self.seen = event.revision;
                        if let Some((ty, object)) = self.judge(&event) {
                            self.put(&mut chunk, ty, &object);
                        }
                    }
                    if !chunk.is_empty() {
                        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                        return Some(Ok(chunk.freeze()));
                    }
                }
                Next::Events(Err(Expired { floor })) => {
                    self.ended = true;
                    let error = ApiError::expired(format!(
                        "too old resource version: {} ({floor})",
                        self.seen
                    ));
                    return Some(Ok(self.error(&error)));
                }
                Next::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    if let Some(revision) = self.progress() {
                        return Some(Ok(self.bookmark(revision, false)));
                    }
                }
                Next::Timeout => {
                    self.ended = true;
                    let revision = self.progress().filter(|_| self.bookmarks)?;
                    return Some(Ok(self.bookmark(revision, false)));
                }
                Next::Shutdown => return None,
            }
        }
    }

    /// What an event is to this watcher.
    fn judge(&self, event: &Event) -> Option<(EventType, Arc<CachedObject>)> {
        let now = event
            .object
            .as_ref()
            .filter(|object| self.filter.matches(object));
        let before = event
            .previous
            .as_ref()
            .is_some_and(|object| self.filter.matches(object));
        match (now, before) {
            (Some(object), false) => Some((EventType::Added, object.clone())),
            (Some(object), true) => Some((EventType::Modified, object.clone())),
            (None, true) => Some((EventType::Deleted, event.tombstone()?)),
            (None, false) => None,
        }
    }

    /// The revision up to which this watcher has been told everything, if it is up to date.
    fn progress(&mut self) -> Option<i64> {
        let applied = self.state.cache.applied();
        if !self.follower.caught_up() {
            return None;
        }
        self.seen = self.seen.max(applied);
        Some(self.seen)
    }

    fn put(&mut self, chunk: &mut BytesMut, ty: EventType, object: &Arc<CachedObject>) {
        match self.frame(ty, object) {
            Ok(frame) => chunk.put_slice(&frame),
            Err(error) => {
                tracing::error!(key = %object.key, %error, "an object can't be sent to a watcher");
                chunk.put_slice(&self.error(&error));
                self.ended = true;
            }
        }
    }

    fn frame(&mut self, ty: EventType, object: &CachedObject) -> Result<Bytes, ApiError> {
        let form = self.output.form;
        match (form, self.output.format) {
            (Form::Table(version), _) => {
                let tree = self.view.tree(object)?;
                let table = self.renderer.render(version, &[tree], None, self.header)?;
                self.header = Header::No;
                Ok(frame_value(&self.view.schema, self.output, ty, &table))
            }
            (_, Format::Protobuf) => Ok(frame_protobuf(ty, &self.view.protobuf(object, form)?)),
            (_, Format::Json | Format::Yaml) => Ok(frame_json(ty, &self.view.json(object, form)?)),
        }
    }

    fn bookmark(&self, revision: i64, initial_end: bool) -> Bytes {
        let object: Value = bookmark(&self.view.gvk(), self.output.form, revision, initial_end);
        frame_value(&self.view.schema, self.output, EventType::Bookmark, &object)
    }

    fn error(&self, error: &ApiError) -> Bytes {
        frame_value(
            &self.view.schema,
            self.output,
            EventType::Error,
            &error.to_status(),
        )
    }
}
