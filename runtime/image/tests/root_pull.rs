//! Pulling from a registry that lies, breaks off, limits and redirects; what is kept is only ever what was asked for.

// Errors of tests are looked at once.
#![allow(clippy::result_large_err)]

mod common;
#[path = "common/registry.rs"]
mod registry;

use std::{fs, io::Write as _, path::Path, sync::Arc};

use common::{Layer, root, store};
use kernelet_image::{
    Credential, ImageStore, Keyring, Platform, PullError, PullEvent, PullOptions, Pulled,
    Registries, RegistryOptions,
};
use registry::{
    Asked, INDEX, LAYER, MANIFEST, Registry, Reply, architecture, chain, options, puller, run,
    sha256,
};
use serde_json::json;

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

#[test]
fn an_image_comes_by_tag_and_by_digest_with_every_compression() {
    if !root("an_image_comes_by_tag_and_by_digest_with_every_compression") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    let (a, b, c, d) = (
        layer("plain"),
        layer("gzip"),
        layer("zstd"),
        layer("docker"),
    );
    let zstd = zstd::encode_all(c.as_slice(), 3).unwrap();
    let manifest = registry.image(
        "a/app",
        Some("v1"),
        architecture(),
        &[
            (LAYER, a.clone(), sha256(&a)),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                gzip(&b),
                sha256(&b),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                zstd,
                sha256(&c),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                gzip(&d),
                sha256(&d),
            ),
        ],
    );
    let digest = manifest["digest"].as_str().unwrap();
    let puller = puller(&store, Registries::default());
    let (with_events, events) = options(Keyring::default());
    let pulled = run(puller.pull(&registry.name("a/app:v1"), &with_events)).unwrap();
    assert_eq!(pulled.digest.to_string(), digest);
    let texts: Vec<_> = (0..4).map(|n| read(&pulled.image, n)).collect();
    assert_eq!(texts, ["docker", "zstd", "gzip", "plain"]);
    let name = format!("{}/a/app", registry.host);
    assert_eq!(pulled.image.references, [registry.name("a/app:v1")]);
    assert_eq!(pulled.image.repo_digests, [format!("{name}@{digest}")]);
    let events = events.lock().unwrap();
    assert!(
        matches!(&events[0], PullEvent::Resolving { reference } if *reference == format!("{name}:v1"))
    );
    assert!(matches!(&events[1], PullEvent::Resolved { layers: 4, .. }));
    let unpacked = events
        .iter()
        .filter(|e| matches!(e, PullEvent::Unpacked { .. }))
        .count();
    assert_eq!(unpacked, 4);

    // Again: the manifest is asked for, the layers aren't.
    let blobs = registry.count("/blobs/");
    let again = run(puller.pull(&registry.name("a/app:v1"), &PullOptions::default())).unwrap();
    assert_eq!((again.image.id, again.downloaded), (pulled.image.id, 0));
    assert_eq!(registry.count("/blobs/"), blobs);
    // By its digest it is found already, and can be pulled.
    assert_eq!(
        store.get(&format!("{name}@{digest}")).unwrap().id,
        pulled.image.id
    );
    let by_digest = run(puller.pull(
        &registry.name(&format!("a/app@{digest}")),
        &PullOptions::default(),
    ));
    assert_eq!(by_digest.unwrap().image.references.len(), 2);
}

#[test]
fn an_index_gives_each_platform_its_own_image() {
    if !root("an_index_gives_each_platform_its_own_image") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    let one = |name: &str, architecture: &str| {
        let archive = layer(name);
        let digest = sha256(&archive);
        registry.image("app", None, architecture, &[(LAYER, archive, digest)])
    };
    let entry = |mut descriptor: serde_json::Value, architecture: &str, variant: Option<&str>| {
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        if let Some(variant) = variant {
            descriptor["platform"]["variant"] = variant.into();
        }
        descriptor
    };
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        entry(one("v6", "arm"), "arm", Some("v6")), entry(one("v7", "arm"), "arm", Some("v7"))]});
    let inner = registry.document("app", None, &inner);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [
            entry(one("here", architecture()), architecture(), None),
            entry(one("ppc", "ppc64le"), "ppc64le", None),
            {"mediaType": INDEX, "digest": inner["digest"], "size": inner["size"]},
        ],
    });
    let index = registry.document("app", Some("multi"), &index);
    let puller = puller(&store, Registries::default());
    let check = |platform: &str, expect: Result<&str, &str>| {
        let options = PullOptions {
            platform: platform.parse().unwrap(),
            ..PullOptions::default()
        };
        match (
            run(puller.pull(&registry.name("app:multi"), &options)),
            expect,
        ) {
            (Ok(pulled), Ok(expect)) => {
                assert_eq!(read(&pulled.image, 0), expect, "{platform}");
                assert_eq!(pulled.digest.to_string(), index["digest"].as_str().unwrap());
            }
            (Err(error), Err(expect)) => {
                let error = chain(&error);
                assert!(error.contains(expect), "{error} does not say {expect}");
            }
            (found, expect) => panic!("{platform}: {found:?} instead of {expect:?}"),
        }
    };
    check(&Platform::here().to_string(), Ok("here"));
    check("linux/ppc64le", Ok("ppc"));
    check("linux/arm", Ok("v7"));
    check("linux/arm/v6", Ok("v6"));
    check(
        "linux/s390x",
        Err("no match for platform in manifest: linux/s390x is not among linux/"),
    );
    // The name stands for the last one that was pulled.
    assert_eq!(
        read(
            &store.get(&registry.name("app:multi").to_string()).unwrap(),
            0
        ),
        "v6"
    );
}

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
fn what_isnt_what_it_says_is_refused_and_leaves_nothing() {
    if !root("what_isnt_what_it_says_is_refused_and_leaves_nothing") {
        return;
    }
    let check = |what: &str, registry: Registry, expect: &str| {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let error = match pull(&store, &registry, "app") {
            Err(error) => chain(&error),
            Ok(pulled) => panic!("{what}: {pulled:?}"),
        };
        assert!(
            error.contains(expect),
            "{what}: {error} does not say {expect}"
        );
        assert_nothing(&store, dir.path());
    };
    let two = |registry: Registry| {
        registry.plain_image("app", "latest", &[layer("below"), layer("x")]);
        registry
    };
    let top = sha256(&layer("x"));
    let on_top = move |change: fn(Reply) -> Reply| {
        let top = top.clone();
        Registry::twisted(move |asked: &Asked, _, reply| {
            if asked.path.contains(&top) {
                change(reply)
            } else {
                reply
            }
        })
    };
    check(
        "another layer of the same length",
        two(on_top(|mut reply| {
            let at = reply.body.len() / 2;
            reply.body[at] ^= 1;
            reply
        })),
        "has digest sha256:",
    );
    check(
        "a longer layer",
        two(on_top(|mut reply| {
            reply.body.push(0);
            reply
        })),
        "bytes, but",
    );
    check(
        "a layer that ends too early, and says so",
        two(on_top(|mut reply| {
            reply.body.pop();
            reply
        })),
        "bytes, but",
    );
    check(
        "a layer that always breaks off",
        two(on_top(|reply| Reply {
            cut: Some(0),
            ..reply
        })),
        "failed to copy: the layer",
    );
    check(
        "a layer that never comes",
        two(on_top(|reply| Reply {
            hang: true,
            ..reply
        })),
        "timed out",
    );
    check(
        "a layer that isn't there",
        two(on_top(|_| Reply::new(404, ""))),
        "not found",
    );
    check(
        "a redirection in circles",
        two(on_top(|_| Reply::new(307, "").with("Location", "?again"))),
        "10 redirects",
    );
    check(
        "a redirection to nowhere",
        two(on_top(|_| {
            Reply::new(302, "").with("Location", "file:///etc/passwd")
        })),
        "not found",
    );
    check(
        "a redirection without a place",
        two(on_top(|_| {
            Reply::new(302, "").with("Location", "ftp://a b")
        })),
        "redirected from",
    );

    // Documents.
    let manifest = |change: fn(Reply) -> Reply| {
        two(Registry::twisted(move |asked: &Asked, _, reply| {
            if asked.path.contains("/manifests/") {
                change(reply)
            } else {
                reply
            }
        }))
    };
    check(
        "a manifest that isn't what the header says",
        manifest(|r| r.with("Docker-Content-Digest", sha256(b"other"))),
        "has digest",
    );
    check(
        "a page",
        manifest(|_| Reply::new(200, "<html>").with("Content-Type", "text/html")),
        "makes no sense",
    );
    check(
        "schema 1",
        manifest(|_| Reply::new(200, r#"{"schemaVersion":1}"#)),
        "schema 1, which is no longer supported",
    );
    check(
        "a manifest without end",
        manifest(|_| Reply::new(200, vec![b' '; 5 << 20])),
        "more than 4194304 bytes",
    );
    check(
        "no image",
        two(Registry::honest_but(
            |asked| asked.path.contains("/manifests/"),
            Reply::new(404, ""),
        )),
        "app:latest: not found",
    );
    let config = |change: fn(Reply) -> Reply| {
        two(Registry::twisted(move |asked: &Asked, n, reply| {
            if asked.path.contains("/blobs/") && n == 1 && reply.body.starts_with(b"{") {
                change(reply)
            } else {
                reply
            }
        }))
    };
    check(
        "another configuration",
        config(|mut r| {
            let at = r.body.len() - 3;
            r.body[at] ^= 1;
            r
        }),
        "the configuration sha256:",
    );
    check(
        "a longer configuration",
        config(|mut r| {
            r.body.push(b' ');
            r
        }),
        "more than",
    );

    // What is rightly signed and still isn't an image.
    let registry = Registry::honest();
    let archive = layer("x");
    registry.image(
        "app",
        Some("latest"),
        architecture(),
        &[(LAYER, archive.clone(), sha256(b"other"))],
    );
    check(
        "a layer of another diff id",
        registry,
        "uncompressed, has digest",
    );
    let registry = Registry::honest();
    let junk = vec![7; 5000];
    registry.image(
        "app",
        Some("latest"),
        architecture(),
        &[(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            junk,
            sha256(&archive),
        )],
    );
    check(
        "a layer that isn't gzip",
        registry,
        "uncompressed, has digest",
    );
    let registry = Registry::honest();
    registry.image(
        "app",
        Some("latest"),
        architecture(),
        &[(
            "application/vnd.wasm.content.layer.v1+wasm",
            archive.clone(),
            sha256(&archive),
        )],
    );
    check(
        "a layer that is no archive",
        registry,
        "media type \"application/vnd.wasm.content.layer.v1+wasm\"",
    );
    let registry = Registry::honest();
    registry.image(
        "app",
        Some("latest"),
        "s390x",
        &[(LAYER, archive.clone(), sha256(&archive))],
    );
    check(
        "another machine's image",
        registry,
        "the image is for linux/s390x",
    );
    // An index that leads on and on.
    let registry = Registry::honest();
    let mut last = registry.document(
        "app",
        None,
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
    );
    for _ in 0..40 {
        let both = vec![last.clone(); 50];
        last = registry.document(
            "app",
            Some("latest"),
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": both}),
        );
    }
    check("indexes in indexes", registry, "too many indexes");
    let registry = Registry::honest();
    let small = registry.document(
        "app",
        None,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}),
    );
    let mut wrong = small.clone();
    wrong["size"] = 1.into();
    registry.document(
        "app",
        Some("latest"),
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [wrong]}),
    );
    check(
        "a manifest of another size",
        registry,
        "bytes, but 1 were expected",
    );
}

impl Registry {
    fn honest_but(which: fn(&Asked) -> bool, reply: Reply) -> Registry {
        Registry::twisted(
            move |asked: &Asked, _, honest| if which(asked) { reply.clone() } else { honest },
        )
    }
}

#[test]
fn a_wrong_manifest_under_a_digest_is_refused() {
    if !root("a_wrong_manifest_under_a_digest_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    registry.plain_image("app", "latest", &[layer("x")]);
    let other = registry.plain_image("app", "other", &[layer("y")]);
    let digest = sha256(b"asked for");
    let path = |name: &str| format!("/v2/app/manifests/{name}");
    let bytes = registry.content(&path(other["digest"].as_str().unwrap()));
    registry.put(&path(&digest), MANIFEST, &bytes);
    let error = chain(&pull(&store, &registry, &format!("app@{digest}")).unwrap_err());
    assert!(
        error.contains(&format!("but {digest} was expected")),
        "{error}"
    );
    assert_nothing(&store, dir.path());
}

#[test]
fn credentials_are_given_where_they_are_asked_for_and_nowhere_else() {
    if !root("credentials_are_given_where_they_are_asked_for_and_nowhere_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    // Blobs lie on another host, which must not hear of the token.
    let elsewhere = Registry::honest();
    elsewhere.plain_image("app", "latest", &[layer("x")]);
    let far = elsewhere.host.clone();
    let host = Arc::new(std::sync::OnceLock::<String>::new());
    let own = host.clone();
    let registry = Registry::twisted(move |asked: &Asked, _, reply| {
        if asked.path.starts_with("/token") {
            let right = asked.header("authorization") == "Basic dXNlcjpzZWNyZXQ="
                && asked.path.contains("scope=repository:app:pull")
                && asked.path.contains("service=r%20s")
                || asked.body.contains("refresh_token=idtoken")
                    && asked.body.contains("grant_type=refresh_token");
            return if right {
                Reply::new(200, r#"{"access_token":"T"}"#)
            } else {
                Reply::new(401, "")
            };
        }
        if asked.header("authorization") != "Bearer T" {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"r s\"",
                own.get().unwrap()
            );
            return Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            )
            .with("WWW-Authenticate", challenge);
        }
        if asked.path.contains("/blobs/") {
            return Reply::new(307, "").with("Location", format!("http://{far}{}", asked.path));
        }
        reply
    });
    host.set(registry.host.clone()).unwrap();
    registry.plain_image("app", "latest", &[layer("x")]);
    let of = |user: &str| {
        let text = format!(r#"{{"auths": {{"{}": {user}}}}}"#, registry.host);
        Keyring::docker_config("a test", text.as_bytes()).unwrap()
    };
    let wrong = of(r#"{"username": "user", "password": "wrong"}"#);
    let attempt = |keyring: Keyring| {
        run(puller(&store, Registries::default()).pull(&registry.name("app"), &options(keyring).0))
    };
    let error = chain(&attempt(Keyring::default()).unwrap_err());
    assert!(
        error.contains("failed to authorize: failed to fetch anonymous token"),
        "{error}"
    );
    let error = chain(&attempt(wrong.clone()).unwrap_err());
    assert!(error.contains("failed to fetch oauth token"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    // The second of two is right.
    attempt(wrong.and(&of(r#"{"auth": "dXNlcjpzZWNyZXQ="}"#))).unwrap();
    store.rm(&registry.name("app").to_string()).unwrap();
    attempt(of(r#"{"identitytoken": "idtoken"}"#)).unwrap();
    assert!(elsewhere.asked().len() >= 2);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_empty())
    );

    // Basic, and no for good.
    let registry =
        Registry::twisted(
            |asked: &Asked, _, reply| match asked.header("authorization") {
                "Basic dXNlcjpzZWNyZXQ=" => reply,
                _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
            },
        );
    registry.plain_image("app", "latest", &[layer("x")]);
    let attempt = |creds: &str| {
        let keyring = Keyring::single(creds.parse::<Credential>().unwrap());
        run(puller(&store, Registries::default()).pull(&registry.name("app"), &options(keyring).0))
    };
    attempt("user:secret").unwrap();
    let error = chain(&attempt("user:other").unwrap_err());
    assert!(
        error
            .contains("pull access denied, repository does not exist or may require authorization"),
        "{error}"
    );
}

#[test]
fn mirrors_are_asked_first_and_the_registry_last() {
    if !root("mirrors_are_asked_first_and_the_registry_last") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    registry.plain_image("team/app", "latest", &[layer("registry")]);
    let broken = Registry::twisted(|_, _, _| Reply::new(500, ""));
    // Has the manifest, but not the layer.
    let half = Registry::honest_but(
        |asked| asked.path.contains("/blobs/") && asked.path.contains(&sha256(&layer("registry"))),
        Reply::new(404, ""),
    );
    half.plain_image("team/app", "latest", &[layer("registry")]);
    let gone = Registry::honest();
    let gone_host = gone.host.clone();
    drop(gone);
    let registries = Registries::new(&RegistryOptions {
        mirrors: [&gone_host, &broken.host, &half.host]
            .map(|host| format!("{}=http://{host}", registry.host))
            .to_vec(),
        ..RegistryOptions::default()
    })
    .unwrap();
    let pulled =
        run(puller(&store, registries).pull(&registry.name("team/app"), &PullOptions::default()))
            .unwrap();
    assert_eq!(read(&pulled.image, 0), "registry");
    assert_eq!(pulled.image.references, [registry.name("team/app")]);
    assert_eq!(
        broken.asked()[0].path,
        format!("/v2/team/app/manifests/latest?ns={}", registry.host)
    );
    assert_eq!(
        (registry.count("/manifests/"), registry.count("/blobs/")),
        (0, 1)
    );
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
