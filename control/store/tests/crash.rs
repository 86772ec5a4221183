//! A store killed (SIGKILL) under load, again and again: whatever was acknowledged is there when it opens again.
//!
//! The killed process is this test binary once more. It writes down each acknowledgement on its standard output, so
//! that the parent knows what must be there. `STORE_KILLS` sets how often (20 without).

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kernelet_store::{Op, Options, Put, Range, Store, Txn};

const CHILD: &str = "KERNELET_STORE_CRASH_CHILD";
const RUN: &str = "KERNELET_STORE_CRASH_RUN";
const WRITERS: usize = 8;

/// What the killed process does; not a test by itself.
#[test]
fn child() {
    let (Ok(dir), Ok(run)) = (std::env::var(CHILD), std::env::var(RUN)) else {
        return;
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let store = Store::open(Options::new(dir)).unwrap();
            let compacting = store.clone();
            tokio::spawn(async move {
                loop {
                    let now = compacting.revision().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    // Refused when nothing was written since.
                    let _ = compacting.compact(now).await;
                }
            });
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (store, run) = (store.clone(), run.clone());
                    tokio::spawn(async move {
                        for n in 0u64.. {
                            // Two keys that must always agree, one new key, and a value of changing size.
                            let value = format!("{run}:{n}");
                            let padded =
                                format!("{value} {}", "x".repeat((n as usize * 37) % 3000));
                            let ops = [
                                Op::Put(Put::new(format!("left/{writer}"), value.clone())),
                                Op::Put(Put::new(format!("right/{writer}"), value.clone())),
                                Op::Put(Put::new(format!("log/{writer}/{}", n % 100), padded)),
                            ];
                            let revision = store.txn(Txn::of(ops)).await.unwrap().revision;
                            println!("ack {writer} {n} {revision}");
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.unwrap();
            }
        });
}

/// The last acknowledged write of each writer, and the highest revision, of a run that is killed after `life`.
fn run_and_kill(dir: &Path, run: u64, life: Duration) -> (BTreeMap<String, u64>, i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, dir)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let (mut last, mut highest) = (BTreeMap::new(), 0);
        for line in out.lines() {
            let Ok(line) = line else { break };
            let fields: Vec<_> = line.split(' ').collect();
            if let ["ack", writer, n, revision] = fields[..]
                && let (Ok(n), Ok(revision)) = (n.parse(), revision.parse::<i64>())
            {
                last.insert(writer.to_owned(), n);
                highest = highest.max(revision);
            }
        }
        (last, highest)
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let kills: u64 = std::env::var("STORE_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut acknowledged = 0;
    for run in 0..kills {
        // A different moment each time; some before the first write.
        let life = Duration::from_millis(20 + run * 7919 % 130);
        let (last, highest) = run_and_kill(dir.path(), run, life);
        let store = Store::open(Options::new(dir.path())).unwrap();
        runtime.block_on(async {
            assert!(
                store.revision().await.unwrap().0 >= highest,
                "revisions went back"
            );
            for (writer, n) in &last {
                acknowledged += n + 1;
                let mut sides = Vec::new();
                for side in ["left", "right"] {
                    let key = format!("{side}/{writer}");
                    sides.extend(store.range(Range::key(key)).await.unwrap().kvs);
                }
                assert_eq!(sides[0].value, sides[1].value, "half of a transaction");
                let text = String::from_utf8(sides[0].value.to_vec()).unwrap();
                let (of_run, found) = text.split_once(':').unwrap();
                assert_eq!(
                    of_run,
                    run.to_string(),
                    "run {run} of writer {writer} is lost"
                );
                // One more may have been written and not acknowledged.
                let found: u64 = found.parse().unwrap();
                assert!(
                    (*n..=n + 1).contains(&found),
                    "{writer}: {n} acknowledged, {found} found"
                );
                let log = Range::key(format!("log/{writer}/{}", n % 100));
                let log = store.range(log).await.unwrap().kvs;
                assert!(log[0].value.starts_with(format!("{run}:{n} ").as_bytes()));
            }
            assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        });
    }
    assert!(
        acknowledged > kills,
        "the store was hardly under load: {acknowledged}"
    );
    println!("{kills} kills, {acknowledged} acknowledged writes checked");
}
