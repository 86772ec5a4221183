//! What comes is what was asked for, or nothing.

use kernelet_image::{Keyring, Platform, PullEvent, PullOptions, Registries};
use serde_json::json;

use crate::{
    assert_nothing,
    common::{root, store},
    gzip, layer, pull, read,
    registry::{
        Asked, INDEX, LAYER, MANIFEST, Registry, Reply, architecture, chain, options, puller, run,
        sha256,
    },
};

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
    pub(crate) fn honest_but(which: fn(&Asked) -> bool, reply: Reply) -> Registry {
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
