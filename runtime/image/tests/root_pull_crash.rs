//! A pull killed at each of its steps leaves the old image or the new one, whole, and what it left half done goes.

mod common;
#[path = "common/registry.rs"]
mod registry;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use common::{Layer, root, store};
use kernelet_image::{PullOptions, Registries};
use registry::{Asked, Registry, Reply, puller, run};

const CHILD: &str = "KERNELET_PULL_CRASH_CHILD";
const NAME: &str = "KERNELET_PULL_CRASH_NAME";

/// Three layers with many files each, all of one generation.
fn layers(generation: &str) -> Vec<Vec<u8>> {
    (0..3)
        .map(|n| {
            let mut layer = Layer::new();
            for file in 0..300 {
                layer = layer.file(&format!("l{n}/{file}"), &format!("{generation} {n} {file}"));
            }
            layer.done()
        })
        .collect()
}

/// Not a test by itself: what the killed process does.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let store = store(dir.as_ref());
    let puller = puller(&store, Registries::default());
    let name = std::env::var(NAME).unwrap().parse().unwrap();
    run(puller.pull(&name, &PullOptions::default())).unwrap();
}

fn spawn(dir: &Path, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, dir)
        .env(NAME, name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The generation that the name stands for, after a start; nothing else may be left.
fn generation(dir: &Path, name: &str) -> String {
    let store = store(dir);
    assert_eq!(fs::read_dir(dir.join("images/tmp")).unwrap().count(), 0);
    let image = store.get(name).unwrap();
    let text = |n: usize, file: usize| {
        fs::read_to_string(image.layers[2 - n].join(format!("l{n}/{file}"))).unwrap()
    };
    let generation = text(0, 0).split(' ').next().unwrap().to_owned();
    for n in 0..3 {
        for file in 0..300 {
            assert_eq!(text(n, file), format!("{generation} {n} {file}"));
        }
    }
    let saved = tempfile::tempdir().unwrap();
    store.save(name, &saved.path().join("saved")).unwrap();
    store.prune().unwrap();
    assert_eq!(store.ls().unwrap().len(), 1);
    assert_eq!(
        fs::read_dir(dir.join("images/layers")).unwrap().count(),
        4,
        "three layers, and the empty one"
    );
    generation
}

#[test]
fn a_pull_killed_at_any_step_leaves_a_whole_image() {
    if !root("a_pull_killed_at_any_step_leaves_a_whole_image") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Stops at the request of this number, after half of its body, and says so.
    let stop = Arc::new(AtomicUsize::new(usize::MAX));
    let asked = Arc::new(AtomicUsize::new(0));
    let (stopped, stops) = mpsc::channel();
    let (at, count, stopped) = (stop.clone(), asked.clone(), Mutex::new(stopped));
    let registry = Registry::twisted(move |_: &Asked, _, reply| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 != at.load(Ordering::SeqCst) {
            return reply;
        }
        stopped.lock().unwrap().send(()).unwrap();
        let half = reply.body.len() / 2;
        Reply {
            hang: true,
            cut: Some(half),
            ..reply
        }
    });
    let name = registry.name("app").to_string();
    registry.plain_image("app", "latest", &layers("old"));
    assert!(spawn(dir.path(), &name).wait().unwrap().success());
    let requests = asked.swap(0, Ordering::SeqCst);
    assert_eq!(requests, 5, "manifest, configuration, three layers");
    assert_eq!(generation(dir.path(), &name), "old");

    registry.plain_image("app", "latest", &layers("new"));
    for step in 1..=requests {
        asked.store(0, Ordering::SeqCst);
        stop.store(step, Ordering::SeqCst);
        let mut child = spawn(dir.path(), &name);
        stops.recv_timeout(Duration::from_secs(30)).unwrap();
        // Whatever else is on its way gets somewhere meanwhile; where doesn't matter.
        let until = Instant::now() + Duration::from_millis(20 * step as u64);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            generation(dir.path(), &name),
            "old",
            "killed in request {step}"
        );
    }

    // And where no request tells: in unpacking, syncing, naming. Until one pull is through.
    stop.store(usize::MAX, Ordering::SeqCst);
    let mut seen = std::collections::BTreeSet::new();
    let mut pause = Duration::from_millis(10);
    while pause < Duration::from_secs(30) {
        let mut child = spawn(dir.path(), &name);
        std::thread::sleep(pause);
        let through = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        child.wait().unwrap();
        seen.insert(generation(dir.path(), &name));
        if through {
            break;
        }
        // However fast this machine is today.
        pause = pause * 6 / 5;
    }
    assert!(seen.contains("new"), "{seen:?}");
}
