//! A level's queues: who is next, by virtual time. Pure: time is an argument, seats are counted elsewhere.
//!
//! Each queue has a virtual time at which its next request starts. It grows by the seats and the (estimated, later
//! corrected) duration of what it started, and never lags behind the level's own virtual time, which runs at the rate
//! of the seats that each busy queue gets. The queue whose next request would end first is served. Source: upstream's
//! `fairqueuing/queueset`, after "An Implementation of Deficit Round Robin"'s ancestor, fair queuing by Nagle.

use std::{collections::VecDeque, time::Duration};

/// What a request is thought to take until it is known what it took, in seconds.
const ESTIMATE: f64 = 0.003;
/// The most cards that a hand may have: sixty bits of hash, two queues at least.
pub const MOST_CARDS: usize = 60;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub queues: usize,
    /// In how many of them one flow's requests may lie.
    pub hand: usize,
    /// How many requests one of them holds.
    pub length: usize,
}

/// A waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub queue: usize,
    pub id: u64,
}

/// The queue is as long as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct Queues {
    shape: Shape,
    queues: Vec<Queue>,
    /// Seats of the level, for the rate of virtual time.
    limit: u32,
    clock: Duration,
    virtual_time: f64,
    /// Where the search for the next request goes on, so that equals take turns.
    robin: usize,
    offers: usize,
    next_id: u64,
    waiting_seats: u32,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_seats: u32,
    running: u32,
    running_seats: u32,
    next_start: f64,
}

struct Waiting {
    id: u64,
    seats: u32,
    arrival: f64,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// No queue saves up time from before its oldest request came.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next_start = self.next_start.max(oldest.arrival);
        }
    }
}

impl Queues {
    pub fn new(shape: Shape, limit: u32) -> Queues {
        let mut queues = Queues {
            shape,
            queues: Vec::new(),
            limit,
            clock: Duration::ZERO,
            virtual_time: 0.0,
            robin: 0,
            offers: 0,
            next_id: 0,
            waiting_seats: 0,
        };
        queues.reshape(shape);
        queues
    }

    /// Another shape from now on. Queues that are no longer dealt are still served until they are empty.
    pub fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
        while self.queues.len() < shape.queues {
            self.queues.push(Queue::default());
        }
    }

    pub fn set_limit(&mut self, now: Duration, limit: u32) {
        self.advance(now);
        self.limit = limit;
    }

    /// Seats that waiting requests ask for.
    pub fn waiting_seats(&self) -> u32 {
        self.waiting_seats
    }

    /// Puts a request in the shortest queue of its flow's hand. `exhausted`: no seat is free; else a queue may grow
    /// beyond its length, since it is about to be served.
    pub fn offer(
        &mut self,
        now: Duration,
        flow: u64,
        seats: u32,
        exhausted: bool,
    ) -> Result<Place, Full> {
        self.advance(now);
        let mut cards = [0; MOST_CARDS];
        let hand = deal(self.shape, flow, &mut cards);
        // Equals take turns here too.
        let offset = self.offers % hand.len();
        self.offers = self.offers.wrapping_add(1);
        let index = (0..hand.len())
            .map(|i| hand[(offset + i) % hand.len()])
            .min_by_key(|&card| self.queues[card].waiting_seats)
            .expect("a hand has a card at least");
        let queue = &mut self.queues[index];
        if exhausted && queue.waiting.len() >= self.shape.length {
            return Err(Full);
        }
        if queue.is_idle() {
            queue.next_start = self.virtual_time;
        }
        let id = self.next_id;
        self.next_id += 1;
        queue.waiting.push_back(Waiting {
            id,
            seats,
            arrival: self.virtual_time,
        });
        queue.waiting_seats += seats;
        self.waiting_seats += seats;
        queue.bound();
        Ok(Place { queue: index, id })
    }

    /// The request whose turn it is, and the seats it wants.
    pub fn next(&mut self, now: Duration) -> Option<(Place, u32)> {
        self.advance(now);
        let count = self.queues.len();
        let mut best: Option<(f64, usize)> = None;
        for step in 1..=count {
            let index = (self.robin + step) % count;
            let queue = &self.queues[index];
            let Some(oldest) = queue.waiting.front() else {
                continue;
            };
            let end = queue.next_start + ESTIMATE * f64::from(oldest.seats);
            if best.is_none_or(|(sooner, _)| end < sooner) {
                best = Some((end, index));
            }
        }
        let (_, index) = best?;
        let oldest = self.queues[index].waiting.front()?;
        let place = Place {
            queue: index,
            id: oldest.id,
        };
        Some((place, oldest.seats))
    }

    /// Takes the request that [`Queues::next`] named out of its queue: it runs.
    pub fn start(&mut self, now: Duration, place: Place) {
        self.advance(now);
        self.robin = place.queue;
        let queue = &mut self.queues[place.queue];
        let Some(started) = queue.waiting.pop_front() else {
            return;
        };
        debug_assert_eq!(started.id, place.id);
        queue.waiting_seats -= started.seats;
        self.waiting_seats -= started.seats;
        queue.running += 1;
        queue.running_seats += started.seats;
        queue.next_start += ESTIMATE * f64::from(started.seats);
        queue.bound();
    }

    /// Takes a request out that no longer waits; `false` if it isn't waiting.
    pub fn cancel(&mut self, now: Duration, place: Place) -> bool {
        self.advance(now);
        let queue = &mut self.queues[place.queue];
        let Some(at) = queue.waiting.iter().position(|w| w.id == place.id) else {
            return false;
        };
        if let Some(gone) = queue.waiting.remove(at) {
            queue.waiting_seats -= gone.seats;
            self.waiting_seats -= gone.seats;
        }
        queue.bound();
        true
    }

    /// A request that was started from that queue has ended after `took`.
    pub fn finish(&mut self, now: Duration, queue: usize, seats: u32, took: Duration) {
        self.advance(now);
        let queue = &mut self.queues[queue];
        queue.running -= 1;
        queue.running_seats -= seats;
        queue.next_start -= (ESTIMATE - took.as_secs_f64()) * f64::from(seats);
        queue.bound();
    }

    /// Lets virtual time run: each busy queue gets its part of the seats that are wanted.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.clock).as_secs_f64();
        self.clock = self.clock.max(now);
        let busy = self.queues.iter().filter(|queue| !queue.is_idle());
        let (count, wanted) = busy.fold((0u32, 0u32), |(count, wanted), queue| {
            (
                count + 1,
                wanted + queue.waiting_seats + queue.running_seats,
            )
        });
        if count == 0 {
            // Idle queues forget their times; so may the level, and numbers stay small.
            self.virtual_time = 0.0;
            return;
        }
        self.virtual_time += passed * f64::from(wanted.min(self.limit)) / f64::from(count);
    }
}

/// The flow's hand: different cards of the deck, chosen by its hash. Source: upstream's `shufflesharding`.
fn deal(shape: Shape, mut hash: u64, cards: &mut [usize; MOST_CARDS]) -> &[usize] {
    let hand = shape.hand.clamp(1, MOST_CARDS).min(shape.queues);
    for (i, card) in cards.iter_mut().enumerate().take(hand) {
        let left = (shape.queues - i) as u64;
        *card = (hash % left) as usize;
        hash /= left;
    }
    // The n-th number counts the cards that are still in the deck. From the last to the first, so that the numbers
    // before it are still what they were.
    for i in (0..hand).rev() {
        for j in (0..i).rev() {
            if cards[i] >= cards[j] {
                cards[i] += 1;
            }
        }
    }
    &cards[..hand]
}

#[cfg(test)]
mod tests;
