//! Pulling from a registry that lies, breaks off, limits and redirects; what is kept is only ever what was asked for.

// Errors of tests are looked at once.
#![allow(clippy::result_large_err)]

#[path = "../common/mod.rs"]
mod common;
mod content;
mod hosts;
#[path = "../common/registry.rs"]
mod registry;
mod transfer;

use std::{fs, io::Write as _, path::Path};

use common::Layer;
use kernelet_image::{ImageStore, PullError, PullOptions, Pulled, Registries};
use registry::{Registry, puller, run};

fn pull(store: &ImageStore, registry: &Registry, name: &str) -> Result<Pulled, PullError> {
    let puller = puller(store, Registries::default());
    run(puller.pull(&registry.name(name), &PullOptions::default()))
}

fn layer(text: &str) -> Vec<u8> {
    Layer::new().dir("d/", 0o755).file("d/file", text).done()
}

/// Larger than what is written at once, and not the same everywhere.
fn long_layer() -> Vec<u8> {
    let text: String = (0..400_000).map(|n| format!("{n} ")).collect();
    layer(&text)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(image: &kernelet_image::Image, n: usize) -> String {
    fs::read_to_string(image.layers[n].join("d/file")).unwrap()
}

/// Nothing in it, and nothing half done.
fn assert_nothing(store: &ImageStore, dir: &Path) {
    // Threads that unpack let go of their folders a moment after the pull's end.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let tmp = dir.join("images/tmp");
    while fs::read_dir(&tmp).unwrap().count() > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            fs::read_dir(&tmp).unwrap().collect::<Vec<_>>()
        );
        std::thread::yield_now();
    }
    assert_eq!(store.ls().unwrap(), []);
}
