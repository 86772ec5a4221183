use std::collections::{BTreeMap, HashSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const SHAPE: Shape = Shape {
    queues: 64,
    hand: 6,
    length: 50,
};

/// A level in a nutshell: seats, running requests and their ends.
struct Model {
    queues: Queues,
    limit: u32,
    used: u32,
    now: Duration,
    /// End → queue, seats, took, flow.
    running: BTreeMap<(Duration, u64), (usize, u32, Duration, u64)>,
    /// Place → flow, seats, duration.
    waiting: BTreeMap<u64, (Place, u64, u32, Duration)>,
    served: BTreeMap<u64, u32>,
}

impl Model {
    fn new(shape: Shape, limit: u32) -> Model {
        Model {
            queues: Queues::new(shape, limit),
            limit,
            used: 0,
            now: Duration::ZERO,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }

    fn offer(&mut self, flow: u64, seats: u32, takes: Duration) -> Result<u64, Full> {
        let full = self.used >= self.limit;
        // Spread as a real hash is.
        let hash = (flow + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = self.queues.offer(self.now, hash, seats, full)?;
        self.waiting.insert(place.id, (place, flow, seats, takes));
        self.dispatch();
        Ok(place.id)
    }

    fn dispatch(&mut self) {
        while let Some((place, seats)) = self.queues.next(self.now) {
            if self.used + seats > self.limit {
                return;
            }
            self.queues.start(self.now, place);
            let (_, flow, wanted, takes) = self.waiting.remove(&place.id).expect("it waited");
            assert_eq!(wanted, seats);
            self.used += seats;
            *self.served.entry(flow).or_default() += 1;
            self.running.insert(
                (self.now + takes, place.id),
                (place.queue, seats, takes, flow),
            );
        }
    }

    /// Runs to the end of the request that ends first.
    fn step(&mut self) -> bool {
        let Some((&(end, id), &(queue, seats, took, _))) = self.running.iter().next() else {
            return false;
        };
        self.running.remove(&(end, id));
        self.now = end;
        self.used -= seats;
        self.queues.finish(self.now, queue, seats, took);
        self.dispatch();
        true
    }
}

#[test]
fn a_hand_has_different_cards_and_a_flow_always_the_same() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..2000 {
        let queues = random.random_range(1..200usize);
        let hand = random.random_range(1..=queues.min(8));
        let shape = Shape {
            queues,
            hand,
            length: 1,
        };
        let flow: u64 = random.random();
        let (mut one, mut two) = ([0; MOST_CARDS], [0; MOST_CARDS]);
        let dealt = deal(shape, flow, &mut one);
        assert_eq!(dealt, deal(shape, flow, &mut two));
        assert_eq!(dealt.len(), hand);
        assert_eq!(dealt.iter().collect::<HashSet<_>>().len(), hand);
        assert!(dealt.iter().all(|card| *card < queues), "{dealt:?}");
    }
}

#[test]
fn hands_are_dealt_as_upstream_deals_them() {
    // Worked by hand.
    let shape = Shape {
        queues: 4,
        hand: 3,
        length: 1,
    };
    // 17 % 4 = 1, 17/4 = 4; 4 % 3 = 1, 4/3 = 1; 1 % 2 = 1. Second: 1 ≥ 1 → 2. Third: 1 ≥ 1 → 2; 2 ≥ 1 → 3.
    assert_eq!(deal(shape, 17, &mut [0; MOST_CARDS]), [1, 2, 3]);
}

/// Two flows, one with very many requests: the other is served as if it were as many.
#[test]
fn a_flow_with_few_requests_does_not_wait_for_one_with_many() {
    let mut model = Model::new(SHAPE, 10);
    let takes = Duration::from_millis(20);
    // The noisy flow fills the seats and its queues.
    let mut refused = 0;
    for _ in 0..1000 {
        refused += u32::from(model.offer(1, 1, takes).is_err());
    }
    assert_eq!(refused, 1000 - 10 - 6 * 50, "a hand of six queues of fifty");
    for _ in 0..10 {
        model.offer(2, 1, takes).expect("its own queues are empty");
    }
    for _ in 0..40 {
        model.step();
    }
    assert_eq!(model.served[&2], 10, "{:?}", model.served);
}

/// Random arrivals, widths, durations and departures: seats are never exceeded, nobody is forgotten, nothing is lost.
#[test]
fn seats_are_kept_and_everybody_is_served_or_gone() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let limit = random.random_range(1..20);
        let shape = Shape {
            queues: random.random_range(1..20),
            hand: 1,
            length: random.random_range(1..30),
        };
        let shape = Shape {
            hand: random.random_range(1..=shape.queues.min(4)),
            ..shape
        };
        let mut model = Model::new(shape, limit);
        let (mut accepted, mut gone) = (0, 0);
        for _ in 0..600 {
            match random.random_range(0..10) {
                0..6 => {
                    let seats = random.random_range(1..=limit.min(5));
                    let takes = Duration::from_millis(random.random_range(1..200));
                    let flow = random.random_range(0..7);
                    accepted += u32::from(model.offer(flow, seats, takes).is_ok());
                }
                6 => {
                    if let Some((&id, &(place, ..))) = model.waiting.iter().next_back() {
                        assert!(model.queues.cancel(model.now, place));
                        assert!(!model.queues.cancel(model.now, place), "only once");
                        model.waiting.remove(&id);
                        model.dispatch();
                        gone += 1;
                    }
                }
                _ => {
                    model.step();
                }
            }
            assert!(model.used <= limit);
            let waiting: u32 = model.waiting.values().map(|(_, _, seats, _)| seats).sum();
            assert_eq!(model.queues.waiting_seats(), waiting);
            // A seat is idle only if nobody waits, or the one whose turn it is wants more.
            if let Some((_, seats)) = model.queues.next(model.now) {
                assert!(model.used + seats > limit, "seed {seed}: someone could run");
            }
        }
        while model.step() {}
        assert!(
            model.waiting.is_empty(),
            "seed {seed}: {:?}",
            model.waiting.len()
        );
        assert_eq!(model.served.values().sum::<u32>(), accepted - gone);
        assert_eq!(model.used, 0);
    }
}

/// While all flows have work, each gets about the same, however often it asks and however long its requests take.
#[test]
fn busy_flows_get_equal_parts() {
    let shape = Shape {
        queues: 512,
        hand: 1,
        length: 1000,
    };
    let mut model = Model::new(shape, 8);
    // Flow → how long its requests take. Their queues are different ones.
    let flows = [(1u64, 10u64), (2, 20), (3, 40)];
    for (flow, millis) in flows {
        for _ in 0..400 {
            model.offer(flow, 1, Duration::from_millis(millis)).unwrap();
        }
    }
    while model.now < Duration::from_millis(1000) {
        model.step();
    }
    let seconds: Vec<f64> = flows
        .iter()
        .map(|(flow, millis)| f64::from(model.served[flow]) * *millis as f64 / 1000.0)
        .collect();
    let (least, most) = (
        seconds.iter().copied().fold(f64::MAX, f64::min),
        seconds.iter().copied().fold(0.0, f64::max),
    );
    assert!(most < 1.4 * least, "seat-seconds of each: {seconds:?}");
}

#[test]
fn queues_that_are_no_longer_dealt_are_served_to_the_end() {
    let mut model = Model::new(SHAPE, 1);
    for flow in 0..50 {
        model.offer(flow, 1, Duration::from_millis(5)).unwrap();
    }
    model.queues.reshape(Shape {
        queues: 2,
        hand: 1,
        length: 1,
    });
    while model.step() {}
    assert_eq!(model.served.len(), 50);
}
