//! Several streams over one connection: what exec, attach and port-forward see, whatever is spoken on the wire.
//!
//! ```text
//! wire ─ reading ─► Hub ─► Incoming   (a budget of bytes for all of them: when it is spent, the wire isn't read)
//! wire ◄─ writing ─ queue of two ◄─ Outgoing   (the client's reading sets the pace)
//! ```
//! A client that never reads one of its streams can hold back its other streams on the same connection, as with
//! upstream; never another connection's.

mod channels;
mod flow;
mod spdy;
mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use self::flow::Flow;
use crate::spdy::Headers;

pub(crate) use self::{
    channels::channels,
    spdy::spdy,
    wire::{plain, tunnel},
};

/// What is held of a connection's streams before they are read.
const BUDGET: usize = 2 << 20;
/// What clients of SPDY expect when a stream is given up: CANCEL.
const CANCEL: u32 = 5;

/// A stream of the client's, open both ways.
pub(crate) struct Stream {
    pub headers: Headers,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// What goes to the wire.
#[derive(Debug)]
pub(crate) enum Out {
    Reply(u32),
    Data {
        id: u32,
        data: Bytes,
        fin: bool,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Grant {
        id: u32,
        bytes: u32,
    },
    Pong(u32),
    /// The last of all: whoever writes closes the connection after it.
    End,
}

/// The connection takes nothing any more, or not this stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

struct Chunk {
    data: Bytes,
    /// Given back when it is read.
    _held: OwnedSemaphorePermit,
}

struct Entry {
    /// `None` once the client has finished it.
    chunks: Option<mpsc::UnboundedSender<Chunk>>,
    reset: CancellationToken,
    /// Not finished by us yet.
    open: bool,
    window: i64,
}

/// A connection's streams.
pub(crate) struct Hub {
    entries: Mutex<HashMap<u32, Entry>>,
    budget: Arc<Semaphore>,
    flow: Mutex<Flow>,
    /// A window has grown.
    grown: Notify,
    last: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    fn new() -> Arc<Hub> {
        Arc::new(Hub {
            entries: Mutex::default(),
            budget: Arc::new(Semaphore::new(BUDGET)),
            flow: Mutex::default(),
            grown: Notify::new(),
            last: Mutex::new(Instant::now()),
        })
    }

    /// Data went either way.
    pub fn active(&self) {
        *lock(&self.last) = Instant::now();
    }

    /// Until no data has gone either way for so long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let until = *lock(&self.last) + limit;
            if until <= Instant::now() {
                return;
            }
            time::sleep_until(until).await;
        }
    }

    fn open(self: &Arc<Self>, id: u32, headers: Headers, out: &mpsc::Sender<Out>) -> Stream {
        let (sender, chunks) = mpsc::unbounded_channel();
        let reset = CancellationToken::new();
        let entry = Entry {
            chunks: Some(sender),
            reset: reset.clone(),
            open: true,
            window: lock(&self.flow).initial(),
        };
        lock(&self.entries).insert(id, entry);
        let (hub, out) = (self.clone(), out.clone());
        Stream {
            headers,
            incoming: Incoming {
                id,
                chunks,
                owed: 0,
                hub: hub.clone(),
                out: out.clone(),
            },
            outgoing: Outgoing {
                id,
                reset,
                hub,
                out,
            },
        }
    }

    fn count(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Hands a client's data on. Waits while the budget is spent.
    async fn dispatch(&self, id: u32, data: Bytes) {
        self.active();
        if data.is_empty() {
            return;
        }
        let chunks = lock(&self.entries)
            .get(&id)
            .and_then(|entry| entry.chunks.clone());
        // Who reads it not any more, or never did, gets nothing.
        let Some(chunks) = chunks.filter(|chunks| !chunks.is_closed()) else {
            return;
        };
        let wanted = u32::try_from(data.len().min(BUDGET)).unwrap_or(u32::MAX);
        let held = tokio::select! {
            held = self.budget.clone().acquire_many_owned(wanted) => held,
            // Its reader has gone while we waited, and what it held comes back by and by.
            () = chunks.closed() => return,
        };
        if let Ok(held) = held {
            self.active();
            let _ = chunks.send(Chunk { data, _held: held });
        }
    }

    /// The client sends no more on it.
    fn finished(&self, id: u32) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get_mut(&id) {
            entry.chunks = None;
            if !entry.open {
                entries.remove(&id);
            }
        }
    }

    /// The client has given it up.
    fn reset(&self, id: u32) {
        if let Some(entry) = lock(&self.entries).remove(&id) {
            entry.reset.cancel();
        }
    }

    /// We send no more on it.
    fn closed(&self, id: u32) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get_mut(&id) {
            entry.open = false;
            if entry.chunks.is_none() {
                entries.remove(&id);
            }
        }
    }

    /// The connection has ended, and with it every stream.
    fn end(&self) {
        for entry in std::mem::take(&mut *lock(&self.entries)).into_values() {
            entry.reset.cancel();
        }
    }
}

/// What the client sends on a stream.
pub(crate) struct Incoming {
    id: u32,
    chunks: mpsc::UnboundedReceiver<Chunk>,
    /// Read, and not granted again yet.
    owed: u32,
    hub: Arc<Hub>,
    out: mpsc::Sender<Out>,
}

impl Incoming {
    /// What came next; `None` at its end, by whatever way. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.owed > 0 && !lock(&self.hub.flow).is_on() {
                self.owed = 0;
            }
            tokio::select! {
                biased;
                chunk = self.chunks.recv() => {
                    let data = chunk?.data;
                    self.owed = self.owed.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
                    return Some(data);
                }
                permit = self.out.reserve(), if self.owed > 0 => {
                    let bytes = std::mem::take(&mut self.owed);
                    permit.ok()?.send(Out::Grant { id: self.id, bytes });
                }
            }
        }
    }
}

/// What we send on a stream.
pub(crate) struct Outgoing {
    id: u32,
    reset: CancellationToken,
    hub: Arc<Hub>,
    out: mpsc::Sender<Out>,
}

impl Outgoing {
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The client may use the stream.
    pub async fn accept(&self) {
        let _ = self.out.send(Out::Reply(self.id)).await;
    }

    pub async fn send(&self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let grown = self.hub.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            let part = match self.hub.take_window(self.id, data.len()) {
                0 => {
                    tokio::select! {
                        () = self.reset.cancelled() => return Err(Gone),
                        () = grown => continue,
                    }
                }
                n => data.split_to(n),
            };
            self.put(part, false).await?;
        }
        Ok(())
    }

    /// An empty message, which tells clients of channels that the stream is there.
    pub async fn greet(&self) {
        let _ = self.put(Bytes::new(), false).await;
    }

    /// Nothing more will be sent.
    pub async fn finish(&self) {
        let _ = self.put(Bytes::new(), true).await;
        self.hub.closed(self.id);
    }

    /// Gives the stream up, both ways.
    pub async fn give_up(&self) {
        self.hub.reset(self.id);
        let reset = Out::Reset {
            id: self.id,
            status: CANCEL,
        };
        let _ = self.out.send(reset).await;
    }

    /// Until the client has given the stream up.
    pub fn given_up(&self) -> CancellationToken {
        self.reset.clone()
    }

    async fn put(&self, data: Bytes, fin: bool) -> Result<(), Gone> {
        let message = Out::Data {
            id: self.id,
            data,
            fin,
        };
        tokio::select! {
            biased;
            () = self.reset.cancelled() => Err(Gone),
            sent = self.out.send(message) => sent.map_err(|_| Gone),
        }
    }
}
