//! The embedded store on a disk that forgets, tears and reorders whatever was not synced; whose syncs fail; and that
//! fills up. A process that is killed proves nothing about syncing, because the page cache survives it.
//!
//! `STORE_CUTS` sets the number of power cuts (100 without).

mod forgetful;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use forgetful::{Disk, Random, Syncs};
use kernelet_store::{Op, Options, Put, Range, Store, StoreError, Txn, WatchError};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tokio::sync::RwLock;

const WRITERS: usize = 6;

/// Not a test by itself: the disk's process.
#[test]
fn disk_process() {
    forgetful::serve();
}

/// False, loudly, where a file system in user space can't be mounted. Otherwise this thread, and those that it
/// starts, have mounts of their own, which go with the process.
fn can_mount(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("SKIP {test}: needs root and /dev/fuse");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    true
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The last acknowledged number of each key, and the highest acknowledged revision.
#[derive(Clone, Default)]
struct Acknowledged {
    numbers: BTreeMap<String, u64>,
    revision: i64,
}

/// Writes until the store stops; every acknowledgement is noted.
async fn write_on(
    store: Store,
    writer: usize,
    from: u64,
    notes: Arc<Mutex<Acknowledged>>,
    gate: Arc<RwLock<()>>,
) {
    for n in from.. {
        let _open = gate.read().await;
        let key = format!("key/{writer}");
        // Sizes from nothing to several pages, so that the log is copied into the file again and again.
        let padding = "x".repeat((n as usize * 7919) % 30_000);
        let ops = [
            Op::Put(Put::new(key.clone(), format!("{n}"))),
            Op::Put(Put::new(format!("twin/{writer}"), format!("{n}"))),
            Op::Put(Put::new(format!("bulk/{writer}/{}", n % 20), padding)),
        ];
        let Ok(response) = store.txn(Txn::of(ops)).await else {
            return;
        };
        let mut notes = notes.lock().unwrap();
        notes.numbers.insert(key, n);
        notes.revision = notes.revision.max(response.revision.0);
    }
}

/// A folder for images, in memory: what a store does to its files there is of no interest.
fn images() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .unwrap()
}

/// What is wrong with a store that comes up on this image.
async fn verify(image: &Path, acknowledged: &Acknowledged) -> Result<(), String> {
    let store = Store::open(Options::new(image)).map_err(|error| error.to_string())?;
    let revision = store.revision().await.map_err(|error| error.to_string())?;
    if revision.0 < acknowledged.revision {
        return Err(format!(
            "revision {revision} after {} was acknowledged",
            acknowledged.revision
        ));
    }
    for (key, n) in &acknowledged.numbers {
        let mut values = Vec::new();
        for key in [key.clone(), key.replace("key", "twin")] {
            let found = store
                .range(Range::key(key))
                .await
                .map_err(|error| error.to_string())?;
            values.push(
                found
                    .kvs
                    .first()
                    .map(|kv| kv.value.clone())
                    .unwrap_or_default(),
            );
        }
        let text = String::from_utf8_lossy(&values[0]).into_owned();
        if text.parse::<u64>().is_ok_and(|found| found >= *n) && values[0] == values[1] {
            continue;
        }
        return Err(format!("{key}: {n} was acknowledged, {values:?} is there"));
    }
    match store.check().await.map_err(|error| error.to_string())? {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(wrong.join("; ")),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Cuts the power of a busy store `cuts` times, in lives of ten; each life goes on from the last image of the one
/// before. The first thing that is wrong ends it.
async fn cut_power(syncs: Syncs, cuts: usize) -> Result<usize, String> {
    let mut random = Random(cuts as u64);
    let images = images();
    let image = |life: usize, cut: usize| images.path().join(format!("{life}-{cut}"));
    let mut last: Option<std::path::PathBuf> = None;
    // What must be in `last`.
    let mut acknowledged = Acknowledged::default();
    // Closed while an image is verified, so that the two don't share the processors.
    let gate = Arc::new(RwLock::new(()));
    for life in 0..cuts.div_ceil(10) {
        let at = tempfile::tempdir().unwrap();
        let disk = Disk::mount(last.as_deref(), at.path());
        disk.set_syncs(syncs);
        let store = Store::open(Options::new(at.path())).map_err(|error| error.to_string())?;
        let from = acknowledged.numbers.values().max().map_or(0, |n| n + 1000);
        // Each life's own: what is acknowledged after its last image is never seen again.
        let notes = Arc::new(Mutex::new(acknowledged.clone()));
        for writer in 0..WRITERS {
            tokio::spawn(write_on(
                store.clone(),
                writer,
                from,
                notes.clone(),
                gate.clone(),
            ));
        }
        let compacting = store.clone();
        tokio::spawn(async move {
            while let Ok(now) = compacting.revision().await {
                tokio::time::sleep(Duration::from_millis(15)).await;
                if let Err(StoreError::Stopped(_)) = compacting.compact(now).await {
                    return;
                }
            }
        });
        for cut in 0..10 {
            tokio::time::sleep(Duration::from_millis(5 + random.below(60) as u64)).await;
            // First what was acknowledged, then the cut: all of it was synced before the cut.
            acknowledged = notes.lock().unwrap().clone();
            let image = image(life, cut);
            disk.cut(&mut random, &image);
            let _closed = gate.write().await;
            // The next life begins with the image as the power cut left it.
            let untouched = image.with_extension("untouched");
            copy(&image, &untouched);
            verify(&image, &acknowledged)
                .await
                .map_err(|wrong| format!("cut {cut} of life {life}: {wrong}"))?;
            fs::remove_dir_all(&image).unwrap();
            if let Some(older) = last.replace(untouched) {
                fs::remove_dir_all(older).unwrap();
            }
        }
        store.close().await;
    }
    Ok(acknowledged.revision as usize)
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    if !can_mount("a_power_cut_loses_nothing_acknowledged") {
        return;
    }
    let cuts = std::env::var("STORE_CUTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100);
    let revisions = runtime().block_on(cut_power(Syncs::Work, cuts)).unwrap();
    assert!(
        revisions > cuts,
        "the store was hardly under load: {revisions}"
    );
    println!("{cuts} power cuts, {revisions} revisions");
}

#[test]
fn without_syncs_the_same_test_fails() {
    if !can_mount("without_syncs_the_same_test_fails") {
        return;
    }
    let lost = runtime()
        .block_on(cut_power(Syncs::DoNothing, 100))
        .unwrap_err();
    println!("as it should be: {lost}");
}

#[test]
fn a_first_start_survives_a_power_cut_at_any_point() {
    if !can_mount("a_first_start_survives_a_power_cut_at_any_point") {
        return;
    }
    runtime().block_on(async {
        let at = tempfile::tempdir().unwrap();
        let disk = Disk::mount(None, at.path());
        disk.record(&mut Random(7));
        let store = Store::open(Options::new(at.path())).unwrap();
        let images = images();
        let steps = disk.recorded(images.path());
        assert!(steps > 20, "{steps}");
        for step in 0..steps {
            verify(
                &images.path().join(step.to_string()),
                &Acknowledged::default(),
            )
            .await
            .unwrap_or_else(|wrong| panic!("after step {step}: {wrong}"));
        }
        drop(store);
    });
}

/// A power cut now leaves all that was acknowledged.
async fn verify_cut(disk: &Disk, seed: u64, acknowledged: &Acknowledged) {
    let images = images();
    let image = images.path().join("image");
    disk.cut(&mut Random(seed), &image);
    verify(&image, acknowledged).await.unwrap();
}

/// A store on a fresh disk, with one acknowledged write.
async fn on_a_fresh_disk() -> (tempfile::TempDir, Disk, Store) {
    let at = tempfile::tempdir().unwrap();
    let disk = Disk::mount(None, at.path());
    let store = Store::open(Options::new(at.path())).unwrap();
    put(&store, "before", "1").await.unwrap();
    (at, disk, store)
}

async fn put(store: &Store, key: &str, value: impl Into<bytes::Bytes>) -> Result<(), StoreError> {
    store
        .txn(Txn::of([Op::Put(Put::new(key.to_owned(), value))]))
        .await
        .map(|_| ())
}

#[test]
fn a_failed_sync_stops_the_store_and_is_never_retried() {
    if !can_mount("a_failed_sync_stops_the_store_and_is_never_retried") {
        return;
    }
    runtime().block_on(async {
        let (at, disk, store) = on_a_fresh_disk().await;
        let mut watcher = store.watch(kernelet_store::Watch::prefix("")).unwrap();
        disk.set_syncs(Syncs::Fail);
        let error = put(&store, "during", "2").await.unwrap_err();
        assert!(matches!(error, StoreError::Stopped(_)), "{error}");
        assert!(error.to_string().contains("a write failed"), "{error}");
        // Whoever waits for it hears of it.
        let heard = tokio::time::timeout(Duration::from_secs(5), store.failed()).await;
        assert!(error.to_string().ends_with(&*heard.unwrap()), "{error}");
        let asked = disk.synced();
        // The disk is well again, which changes nothing.
        disk.set_syncs(Syncs::Work);
        for _ in 0..3 {
            let error = put(&store, "after", "3").await.unwrap_err();
            assert!(matches!(error, StoreError::Stopped(_)), "{error}");
        }
        let error = store.range(Range::key("before")).await.unwrap_err();
        assert!(matches!(error, StoreError::Stopped(_)), "{error}");
        // What was not durable was not told.
        assert!(matches!(watcher.next().await, Err(WatchError::Closed)));
        store.close().await;
        drop(store);
        assert_eq!(disk.synced(), asked, "a sync was tried again");
        // A new start finds what was acknowledged.
        let store = Store::open(Options::new(at.path())).unwrap();
        assert_eq!(store.range(Range::key("before")).await.unwrap().count, 1);
        assert_eq!(store.range(Range::key("after")).await.unwrap().count, 0);
        put(&store, "again", "4").await.unwrap();
        drop(store);
    });
}

#[test]
fn a_failed_checkpoint_stops_the_store() {
    if !can_mount("a_failed_checkpoint_stops_the_store") {
        return;
    }
    runtime().block_on(async {
        let (at, disk, store) = on_a_fresh_disk().await;
        // The log's own syncs go on working; the file's fail when the log is copied into it.
        disk.fail_syncs_of("store.db");
        let mut acknowledged = 0;
        let error = loop {
            match put(&store, &format!("k{acknowledged}"), vec![b'x'; 100_000]).await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
            assert!(acknowledged < 1000, "no checkpoint was made");
        };
        assert!(error.to_string().contains("a checkpoint failed"), "{error}");
        disk.set_syncs(Syncs::Work);
        drop(store);
        verify_cut(&disk, 1, &Acknowledged::default()).await;
        let store = Store::open(Options::new(at.path())).unwrap();
        assert!(store.range(Range::prefix("k")).await.unwrap().count >= acknowledged);
        drop(store);
    });
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_when_there_is_space() {
    if !can_mount("a_full_disk_refuses_writes_and_recovers_when_there_is_space") {
        return;
    }
    runtime().block_on(async {
        let (_at, disk, store) = on_a_fresh_disk().await;
        disk.set_room(disk.used() + 600_000);
        let mut acknowledged = Acknowledged::default();
        let mut refused = 0;
        for n in 0..60 {
            let ops = [
                Op::Put(Put::new("key/0", n.to_string())),
                Op::Put(Put::new("twin/0", n.to_string())),
                Op::Put(Put::new(format!("bulk/{n}"), vec![b'x'; 50_000])),
            ];
            match store.txn(Txn::of(ops)).await {
                Ok(response) => {
                    acknowledged.numbers.insert("key/0".to_owned(), n);
                    acknowledged.revision = response.revision.0;
                }
                Err(StoreError::DiskFull) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            refused > 10 && !acknowledged.numbers.is_empty(),
            "{refused}"
        );
        // Nothing half done, readable meanwhile, and durable.
        let seen = store.range(Range::key("key/0")).await.unwrap();
        assert_eq!(seen.kvs[0].value, acknowledged.numbers["key/0"].to_string());
        assert_eq!(seen.revision.0, acknowledged.revision);
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        verify_cut(&disk, 3, &acknowledged).await;
        // And then there is space again.
        disk.set_room(u64::MAX / 2);
        put(&store, "after", "x").await.unwrap();
        assert_eq!(store.revision().await.unwrap().0, acknowledged.revision + 1);
        verify_cut(&disk, 4, &acknowledged).await;
        drop(store);
    });
}
