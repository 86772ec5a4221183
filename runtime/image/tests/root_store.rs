//! Loading, verifying, naming, holding, removing and saving images.

mod common;

use std::{fs, io::Write as _, path::Path};

use common::{Layer, archive, assert_empty, load, root, store};
use kernelet_image::{ImageError, ImageStore, Port, Protocol, compose};
use serde_json::{Value, json};

fn layer(text: &str) -> Vec<u8> {
    Layer::new().file("etc/text", text).done()
}

type Pack = dyn Fn(&[u8]) -> Vec<u8>;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An OCI layout of one image with one layer, compressed by `pack`; `tamper` may change what is written.
fn layout(dir: &Path, pack: impl Fn(&[u8]) -> Vec<u8>, tamper: impl Fn(&str, &mut Vec<u8>)) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |what: &str, bytes: &[u8]| {
        let mut written = bytes.to_vec();
        tamper(what, &mut written);
        fs::write(blobs.join(digest(bytes)), written).unwrap();
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", digest(bytes)),
               "size": bytes.len()})
    };
    let archive = layer("layout");
    let packed = put("layer", &pack(&archive));
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
                        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&archive))]}});
    let mut config = put("config", config.to_string().as_bytes());
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [packed]});
    let mut manifest = put("manifest", manifest.to_string().as_bytes());
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    manifest["annotations"] =
        json!({"org.opencontainers.image.ref.name": "registry.example/app:v1"});
    let mut other = manifest.clone();
    other["digest"] = format!("sha256:{}", "0".repeat(64)).into();
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut index = json!({"schemaVersion": 2, "manifests": [other, manifest]})
        .to_string()
        .into_bytes();
    tamper("index", &mut index);
    fs::write(dir.join("index.json"), index).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn tar_of(dir: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", dir).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn an_images_configuration_is_read() {
    if !root("an_images_configuration_is_read") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let config = json!({
        "Env": ["PATH=/bin", "A=b=c"], "Cmd": ["-x"], "Entrypoint": ["/e"], "User": "web", "WorkingDir": "/srv",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "what": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGQUIT",
        "Labels": {"k": "v"},
    });
    let passwd = Layer::new()
        .file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        )
        .file("etc/group.real", "web:x:33:\nlogs:x:4:web\n")
        .symlink("etc/group", "/etc/group.real")
        .done();
    let bytes =
        compose::archive(&"me/app:1".parse().unwrap(), &config, &[passwd, layer("x")]).unwrap();
    let images = store.load_from(bytes.as_slice()).unwrap();
    let image = store.get("me/app:1").unwrap();
    assert_eq!(images[0], image);
    assert_eq!(image.config.env, ["PATH=/bin", "A=b=c"]);
    assert_eq!(image.config.cmd, ["-x"]);
    assert_eq!(image.config.entrypoint, ["/e"]);
    assert_eq!(
        (
            image.config.user.as_str(),
            image.config.working_dir.as_str()
        ),
        ("web", "/srv")
    );
    assert_eq!(
        image.config.exposed_ports,
        [
            Port {
                number: 53,
                protocol: Protocol::Udp
            },
            Port {
                number: 80,
                protocol: Protocol::Tcp
            }
        ]
    );
    assert_eq!(image.config.volumes, ["/data"]);
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(image.config.labels["k"], "v");
    assert_eq!(image.references[0].to_string(), "docker.io/me/app:1");
    assert_eq!(image.layers.len(), 2);
    // The user comes from the merged view: the files are in the lower layer.
    let user = image.user(&image.config.user).unwrap();
    assert_eq!(
        (user.uid, user.gid, user.groups.as_slice()),
        (33, 33, [4].as_slice())
    );
    image.user("nobody").unwrap_err();
}

#[test]
fn layouts_load_as_folders_and_archives_however_compressed() {
    if !root("layouts_load_as_folders_and_archives_however_compressed") {
        return;
    }
    let plain = |bytes: &[u8]| bytes.to_vec();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let packers: [&Pack; 3] = [&plain, &gzip, &zstd];
    let mut ids = Vec::new();
    for pack_layer in packers {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("layout");
        layout(&source, pack_layer, |_, _| {});
        let mut forms = vec![source.clone()];
        for (n, pack) in packers.into_iter().enumerate() {
            let path = dir.path().join(format!("{n}.tar"));
            fs::write(&path, pack(&tar_of(&source))).unwrap();
            forms.push(path);
        }
        for form in forms {
            let target = tempfile::tempdir().unwrap();
            let store = store(target.path());
            let image = store.load(&form).unwrap().remove(0);
            assert_eq!(
                fs::read_to_string(image.layers[0].join("etc/text")).unwrap(),
                "layout"
            );
            assert_eq!(image.references[0].to_string(), "registry.example/app:v1");
            let digest = image.digest.unwrap();
            assert_eq!(
                store
                    .get(&format!("registry.example/app@{digest}"))
                    .unwrap()
                    .id,
                image.id
            );
            assert!(
                store
                    .get(&format!("registry.example/other@{digest}"))
                    .is_err()
            );
            ids.push(image.id);
        }
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    if !root("what_is_not_what_its_digest_says_is_refused") {
        return;
    }
    for what in ["layer", "config", "manifest"] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let flipped = dir.path().join("flipped");
        layout(&flipped, gzip, |part, bytes| {
            if part == what {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
        });
        let error = store.load(&flipped).unwrap_err();
        // A compressed layer may also fail to decompress, which is as good.
        let right = matches!(error, ImageError::WrongDigest { .. })
            || what == "layer" && matches!(error, ImageError::Damaged { .. });
        assert!(right, "{what}: {error:?}");
        let longer = dir.path().join("longer");
        layout(&longer, gzip, |part, bytes| {
            if part == what {
                bytes.push(b' ');
            }
        });
        let error = store.load(&longer).unwrap_err();
        assert!(
            matches!(error, ImageError::WrongSize { .. }),
            "{what}: {error:?}"
        );
        assert_empty(&store, dir.path());
    }
    // The layer itself is right, but not the one that the configuration names.
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let wrong_layer = |bytes: &[u8]| {
        let mut other = bytes.to_vec();
        let at = other.windows(6).position(|w| w == b"layout").unwrap();
        other[at] = b'L';
        other
    };
    layout(&dir.path().join("wrong"), wrong_layer, |_, _| {});
    let error = store.load(&dir.path().join("wrong")).unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error:?}");
    // docker save: the configuration's file is named by its digest.
    let mut bytes = archive(&[layer("x")]);
    let at = bytes.windows(9).position(|w| w == b"/bin/true").unwrap();
    bytes[at + 8] = b'f';
    let error = store.load_from(bytes.as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error:?}");
    assert_empty(&store, dir.path());
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_was_cut() {
    if !root("a_file_cut_short_is_refused_wherever_it_was_cut") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let whole = archive(&[layer("one"), layer("two")]);
    let packed = gzip(&whole);
    // The last blocks of an archive are only its end's mark.
    for cut in (0..whole.len() - 1024).step_by(509) {
        let error = store.load_from(&whole[..cut]).unwrap_err();
        let right = matches!(
            error,
            ImageError::Damaged { .. } | ImageError::NotAnImage(_)
        );
        assert!(right, "cut at {cut}: {error:?}");
        let path = dir.path().join("cut.tar");
        fs::write(&path, &whole[..cut]).unwrap();
        store.load(&path).unwrap_err();
    }
    for cut in (0..packed.len()).step_by(101) {
        store.load_from(&packed[..cut]).unwrap_err();
    }
    assert_empty(&store, dir.path());
    // And whole it is fine.
    store.load_from(packed.as_slice()).unwrap();
}

#[test]
fn what_is_no_image_says_so() {
    if !root("what_is_no_image_says_so") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let just_a_tar = Layer::new().file("hello", "x").done();
    let error = store.load_from(just_a_tar.as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::NotAnImage(_)), "{error:?}");
    let junk = Layer::new().file("manifest.json", "{").done();
    let error = store.load_from(junk.as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::Document { .. }), "{error:?}");
    let lacking = Layer::new()
        .file(
            "manifest.json",
            r#"[{"Config":"none.json","RepoTags":null,"Layers":[]}]"#,
        )
        .done();
    let error = store.load_from(lacking.as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::Missing(_)), "{error:?}");
    let elsewhere = Layer::new()
        .file(
            "c.json",
            r#"{"architecture":"s390x","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .file(
            "manifest.json",
            r#"[{"Config":"c.json","RepoTags":null,"Layers":[]}]"#,
        )
        .done();
    let error = store.load_from(elsewhere.as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::Platform { .. }), "{error:?}");
    store.load(Path::new("/nonexistent/image.tar")).unwrap_err();
    let error = store.load_from(b"BZh91AY&SY".as_slice()).unwrap_err();
    assert!(matches!(error, ImageError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_configuration_may_be_called_anything() {
    if !root("a_configuration_may_be_called_anything") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let layer = layer("only");
    let config = json!({"architecture": "amd64", "os": "linux",
                        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["other:v1", "my.registry/other"],
                           "Layers": ["layer.tar"]}]);
    let archive = Layer::new()
        .file("config.json", &config.to_string())
        .file("layer.tar", std::str::from_utf8(&layer).unwrap())
        .file("manifest.json", &manifest.to_string())
        .done();
    let loaded = store.load_from(archive.as_slice()).unwrap();
    assert_eq!(loaded.len(), 1);
    for name in ["other:v1", "my.registry/other:latest"] {
        assert_eq!(store.get(name).unwrap().id, loaded[0].id, "{name}");
    }
}

#[test]
fn names_and_ids_find_an_image_and_holders_keep_it() {
    if !root("names_and_ids_find_an_image_and_holders_keep_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let image = load(&store, &[layer("base"), layer("top")]);
    let hex = image.id.0.hex();
    for name in [
        "test",
        "test:latest",
        "docker.io/library/test",
        &hex,
        &hex[..12],
        &image.id.to_string(),
    ] {
        assert_eq!(store.get(name).unwrap().id, image.id, "{name}");
    }
    assert!(matches!(store.get("other"), Err(ImageError::NotFound(_))));
    assert!(matches!(
        store.get("Not A Name"),
        Err(ImageError::Reference(_))
    ));

    store.tag(image.id, &"again:v2".parse().unwrap()).unwrap();
    store.hold(image.id, "pod-1.container").unwrap();
    store.hold(image.id, "pod-1.container").unwrap();
    store.hold(image.id, "../evil").unwrap_err();
    assert_eq!(
        store.holders().unwrap(),
        [(image.id, "pod-1.container".to_owned())]
    );
    // One of two names may go.
    store.rm("test").unwrap();
    assert!(
        matches!(store.rm("again:v2"), Err(ImageError::InUse { holder, .. }) if holder == "pod-1.container")
    );
    assert!(matches!(store.rm(&hex), Err(ImageError::InUse { .. })));
    assert_eq!(store.get("again:v2").unwrap().id, image.id);

    // A new image takes the name over; the old one stays while it is held, also for another handle.
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let newer = load(&store, &[layer("base"), layer("newer")]);
    assert_eq!(
        newer.layers[1], image.layers[1],
        "the common layer is shared"
    );
    store.tag(newer.id, &"again:v2".parse().unwrap()).unwrap();
    assert_eq!(store.prune().unwrap().images, []);
    assert!(store.get(&hex).is_ok());
    store.release("pod-1.container").unwrap();
    let pruned = store.prune().unwrap();
    assert_eq!((pruned.images, pruned.bytes), (vec![image.id], 3));
    assert!(store.get(&hex).is_err() && !image.layers[0].exists());
    assert!(newer.layers.iter().all(|layer| layer.exists()));
    store.rm(&newer.id.to_string()).unwrap();
    assert_empty(&store, dir.path());
}

#[test]
fn a_saved_image_is_the_same_image() {
    if !root("a_saved_image_is_the_same_image") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let large = "x".repeat(300_000);
    let odd = Layer::new()
        .dir("./", 0o755)
        .pax(&[("SCHILY.xattr.user.a", b"b"), ("comment", b"keep me")])
        .file("f", &large)
        .symlink("s", "f")
        .file("s", "instead of the symlink")
        .link("h", "f")
        .file(".wh.gone", "")
        .done();
    let mut padded = odd.clone();
    padded.extend([0; 4096]);
    let image = load(&store, &[layer("below"), padded]);
    let saved = dir.path().join("saved");
    store.save("test", &saved).unwrap();
    let other = tempfile::tempdir().unwrap();
    let other_store = common::store(other.path());
    let again = other_store.load(&saved).unwrap().remove(0);
    assert_eq!((again.id, &again.references), (image.id, &image.references));
    let index: Value =
        serde_json::from_slice(&fs::read(saved.join("index.json")).unwrap()).unwrap();
    assert_eq!(
        index["manifests"][0]["digest"],
        again.digest.unwrap().to_string()
    );
    store.save("test", &saved).unwrap_err();
    // A file that somebody changed in the store is noticed.
    fs::write(image.layers[0].join("f"), "y".repeat(300_000)).unwrap();
    let error = store.save("test", &dir.path().join("changed")).unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error:?}");
}

#[test]
fn an_image_without_layers_has_an_empty_one() {
    if !root("an_image_without_layers_has_an_empty_one") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let image = load(&store, &[]);
    assert_eq!(image.layers.len(), 1);
    assert_eq!(fs::read_dir(&image.layers[0]).unwrap().count(), 0);
}
