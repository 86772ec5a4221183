//! Transfers that break off, wait, share and are given up.

use std::{fs, sync::Arc};

use kernelet_image::{ImageStore, Keyring, PullEvent, PullOptions, Registries};

use crate::{
    assert_nothing,
    common::{root, store},
    layer, long_layer, pull, read,
    registry::{Asked, Registry, Reply, chain, options, puller, run, sha256},
};

#[test]
fn what_breaks_off_goes_on_where_it_ended() {
    if !root("what_breaks_off_goes_on_where_it_ended") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let archive = long_layer();
    let blob = format!("/blobs/{}", sha256(&archive));
    let wanted = blob.clone();
    // Each of the first three answers ends a little further.
    let registry = Registry::twisted(move |asked: &Asked, n, reply| {
        if !asked.path.ends_with(&wanted) || n > 3 {
            return reply;
        }
        Reply {
            cut: Some(600_000),
            ..reply
        }
    });
    registry.plain_image("app", "latest", std::slice::from_ref(&archive));
    let (with_events, events) = options(Keyring::default());
    let puller = puller(&store, Registries::default());
    let pulled = run(puller.pull(&registry.name("app"), &with_events)).unwrap();
    assert!(read(&pulled.image, 0).ends_with("399999 "));
    let asked: Vec<_> = registry
        .asked()
        .into_iter()
        .filter(|a| a.path.ends_with(&blob))
        .collect();
    let ranges: Vec<_> = asked.iter().map(|a| a.header("range")).collect();
    assert_eq!(
        ranges,
        ["", "bytes=600000-", "bytes=1200000-", "bytes=1800000-"]
    );
    let retries = events
        .lock()
        .unwrap()
        .iter()
        .filter(|e| matches!(e, PullEvent::Retry { .. }))
        .count();
    assert_eq!(retries, 3);
}

#[test]
fn a_registry_without_ranges_is_read_from_the_beginning() {
    if !root("a_registry_without_ranges_is_read_from_the_beginning") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let archive = long_layer();
    let (whole, blob) = (archive.clone(), format!("/blobs/{}", sha256(&archive)));
    let registry = Registry::twisted(move |asked: &Asked, n, reply| {
        if !asked.path.ends_with(&blob) {
            return reply;
        }
        let reply = Reply::new(200, whole.clone());
        if n == 1 {
            Reply {
                cut: Some(700_000),
                ..reply
            }
        } else {
            reply
        }
    });
    registry.plain_image("app", "latest", &[archive]);
    assert!(read(&pull(&store, &registry, "app").unwrap().image, 0).ends_with("399999 "));
}

#[test]
fn limits_and_failures_that_pass_are_waited_for() {
    if !root("limits_and_failures_that_pass_are_waited_for") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::twisted(|asked: &Asked, n, reply| match n {
        1 if asked.path.contains("/manifests/") => {
            Reply::new(429, "slow down").with("Retry-After", 1)
        }
        1 | 2 => Reply::new(503, ""),
        _ => reply,
    });
    registry.plain_image("app", "latest", &[layer("x")]);
    let begun = std::time::Instant::now();
    pull(&store, &registry, "app").unwrap();
    assert!(
        begun.elapsed() >= std::time::Duration::from_secs(1),
        "Retry-After is kept"
    );

    // Those that don't pass are told, and a pause beyond all patience isn't waited for.
    let registry = Registry::twisted(|_, _, _| Reply::new(429, "").with("Retry-After", 86_400));
    let error = chain(&pull(&store, &registry, "app").unwrap_err());
    assert!(error.contains("429 Too Many Requests"), "{error}");
    assert_eq!(registry.asked().len(), 1);
    let registry = Registry::twisted(|_, _, _| Reply::new(500, "broken"));
    let error = chain(&pull(&store, &registry, "app").unwrap_err());
    assert!(
        error.contains("500 Internal Server Error: broken"),
        "{error}"
    );
    assert_eq!(registry.asked().len(), 4);
}

#[test]
fn two_pulls_of_one_layer_share_the_work() {
    if !root("two_pulls_of_one_layer_share_the_work") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    registry.plain_image("app", "a", &[long_layer(), layer("a")]);
    registry.plain_image("app", "b", &[long_layer(), layer("b")]);
    let puller = puller(&store, Registries::default());
    run(async {
        let options = PullOptions::default();
        let names = ["a", "a", "b", "a", "b"].map(|tag| registry.name(&format!("app:{tag}")));
        let pulls = names.each_ref().map(|name| puller.pull(name, &options));
        for pulled in futures_join(pulls).await {
            pulled.unwrap();
        }
    });
    assert_eq!(registry.count(&sha256(&long_layer())), 1);
    assert_eq!(store.ls().unwrap().len(), 2);
}

async fn futures_join<T>(work: [impl Future<Output = T>; 5]) -> Vec<T> {
    let mut work: Vec<_> = work.into_iter().map(|w| (Box::pin(w), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in &mut work {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if work.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    work.into_iter().map(|(_, done)| done.unwrap()).collect()
}

#[test]
fn a_pull_that_is_given_up_leaves_nothing_and_keeps_nobody_waiting() {
    if !root("a_pull_that_is_given_up_leaves_nothing_and_keeps_nobody_waiting") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::twisted(|asked: &Asked, n, reply| {
        // The first one gets half of it and nothing more; whoever comes then gets all.
        let half = reply.body.len() / 2;
        if asked.path.contains("/blobs/") && n == 1 && half > 10_000 {
            Reply {
                hang: true,
                ..reply
            }
        } else {
            reply
        }
    });
    registry.plain_image("app", "latest", &[long_layer()]);
    let puller = puller(&store, Registries::default());
    run(async {
        let name = registry.name("app");
        let options = PullOptions::default();
        let given_up = puller.pull(&name, &options);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(300), given_up).await;
        puller.pull(&name, &options).await.unwrap();
    });
    assert_eq!(store.ls().unwrap().len(), 1);
    store.rm(&registry.name("app").to_string()).unwrap();
    assert_nothing(&store, dir.path());
}

#[test]
fn layers_of_a_running_pull_are_not_removed() {
    if !root("layers_of_a_running_pull_are_not_removed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shared = Arc::new(store(dir.path()));
    let within = Arc::new(std::sync::OnceLock::<Arc<ImageStore>>::new());
    let (top, cleaner) = (sha256(&layer("top")), within.clone());
    let registry = Registry::twisted(move |asked: &Asked, _, reply| {
        if asked.path.ends_with(&top) {
            // The lower layer is in its place, and no image has it: a removal and a start happen just now.
            let store = cleaner.get().unwrap();
            let layers = store.dir().join("layers");
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while fs::read_dir(&layers).unwrap().count() < 2 && std::time::Instant::now() < deadline
            {
                std::thread::yield_now();
            }
            store.prune().unwrap();
            ImageStore::open(store.dir()).unwrap();
        }
        reply
    });
    within.set(shared.clone()).unwrap();
    registry.plain_image("app", "latest", &[layer("below"), layer("top")]);
    let pulled = pull(&shared, &registry, "app").unwrap();
    assert_eq!(
        (read(&pulled.image, 0), read(&pulled.image, 1)),
        ("top".to_owned(), "below".to_owned())
    );
}
