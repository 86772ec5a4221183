//! Watch: a stream of events, pulled from the cache as fast as the client reads and no faster.
//!
//! ```text
//! initial objects as ADDED ─► bookmark "initial-events-end" ─► events ─► … ─► timeout | ERROR 410 | shutdown
//! ```
//!
//! An object that begins or stops to match the selectors is ADDED or DELETED, as upstream does it.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use kernelet_api::{ApiError, Value, codec::Format};
use rand::RngExt;
use tokio::time::{self, Instant, Sleep};

use super::{
    Call, Failure,
    encode::{EventType, Frame, View, bookmark, frame_value},
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
/// Objects from this size on are not copied into chunks.
const SHARED_FROM: usize = 16 * 1024;
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
    let deadline = now + Duration::from_secs(seconds);
    let first_timer = if options.bookmarks {
        deadline.min(now + BOOKMARK_EVERY)
    } else {
        deadline
    };
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
        deadline,
        next_bookmark: now + BOOKMARK_EVERY,
        timer: Box::pin(time::sleep_until(first_timer)),
        ready: VecDeque::new(),
        ended: false,
        _open: call.state.metrics.long_running(&call.labels),
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
    /// Goes off at the earlier of the two.
    timer: Pin<Box<Sleep>>,
    /// Chunks that are made and not yet read.
    ready: VecDeque<Bytes>,
    ended: bool,
    _open: Gauge,
}

/// What a watch waits for.
enum Next {
    Events(Result<Vec<Arc<Event>>, Expired>),
    Timer,
    Shutdown,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.ended {
                return None;
            }
            if !self.initial.is_empty() {
                let mut gathered = Gathered::default();
                while gathered.size < CHUNK
                    && let Some(object) = self.initial.pop_front()
                {
                    self.put(&mut gathered, EventType::Added, &object);
                }
                self.ready = gathered.finish();
            } else if let Some(revision) = self.initial_end.take() {
                self.ready.push_back(self.bookmark(revision, true));
            } else {
                self.wait().await;
            }
        }
    }

    /// Waits for something to tell, and makes it ready.
    async fn wait(&mut self) {
        let next = tokio::select! {
            // Every branch can be dropped without loss: the follower keeps its place. Time comes before events, since
            // those may never pause.
            biased;
            () = self.state.shutdown.cancelled() => Next::Shutdown,
            () = &mut self.timer => Next::Timer,
            events = self.follower.next() => Next::Events(events),
        };
        match next {
            Next::Events(Ok(events)) => {
                let mut gathered = Gathered::default();
                for event in events {
                    self.seen = event.revision;
                    if let Some((ty, object)) = self.judge(&event) {
                        self.put(&mut gathered, ty, &object);
                    }
                }
                self.ready = gathered.finish();
                if !self.ready.is_empty() {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                }
            }
            Next::Events(Err(Expired { floor })) => {
                self.ended = true;
                let error =
                    ApiError::expired(format!("too old resource version: {} ({floor})", self.seen));
                self.ready.push_back(self.error(&error).whole());
            }
            Next::Timer => {
                let now = Instant::now();
                self.ended = now >= self.deadline;
                // Its time over, a watch says how far it came.
                if self.bookmarks
                    && (self.ended || now >= self.next_bookmark)
                    && let Some(revision) = self.progress()
                {
                    self.ready.push_back(self.bookmark(revision, false));
                    self.next_bookmark = now + BOOKMARK_EVERY;
                }
                let next = if self.bookmarks {
                    self.next_bookmark.min(self.deadline)
                } else {
                    self.deadline
                };
                self.timer.as_mut().reset(next);
            }
            Next::Shutdown => self.ended = true,
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

    fn put(&mut self, gathered: &mut Gathered, ty: EventType, object: &Arc<CachedObject>) {
        match self.frame(ty, object) {
            Ok(frame) => gathered.put(frame),
            Err(error) => {
                tracing::error!(key = %object.key, %error, "an object can't be sent to a watcher");
                gathered.put(self.error(&error));
                self.ended = true;
            }
        }
    }

    fn frame(&mut self, ty: EventType, object: &CachedObject) -> Result<Frame, ApiError> {
        let form = self.output.form;
        match (form, self.output.format) {
            (Form::Table(version), _) => {
                let tree = self.view.tree(object)?;
                let table = self.renderer.render(version, &[tree], None, self.header)?;
                self.header = Header::No;
                Ok(frame_value(&self.view.schema, self.output, ty, &table))
            }
            (_, Format::Protobuf) => Ok(Frame::protobuf(ty, self.view.protobuf(object, form)?)),
            (_, Format::Json | Format::Yaml) => Ok(Frame::json(ty, self.view.json(object, form)?)),
        }
    }

    fn bookmark(&self, revision: i64, initial_end: bool) -> Bytes {
        let object: Value = bookmark(&self.view.gvk(), self.output.form, revision, initial_end);
        frame_value(&self.view.schema, self.output, EventType::Bookmark, &object).whole()
    }

    fn error(&self, error: &ApiError) -> Frame {
        frame_value(
            &self.view.schema,
            self.output,
            EventType::Error,
            &error.to_status(),
        )
    }
}

/// Frames on their way to chunks: small ones are copied together, large objects are shared with every other watcher.
#[derive(Default)]
struct Gathered {
    frames: Vec<Frame>,
    size: usize,
}

impl Gathered {
    fn put(&mut self, frame: Frame) {
        self.size += frame.len();
        self.frames.push(frame);
    }

    /// Each chunk is allocated once and in its final size; none that is copied is much larger than [`SHARED_FROM`],
    /// above which allocators ask the kernel for fresh pages.
    fn finish(self) -> VecDeque<Bytes> {
        let mut chunks = VecDeque::new();
        let mut frames = &self.frames[..];
        while let Some(frame) = frames.first() {
            if frame.object.len() >= SHARED_FROM {
                chunks.extend([frame.head.clone(), frame.object.clone()]);
                if !frame.tail.is_empty() {
                    chunks.push_back(Bytes::from_static(frame.tail));
                }
                frames = &frames[1..];
                continue;
            }
            let (mut size, mut count) = (0, 0);
            for frame in frames {
                if frame.object.len() >= SHARED_FROM
                    || count > 0 && size + frame.len() > SHARED_FROM
                {
                    break;
                }
                (size, count) = (size + frame.len(), count + 1);
            }
            let mut together = BytesMut::with_capacity(size);
            for frame in &frames[..count] {
                together.put_slice(&frame.head);
                together.put_slice(&frame.object);
                together.put_slice(frame.tail);
            }
            chunks.push_back(together.freeze());
            frames = &frames[count..];
        }
        chunks
    }
}
