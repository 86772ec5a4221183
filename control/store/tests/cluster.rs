//! The conformance suite against a real etcd: Debian's, or the program that `ETCD` names.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kernelet_store::{Store, conformance};

struct Etcd {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It is ours alone, and its data goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> String {
    std::env::var("ETCD").unwrap_or_else(|_| "etcd".to_owned())
}

fn start() -> Etcd {
    let dir = tempfile::tempdir().unwrap();
    let port = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (client, peer) = (port(), port());
    let url = |port| format!("http://127.0.0.1:{port}");
    let child = Command::new(program())
        .args([
            "--data-dir",
            dir.path().to_str().unwrap(),
            "--name",
            "test",
            "--log-level",
            "error",
        ])
        .args([
            "--listen-client-urls",
            &url(client),
            "--advertise-client-urls",
            &url(client),
        ])
        .args([
            "--listen-peer-urls",
            &url(peer),
            "--initial-advertise-peer-urls",
            &url(peer),
        ])
        .args(["--initial-cluster", &format!("test={}", url(peer))])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd {
        child,
        url: format!("etcd://127.0.0.1:{client}"),
        _dir: dir,
    }
}

/// None, loudly, where there is no etcd.
fn version() -> Option<String> {
    let Ok(output) = Command::new(program()).arg("--version").output() else {
        println!(
            "SKIP the conformance suite against etcd: there is no {}",
            program()
        );
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().next()?.rsplit(' ').next()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_cluster_conforms() {
    let Some(version) = version() else {
        return;
    };
    let etcd = start();
    let deadline = Instant::now() + Duration::from_secs(30);
    let store = loop {
        match Store::connect(&etcd.url).await {
            Ok(store) => break store,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for case in conformance::CASES {
        let minor: Vec<u32> = version
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect();
        let old = minor < vec![3, 4, 31] || minor[1] == 5 && minor < vec![3, 5, 13];
        if case.name == "a_watch_reports_progress" && old {
            println!(
                "SKIP {}: etcd {version} reports progress too early (its issue 15220)",
                case.name
            );
            continue;
        }
        println!("{}", case.name);
        case.run(&store).await;
    }
    let stats = store.stats().await.unwrap();
    assert!(stats.file_bytes > 0 && stats.keys > 0, "{stats:?}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_a_clear_error() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Store::connect(&format!("etcd://{free}")).await.unwrap_err();
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.starts_with("Connection refused"), "{why}");
    let error = Store::connect("etcd://nowhere").await.unwrap_err();
    assert!(error.to_string().contains("host:port"), "{error}");
}
