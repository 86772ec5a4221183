//! Mounts of a bundle, in real containers: options, propagation, binds, idmapped ones, `/dev`, cgroups, masks.

mod bundle;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use bundle::bundle;
use serde_json::{Value, json};

/// A mount of this test's on the host, taken away with it.
struct HostMount(PathBuf);

impl HostMount {
    fn tmpfs(path: &Path, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let flags = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .status();
        assert!(flags.unwrap().success(), "mount {options}");
        HostMount(path.to_owned())
    }

    /// Attributes of the mount alone, not of its file system.
    fn with(path: &Path, options: &str) -> Self {
        let mount = Self::tmpfs(path, "rw");
        let remount = Command::new("mount")
            .args(["--bind", "-o", &format!("remount,{options}")])
            .arg(path)
            .status();
        assert!(remount.unwrap().success(), "remount {options}");
        mount
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-R", "-l"])
            .arg(&self.0)
            .status();
    }
}

fn has(options: &[String], name: &str) -> bool {
    options.iter().any(|option| option == name)
}

#[test]
fn options_of_a_file_system_are_in_effect() {
    let Some(b) = bundle("mount options") else {
        return;
    };
    for (options, on, off) in [
        (
            json!(["ro", "nosuid", "nodev", "noexec"]),
            &["ro", "nosuid", "nodev", "noexec"][..],
            &["rw"][..],
        ),
        (
            json!(["ro", "rw", "nosuid", "suid"]),
            &["rw"],
            &["ro", "nosuid"],
        ),
        (json!(["noatime"]), &["noatime"], &["relatime"]),
        (json!(["strictatime"]), &["rw"], &["relatime", "noatime"]),
        (json!(["nodiratime"]), &["nodiratime", "relatime"], &[]),
        (
            json!(["relatime", "size=64k", "nr_inodes=17"]),
            &["relatime", "size=64k", "nr_inodes=17"],
            &[],
        ),
        (json!(["sync"]), &["sync"], &[]),
        (
            json!(["dirsync", "lazytime"]),
            &["dirsync", "lazytime"],
            &[],
        ),
        (json!(["nosymfollow"]), &["nosymfollow"], &[]),
        (json!(["rro", "rnosuid"]), &["ro", "nosuid"], &[]),
        (
            json!([
                "async",
                "nolazytime",
                "nomand",
                "noiversion",
                "loud",
                "silent",
                "defaults"
            ]),
            &["rw"],
            &["sync"],
        ),
    ] {
        b.unmount();
        b.mount(
            json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
        let found = b.options("/t");
        for name in on {
            assert!(has(&found, name), "{options}: no {name} in {found:?}");
        }
        for name in off {
            assert!(!has(&found, name), "{options}: {name} in {found:?}");
        }
    }
    b.unmount();
    b.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nothing-it-knows=1"]}));
    let error = b.refused();
    assert!(
        error.contains("the mount at /t") && error.contains("nothing-it-knows"),
        "{error}"
    );
}

#[test]
fn a_bind_has_the_flags_asked_for_as_mount_has_it() {
    let Some(b) = bundle("bind flags") else {
        return;
    };
    let source = b.path().join("volume");
    for (host, bind, on, off) in [
        (
            "ro,noexec,nosymfollow,nodiratime",
            json!(["bind"]),
            &["ro", "noexec", "nosymfollow", "nodiratime"][..],
            &["rw"][..],
        ),
        (
            "ro,noexec,nodiratime",
            json!(["bind", "dev"]),
            &["rw", "nodiratime"],
            &["ro", "noexec"],
        ),
        (
            "ro",
            json!(["bind", "nosuid", "nodev", "rprivate"]),
            &["rw", "nosuid", "nodev"],
            &["ro"],
        ),
        (
            "nosuid,nodev,noexec,noatime",
            json!(["bind", "dev", "suid", "exec", "atime"]),
            &["rw", "noatime"],
            &["nosuid", "nodev", "noexec"],
        ),
        (
            "rw,nodev,nosymfollow",
            json!(["bind", "ro", "symfollow"]),
            &["ro"],
            &["nodev", "nosymfollow"],
        ),
        (
            "noatime",
            json!(["bind", "relatime"]),
            &["relatime"],
            &["noatime"],
        ),
        (
            "noatime",
            json!(["bind", "nodiratime"]),
            &["nodiratime", "relatime"],
            &["noatime"],
        ),
        (
            "nodiratime",
            json!(["bind", "strictatime"]),
            &["rw"],
            &["noatime", "relatime", "nodiratime"],
        ),
    ] {
        let _mount = HostMount::with(&source, host);
        b.unmount();
        b.mount(json!({"destination": "/t", "type": "bind", "source": "volume", "options": bind}));
        let found = b.options("/t");
        for name in on {
            assert!(has(&found, name), "{host} + {bind}: no {name} in {found:?}");
        }
        for name in off {
            assert!(!has(&found, name), "{host} + {bind}: {name} in {found:?}");
        }
    }
}

#[test]
fn recursive_options_reach_the_mounts_below() {
    let Some(b) = bundle("recursive options") else {
        return;
    };
    let source = b.path().join("volume");
    let _outer = HostMount::tmpfs(&source, "rw,noatime");
    let _inner = HostMount::tmpfs(&source.join("sub"), "rw,nosuid");
    for (bind, top, below) in [
        (json!(["rbind", "ro"]), "ro", "rw"),
        (json!(["rbind", "rro"]), "ro", "ro"),
        (json!(["rbind", "ro", "rro"]), "ro", "ro"),
        (json!(["rbind", "rnoatime"]), "noatime", "noatime"),
        (json!(["rbind", "rrelatime"]), "relatime", "relatime"),
        (json!(["rbind", "rnodev", "rnoexec"]), "nodev", "noexec"),
    ] {
        b.unmount();
        b.mount(json!({"destination": "/t", "source": "volume", "options": bind}));
        assert!(has(&b.options("/t"), top), "{bind}: {:?}", b.options("/t"));
        assert!(
            has(&b.options("/t/sub"), below),
            "{bind}: {:?}",
            b.options("/t/sub")
        );
    }
    b.unmount();
    b.mount(json!({"destination": "/t", "source": "volume", "options": ["rbind", "rsuid", "rrw"]}));
    assert!(!has(&b.options("/t/sub"), "nosuid"));
    b.unmount();
    b.mount(json!({"destination": "/t", "source": "volume", "options": ["bind"]}));
    assert_eq!(
        b.output("ls -A /t/sub; grep -c ' /t' /proc/self/mounts"),
        "1\n",
        "not recursive"
    );
}

#[test]
fn targets_are_made_and_symlinks_lead_inside() {
    let Some(b) = bundle("mount targets") else {
        return;
    };
    fs::write(b.path().join("one"), "one\n").unwrap();
    fs::create_dir(b.path().join("folder")).unwrap();
    fs::write(b.path().join("folder/two"), "two\n").unwrap();
    fs::create_dir(b.root().join("etc")).unwrap();
    symlink("/tmp/foo/bar", b.root().join("jump")).unwrap();
    symlink("/jump/baz/hosts", b.root().join("etc/hosts")).unwrap();
    symlink("/../../../out", b.root().join("up")).unwrap();
    symlink("/real/conf", b.root().join("conf")).unwrap();
    b.mount(json!({"destination": "/etc/hosts", "source": "one", "options": ["bind"]}));
    b.mount(json!({"destination": "new/deep/file", "source": "one", "options": ["bind"]}));
    b.mount(json!({"destination": "/up/folder", "source": "folder", "options": ["bind", "ro"]}));
    b.mount(json!({"destination": "/conf/stack", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}));
    let script = "cat /tmp/foo/bar/baz/hosts /new/deep/file /out/folder/two; stat -c %F /real/conf/stack; touch /out/folder/x 2>&1 | grep -c Read-only";
    assert_eq!(b.output(script), "one\none\ntwo\ndirectory\n1\n");
    assert!(b.root().join("out/folder").is_dir() && !Path::new("/out").exists());
    b.mount(json!({"destination": "/x", "source": "not-there", "options": ["bind"]}));
    let error = b.refused();
    assert!(
        error.contains("the mount at /x") && error.contains("not-there"),
        "{error}"
    );
}

#[test]
fn sources_below_the_root_are_what_mounts_before_have_made() {
    let Some(b) = bundle("mount order") else {
        return;
    };
    for (folder, sub) in [("a", "x"), ("b", "y"), ("c", "z")] {
        fs::create_dir_all(b.path().join(format!("src/{folder}/{sub}"))).unwrap();
        fs::write(
            b.path().join(format!("src/{folder}/{sub}/file")),
            format!("{folder}/{sub}\n"),
        )
        .unwrap();
        symlink(folder, b.path().join(format!("src/sym-{folder}"))).unwrap();
    }
    let bind = |source: String, destination: String| {
        b.mount(json!({"source": source, "destination": destination, "type": "bind", "options": ["rbind", "rprivate"]}));
    };
    let (src, root) = (
        b.path().join("src").display().to_string(),
        b.root().display().to_string(),
    );
    bind(format!("{src}/a"), "/mnt".into());
    bind(format!("{src}/sym-b"), "/mnt/x".into());
    bind(format!("{src}/c"), "/mnt/x/y".into());
    bind(format!("{src}/sym-a"), "/mnt/x/y/z".into());
    bind(format!("{root}/mnt/x"), format!("{root}/mnt/x/y/z/x"));
    bind(format!("{root}/mnt/x/y"), format!("{root}/mnt/x/y/z"));
    bind(format!("{root}/mnt"), format!("{root}/final"));
    assert_eq!(b.output("cat /final/x/y/z/z/x/y/z/x/file"), "a/x\n");
}

#[test]
fn a_tmpfs_takes_mode_and_content_of_what_it_covers() {
    let Some(b) = bundle("tmpfs") else { return };
    let tmpfs = |destination: &str, options: Value| {
        b.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}));
    };
    let dir = b.root().join("t1");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o710)).unwrap();
    let full = b.root().join("t2");
    fs::create_dir_all(full.join("in/deep")).unwrap();
    fs::write(full.join("in/file"), "content\n").unwrap();
    fs::set_permissions(full.join("in"), fs::Permissions::from_mode(0o2777)).unwrap();
    symlink("/etc/shadow", full.join("link")).unwrap();
    std::os::unix::fs::chown(full.join("in/file"), Some(5), Some(6)).unwrap();
    tmpfs("/t1", json!([]));
    tmpfs("/t2", json!(["tmpcopyup", "ro"]));
    tmpfs("/t3/new", json!([]));
    tmpfs("/t4", json!(["mode=1500"]));
    let script = "stat -c %a /t1 /t3/new /t4 /t2/in; cat /t2/in/file; stat -c %u:%g /t2/in/file; readlink /t2/link; ls -d /t2/in/deep; touch /t2/x 2>&1 | grep -c Read-only";
    assert_eq!(
        b.output(script),
        "710\n1777\n1500\n2777\ncontent\n5:6\n/etc/shadow\n/t2/in/deep\n1\n"
    );
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o710);
}

#[test]
fn propagation_is_what_the_mount_says() {
    let Some(b) = bundle("propagation") else {
        return;
    };
    let volume = b.path().join("volume");
    let _host = HostMount::tmpfs(&volume, "rw");
    assert!(
        Command::new("mount")
            .arg("--make-shared")
            .arg(&volume)
            .status()
            .unwrap()
            .success()
    );
    let of = |option: &str| {
        b.unmount();
        b.mount(json!({"destination": "/t", "source": "volume", "options": ["rbind", option]}));
        let text = b.output("grep ' /t ' /proc/self/mountinfo");
        let tags: Vec<&str> = text
            .split(" - ")
            .next()
            .unwrap()
            .split(' ')
            .skip(6)
            .collect();
        tags.join(" ")
    };
    assert_eq!(of("rprivate"), "");
    assert!(of("rshared").starts_with("shared:"));
    assert!(of("rslave").starts_with("master:"));
    assert!(of("shared").starts_with("shared:"));
    assert!(of("unbindable").starts_with("unbindable"));
    let root = |value: &str| {
        b.unmount();
        b.change(|c| c["linux"]["rootfsPropagation"] = json!(value));
        let text =
            b.output("grep ' / / ' /proc/self/mountinfo || awk '$5 == \"/\"' /proc/self/mountinfo");
        text.lines()
            .last()
            .unwrap()
            .split(" - ")
            .next()
            .unwrap()
            .split(' ')
            .skip(6)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(root("private"), "");
    assert!(root("shared").starts_with("shared:"));
    assert!(root("rshared").starts_with("shared:"));
    assert!(root("unbindable").starts_with("unbindable"));
    b.change(|c| c["linux"]["rootfsPropagation"] = json!("sideways"));
    assert!(
        b.refused()
            .contains("rootfsPropagation=sideways is not supported")
    );
    // A root on a mount of the host's that is shared receives what is mounted there.
    let place = b.path().join("place");
    let _shared = HostMount::tmpfs(&place, "rw");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(b.root())
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        Command::new("mount")
            .arg("--make-shared")
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    b.change(|c| {
        c["linux"]["rootfsPropagation"] = json!("rslave");
        c["root"]["path"] = json!("place/rootfs");
    });
    let late = place.join("rootfs/late");
    fs::create_dir(&late).unwrap();
    b.script("while ! test -e /late/file; do sleep 0.02; done; cat /late/file");
    b.succeeds(&["run", "--detach", &b.id]);
    let _late = HostMount::tmpfs(&late, "rw");
    fs::write(late.join("file"), "late\n").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !b.succeeds(&["state", &b.id]).contains("stopped") {
        assert!(
            std::time::Instant::now() < deadline,
            "the mount doesn't show inside"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn ids_of_files_are_mapped() {
    let Some(b) = bundle("idmapped mounts") else {
        return;
    };
    // The folder of a test may lie on a file system that maps no ids; a tmpfs does from 6.3 on.
    let volume = b.path().join("volume");
    let _host = HostMount::tmpfs(&volume, "rw");
    fs::write(volume.join("file"), "x").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(5), Some(6)).unwrap();
    let _below = HostMount::tmpfs(&volume.join("sub"), "rw");
    fs::write(volume.join("sub/file"), "x").unwrap();
    let ids = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 100}]);
    let check = |option: &str, bind: &str| {
        b.unmount();
        b.mount(json!({"destination": "/t", "source": "volume", "options": [bind, option], "uidMappings": ids(1000), "gidMappings": ids(2000)}));
        b.script("stat -c %u:%g /t/file /t/sub/file");
        b.run()
    };
    let ran = check("idmap", "rbind");
    if ran.err.contains("map a mount's ids") && kernelet_sys::feature::kernel_version() < (6, 3) {
        println!("SKIP idmapped mounts: tmpfs can't map ids before 6.3");
        return;
    }
    assert_eq!(ran.out, "1005:2006\n0:0\n", "{ran:?}");
    assert_eq!(check("ridmap", "rbind").out, "1005:2006\n1000:2000\n");
    b.unmount();
    b.mount(json!({"destination": "/t", "source": "volume", "options": ["bind", "idmap"]}));
    assert!(b.refused().contains("must have both uid and gid mappings"));
}

#[test]
fn symlinks_as_sources_are_followed_mounted_or_copied() {
    let Some(b) = bundle("symlink sources") else {
        return;
    };
    fs::write(b.path().join("target"), "target\n").unwrap();
    symlink("target", b.path().join("link")).unwrap();
    let of = |options: Value, script: &str| {
        b.unmount();
        b.mount(json!({"destination": "/t/at", "source": "link", "options": options}));
        b.output(script)
    };
    assert_eq!(of(json!(["bind"]), "cat /t/at"), "target\n");
    fs::remove_dir_all(b.root().join("t")).unwrap();
    assert_eq!(
        of(json!(["bind", "copy-symlink"]), "readlink /t/at"),
        "target\n"
    );
    fs::remove_dir_all(b.root().join("t")).unwrap();
    assert_eq!(
        of(json!(["bind", "src-nofollow"]), "readlink /t/at"),
        "target\n"
    );
    assert!(b.root().join("t/at").is_file(), "it is mounted over a file");
}

#[test]
fn a_mount_is_changed_by_remount() {
    let Some(b) = bundle("remount") else { return };
    b.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["rw", "nosuid"]}));
    b.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "noexec", "size=128k"]}));
    let found = b.options("/t");
    assert!(
        has(&found, "ro") && has(&found, "noexec") && has(&found, "size=128k"),
        "{found:?}"
    );
    assert!(!has(&found, "nosuid"), "{found:?}");
}

#[test]
fn dev_is_filled_unless_it_is_the_hosts() {
    let Some(b) = bundle("/dev") else { return };
    b.change(|c| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7, "gid": 8},
            {"path": "/dev/sub/kmsg", "type": "u", "major": 1, "minor": 11, "fileMode": 0o640},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
            {"path": "/other/disk", "type": "b", "major": 7, "minor": 0},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
        ]);
    });
    let script = "stat -c '%a %u:%g %F %t:%T' /dev/null /dev/sub/kmsg /dev/pipe /other/disk /dev/full; for l in ptmx fd stdin; do readlink /dev/$l; done";
    let expect = "600 7:8 character special file 1:3\n640 0:0 character special file 1:b\n622 0:0 fifo 0:0\n666 0:0 block special file 7:0\n666 0:0 character special file 1:7\npts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n";
    assert_eq!(b.output(script), expect);
    let dev = |options: Value| {
        b.change(|c| {
            for mount in c["mounts"].as_array_mut().unwrap() {
                if mount["destination"] == "/dev" {
                    mount["options"] = options.clone();
                }
            }
        });
    };
    dev(json!(["nosuid", "mode=700", "size=1m"]));
    assert_eq!(
        b.output(script),
        expect,
        "a tmpfs of another kind is filled as well"
    );
    assert!(has(&b.options("/dev"), "size=1024k"));
    for options in [
        json!(["nosuid", "mode=755", "size=65536k", "ro"]),
        json!(["mode=700", "ro"]),
    ] {
        dev(options);
        assert!(has(&b.options("/dev"), "ro"));
        assert_eq!(b.output(script), expect);
    }
    // The host's own is left as it is: nothing is made in it.
    let mine = b.path().join("mine");
    fs::create_dir(&mine).unwrap();
    b.change(|c| {
        c["mounts"] = json!([{"destination": "/dev", "source": "mine", "options": ["rbind"]}, {"destination": "/proc", "type": "proc", "source": "proc"}]);
        c["linux"]["maskedPaths"] = json!([]);
        c["linux"]["readonlyPaths"] = json!([]);
    });
    assert_eq!(b.output("ls -A /dev; test -b /other/disk"), "");
    assert_eq!(fs::read_dir(mine).unwrap().count(), 0);
}

#[test]
fn a_redundant_default_device_is_allowed_and_a_wrong_one_is_not() {
    let Some(b) = bundle("redundant devices") else {
        return;
    };
    b.change(|c| {
        c["linux"]["devices"] = json!([{"path": "/dev/tty", "type": "c", "major": 5, "minor": 0}])
    });
    assert_eq!(b.output("stat -c %a:%t:%T /dev/tty"), "666:5:0\n");
    b.change(|c| {
        c["linux"]["devices"] = json!([{"path": "/dev/tty", "type": "c", "major": 1, "minor": 1}])
    });
    assert!(b.refused().contains("something else is there"));
}

#[test]
fn masked_and_read_only_paths_are() {
    let Some(b) = bundle("masks") else { return };
    for name in ["dir1", "dir2", "open"] {
        fs::create_dir(b.root().join(name)).unwrap();
        fs::write(b.root().join(name).join("secret"), "secret\n").unwrap();
    }
    fs::write(b.root().join("file"), "secret\n").unwrap();
    b.change(|c| {
        c["linux"]["maskedPaths"] =
            json!(["/dir1", "/dir2", "/file", "/file", "/dir1", "/not-there"]);
        c["linux"]["readonlyPaths"] = json!(["/open", "/proc/sys", "/not-there"]);
    });
    let script = "cat /file; ls -A /dir1 /dir2; test $(stat -c %d /dir1) = $(stat -c %d /dir2) && echo shared; grep -c ' /file ' /proc/self/mounts; grep -c ' /dir1 ' /proc/self/mounts; touch /dir1/x 2>&1 | grep -c Read-only; cat /open/secret; touch /open/x 2>&1 | grep -c Read-only; echo 1 2>&1 > /proc/sys/kernel/panic | grep -c Read-only";
    assert_eq!(
        b.output(script),
        "/dir1:\n\n/dir2:\nshared\n1\n1\n1\nsecret\n1\n1\n"
    );
}

#[test]
fn proc_and_sys_at_a_symlink_are_refused() {
    let Some(b) = bundle("/proc is a symlink") else {
        return;
    };
    fs::create_dir(b.root().join("bad")).unwrap();
    symlink("/bad", b.root().join("proc")).unwrap();
    let error = b.refused();
    assert!(
        error.contains("must be mounted on ordinary directory"),
        "{error}"
    );
}

#[test]
fn cgroups_are_mounted_read_only_and_show_the_containers_own() {
    let Some(b) = bundle("cgroup mounts") else {
        return;
    };
    for own in [true, false] {
        if !own {
            b.change(|c| {
                let list = c["linux"]["namespaces"].as_array_mut().unwrap();
                list.retain(|namespace| namespace["type"] != "cgroup");
            });
        }
        let text = b.output("grep ' /sys/fs/cgroup' /proc/self/mounts");
        assert!(!text.is_empty());
        for line in text.lines() {
            assert!(line.split(' ').nth(3).unwrap().starts_with("ro,"), "{line}");
        }
        let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
        if layout.v1_of("cpuacct").is_none() {
            let found = b.output("test -e /sys/fs/cgroup/cgroup.procs && echo v2");
            assert_eq!(found, "v2\n");
            continue;
        }
        // Whatever the namespace: the group that is shown has this process in it, and is not the root.
        let script = "cat /sys/fs/cgroup/memory/tasks | grep -c '^[1-9]'; test -e /sys/fs/cgroup/memory/release_agent && echo escape; true";
        let expect = b.output(script);
        assert!(
            expect.trim().parse::<u32>().is_ok_and(|n| n < 10),
            "{own}: {expect}"
        );
    }
}
