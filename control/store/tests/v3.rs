//! The embedded store through its etcd v3 API, as etcd's own clients see it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use kernelet_store::{Op, Options, Put, Store, Txn, conformance, v3};
use tokio::net::TcpListener;

struct Served {
    store: Store,
    address: String,
    _dir: tempfile::TempDir,
}

async fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Options::new(dir.path())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(v3::serve(store.clone(), listener));
    Served {
        store,
        address,
        _dir: dir,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms_through_its_own_api() {
    let served = serve().await;
    let store = Store::connect(&format!("etcd://{}", served.address))
        .await
        .unwrap();
    for case in conformance::CASES {
        println!("{}", case.name);
        case.run(&store).await;
    }
    assert_eq!(served.store.check().await.unwrap(), Vec::<String>::new());
}

/// What `etcdctl` prints; it must succeed.
async fn etcdctl(served: &Served, args: &'static [&'static str], input: &'static str) -> String {
    let address = served.address.clone();
    let run = move || {
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &address])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcdctl {args:?}: {text}{errors}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_works_on_it() {
    if Command::new("etcdctl")
        .arg("version")
        .env("ETCDCTL_API", "3")
        .output()
        .is_err()
    {
        println!("SKIP etcdctl_works_on_it: there is no etcdctl");
        return;
    }
    let served = serve().await;
    let check = async |args, expect: &str| {
        assert_eq!(etcdctl(&served, args, "").await, expect, "{args:?}");
    };
    check(&["put", "a", "1"], "OK\n").await;
    check(&["put", "b", "2"], "OK\n").await;
    check(&["put", "--prev-kv", "b", "3"], "OK\nb\n2\n").await;
    check(&["get", "a"], "a\n1\n").await;
    check(&["get", "", "--prefix", "--keys-only"], "a\n\nb\n\n").await;
    check(
        &[
            "get",
            "",
            "--prefix",
            "--order=DESCEND",
            "--print-value-only",
        ],
        "3\n1\n",
    )
    .await;
    check(
        &[
            "get",
            "",
            "--prefix",
            "--sort-by=MODIFY",
            "--order=DESCEND",
            "--limit=1",
        ],
        "b\n3\n",
    )
    .await;
    check(&["get", "b", "--rev=3"], "b\n2\n").await;
    let txn = etcdctl(
        &served,
        &["txn"],
        "value(\"a\") = \"1\"\n\nput c yes\n\nput c no\n\n",
    )
    .await;
    assert_eq!(txn, "SUCCESS\n\nOK\n");
    check(&["get", "c"], "c\nyes\n").await;
    check(
        &["del", "", "--prefix", "--prev-kv"],
        "3\na\n1\nb\n3\nc\nyes\n",
    )
    .await;
    let lease = etcdctl(&served, &["lease", "grant", "600"], "").await;
    let id = lease.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(lease, format!("lease {id} granted with TTL(600s)\n"));
    assert_eq!(
        etcdctl(&served, &["lease", "list"], "").await,
        format!("found 1 leases\n{id}\n")
    );
    let once = etcdctl(&served, &["lease", "grant", "1"], "").await;
    assert!(once.contains("TTL(1s)"));
    assert!(
        etcdctl(&served, &["endpoint", "health"], "")
            .await
            .is_empty()
    );
    let status = etcdctl(&served, &["endpoint", "status", "--write-out=json"], "").await;
    assert!(status.contains("\"leader\":1"), "{status}");
    check(&["compaction", "6"], "compacted revision 6\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_watches_it() {
    if Command::new("etcdctl")
        .arg("version")
        .env("ETCDCTL_API", "3")
        .output()
        .is_err()
    {
        println!("SKIP etcdctl_watches_it: there is no etcdctl");
        return;
    }
    let served = serve().await;
    let put = async |key: &'static str, value: &'static str| {
        served
            .store
            .txn(Txn::of([Op::Put(Put::new(key, value))]))
            .await
            .unwrap();
    };
    put("w/1", "old").await;
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args([
            "--endpoints",
            &served.address,
            "watch",
            "w/",
            "--prefix",
            "--rev=2",
            "--prev-kv",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut expect = async |wanted: &[&str]| {
        for wanted in wanted {
            let line = tokio::time::timeout(Duration::from_secs(20), seen.recv()).await;
            assert_eq!(line.unwrap().as_deref(), Some(*wanted));
        }
    };
    expect(&["PUT", "w/1", "old"]).await;
    put("w/1", "new").await;
    expect(&["PUT", "w/1", "old", "w/1", "new"]).await;
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_comes_after_the_events_it_covers() {
    let served = serve().await;
    let mut client = etcd_client::Client::connect([&served.address], None)
        .await
        .unwrap()
        .watch_client();
    for n in 0..3000 {
        let put = Op::Put(Put::new(format!("p/{}", n % 10), n.to_string()));
        served.store.txn(Txn::of([put])).await.unwrap();
    }
    let options = etcd_client::WatchOptions::new()
        .with_prefix()
        .with_start_revision(2);
    let mut stream = client.watch("p/", Some(options.clone())).await.unwrap();
    stream.watch("p/1", Some(options)).await.unwrap();
    stream.request_progress().await.unwrap();
    let now = served.store.revision().await.unwrap().0;
    let mut seen = std::collections::HashMap::<i64, usize>::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
        let message = next.unwrap().unwrap().unwrap();
        assert!(!message.canceled(), "{message:?}");
        if message.watch_id() == -1 {
            assert_eq!(message.header().unwrap().revision(), now);
            break;
        }
        *seen.entry(message.watch_id()).or_default() += message.events().len();
    }
    // The second watch may have been made after the request was answered, but not half.
    assert_eq!(seen[&0], 3000);
    assert!(matches!(seen.get(&1), Some(300 | 0) | None), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_can_be_cancelled_and_named() {
    let served = serve().await;
    let mut client = etcd_client::Client::connect([&served.address], None)
        .await
        .unwrap()
        .watch_client();
    let named = etcd_client::WatchOptions::new().with_watch_id(7);
    let mut stream = client.watch("k", Some(named.clone())).await.unwrap();
    let created = stream.message().await.unwrap().unwrap();
    assert!(created.created() && !created.canceled() && created.watch_id() == 7);
    // The name is taken.
    stream.watch("k", Some(named)).await.unwrap();
    let refused = stream.message().await.unwrap().unwrap();
    assert!(refused.created() && refused.canceled(), "{refused:?}");
    let no_put = [etcd_client::WatchFilterType::NoPut];
    stream
        .watch(
            "k",
            Some(etcd_client::WatchOptions::new().with_filters(no_put)),
        )
        .await
        .unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    stream.cancel(7).await.unwrap();
    let cancelled = stream.message().await.unwrap().unwrap();
    assert!(cancelled.canceled() && cancelled.watch_id() == 7);
    served
        .store
        .txn(Txn::of([Op::Put(Put::new("k", "v"))]))
        .await
        .unwrap();
    let delete = kernelet_store::Delete::key("k");
    served
        .store
        .txn(Txn::of([Op::Delete(delete)]))
        .await
        .unwrap();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.events().len(), 1);
    assert_eq!(
        message.events()[0].event_type(),
        etcd_client::EventType::Delete
    );
    let stats = served.store.stats().await.unwrap();
    assert_eq!(stats.watchers, 1);
    // They go with their stream.
    drop(stream);
    let gone = async {
        while served.store.stats().await.unwrap().watchers > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .unwrap();
}
