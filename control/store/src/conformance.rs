//! What every store must do, as checks that run against any [`Store`]: the embedded one, an etcd cluster, or the
//! embedded one behind its own etcd API.
//!
//! A case panics when the store is wrong. The cases run one after the other; each has its own keys, but compaction
//! concerns the whole store, so the store should be the suite's alone.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::{
    Compare, CompareOp, CompareTarget, Delete, Event, EventKind, KeyValue, LeaseId, Op, OpResponse,
    Put, Range, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, Watch, WatchBatch,
    WatchError, Watcher,
};

/// One check.
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    run: fn(Store) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// Every check.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            run: |store| Box::pin($name(store)),
        }),*];
    };
}

cases![
    revisions_count_every_change,
    a_transaction_takes_one_branch,
    every_compare_works,
    ranges_are_ordered_limited_and_counted,
    deletions_answer_what_went,
    the_past_can_be_read_until_it_is_compacted,
    nonsense_is_refused,
    a_large_value_comes_back,
    concurrent_increments_all_count,
    transactions_nest,
    a_watch_sees_what_comes,
    a_watch_replays_history,
    a_watch_gets_a_revision_whole,
    a_watch_below_the_floor_says_so,
    a_watch_reports_progress,
    a_lease_ends_with_its_keys,
    a_lease_expires_unless_kept_alive,
];

/// Runs every check.
pub async fn run(store: &Store) {
    for case in CASES {
        tracing::info!(case = case.name, "conformance");
        (case.run)(store.clone()).await;
    }
}

impl Case {
    /// Runs this check.
    pub async fn run(&self, store: &Store) {
        (self.run)(store.clone()).await;
    }
}

/// What is waited for at most.
const DEADLINE: Duration = Duration::from_secs(30);

fn key(case: &str, name: &str) -> Bytes {
    format!("/conformance/{case}/{name}").into()
}

async fn put(store: &Store, key: Bytes, value: &str) -> Revision {
    txn(store, vec![Op::Put(Put::new(key, value.to_owned()))])
        .await
        .revision
}

async fn delete(store: &Store, key: Bytes) -> Revision {
    txn(store, vec![Op::Delete(Delete::key(key))])
        .await
        .revision
}

async fn txn(store: &Store, ops: Vec<Op>) -> TxnResponse {
    store
        .txn(Txn::of(ops))
        .await
        .expect("an unconditional transaction succeeds")
}

async fn range(store: &Store, range: Range) -> RangeResponse {
    store.range(range).await.expect("the range can be read")
}

async fn get(store: &Store, key: Bytes) -> Option<KeyValue> {
    range(store, Range::key(key)).await.kvs.pop()
}

async fn next(watcher: &mut Watcher) -> WatchBatch {
    tokio::time::timeout(DEADLINE, watcher.next())
        .await
        .expect("the watch has something before the deadline")
        .expect("the watch goes on")
}

/// The next batch that isn't progress.
async fn next_events(watcher: &mut Watcher) -> WatchBatch {
    loop {
        let batch = next(watcher).await;
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

fn event_of(batch: &WatchBatch) -> &Event {
    assert_eq!(batch.events.len(), 1, "{batch:?}");
    &batch.events[0]
}

async fn revisions_count_every_change(store: Store) {
    let k = |name| key("revisions", name);
    let start = store.revision().await.expect("it has a revision");
    assert!(start >= Revision(1), "a fresh store stands at 1");
    let first = put(&store, k("a"), "1").await;
    let second = put(&store, k("a"), "2").await;
    assert!(first > start && second == first.next());
    let kv = get(&store, k("a")).await.expect("it was put");
    assert_eq!((kv.value.as_ref(), kv.version), (b"2".as_slice(), 2));
    assert_eq!((kv.create_revision, kv.mod_revision), (first, second));
    // What changes nothing makes no revision.
    assert_eq!(delete(&store, k("none")).await, second);
    assert_eq!(range(&store, Range::key(k("a"))).await.revision, second);
    // A key that was deleted begins anew.
    let gone = delete(&store, k("a")).await;
    assert_eq!(gone, second.next());
    assert_eq!(get(&store, k("a")).await, None);
    let again = put(&store, k("a"), "3").await;
    let kv = get(&store, k("a")).await.expect("it was put");
    assert_eq!((kv.version, kv.create_revision), (1, again));
    // Several changes in one transaction are one revision.
    let ops = ["x", "y", "z"].map(|name| Op::Put(Put::new(k(name), "v")));
    assert_eq!(txn(&store, ops.into()).await.revision, again.next());
    assert_eq!(
        store.revision().await.expect("it has a revision"),
        again.next()
    );
}

async fn a_transaction_takes_one_branch(store: Store) {
    let k = |name| key("branch", name);
    let create = |value: &'static str| Txn {
        compares: vec![Compare::absent(k("a"))],
        success: vec![Op::Put(Put::new(k("a"), value))],
        failure: vec![Op::Range(Range::key(k("a")))],
    };
    let first = store.txn(create("1")).await.expect("it succeeds");
    assert!(first.succeeded);
    let second = store.txn(create("2")).await.expect("it succeeds");
    assert!(!second.succeeded);
    assert_eq!(second.revision, first.revision, "only a read");
    let OpResponse::Range(found) = &second.responses[0] else {
        panic!("{second:?}");
    };
    assert_eq!(found.kvs[0].value, "1");
    // A read sees the writes before it.
    let ops = vec![
        Op::Range(Range::key(k("b"))),
        Op::Put(Put::new(k("b"), "new")),
        Op::Range(Range::key(k("b"))),
    ];
    let response = txn(&store, ops).await;
    let counts: Vec<_> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some(range.count),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [0, 1]);
}

async fn every_compare_works(store: Store) {
    use CompareOp::{Equal, Greater, Less, NotEqual};
    let k = |name| key("compare", name);
    let created = put(&store, k("a"), "m").await;
    let modified = put(&store, k("a"), "m").await;
    let check = async |name, target: CompareTarget, op, expect: bool| {
        let compare = Compare {
            key: k(name),
            range_end: None,
            target: target.clone(),
            op,
        };
        let txn = Txn {
            compares: vec![compare],
            ..Txn::default()
        };
        let held = store.txn(txn).await.expect("it succeeds").succeeded;
        assert_eq!(held, expect, "{name} {op:?} {target:?}");
    };
    let value = |v: &'static str| CompareTarget::Value(v.into());
    for (op, below, at, above) in [
        (Equal, false, true, false),
        (NotEqual, true, false, true),
        (Greater, true, false, false),
        (Less, false, false, true),
    ] {
        // Held against something below, at, and above the stored side.
        check("a", value("l"), op, below).await;
        check("a", value("m"), op, at).await;
        check("a", value("n"), op, above).await;
        check("a", CompareTarget::Version(1), op, below).await;
        check("a", CompareTarget::Version(2), op, at).await;
        check("a", CompareTarget::Version(3), op, above).await;
        check("a", CompareTarget::Mod(Revision(modified.0 - 1)), op, below).await;
        check("a", CompareTarget::Mod(modified), op, at).await;
        check("a", CompareTarget::Create(created), op, at).await;
        check("a", CompareTarget::Create(modified), op, above).await;
        check("none", CompareTarget::Version(0), op, at).await;
        check("none", CompareTarget::Mod(Revision(1)), op, above).await;
        check("none", CompareTarget::Lease(LeaseId(0)), op, at).await;
        // A key that isn't there has no value to compare.
        check("none", value(""), op, false).await;
    }
}

async fn ranges_are_ordered_limited_and_counted(store: Store) {
    let k = |name| key("range", name);
    for name in ["b", "a", "d", "c", "c/1"] {
        put(&store, k(name), name).await;
    }
    let names = |response: &RangeResponse| -> Vec<String> {
        let prefix = k("").len();
        let name = |kv: &KeyValue| String::from_utf8_lossy(&kv.key[prefix..]).into_owned();
        response.kvs.iter().map(name).collect()
    };
    let all = range(&store, Range::prefix(k(""))).await;
    assert_eq!(names(&all), ["a", "b", "c", "c/1", "d"]);
    assert_eq!((all.count, all.more), (5, false));
    assert_eq!(all.kvs[3].value, "c/1");
    let two = range(&store, Range::prefix(k("")).limit(2)).await;
    assert_eq!((names(&two).len(), two.count, two.more), (2, 5, true));
    let keys = range(
        &store,
        Range {
            keys_only: true,
            ..Range::prefix(k("c"))
        },
    )
    .await;
    assert_eq!(names(&keys), ["c", "c/1"]);
    assert!(
        keys.kvs
            .iter()
            .all(|kv| kv.value.is_empty() && kv.version == 1)
    );
    let count = range(
        &store,
        Range {
            count_only: true,
            ..Range::prefix(k(""))
        },
    )
    .await;
    assert_eq!((count.kvs.len(), count.count), (0, 5));
    let half_open = Range {
        range_end: Some(k("c")),
        ..Range::key(k("a"))
    };
    assert_eq!(names(&range(&store, half_open).await), ["a", "b"]);
    let nothing = Range {
        range_end: Some(k("a")),
        ..Range::key(k("b"))
    };
    assert_eq!(range(&store, nothing).await.count, 0);
    let everything = range(&store, Range::prefix("")).await;
    assert!(everything.count >= 5);
}

async fn deletions_answer_what_went(store: Store) {
    let k = |name| key("delete", name);
    for name in ["a", "b", "c"] {
        put(&store, k(name), name).await;
    }
    let delete = Delete {
        prev_kv: true,
        range_end: Some(k("c")),
        ..Delete::key(k("a"))
    };
    let response = txn(&store, vec![Op::Delete(delete)]).await;
    let OpResponse::Delete(gone) = &response.responses[0] else {
        panic!("{response:?}");
    };
    assert_eq!(gone.deleted, 2);
    let values: Vec<_> = gone.prev_kvs.iter().map(|kv| kv.value.clone()).collect();
    assert_eq!(values, ["a", "b"]);
    assert_eq!(range(&store, Range::prefix(k(""))).await.count, 1);
    let replace = Put {
        prev_kv: true,
        ..Put::new(k("c"), "new")
    };
    let response = txn(&store, vec![Op::Put(replace)]).await;
    let OpResponse::Put(replaced) = &response.responses[0] else {
        panic!("{response:?}");
    };
    assert_eq!(replaced.prev_kv.as_ref().expect("it was there").value, "c");
}

async fn the_past_can_be_read_until_it_is_compacted(store: Store) {
    let k = |name| key("past", name);
    let one = put(&store, k("a"), "1").await;
    let two = put(&store, k("a"), "2").await;
    let three = delete(&store, k("a")).await;
    let four = put(&store, k("b"), "b").await;
    let at = async |revision: Revision| range(&store, Range::prefix(k("")).at(revision)).await;
    assert_eq!(at(one).await.kvs[0].value, "1");
    assert_eq!(at(two).await.kvs[0].value, "2");
    assert_eq!(
        at(two).await.revision,
        four,
        "the answer is headed by the newest revision"
    );
    assert_eq!(at(three).await.count, 0);
    assert_eq!(at(four).await.kvs[0].value, "b");
    let refused = store
        .range(Range::key(k("a")).at(Revision(four.0 + 100)))
        .await;
    assert!(
        matches!(refused, Err(StoreError::FutureRevision { .. })),
        "{refused:?}"
    );

    store.compact(three).await.expect("it can be compacted");
    assert_eq!(at(three).await.count, 0);
    assert_eq!(at(four).await.count, 1);
    let refused = store.range(Range::key(k("a")).at(two)).await;
    assert!(
        matches!(refused, Err(StoreError::Compacted { .. })),
        "{refused:?}"
    );
    let refused = store.compact(two).await;
    assert!(
        matches!(refused, Err(StoreError::Compacted { .. })),
        "{refused:?}"
    );
    let refused = store.compact(Revision(four.0 + 100)).await;
    assert!(
        matches!(refused, Err(StoreError::FutureRevision { .. })),
        "{refused:?}"
    );
    // What is there now is there after a compaction to now.
    store.compact(four).await.expect("it can be compacted");
    assert_eq!(get(&store, k("b")).await.expect("it stays").value, "b");
}

async fn nonsense_is_refused(store: Store) {
    let k = |name| key("nonsense", name);
    let before = store.revision().await.expect("it has a revision");
    let twice = vec![
        Op::Put(Put::new(k("a"), "1")),
        Op::Put(Put::new(k("a"), "2")),
    ];
    let refused = store.txn(Txn::of(twice)).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );
    let overlap = vec![
        Op::Delete(Delete::prefix(k(""))),
        Op::Put(Put::new(k("a"), "2")),
    ];
    let refused = store.txn(Txn::of(overlap)).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );
    let refused = store.txn(Txn::of([Op::Put(Put::new("", "1"))])).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );
    let refused = store.range(Range::key("")).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );
    let leased = Put::new(k("a"), "1").lease(LeaseId(4711));
    let refused = store
        .txn(Txn::of([Op::Put(Put::new(k("b"), "1")), Op::Put(leased)]))
        .await;
    assert!(
        matches!(refused, Err(StoreError::LeaseNotFound(_))),
        "{refused:?}"
    );
    assert_eq!(store.revision().await.expect("it has a revision"), before);
    assert_eq!(
        range(&store, Range::prefix(k(""))).await.count,
        0,
        "nothing of it was done"
    );
}

async fn a_large_value_comes_back(store: Store) {
    let k = key("large", "a");
    let value: Bytes = (0..1_000_000u32)
        .map(|n| (n % 251) as u8)
        .collect::<Vec<_>>()
        .into();
    txn(&store, vec![Op::Put(Put::new(k.clone(), value.clone()))]).await;
    assert_eq!(get(&store, k).await.expect("it was put").value, value);
}

async fn concurrent_increments_all_count(store: Store) {
    const TASKS: usize = 8;
    const EACH: usize = 20;
    let k = key("increment", "n");
    put(&store, k.clone(), "0").await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, k) = (store.clone(), k.clone());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let kv = get(&store, k.clone()).await.expect("it is there");
                        let text = std::str::from_utf8(&kv.value).expect("a number");
                        let next = text.parse::<usize>().expect("a number") + 1;
                        let txn = Txn {
                            compares: vec![Compare::mod_revision(k.clone(), kv.mod_revision)],
                            success: vec![Op::Put(Put::new(k.clone(), next.to_string()))],
                            failure: vec![],
                        };
                        if store.txn(txn).await.expect("it succeeds").succeeded {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    let kv = get(&store, k).await.expect("it is there");
    assert_eq!(kv.value, (TASKS * EACH).to_string());
    assert_eq!(kv.version, (TASKS * EACH) as i64 + 1);
}

async fn transactions_nest(store: Store) {
    let k = |name| key("nest", name);
    let inner = Txn {
        compares: vec![Compare::absent(k("outer"))],
        success: vec![Op::Put(Put::new(k("inner"), "then"))],
        failure: vec![Op::Put(Put::new(k("inner"), "else"))],
    };
    // The inner compare is judged before the outer write.
    let ops = vec![Op::Put(Put::new(k("outer"), "1")), Op::Txn(inner)];
    let response = txn(&store, ops).await;
    let OpResponse::Txn(nested) = &response.responses[1] else {
        panic!("{response:?}");
    };
    assert!(nested.succeeded);
    let kvs = range(&store, Range::prefix(k(""))).await.kvs;
    assert!(
        kvs.iter().all(|kv| kv.mod_revision == response.revision),
        "{kvs:?}"
    );
    assert_eq!(kvs[0].value, "then");
}

async fn a_watch_sees_what_comes(store: Store) {
    let k = |name| key("watch", name);
    put(&store, k("a"), "before").await;
    let mut all = store
        .watch(Watch {
            prev_kv: true,
            ..Watch::prefix(k(""))
        })
        .expect("it can be watched");
    let one = Watch {
        key: k("b"),
        ..Watch::default()
    };
    let mut one = store.watch(one).expect("it can be watched");
    let first = put(&store, k("a"), "1").await;
    let second = put(&store, k("b"), "2").await;
    let third = delete(&store, k("a")).await;

    let batch = next_events(&mut all).await;
    assert_eq!(batch.revision, first);
    let event = event_of(&batch);
    assert_eq!(
        (event.kind, event.kv.value.as_ref()),
        (EventKind::Put, b"1".as_slice())
    );
    assert_eq!(
        event.prev_kv.as_ref().expect("it was there").value,
        "before"
    );
    let batch = next_events(&mut all).await;
    assert_eq!(
        (batch.revision, event_of(&batch).prev_kv.is_none()),
        (second, true)
    );
    let batch = next_events(&mut all).await;
    let event = event_of(&batch);
    assert_eq!((batch.revision, event.kind), (third, EventKind::Delete));
    assert_eq!((&event.kv.key, event.kv.mod_revision), (&k("a"), third));
    assert_eq!(event.prev_kv.as_ref().expect("it was there").value, "1");

    let batch = next_events(&mut one).await;
    assert_eq!(batch.revision, second);
    assert_eq!(event_of(&batch).prev_kv, None, "it wasn't asked for");
}

async fn a_watch_replays_history(store: Store) {
    let k = |name: &str| key("replay", name);
    let mut revisions = Vec::new();
    for n in 0..50 {
        revisions.push(put(&store, k(&format!("{}", n % 7)), &n.to_string()).await);
    }
    let mut watch = store
        .watch(Watch {
            prev_kv: true,
            ..Watch::prefix(k("")).from(revisions[10])
        })
        .expect("it can be watched");
    for n in 50..60 {
        revisions.push(put(&store, k(&format!("{}", n % 7)), &n.to_string()).await);
    }
    for (n, revision) in revisions.iter().enumerate().skip(10) {
        let batch = next_events(&mut watch).await;
        assert_eq!(batch.revision, *revision);
        let event = event_of(&batch);
        assert_eq!(event.kv.value, n.to_string());
        assert_eq!(
            event.prev_kv.as_ref().expect("it was there").value,
            (n - 7).to_string()
        );
    }
    // From the future on, nothing of the present is seen.
    let now = store.revision().await.expect("it has a revision");
    let start = Revision(now.0 + 3);
    let mut later = store
        .watch(Watch::prefix(k("")).from(start))
        .expect("it can be watched");
    for n in 0..4 {
        put(&store, k("later"), &n.to_string()).await;
    }
    assert_eq!(next_events(&mut later).await.revision, start);
}

async fn a_watch_gets_a_revision_whole(store: Store) {
    let k = |name: String| key("whole", &name);
    let mut live = store
        .watch(Watch::prefix(k(String::new())))
        .expect("it can be watched");
    // etcd takes 128 steps in one transaction.
    let ops: Vec<_> = (0..100)
        .map(|n| Op::Put(Put::new(k(format!("{n:03}")), "v")))
        .collect();
    let written = txn(&store, ops).await.revision;
    let removed = txn(&store, vec![Op::Delete(Delete::prefix(k(String::new())))])
        .await
        .revision;
    let replay = Watch::prefix(k(String::new())).from(written);
    let mut replay = store.watch(replay).expect("it can be watched");
    for watch in [&mut live, &mut replay] {
        let batch = next_events(watch).await;
        assert_eq!((batch.revision, batch.events.len()), (written, 100));
        let batch = next_events(watch).await;
        assert_eq!((batch.revision, batch.events.len()), (removed, 100));
        assert!(
            batch
                .events
                .iter()
                .all(|event| event.kind == EventKind::Delete)
        );
    }
}

async fn a_watch_below_the_floor_says_so(store: Store) {
    let k = || key("floor", "a");
    let old = put(&store, k(), "1").await;
    put(&store, k(), "2").await;
    let floor = put(&store, k(), "3").await;
    store.compact(floor).await.expect("it can be compacted");
    let mut watch = store
        .watch(Watch::prefix(k()).from(old))
        .expect("it can be watched");
    let ended = tokio::time::timeout(DEADLINE, watch.next())
        .await
        .expect("it answers");
    assert!(
        matches!(ended, Err(WatchError::Compacted { floor: at }) if at == floor),
        "{ended:?}"
    );
    // At the floor it works, and the event there is still to be had.
    let mut watch = store
        .watch(Watch::prefix(k()).from(floor))
        .expect("it can be watched");
    assert_eq!(event_of(&next_events(&mut watch).await).kv.value, "3");
}

async fn a_watch_reports_progress(store: Store) {
    let k = |name| key("progress", name);
    let mut watch = store
        .watch(Watch {
            progress: true,
            ..Watch::prefix(k("mine/"))
        })
        .expect("it can be watched");
    let elsewhere = put(&store, k("other"), "1").await;
    let reached = async {
        loop {
            let batch = next(&mut watch).await;
            assert!(batch.events.is_empty(), "{batch:?}");
            if batch.revision >= elsewhere {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .expect("progress comes before the deadline");
}

async fn a_lease_ends_with_its_keys(store: Store) {
    let k = |name| key("lease", name);
    let hour = Duration::from_secs(3600);
    let lease = store.lease_grant(None, hour).await.expect("it is granted");
    assert!(lease.id.0 > 0 && lease.granted >= hour);
    let chosen = LeaseId(lease.id.0 ^ 1);
    store
        .lease_grant(Some(chosen), hour)
        .await
        .expect("it is granted");
    let again = store.lease_grant(Some(chosen), hour).await;
    assert!(
        matches!(again, Err(StoreError::LeaseExists(_))),
        "{again:?}"
    );
    assert!(
        store
            .leases()
            .await
            .expect("they are listed")
            .contains(&chosen)
    );

    let leased = |name| Op::Put(Put::new(k(name), "v").lease(lease.id));
    txn(&store, vec![leased("a"), leased("b"), leased("c")]).await;
    assert_eq!(
        get(&store, k("a")).await.expect("it was put").lease,
        lease.id
    );
    // A later write decides anew; a deletion lets go.
    put(&store, k("b"), "free").await;
    delete(&store, k("c")).await;
    let status = store.lease_time_to_live(lease.id).await.expect("it lives");
    assert_eq!(status.keys, [k("a")]);
    assert!(status.remaining > Duration::from_secs(3500) && status.remaining <= status.granted);

    let mut watch = store
        .watch(Watch::prefix(k("")))
        .expect("it can be watched");
    txn(&store, vec![leased("d")]).await;
    next_events(&mut watch).await;
    store.lease_revoke(lease.id).await.expect("it is revoked");
    let batch = next_events(&mut watch).await;
    assert_eq!(batch.events.len(), 2, "both keys in one revision");
    assert!(
        batch
            .events
            .iter()
            .all(|event| event.kind == EventKind::Delete)
    );
    assert_eq!(
        get(&store, k("b")).await.expect("it was freed").value,
        "free"
    );
    let gone = store.lease_time_to_live(lease.id).await;
    assert!(
        matches!(gone, Err(StoreError::LeaseNotFound(_))),
        "{gone:?}"
    );
    let gone = store.lease_revoke(lease.id).await;
    assert!(
        matches!(gone, Err(StoreError::LeaseNotFound(_))),
        "{gone:?}"
    );
    let gone = store.lease_keep_alive(lease.id).await;
    assert!(
        matches!(gone, Err(StoreError::LeaseNotFound(_))),
        "{gone:?}"
    );
    store.lease_revoke(chosen).await.expect("it is revoked");
}

async fn a_lease_expires_unless_kept_alive(store: Store) {
    let k = |name| key("expiry", name);
    // etcd raises shorter times to its election's, so the granted time counts.
    let ttl = Duration::from_secs(2);
    let short = store.lease_grant(None, ttl).await.expect("it is granted");
    let kept = store.lease_grant(None, ttl).await.expect("it is granted");
    let mut watch = store
        .watch(Watch::prefix(k("")))
        .expect("it can be watched");
    let leased = |name, lease| Op::Put(Put::new(k(name), "v").lease(lease));
    txn(
        &store,
        vec![leased("short", short.id), leased("kept", kept.id)],
    )
    .await;
    next_events(&mut watch).await;
    let start = tokio::time::Instant::now();
    let keeping = async {
        loop {
            tokio::time::sleep(kept.granted / 4).await;
            store.lease_keep_alive(kept.id).await.expect("it lives");
        }
    };
    let batch = tokio::select! {
        batch = next_events(&mut watch) => batch,
        () = keeping => unreachable!("it keeps on"),
    };
    assert_eq!(event_of(&batch).kv.key, k("short"));
    assert!(
        start.elapsed() >= short.granted - Duration::from_secs(1),
        "too early"
    );
    // And without it, the other one goes, too.
    assert_eq!(event_of(&next_events(&mut watch).await).kv.key, k("kept"));
    let gone = store.lease_keep_alive(kept.id).await;
    assert!(
        matches!(gone, Err(StoreError::LeaseNotFound(_))),
        "{gone:?}"
    );
}
