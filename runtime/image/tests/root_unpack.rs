//! What unpacking makes of layers, honest and hostile.

mod common;

use std::{
    fs,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use common::{Layer, archive, assert_empty, load, root, store};
use kernelet_image::ImageError;
use tar::EntryType;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    use std::os::fd::AsFd as _;
    kernelet_sys::xattr::get(fs::File::open(path).unwrap().as_fd(), name).unwrap()
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

#[test]
fn files_keep_their_owner_mode_time_and_capabilities() {
    if !root("files_keep_their_owner_mode_time_and_capabilities") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .dir("./", 0o711)
        .dir("bin/", 0o755)
        .entry("bin/su", EntryType::Regular, 0o4755, (0, 0), "", b"su")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"hi"),
        ])
        .entry(
            "bin/ping",
            EntryType::Regular,
            0o755,
            (1000, 1001),
            "",
            b"ping",
        )
        .symlink("bin/sh", "/bin/su")
        .link("bin/su2", "bin/su")
        .entry("dev/null", EntryType::Char, 0o666, (0, 0), "", b"")
        .entry("run/pipe", EntryType::Fifo, 0o600, (5, 6), "", b"")
        .done();
    let image = load(&store(dir.path()), &[layer]);
    let fs_root = &image.layers[0];
    assert_eq!(mode(fs_root), 0o711);
    assert_eq!(mode(&fs_root.join("bin/su")), 0o4755);
    let ping = fs::metadata(fs_root.join("bin/ping")).unwrap();
    assert_eq!(
        (ping.uid(), ping.gid(), ping.mtime()),
        (1000, 1001, 1_700_000_000)
    );
    assert_eq!(
        xattr(&fs_root.join("bin/ping"), "security.capability").unwrap(),
        capability
    );
    assert_eq!(
        fs::read_link(fs_root.join("bin/sh")).unwrap(),
        Path::new("/bin/su")
    );
    assert_eq!(fs::metadata(fs_root.join("bin/su2")).unwrap().nlink(), 2);
    assert_eq!(
        fs::metadata(fs_root.join("bin")).unwrap().mtime(),
        1_700_000_000
    );
    let null = fs::metadata(fs_root.join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == nix::sys::stat::makedev(1, 3));
    let pipe = fs::metadata(fs_root.join("run/pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.uid() == 5);
    // Setuid programs are out of reach for everybody else on the machine.
    assert_eq!(mode(&dir.path().join("images")), 0o700);
    assert_eq!(image.size, 6);
}

#[test]
fn whiteouts_and_opaque_folders_take_overlays_form() {
    if !root("whiteouts_and_opaque_folders_take_overlays_form") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lower = Layer::new()
        .file("a", "a")
        .file("d/one", "1")
        .file("e/two", "2")
        .file("f/old", "old")
        .file("g/old", "old")
        .done();
    let upper = Layer::new()
        .file(".wh.a", "")
        .dir("d/", 0o755)
        .file("d/.wh..wh..opq", "")
        .file("d/new", "new")
        .file("e/.wh.two", "")
        // Deleted and made anew, the whiteout first and last.
        .file(".wh.f", "")
        .file("f/new", "new")
        .dir("g", 0o755)
        .file("g/new", "new")
        .file(".wh.g", "")
        .file(".wh..wh.plnk", "")
        .done();
    let image = load(&store(dir.path()), &[lower, upper]);
    // The topmost comes first.
    let (upper, lower) = (&image.layers[0], &image.layers[1]);
    assert!(lower.join("a").is_file());
    assert!(is_whiteout(&upper.join("a")));
    assert!(is_opaque(&upper.join("d")) && upper.join("d/new").is_file());
    assert!(is_whiteout(&upper.join("e/two")) && !is_opaque(&upper.join("e")));
    for remade in ["f", "g"] {
        assert!(is_opaque(&upper.join(remade)), "{remade}");
        assert!(upper.join(remade).join("new").is_file());
    }
    let names: Vec<_> = fs::read_dir(upper)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().starts_with(".wh.")),
        "{names:?}"
    );
    // And the kernel agrees.
    let script = format!(
        "set -e; mkdir -p {t}/m; mount -t tmpfs t {t}/m; mkdir {t}/m/u {t}/m/w {t}/m/r; \
         mount -t overlay o -o lowerdir={upper}:{lower},upperdir={t}/m/u,workdir={t}/m/w {t}/m/r; \
         cd {t}/m/r; find . -type f | sort",
        t = dir.path().display(),
        upper = upper.display(),
        lower = lower.display()
    );
    let out = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(
        String::from_utf8(out.stdout).unwrap(),
        "./d/new\n./f/new\n./g/new\n"
    );
}

#[test]
fn folders_that_no_entry_names_look_like_those_below() {
    if !root("folders_that_no_entry_names_look_like_those_below") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lower = Layer::new()
        .entry("tmp", EntryType::Directory, 0o1777, (7, 8), "", b"")
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr")
        .file("usr/lib/libc", "libc")
        .done();
    let upper = Layer::new()
        .file("tmp/x", "x")
        .file("lib/mod", "m")
        .file("abs/y", "y")
        .link("libc-link", "usr/lib/libc")
        .done();
    let image = load(&store(dir.path()), &[lower, upper]);
    let upper = &image.layers[0];
    let tmp = fs::metadata(upper.join("tmp")).unwrap();
    assert_eq!(
        (mode(&upper.join("tmp")), tmp.uid(), tmp.gid()),
        (0o1777, 7, 8)
    );
    // Through the symlinks below, which stay symlinks.
    assert!(upper.join("usr/lib/mod").is_file() && upper.join("usr/y").is_file());
    assert!(!upper.join("lib").exists() && !upper.join("abs").exists());
    // A hard link across layers is a copy.
    assert_eq!(fs::read_to_string(upper.join("libc-link")).unwrap(), "libc");
}

#[test]
fn later_entries_replace_earlier_ones() {
    if !root("later_entries_replace_earlier_ones") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .file("a", "1")
        .file("a", "2")
        .file("d/x", "x")
        .file("d", "now a file")
        .file("s", "s")
        .dir("s", 0o700)
        .file("s/y", "y")
        .done();
    let image = load(&store(dir.path()), &[layer]);
    let at = &image.layers[0];
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "2");
    assert_eq!(fs::read_to_string(at.join("d")).unwrap(), "now a file");
    assert_eq!(fs::read_to_string(at.join("s/y")).unwrap(), "y");
}

#[test]
fn no_entry_reaches_outside_of_its_layer() {
    if !root("no_entry_reaches_outside_of_its_layer") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let out = dir.path().to_str().unwrap().to_owned();
    let refused = [
        ("..", Layer::new().file("../../../../../../../evil", "x")),
        (
            "inner ..",
            Layer::new().dir("a", 0o755).file("a/../../evil", "x"),
        ),
        (
            "link to ..",
            Layer::new().link("l", "../../../../../../etc/passwd"),
        ),
        ("link to nothing", Layer::new().link("l", "etc/none")),
        (
            "absolute link",
            Layer::new().link("l", &format!("{out}/secret")),
        ),
        (
            "link to a folder",
            Layer::new().dir("d", 0o755).link("l", "d"),
        ),
        (
            "file as a folder",
            Layer::new().file("f", "").file("f/x", ""),
        ),
        (
            "symlink loop",
            Layer::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", ""),
        ),
        ("whiteout of ..", Layer::new().file("a/.wh...", "")),
        ("whiteout of nothing", Layer::new().file("a/.wh.", "")),
        (
            "user id",
            Layer::new().pax(&[("uid", b"4294967296")]).file("f", ""),
        ),
        (
            "user id -1",
            Layer::new().pax(&[("uid", b"4294967295")]).file("f", ""),
        ),
        (
            "group id",
            Layer::new().pax(&[("gid", b"junk")]).file("f", ""),
        ),
        ("root as a file", Layer::new().file("./", "x")),
    ];
    for (what, layer) in refused {
        match store.load_from(archive(&[layer.done()]).as_slice()) {
            Err(ImageError::Entry { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
        assert_empty(&store, dir.path());
    }
    // These stay inside: what they name is the container's own.
    let inside = Layer::new()
        .symlink("up", "../../../../../../../../..")
        .file("up/from-up", "x")
        .symlink("abs", &out)
        .file("abs/from-abs", "x")
        .symlink("passwd", &format!("{out}/secret"))
        .file("passwd", "mine")
        .symlink("fd", "/proc/self/fd/3")
        .file("fd/from-fd", "x")
        .file("/absolute", "x")
        .done();
    let image = load(&store, &[inside]);
    let at = &image.layers[0];
    assert!(at.join("from-up").is_file() && at.join("absolute").is_file());
    assert!(at.join(&out[1..]).join("from-abs").is_file());
    assert!(at.join("proc/self/fd/3/from-fd").is_file());
    assert_eq!(fs::read_to_string(at.join("passwd")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["images", "secret"]);
}

#[test]
fn overlays_own_attributes_in_an_archive_are_dropped() {
    if !root("overlays_own_attributes_in_an_archive_are_dropped") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"system_u"),
        ])
        .dir("d", 0o755)
        .done();
    let image = load(&store(dir.path()), &[layer]);
    let folder = image.layers[0].join("d");
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "security.selinux",
    ] {
        assert_eq!(xattr(&folder, name), None, "{name}");
    }
}

#[test]
fn a_huge_sparse_file_stays_sparse_and_is_saved_as_it_came() {
    if !root("a_huge_sparse_file_stays_sparse_and_is_saved_as_it_came") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let size = 200 << 20;
    let layer = Layer::new()
        .sparse("huge", size, &[b'x'; 512])
        .file("after", "a")
        .done();
    let image = load(&store, &[layer]);
    let file = fs::File::open(image.layers[0].join("huge")).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), size);
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
    let mut end = [0; 600];
    file.read_exact_at(&mut end, size - 600).unwrap();
    assert_eq!(
        (end[..88].iter().max(), end[88..].iter().min()),
        (Some(&0), Some(&b'x'))
    );
    assert_eq!(
        fs::read_to_string(image.layers[0].join("after")).unwrap(),
        "a"
    );
    // The digest of what is written is verified there.
    store.save("test", &dir.path().join("saved")).unwrap();
}
