//! The embedded store: the conformance suite, and what only a store on a disk can do wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use kernelet_store::{
    Op, OpenError, Options, Put, Range, Revision, Store, StoreError, Txn, Watch, WatchError,
    conformance,
};

fn open(dir: &Path) -> Store {
    Store::open(Options::new(dir)).unwrap()
}

async fn put(store: &Store, key: &str, value: impl Into<bytes::Bytes>) -> Revision {
    let put = Op::Put(Put::new(key.to_owned(), value));
    store.txn(Txn::of([put])).await.unwrap().revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    conformance::run(&store).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = Store::open(Options::new(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let watcher = store.watch(Watch::prefix("a")).unwrap();
    drop(store);
    // The lock goes with the last handle, a watcher left behind or not.
    let store = open(dir.path());
    drop(watcher);
    assert_eq!(store.revision().await.unwrap(), Revision(1));
}

#[tokio::test]
async fn a_closed_store_answers_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watcher = store.watch(Watch::prefix("a")).unwrap();
    put(&store, "a", "1").await;
    store.close().await;
    let refused = store.txn(Txn::of([Op::Put(Put::new("a", "2"))])).await;
    assert!(
        matches!(refused, Err(StoreError::Stopped(_))),
        "{refused:?}"
    );
    // What was written before is still told.
    assert_eq!(watcher.next().await.unwrap().events.len(), 1);
    assert!(matches!(watcher.next().await, Err(WatchError::Closed)));
    assert!(matches!(
        store.watch(Watch::prefix("a")),
        Err(WatchError::Closed)
    ));
}

#[test]
fn a_broken_folder_is_one_clear_line() {
    let check = |what: &str, breakage: &dyn Fn(&Path), expect: &str| {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        breakage(dir.path());
        let error = match Store::open(Options::new(dir.path())) {
            Ok(_) => panic!("{what}: it opened"),
            Err(error) => error,
        };
        let text = error.to_string();
        assert!(
            text.contains(expect) && !text.contains('\n'),
            "{what}: {text}"
        );
        assert!(
            text.contains(&dir.path().display().to_string()),
            "{what}: {text}"
        );
    };
    let db = |dir: &Path| dir.join("store.db");
    check(
        "missing",
        &|dir| fs::remove_file(db(dir)).unwrap(),
        "missing or empty",
    );
    check(
        "empty",
        &|dir| fs::write(db(dir), "").unwrap(),
        "missing or empty",
    );
    check(
        "junk",
        &|dir| fs::write(db(dir), vec![b'x'; 9000]).unwrap(),
        "is broken",
    );
    let header = |dir: &Path, at: usize, bytes: &[u8]| {
        let mut file = fs::read(db(dir)).unwrap();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(db(dir), file).unwrap();
    };
    // Offsets 60 and 68 of SQLite's header are the user version and the application id.
    check("newer", &|dir| header(dir, 60, &[0, 0, 0, 9]), "format 9");
    check(
        "foreign",
        &|dir| header(dir, 68, &[0, 0, 0, 9]),
        "not made by this program",
    );
    check(
        "damaged",
        &|dir| header(dir, 8192, &[0xff; 4096]),
        "is broken",
    );
    let cut = |dir: &Path| {
        let file = fs::OpenOptions::new().write(true).open(db(dir)).unwrap();
        file.set_len(5000).unwrap();
    };
    check("cut short", &cut, "is broken");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(Options::new(&file)).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    // Nothing of a refused folder was changed.
    assert_eq!(fs::read(&file).unwrap(), b"");
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data);
    put(&store, "secret", "secret").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let value = vec![b'v'; 4000];
    for round in 0..40 {
        let ops = (0..100).map(|n| Op::Put(Put::new(format!("k{n}"), value.clone())));
        store.txn(Txn::of(ops)).await.unwrap();
        put(&store, "round", round.to_string()).await;
    }
    let full = store.stats().await.unwrap();
    assert!(full.file_bytes + full.log_bytes > 16_000_000, "{full:?}");
    store.compact(full.revision).await.unwrap();
    // 100 values of 4 kB stay; the file may keep 1 MiB to use again, and the log up to 16 MiB.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = store.stats().await.unwrap();
        if stats.file_bytes < 3_000_000 {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    drop(store);
    let on_disk: u64 = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk < 3_000_000, "{on_disk}");
    let store = open(dir.path());
    assert_eq!(store.range(Range::prefix("k")).await.unwrap().count, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_bounded_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let value = vec![b'v'; 100_000];
    for n in 0..1500 {
        put(&store, &format!("k{}", n % 50), value.clone()).await;
        if n % 300 == 0 {
            store
                .compact(store.revision().await.unwrap())
                .await
                .unwrap();
        }
    }
    let stats = store.stats().await.unwrap();
    assert!(stats.log_bytes < 64 << 20, "{stats:?}");
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_cut_off_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Options {
        watch_queue_events: 10,
        ..Options::new(dir.path())
    })
    .unwrap();
    let mut watcher = store.watch(Watch::prefix("k")).unwrap();
    let first = put(&store, "k", "0").await;
    assert_eq!(watcher.next().await.unwrap().revision, first);
    for n in 1..50 {
        put(&store, "k", n.to_string()).await;
    }
    assert!(matches!(watcher.next().await, Err(WatchError::Lagged)));
    assert!(matches!(watcher.next().await, Err(WatchError::Lagged)));
    let mut watcher = store.watch(Watch::prefix("k").from(first.next())).unwrap();
    for n in 1..50 {
        assert_eq!(
            watcher.next().await.unwrap().events[0].kv.value,
            n.to_string()
        );
    }
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..3000 {
        let ops = [Op::Put(Put::new("k", n.to_string()))];
        store.txn(Txn::of(ops)).await.unwrap();
    }
    let mut watcher = store.watch(Watch::prefix("k").from(Revision(2))).unwrap();
    let mut seen = 0;
    while seen < 3000 {
        // Polled once and dropped, again and again: mostly in the middle of a read.
        let once = tokio::time::timeout(Duration::ZERO, watcher.next()).await;
        if let Ok(batch) = once {
            assert_eq!(batch.unwrap().events[0].kv.value, seen.to_string());
            seen += 1;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_backup_is_a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let lease = store
        .lease_grant(None, Duration::from_secs(60))
        .await
        .unwrap();
    for n in 0..100 {
        put(&store, &format!("k{n}"), vec![b'v'; 1000]).await;
    }
    let leased = Put::new("leased", "v").lease(lease.id);
    store.txn(Txn::of([Op::Put(leased)])).await.unwrap();
    let backup = dir.path().join("backup");
    store.backup(&backup).await.unwrap();
    store.backup(&backup).await.unwrap_err();
    put(&store, "after", "x").await;
    let restored = dir.path().join("restored");
    Store::restore(&backup, &restored).unwrap();
    Store::restore(&backup, &restored).unwrap_err();
    let copy = open(&restored);
    assert_eq!(copy.range(Range::prefix("")).await.unwrap().count, 101);
    assert_eq!(
        copy.revision().await.unwrap().next(),
        store.revision().await.unwrap()
    );
    assert_eq!(
        copy.lease_time_to_live(lease.id).await.unwrap().keys,
        ["leased"]
    );
    assert_eq!(copy.check().await.unwrap(), Vec::<String>::new());
    // Something else is no backup.
    let junk = dir.path().join("junk");
    fs::write(&junk, "junk").unwrap();
    Store::restore(&junk, &dir.path().join("other")).unwrap_err();
    Store::restore(&dir.path().join("none"), &dir.path().join("other")).unwrap_err();
}

#[tokio::test]
async fn leases_neither_gain_nor_lose_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store
        .lease_grant(None, Duration::from_millis(600))
        .await
        .unwrap();
    let leased = Put::new("leased", "v").lease(lease.id);
    store.txn(Txn::of([Op::Put(leased)])).await.unwrap();
    drop(store);
    // Time without the store doesn't count.
    std::thread::sleep(Duration::from_millis(700));
    let store = open(dir.path());
    assert_eq!(store.range(Range::key("leased")).await.unwrap().count, 1);
    let start = Instant::now();
    let mut watcher = store.watch(Watch::prefix("leased")).unwrap();
    watcher.next().await.unwrap();
    let waited = start.elapsed();
    assert!(waited < Duration::from_millis(650), "{waited:?}");
    assert_eq!(store.leases().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    put(&store, &format!("{task}/{n}"), "v").await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.transactions, 64 * 20);
    assert!(stats.batches < 64 * 20 / 4, "{stats:?}");
}
