use std::sync::atomic::AtomicU64;

use super::{
    super::{FlowMetrics, config::Flow},
    *,
};

const SHAPE: Shape = Shape {
    queues: 8,
    hand: 2,
    length: 1000,
};

fn level(limit: u32, shape: Option<Shape>) -> (Arc<Level>, Arc<Flow>) {
    let level = Arc::new(Level::new(Arc::new(Notify::new())));
    level.configure(shape, 1);
    level.set_limit(limit);
    let flow = Arc::new(Flow::for_tests(level.clone(), &FlowMetrics::default()));
    (level, flow)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_level_without_queues_turns_away_what_finds_no_seat() {
    let (level, flow) = level(2, None);
    let enter = || level.clone().enter(flow.clone(), 1, 1, LONG);
    let one = enter().await.unwrap();
    let _two = enter().await.unwrap();
    assert_eq!(enter().await.err(), Some(Rejection::ConcurrencyLimit));
    drop(one);
    assert!(enter().await.is_ok());
}

#[tokio::test]
async fn who_waits_gets_the_seat_that_is_given_back() {
    let (level, flow) = level(1, Some(SHAPE));
    let seat = level.clone().enter(flow.clone(), 1, 1, LONG).await.unwrap();
    let mut waiting = Box::pin(level.clone().enter(flow.clone(), 2, 1, LONG));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(level.waiting.load(SeqCst), 1);
    drop(seat);
    let seat = waiting.await.unwrap();
    assert_eq!(
        (level.used.load(SeqCst), level.waiting.load(SeqCst)),
        (1, 0)
    );
    drop(seat);
    assert_eq!(level.used.load(SeqCst), 0);
}

#[tokio::test]
async fn who_goes_away_gives_place_or_seat_back() {
    let (level, flow) = level(1, Some(SHAPE));
    let seat = level.clone().enter(flow.clone(), 1, 1, LONG).await.unwrap();
    let mut first = Box::pin(level.clone().enter(flow.clone(), 2, 1, LONG));
    let mut second = Box::pin(level.clone().enter(flow.clone(), 3, 1, LONG));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    // The first is given its turn and goes without having looked.
    drop(seat);
    drop(first);
    let seat = second.await.unwrap();
    let mut third = Box::pin(level.clone().enter(flow.clone(), 4, 1, LONG));
    assert!(futures::poll!(&mut third).is_pending());
    drop(third);
    drop(seat);
    assert_eq!(
        (level.used.load(SeqCst), level.waiting.load(SeqCst)),
        (0, 0)
    );
    assert!(level.line().waiters.is_empty());
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let (level, flow) = level(1, Some(SHAPE));
    let _seat = level.clone().enter(flow.clone(), 1, 1, LONG).await.unwrap();
    let waited = level
        .clone()
        .enter(flow, 2, 1, Duration::from_millis(1))
        .await;
    assert_eq!(waited.err(), Some(Rejection::TimeOut));
    assert_eq!(level.waiting.load(SeqCst), 0);
}

#[tokio::test]
async fn a_larger_limit_lets_those_in_who_wait() {
    let (level, flow) = level(1, Some(SHAPE));
    let _seat = level.clone().enter(flow.clone(), 1, 1, LONG).await.unwrap();
    let mut waiting = Box::pin(level.clone().enter(flow, 2, 1, LONG));
    assert!(futures::poll!(&mut waiting).is_pending());
    level.set_limit(2);
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn a_request_wider_than_the_level_runs_alone() {
    let (level, flow) = level(2, Some(SHAPE));
    let wide = level.clone().enter(flow.clone(), 1, 9, LONG).await.unwrap();
    let mut other = Box::pin(level.clone().enter(flow, 2, 1, LONG));
    assert!(futures::poll!(&mut other).is_pending());
    drop(wide);
    assert!(other.await.is_ok());
}

/// Many threads enter and leave, some give up: seats are never exceeded, nobody is forgotten, all are given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn seats_hold_between_threads() {
    const LIMIT: u32 = 5;
    let (level, flow) = level(LIMIT, Some(SHAPE));
    let (inside, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64u64 {
        let (level, flow) = (level.clone(), flow.clone());
        let (inside, most) = (inside.clone(), most.clone());
        tasks.spawn(async move {
            let mut served = 0;
            for round in 0..200u64 {
                let enter = level.clone().enter(flow.clone(), task, 1, LONG);
                let seat = if (task + round).is_multiple_of(7) {
                    // Gives up after one look.
                    let mut enter = Box::pin(enter);
                    match futures::poll!(&mut enter) {
                        std::task::Poll::Ready(seat) => seat.unwrap(),
                        std::task::Poll::Pending => continue,
                    }
                } else {
                    enter.await.unwrap()
                };
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, SeqCst);
                drop(seat);
                served += 1;
            }
            served
        });
    }
    let served: u64 = tasks.join_all().await.into_iter().sum();
    assert!(served >= 64 * 200 * 6 / 7);
    assert!(most.load(SeqCst) <= u64::from(LIMIT));
    assert_eq!(
        (level.used.load(SeqCst), level.waiting.load(SeqCst)),
        (0, 0)
    );
    assert!(level.line().waiters.is_empty());
}
