//! One Watch stream: many watches, each a task that forwards its watcher into the stream.
//!
//! A progress request is answered when every watch of the stream has said how far it has come, with the least of it:
//! only then have all events up to there been sent.

use std::collections::{HashMap, HashSet};

use futures::StreamExt as _;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, codegen::BoxStream};

use super::{
    convert::{self, header, status},
    proto::{self, WatchRequestUnion},
};
use crate::{EventKind, Revision, Store, Watch, WatchBatch, WatchError, Watcher};

/// Answers that may wait for the client to read; behind them the watchers' own queues are bounded.
const WAITING: usize = 64;
/// The watch id of an answer about the whole stream.
const ALL: i64 = -1;

type Answers = mpsc::Sender<Result<proto::WatchResponse, Status>>;

pub fn serve(
    store: Store,
    requests: Streaming<proto::WatchRequest>,
) -> BoxStream<proto::WatchResponse> {
    let (answers, stream) = mpsc::channel(WAITING);
    let (reports, reported) = mpsc::channel(WAITING);
    let session = Session {
        store,
        answers,
        reports,
        tasks: JoinSet::new(),
        watches: HashMap::new(),
        next_id: 0,
        progress: None,
    };
    // It ends with the requests or the answers, whichever the client closes, and its watches with it.
    tokio::spawn(session.run(requests, reported));
    Box::pin(ReceiverStream::new(stream))
}

struct Session {
    store: Store,
    answers: Answers,
    reports: mpsc::Sender<Report>,
    tasks: JoinSet<()>,
    watches: HashMap<i64, Running>,
    next_id: i64,
    progress: Option<Gathering>,
}

struct Running {
    task: AbortHandle,
    /// Asks the task to say how far it has come.
    asks: mpsc::Sender<()>,
}

/// What a watch's task tells its session.
enum Report {
    Progress(i64, Revision),
    Ended(i64),
}

/// A progress request that waits for some watches.
struct Gathering {
    missing: HashSet<i64>,
    least: Revision,
    /// Another one came meanwhile: it is answered by another round.
    again: bool,
}

/// The client has gone.
struct Gone;

impl Session {
    async fn run(
        mut self,
        mut requests: Streaming<proto::WatchRequest>,
        mut reported: mpsc::Receiver<Report>,
    ) {
        let closed = self.answers.clone();
        loop {
            // Cancelled branches lose nothing: each is a receive from a queue.
            let done = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.request(request).await,
                    // The client has closed its side, which etcd takes for the end of its watches.
                    Some(Err(_)) | None => Err(Gone),
                },
                Some(report) = reported.recv() => self.report(report).await,
                () = closed.closed() => Err(Gone),
                Some(_) = self.tasks.join_next() => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, answer: proto::WatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(answer)).await.map_err(|_| Gone)
    }

    async fn request(&mut self, request: proto::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(WatchRequestUnion::Create(create)) => self.create(create).await,
            Some(WatchRequestUnion::Cancel(cancel)) => self.cancel(cancel.watch_id).await,
            Some(WatchRequestUnion::Progress(_)) => self.gather().await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: proto::WatchCreateRequest) -> Result<(), Gone> {
        let now = match self.store.revision().await {
            Ok(now) => now,
            Err(error) => {
                return self
                    .answers
                    .send(Err(status(error)))
                    .await
                    .map_err(|_| Gone);
            }
        };
        let refused = |reason: &str| proto::WatchResponse {
            header: header(now),
            watch_id: create.watch_id,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        let id = match create.watch_id {
            0 => {
                while self.watches.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            taken if self.watches.contains_key(&taken) => {
                let text = "etcdserver: watch ID already exists";
                return self.answer(refused(text)).await;
            }
            chosen => chosen,
        };
        let filter = Filter {
            no_put: create
                .filters()
                .any(|filter| filter == proto::FilterType::NoPut),
            no_delete: create
                .filters()
                .any(|filter| filter == proto::FilterType::NoDelete),
        };
        let watch = Watch {
            key: create.key.clone(),
            range_end: Some(create.range_end.clone()).filter(|end| !end.is_empty()),
            start_revision: (create.start_revision > 0).then_some(Revision(create.start_revision)),
            prev_kv: create.prev_kv,
            progress: create.progress_notify,
        };
        // Before the answer: what happens after it is not missed.
        let watcher = match self.store.watch(watch) {
            Ok(watcher) => watcher,
            Err(error) => return self.answer(refused(&error.to_string())).await,
        };
        self.answer(proto::WatchResponse {
            header: header(now),
            watch_id: id,
            created: true,
            ..Default::default()
        })
        .await?;
        let (asks, asked) = mpsc::channel(1);
        let forward = Forward {
            id,
            watcher,
            filter,
            notify: create.progress_notify,
            answers: self.answers.clone(),
            reports: self.reports.clone(),
        };
        let task = self.tasks.spawn(forward.run(asked));
        self.watches.insert(id, Running { task, asks });
        Ok(())
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        let Some(running) = self.watches.remove(&id) else {
            return Ok(());
        };
        running.task.abort();
        let revision = self.store.revision().await.unwrap_or_default();
        self.answer(proto::WatchResponse {
            header: header(revision),
            watch_id: id,
            canceled: true,
            ..Default::default()
        })
        .await?;
        self.without(id).await
    }

    async fn report(&mut self, report: Report) -> Result<(), Gone> {
        match report {
            Report::Progress(id, revision) => {
                if let Some(gathering) = &mut self.progress
                    && gathering.missing.contains(&id)
                {
                    gathering.least = gathering.least.min(revision);
                }
                self.without(id).await
            }
            Report::Ended(id) => {
                self.watches.remove(&id);
                self.without(id).await
            }
        }
    }

    async fn gather(&mut self) -> Result<(), Gone> {
        if let Some(gathering) = &mut self.progress {
            gathering.again = true;
            return Ok(());
        }
        let now = self.store.revision().await.unwrap_or_default();
        self.progress = Some(Gathering {
            missing: self.watches.keys().copied().collect(),
            least: now,
            again: false,
        });
        for running in self.watches.values() {
            // Full: it has been asked already and will answer once.
            let _ = running.asks.try_send(());
        }
        self.settle().await
    }

    /// One watch less to wait for.
    async fn without(&mut self, id: i64) -> Result<(), Gone> {
        if let Some(gathering) = &mut self.progress {
            gathering.missing.remove(&id);
        }
        self.settle().await
    }

    /// Answers a progress request that waits for nobody any more.
    async fn settle(&mut self) -> Result<(), Gone> {
        let Some(gathering) = self
            .progress
            .take_if(|gathering| gathering.missing.is_empty())
        else {
            return Ok(());
        };
        self.answer(proto::WatchResponse {
            header: header(gathering.least),
            watch_id: ALL,
            ..Default::default()
        })
        .await?;
        if gathering.again {
            Box::pin(self.gather()).await
        } else {
            Ok(())
        }
    }
}

/// Kinds of events that a watch doesn't want.
struct Filter {
    no_put: bool,
    no_delete: bool,
}

/// One watch of a stream.
struct Forward {
    id: i64,
    watcher: Watcher,
    filter: Filter,
    notify: bool,
    answers: Answers,
    reports: mpsc::Sender<Report>,
}

impl Forward {
    async fn run(mut self, mut asked: mpsc::Receiver<()>) {
        let mut waiting = false;
        loop {
            tokio::select! {
                // Cancelled: a watcher loses nothing.
                batch = self.watcher.next() => match batch {
                    Ok(batch) => {
                        let progress = batch.events.is_empty();
                        let revision = batch.revision;
                        if self.batch(batch).await.is_err() {
                            return;
                        }
                        // After the events before it, in the same queue's order.
                        if progress && std::mem::take(&mut waiting) {
                            let report = Report::Progress(self.id, revision);
                            if self.reports.send(report).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) => return self.end(error).await,
                },
                // Cancelled: the question stays in its queue.
                Some(()) = asked.recv() => {
                    waiting = true;
                    self.watcher.request_progress().await;
                }
            }
        }
    }

    async fn batch(&self, batch: WatchBatch) -> Result<(), Gone> {
        let progress = batch.events.is_empty();
        if progress && !self.notify {
            return Ok(());
        }
        let wanted = batch.events.into_iter().filter(|event| match event.kind {
            EventKind::Put => !self.filter.no_put,
            EventKind::Delete => !self.filter.no_delete,
        });
        let events: Vec<_> = wanted.map(convert::event).collect();
        if events.is_empty() && !progress {
            return Ok(());
        }
        let answer = proto::WatchResponse {
            header: header(batch.revision),
            watch_id: self.id,
            events,
            ..Default::default()
        };
        self.answers.send(Ok(answer)).await.map_err(|_| Gone)
    }

    async fn end(self, error: WatchError) {
        let (compact_revision, reason) = match &error {
            WatchError::Compacted { floor } => (
                floor.0,
                "etcdserver: mvcc: required revision has been compacted".to_owned(),
            ),
            // The client's next watch goes on where this one ended.
            WatchError::Lagged | WatchError::Closed => (0, format!("etcdserver: {error}")),
        };
        let answer = proto::WatchResponse {
            header: header(Revision(compact_revision)),
            watch_id: self.id,
            canceled: true,
            compact_revision,
            cancel_reason: reason,
            ..Default::default()
        };
        // Whoever has gone needs no goodbye.
        let _ = self.answers.send(Ok(answer)).await;
        let _ = self.reports.send(Report::Ended(self.id)).await;
    }
}
