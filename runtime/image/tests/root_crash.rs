//! A loader killed at any moment leaves the old image or the new one, whole, and what it left half done goes.

mod common;

use std::{fs, process::Command, time::Duration};

use common::{Layer, archive, root, store};

const CHILD: &str = "KERNELET_IMAGE_CRASH_CHILD";
const FIRST: &str = "KERNELET_IMAGE_CRASH_FIRST";

fn image_of(generation: usize) -> Vec<u8> {
    let base = Layer::new().file("base", "base").done();
    let mut top = Layer::new();
    for n in 0..200 {
        top = top.file(&format!("d/{n}"), &format!("{generation}"));
    }
    archive(&[base, top.done()])
}

/// Not a test by itself: what the killed process does.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let store = store(dir.as_ref());
    let first: usize = std::env::var(FIRST).unwrap().parse().unwrap();
    for generation in first.. {
        store.load_from(image_of(generation).as_slice()).unwrap();
        store.prune().unwrap();
    }
}

#[test]
fn a_killed_loader_leaves_a_whole_image() {
    if !root("a_killed_loader_leaves_a_whole_image") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let first = store(dir.path())
        .load_from(image_of(0).as_slice())
        .unwrap()
        .remove(0);
    let took = start.elapsed().as_micros() as u64;
    let kills: u64 = std::env::var("KERNELET_IMAGE_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let mut generations = std::collections::BTreeSet::new();
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, dir.path())
            .env(FIRST, (1000 * (kill + 1)).to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the life of a load; where exactly doesn't matter, only that it is somewhere else each time.
        std::thread::sleep(Duration::from_micros(7_000 + kill * 37_001 % (4 * took)));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = store(dir.path());
        assert_eq!(
            fs::read_dir(dir.path().join("images/tmp")).unwrap().count(),
            0
        );
        let image = store.get("test").unwrap();
        let text = |n: usize| fs::read_to_string(image.layers[0].join(format!("d/{n}"))).unwrap();
        let generation = text(0);
        assert!((0..200).all(|n| text(n) == generation));
        assert_eq!(
            fs::read_to_string(image.layers[1].join("base")).unwrap(),
            "base"
        );
        generations.insert(generation);
        store.prune().unwrap();
        assert_eq!(store.ls().unwrap().len(), 1);
        let saved = tempfile::tempdir().unwrap();
        store.save("test", &saved.path().join("saved")).unwrap();
    }
    assert!(
        generations.len() > 1,
        "no load ever finished: {generations:?} {}",
        first.id
    );
}
