//! The embedded store against a model that keeps every revision in memory: random transactions, reads, watches,
//! compactions, leases and reopenings, and each answer must be the model's.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kernelet_store::{
    Compare, CompareOp, CompareTarget, Delete, DeleteResponse, Event, EventKind, KeyValue, LeaseId,
    Op, OpResponse, Options, Put, PutResponse, Range, RangeResponse, Revision, Store, StoreError,
    Txn, TxnResponse, Watch, WatchError, Watcher,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

type Keys = BTreeMap<Bytes, KeyValue>;

/// Every revision, whole.
#[derive(Default)]
struct Model {
    at: BTreeMap<i64, Keys>,
    floor: i64,
    events: Vec<Event>,
    leases: Vec<LeaseId>,
}

fn within(key: &Bytes, start: &Bytes, end: Option<&Bytes>) -> bool {
    match end {
        None => key == start,
        Some(end) if end.as_ref() == [0] => key >= start,
        Some(end) => key >= start && key < end,
    }
}

impl Model {
    fn new() -> Model {
        Model {
            at: BTreeMap::from([(1, Keys::new())]),
            ..Model::default()
        }
    }

    fn revision(&self) -> i64 {
        *self.at.last_key_value().unwrap().0
    }

    fn now(&self) -> &Keys {
        self.at.last_key_value().unwrap().1
    }

    fn holds(&self, compare: &Compare) -> bool {
        let judge = |kv: Option<&KeyValue>| {
            let none = KeyValue::default();
            let order = match (&compare.target, kv) {
                (CompareTarget::Value(_), None) => return false,
                (CompareTarget::Value(value), Some(kv)) => kv.value.cmp(value),
                (CompareTarget::Version(n), kv) => kv.unwrap_or(&none).version.cmp(n),
                (CompareTarget::Create(n), kv) => kv.unwrap_or(&none).create_revision.cmp(n),
                (CompareTarget::Mod(n), kv) => kv.unwrap_or(&none).mod_revision.cmp(n),
                (CompareTarget::Lease(n), kv) => kv.unwrap_or(&none).lease.cmp(n),
            };
            match compare.op {
                CompareOp::Equal => order.is_eq(),
                CompareOp::NotEqual => order.is_ne(),
                CompareOp::Greater => order.is_gt(),
                CompareOp::Less => order.is_lt(),
            }
        };
        let mut found = self
            .now()
            .values()
            .filter(|kv| within(&kv.key, &compare.key, compare.range_end.as_ref()))
            .peekable();
        if found.peek().is_none() {
            judge(None)
        } else {
            found.all(|kv| judge(Some(kv)))
        }
    }

    fn range(&self, range: &Range, keys: &Keys, revision: i64) -> RangeResponse {
        let all: Vec<_> = keys
            .values()
            .filter(|kv| within(&kv.key, &range.key, range.range_end.as_ref()))
            .cloned()
            .map(|kv| KeyValue {
                value: if range.keys_only {
                    Bytes::new()
                } else {
                    kv.value.clone()
                },
                ..kv
            })
            .collect();
        let count = all.len();
        let limit = match (range.count_only, range.limit) {
            (true, _) => 0,
            (_, 0) => usize::MAX,
            (_, limit) => limit,
        };
        RangeResponse {
            revision: Revision(revision),
            more: !range.count_only && count > limit,
            count: count as u64,
            kvs: all.into_iter().take(limit).collect(),
        }
    }

    fn read(&self, range: &Range) -> Result<RangeResponse, &'static str> {
        let at = range.revision.map_or(self.revision(), |at| at.0);
        if at > self.revision() {
            return Err("future");
        }
        if at < self.floor {
            return Err("compacted");
        }
        Ok(self.range(range, &self.at[&at], self.revision()))
    }

    fn txn(&mut self, txn: &Txn) -> TxnResponse {
        let mut path = Vec::new();
        self.decide(txn, &mut path);
        let (mut keys, mut events) = (self.now().clone(), Vec::new());
        let next = self.revision() + 1;
        let response = self.execute(txn, &mut path.into_iter(), &mut keys, &mut events, next);
        self.commit(keys, events);
        response
    }

    fn commit(&mut self, keys: Keys, events: Vec<Event>) {
        if !events.is_empty() {
            self.at.insert(self.revision() + 1, keys);
            self.events.extend(events);
        }
    }

    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) {
        let holds = txn.compares.iter().all(|compare| self.holds(compare));
        path.push(holds);
        for op in if holds { &txn.success } else { &txn.failure } {
            if let Op::Txn(inner) = op {
                self.decide(inner, path);
            }
        }
    }

    fn execute(
        &self,
        txn: &Txn,
        path: &mut dyn Iterator<Item = bool>,
        keys: &mut Keys,
        events: &mut Vec<Event>,
        next: i64,
    ) -> TxnResponse {
        let succeeded = path.next().unwrap();
        let mut responses = Vec::new();
        for op in if succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            responses.push(match op {
                Op::Range(range) => {
                    let now = if events.is_empty() { next - 1 } else { next };
                    OpResponse::Range(self.range(range, keys, now))
                }
                Op::Put(put) => {
                    let before = keys.get(&put.key).cloned();
                    let kv = KeyValue {
                        key: put.key.clone(),
                        value: put.value.clone(),
                        create_revision: before
                            .as_ref()
                            .map_or(Revision(next), |before| before.create_revision),
                        mod_revision: Revision(next),
                        version: before.as_ref().map_or(0, |before| before.version) + 1,
                        lease: put.lease,
                    };
                    keys.insert(put.key.clone(), kv.clone());
                    events.push(Event {
                        kind: EventKind::Put,
                        kv,
                        prev_kv: before.clone(),
                    });
                    OpResponse::Put(PutResponse {
                        prev_kv: before.filter(|_| put.prev_kv),
                    })
                }
                Op::Delete(delete) => {
                    let gone = delete_keys(keys, events, next, |kv| {
                        within(&kv.key, &delete.key, delete.range_end.as_ref())
                    });
                    OpResponse::Delete(DeleteResponse {
                        deleted: gone.len() as u64,
                        prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
                    })
                }
                Op::Txn(inner) => OpResponse::Txn(self.execute(inner, path, keys, events, next)),
            });
        }
        TxnResponse {
            revision: Revision(if events.is_empty() { next - 1 } else { next }),
            succeeded,
            responses,
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        let (mut keys, mut events) = (self.now().clone(), Vec::new());
        delete_keys(&mut keys, &mut events, self.revision() + 1, |kv| {
            kv.lease == lease
        });
        self.commit(keys, events);
    }
}

fn delete_keys(
    keys: &mut Keys,
    events: &mut Vec<Event>,
    revision: i64,
    which: impl Fn(&KeyValue) -> bool,
) -> Vec<KeyValue> {
    let gone: Vec<_> = keys.values().filter(|kv| which(kv)).cloned().collect();
    for kv in &gone {
        keys.remove(&kv.key);
        events.push(Event {
            kind: EventKind::Delete,
            kv: KeyValue {
                key: kv.key.clone(),
                mod_revision: Revision(revision),
                ..KeyValue::default()
            },
            prev_kv: Some(kv.clone()),
        });
    }
    gone
}

/// What the test does. Revisions are given as "so far back", leases as "the nth granted one".
#[derive(Clone, Debug)]
enum Action {
    Txn(Txn, Option<usize>),
    Range(Range, Option<i64>),
    Watch(Watch, Option<i64>),
    Compact(i64),
    Grant,
    Revoke(usize),
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    select(vec!["a", "a\0", "a\0\0", "a/1", "a/2", "b", "b/\u{1}", "c"]).prop_map(Bytes::from)
}

fn key_range() -> impl Strategy<Value = (Bytes, Option<Bytes>)> {
    let end = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Bytes::from("\0"))),
        2 => key().prop_map(Some),
        1 => Just(Some(Bytes::from("zz"))),
    ];
    (key(), end)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        5 => select(vec!["", "1", "2"]).prop_map(Bytes::from),
        1 => (100..9000usize).prop_map(|len| vec![b'x'; len].into()),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        (0..20i64).prop_map(|n| CompareTarget::Create(Revision(n))),
        (0..20i64).prop_map(|n| CompareTarget::Mod(Revision(n))),
        select(vec!["", "1", "2"]).prop_map(|v| CompareTarget::Value(v.into())),
        Just(CompareTarget::Lease(LeaseId::NONE)),
    ];
    let op = select(vec![
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Greater,
        CompareOp::Less,
    ]);
    (key_range(), target, op).prop_map(|((key, range_end), target, op)| Compare {
        key,
        range_end,
        target,
        op,
    })
}

fn range() -> impl Strategy<Value = Range> {
    (
        key_range(),
        0..4usize,
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|((key, range_end), limit, keys_only, count_only)| Range {
            key,
            range_end,
            revision: None,
            limit,
            keys_only,
            count_only,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let put = (key(), value(), any::<bool>()).prop_map(|(key, value, prev_kv)| {
        Op::Put(Put {
            prev_kv,
            ..Put::new(key, value)
        })
    });
    let delete = (key_range(), any::<bool>()).prop_map(|((key, range_end), prev_kv)| {
        Op::Delete(Delete {
            key,
            range_end,
            prev_kv,
        })
    });
    prop_oneof![4 => put, 2 => delete, 1 => range().prop_map(Op::Range)]
}

fn txn() -> impl Strategy<Value = Txn> {
    let flat = || {
        (vec(compare(), 0..3), vec(op(), 0..4), vec(op(), 0..3)).prop_map(
            |(compares, success, failure)| Txn {
                compares,
                success,
                failure,
            },
        )
    };
    (flat(), option::weighted(0.2, flat())).prop_map(|(mut txn, inner)| {
        txn.success.extend(inner.map(Op::Txn));
        txn
    })
}

fn action() -> impl Strategy<Value = Action> {
    let back = option::of(-2..12i64);
    prop_oneof![
        30 => (txn(), option::weighted(0.3, 0..3usize)).prop_map(|(txn, lease)| Action::Txn(txn, lease)),
        10 => (range(), back.clone()).prop_map(|(range, back)| Action::Range(range, back)),
        4 => (key_range(), any::<bool>(), any::<bool>(), back).prop_map(
            |((key, range_end), prev_kv, progress, back)| {
                let watch = Watch { key, range_end, start_revision: None, prev_kv, progress };
                Action::Watch(watch, back)
            }
        ),
        2 => (0..8i64).prop_map(Action::Compact),
        1 => Just(Action::Grant),
        1 => (0..3usize).prop_map(Action::Revoke),
        1 => Just(Action::Reopen),
    ]
}

/// Which refusal it was, in the model's words.
fn refusal(error: &StoreError) -> &'static str {
    match error {
        StoreError::FutureRevision { .. } => "future",
        StoreError::Compacted { .. } => "compacted",
        other => panic!("{other}"),
    }
}

/// Reads a watcher to the model's end and holds it against the model's history.
async fn drain(mut watcher: Watcher, watch: &Watch, start: i64, model: &Model) {
    let expected: Vec<_> = model
        .events
        .iter()
        .filter(|event| event.kv.mod_revision.0 >= start)
        .filter(|event| within(&event.kv.key, &watch.key, watch.range_end.as_ref()))
        .collect();
    let mut seen = Vec::new();
    let mut last = 0;
    while seen.len() < expected.len() {
        let batch = match tokio::time::timeout(Duration::from_secs(20), watcher.next()).await {
            Err(_) => panic!("missing events: {seen:?} of {expected:?}"),
            Ok(Err(WatchError::Compacted { floor })) => {
                assert!(seen.is_empty() && floor.0 == model.floor && start < model.floor);
                return;
            }
            Ok(Err(error)) => panic!("{error}"),
            Ok(Ok(batch)) => batch,
        };
        assert!(batch.revision.0 >= last, "revisions went back");
        if batch.events.is_empty() {
            assert!(watch.progress, "an empty batch nobody asked for");
            let due = expected
                .iter()
                .filter(|event| event.kv.mod_revision <= batch.revision)
                .count();
            assert_eq!(seen.len(), due, "progress promised too much");
        } else {
            assert!(
                batch.revision.0 > last || last == 0,
                "a revision came in two batches"
            );
            last = batch.revision.0;
        }
        for event in batch.events {
            assert_eq!(event.kv.mod_revision, batch.revision);
            seen.push(event);
        }
    }
    for (mut got, want) in seen.into_iter().zip(expected) {
        // What a compaction took can't be shown any more; if it is shown, it must be right.
        let superseded_by_floor = want.kv.mod_revision.0 <= model.floor;
        let mut want = want.clone();
        if !watch.prev_kv || (superseded_by_floor && got.prev_kv.is_none()) {
            want.prev_kv = None;
            got.prev_kv = None;
        }
        assert_eq!(got, want);
    }
}

async fn run(actions: Vec<Action>) {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(Options::new(dir.path())).unwrap();
    let mut store = open();
    let mut model = Model::new();
    let mut watchers: Vec<(Watcher, Watch, i64)> = Vec::new();
    for action in actions {
        match action {
            Action::Txn(mut txn, lease) => {
                if let Some(lease) = lease.and_then(|n| model.leases.get(n)) {
                    for op in txn.success.iter_mut().chain(&mut txn.failure) {
                        if let Op::Put(put) = op {
                            put.lease = *lease;
                        }
                    }
                }
                match store.txn(txn.clone()).await {
                    Ok(response) => assert_eq!(response, model.txn(&txn), "{txn:?}"),
                    Err(StoreError::Invalid(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Action::Range(mut range, back) => {
                range.revision = back.map(|back| Revision((model.revision() - back).max(1)));
                let got = store.range(range.clone()).await;
                match (got, model.read(&range)) {
                    (Ok(got), Ok(want)) => assert_eq!(got, want, "{range:?}"),
                    (Err(got), Err(want)) => assert_eq!(refusal(&got), want),
                    (got, want) => panic!("{range:?}: {got:?}, but the model says {want:?}"),
                }
            }
            Action::Watch(mut watch, back) => {
                watch.start_revision = back.map(|back| Revision((model.revision() - back).max(1)));
                let start = watch
                    .start_revision
                    .map_or(model.revision() + 1, |start| start.0);
                watchers.push((store.watch(watch.clone()).unwrap(), watch, start));
            }
            Action::Compact(back) => {
                let to = model.revision() - back;
                match store.compact(Revision(to)).await {
                    Ok(()) => {
                        assert!(to > model.floor);
                        model.floor = to;
                    }
                    Err(error) => {
                        assert_eq!(refusal(&error), "compacted");
                        assert!(to <= model.floor);
                    }
                }
            }
            Action::Grant => {
                if model.leases.len() < 3 {
                    let lease = store
                        .lease_grant(None, Duration::from_secs(3600))
                        .await
                        .unwrap();
                    model.leases.push(lease.id);
                }
            }
            Action::Revoke(n) => {
                if n < model.leases.len() {
                    let lease = model.leases.remove(n);
                    store.lease_revoke(lease).await.unwrap();
                    model.end_lease(lease);
                }
            }
            Action::Reopen => {
                for (watcher, watch, start) in watchers.drain(..) {
                    drain(watcher, &watch, start, &model).await;
                }
                drop(store);
                store = open();
            }
        }
        assert_eq!(store.revision().await.unwrap().0, model.revision());
    }
    for (watcher, watch, start) in watchers {
        drain(watcher, &watch, start, &model).await;
    }
    // Every revision that is left, whole.
    for (&at, keys) in model.at.range(model.floor.max(1)..) {
        let everything = Range::prefix("").at(Revision(at));
        let got = store.range(everything.clone()).await.unwrap();
        assert_eq!(
            got,
            model.range(&everything, keys, model.revision()),
            "at {at}"
        );
    }
    for lease in &model.leases {
        let mut keys = store.lease_time_to_live(*lease).await.unwrap().keys;
        keys.sort();
        let want: Vec<_> = model
            .now()
            .values()
            .filter(|kv| kv.lease == *lease)
            .map(|kv| kv.key.clone())
            .collect();
        assert_eq!(keys, want);
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("STORE_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_does_what_the_model_does(actions in vec(action(), 1..60)) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(actions));
    }
}
