//! One priority level: its seats, and who waits for one.
//!
//! Seats are counted by atomics; the lock is taken only while somebody waits. The order of things makes that safe:
//! whoever waits says so (`waiting`) *before* it looks for a seat once more, and whoever leaves gives its seats back
//! *before* it looks whether anybody waits, so one of the two sees the other.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, oneshot},
    time,
};

use super::{
    config::Flow,
    now,
    queues::{Place, Queues, Shape},
};

/// Why a request is turned away; the text is the metric's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The level doesn't queue, and all seats are taken.
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Rejection {
    pub fn reason(self) -> &'static str {
        match self {
            Rejection::ConcurrencyLimit => "concurrency-limit",
            Rejection::QueueFull => "queue-full",
            Rejection::TimeOut => "time-out",
        }
    }
}

/// A level's seats and queues. It lives on when its configuration changes.
pub struct Level {
    used: AtomicU32,
    waiting: AtomicU32,
    limit: AtomicU32,
    /// The most seats that one request may take.
    widest: AtomicU32,
    /// The most seats that were used or wanted since that was last asked.
    peak: AtomicU32,
    line: Mutex<Line>,
    start: Instant,
    pressure: Arc<Notify>,
}

#[derive(Default)]
struct Line {
    /// `None` where requests are turned away instead.
    queues: Option<Queues>,
    waiters: HashMap<u64, oneshot::Sender<()>>,
    /// Whether new requests may wait.
    open: bool,
}

/// Seats that a request holds until this is dropped.
pub struct Seat {
    level: Option<Arc<Level>>,
    flow: Arc<Flow>,
    seats: u32,
    since: Instant,
    /// The queue it was started from.
    queue: Option<usize>,
}

/// A request that waits; whichever way it stops, its place or its seats are given back.
struct Waiter {
    level: Arc<Level>,
    place: Place,
    seats: u32,
    turn: oneshot::Receiver<()>,
    flow: Arc<Flow>,
    /// The seats are somebody else's to give back.
    seated: bool,
}

impl Level {
    pub fn new(pressure: Arc<Notify>) -> Level {
        Level {
            used: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            widest: AtomicU32::new(1),
            peak: AtomicU32::new(0),
            line: Mutex::default(),
            start: Instant::now(),
            pressure,
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the level queues from now on; those who wait already go on waiting.
    pub fn configure(&self, shape: Option<Shape>, widest: u32) {
        self.widest.store(widest.max(1), SeqCst);
        let mut line = self.line();
        line.open = shape.is_some();
        if let Some(shape) = shape {
            match &mut line.queues {
                Some(queues) => queues.reshape(shape),
                None => line.queues = Some(Queues::new(shape, self.limit())),
            }
        }
    }

    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, SeqCst);
        let mut line = self.line();
        if let Some(queues) = &mut line.queues {
            queues.set_limit(now(self.start), limit);
        }
        self.dispatch(&mut line);
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(SeqCst)
    }

    pub fn widest(&self) -> u32 {
        self.widest.load(SeqCst)
    }

    /// The most seats that were used and wanted at once since the last call, and whether anybody waits now.
    pub fn take_peak(&self) -> (u32, bool) {
        let waiting = {
            let line = self.line();
            line.queues.as_ref().map_or(0, Queues::waiting_seats)
        };
        let current = self.used.load(SeqCst) + waiting;
        (self.peak.swap(current, SeqCst).max(current), waiting > 0)
    }

    /// A request that needs no seat; it is counted all the same.
    pub fn exempt(self: &Arc<Self>, flow: Arc<Flow>) -> Seat {
        flow.dispatched(1);
        let used = self.used.fetch_add(1, SeqCst) + 1;
        self.note_peak(used);
        Seat {
            level: Some(self.clone()),
            flow,
            seats: 1,
            since: Instant::now(),
            queue: None,
        }
    }

    /// Waits for `seats`, at most for `wait`. Safe to cancel.
    pub async fn enter(
        self: Arc<Self>,
        flow: Arc<Flow>,
        hash: u64,
        seats: u32,
        wait: Duration,
    ) -> Result<Seat, Rejection> {
        if self.waiting.load(SeqCst) == 0 && self.take(seats) {
            flow.dispatched(seats);
            return Ok(Seat {
                level: Some(self),
                flow,
                seats,
                since: Instant::now(),
                queue: None,
            });
        }
        self.pressure.notify_one();
        let mut waiter = self.line_up(flow, hash, seats)?;
        match time::timeout(wait, &mut waiter.turn).await {
            Ok(Ok(())) => Ok(waiter.sit_down()),
            // Time is over; or the level was dropped, which it can't be while this holds it.
            _ => Err(Rejection::TimeOut),
        }
    }

    fn line_up(
        self: Arc<Self>,
        flow: Arc<Flow>,
        hash: u64,
        seats: u32,
    ) -> Result<Waiter, Rejection> {
        let mut line = self.line();
        if !line.open {
            return Err(Rejection::ConcurrencyLimit);
        }
        let Some(queues) = &mut line.queues else {
            return Err(Rejection::ConcurrencyLimit);
        };
        self.waiting.fetch_add(1, SeqCst);
        let exhausted = self.used.load(SeqCst) >= self.limit();
        let place = match queues.offer(now(self.start), hash, seats, exhausted) {
            Ok(place) => place,
            Err(_) => {
                self.waiting.fetch_sub(1, SeqCst);
                return Err(Rejection::QueueFull);
            }
        };
        let wanted = queues.waiting_seats();
        self.note_peak(self.used.load(SeqCst) + wanted);
        let (told, turn) = oneshot::channel();
        line.waiters.insert(place.id, told);
        flow.queued(1);
        self.dispatch(&mut line);
        drop(line);
        Ok(Waiter {
            level: self,
            place,
            seats,
            turn,
            flow,
            seated: false,
        })
    }

    /// Gives free seats to those whose turn it is.
    fn dispatch(&self, line: &mut Line) {
        let Some(queues) = &mut line.queues else {
            return;
        };
        while let Some((place, seats)) = queues.next(now(self.start)) {
            if !self.take(seats) {
                return;
            }
            queues.start(now(self.start), place);
            self.waiting.fetch_sub(1, SeqCst);
            // The waiter takes the lock before it goes: as long as it is in the line, its ear is there.
            if let Some(told) = line.waiters.remove(&place.id) {
                let _ = told.send(());
            }
        }
    }

    /// Takes that many seats if they are free. One that wants more than there are gets them when nobody else has any.
    fn take(&self, seats: u32) -> bool {
        let limit = self.limit();
        let taken = self.used.fetch_update(SeqCst, SeqCst, |used| {
            let fits = if seats > limit {
                limit > 0 && used == 0
            } else {
                used + seats <= limit
            };
            fits.then_some(used + seats)
        });
        if let Ok(before) = taken {
            self.note_peak(before + seats);
        }
        taken.is_ok()
    }

    fn note_peak(&self, seats: u32) {
        // Nearly always a plain read.
        if seats > self.peak.load(SeqCst) {
            self.peak.fetch_max(seats, SeqCst);
        }
    }

    fn give_back(&self, seats: u32, from: Option<(usize, Duration)>) {
        self.used.fetch_sub(seats, SeqCst);
        if from.is_none() && self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut line = self.line();
        if let (Some((queue, took)), Some(queues)) = (from, &mut line.queues) {
            queues.finish(now(self.start), queue, seats, took);
        }
        self.dispatch(&mut line);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.flow.finished(self.seats);
        if let Some(level) = self.level.take() {
            let from = self.queue.map(|queue| (queue, self.since.elapsed()));
            level.give_back(self.seats, from);
        }
    }
}

impl Waiter {
    fn sit_down(mut self) -> Seat {
        self.seated = true;
        self.flow.queued(-1);
        self.flow.dispatched(self.seats);
        Seat {
            level: Some(self.level.clone()),
            flow: self.flow.clone(),
            seats: self.seats,
            since: Instant::now(),
            queue: Some(self.place.queue),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.seated {
            return;
        }
        self.flow.queued(-1);
        let level = &self.level;
        let waited = {
            let mut line = level.line();
            line.waiters.remove(&self.place.id);
            match &mut line.queues {
                Some(queues) => {
                    let waited = queues.cancel(now(level.start), self.place);
                    if waited {
                        level.waiting.fetch_sub(1, SeqCst);
                        // The one behind may want fewer seats.
                        level.dispatch(&mut line);
                    }
                    waited
                }
                None => true,
            }
        };
        if !waited {
            // Its turn came as it went.
            level.give_back(self.seats, Some((self.place.queue, Duration::ZERO)));
        }
    }
}

#[cfg(test)]
mod tests;
