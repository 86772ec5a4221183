//! The kernel's settings: sysctls, cgroups, what is masked and what is read-only.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::json;

use crate::harness::{Outcome, prove};

/// CVE-2025-52881: what the runtime writes to `/proc` goes where a symlink or a mount in the container's `/proc` leads.
#[test]
fn a_setting_written_elsewhere() {
    prove("redirected", &["plan", "private-proc"], |runtime| {
        let b = runtime.bundle("true");
        let target = b.outside().join("domainname");
        fs::write(&target, "").unwrap();
        let fake = b.path().join("fake/sys");
        fs::create_dir_all(&fake).unwrap();
        symlink(b.outside(), fake.join("kernel")).unwrap();
        b.mount(
            json!({"destination": "/proc", "source": b.path().join("fake"), "options": ["bind"]}),
        );
        b.change(|c| c["linux"]["sysctl"] = json!({"kernel.domainname": "REDIRECTED"}));
        b.run();
        let text = fs::read_to_string(target).unwrap();
        Outcome::judge(
            text.contains("REDIRECTED"),
            format!("on the host: {text:?}"),
        )
    });
}

/// CVE-2022-0811: a sysctl of the whole host's, by its own name or smuggled in by another's.
#[test]
fn a_setting_of_the_hosts() {
    const FILE: &str = "/proc/sys/fs/lease-break-time";
    for (key, value) in [
        ("fs.lease-break-time", "44"),
        ("fs/lease-break-time", "44"),
        ("net/../fs/lease-break-time", "44"),
    ] {
        prove(key, &["plan"], |runtime| {
            let b = runtime.bundle("true");
            b.change(|c| c["linux"]["sysctl"] = json!({key: value}));
            let before = fs::read_to_string(FILE).unwrap();
            assert_ne!(before.trim(), value);
            b.run();
            let after = fs::read_to_string(FILE).unwrap();
            fs::write(FILE, &before).unwrap();
            Outcome::judge(after != before, format!("{FILE}: {after}"))
        });
    }
}

/// CVE-2022-0492: cgroup v1's `release_agent`, a program that the host's root runs, within reach of who may mount.
#[test]
fn a_release_agent() {
    let v1 = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .any(|line| line.contains(" - cgroup ") && line.contains("memory"));
    if !v1 {
        return println!("SKIP release_agent: this host has no cgroup v1");
    }
    prove("release_agent", &["cgroup-namespace"], |runtime| {
        // Opened for writing, but not written to.
        let script = "mkdir /tmp/cg; mount -t cgroup -o memory x /tmp/cg && echo mounted; \
            f=/tmp/cg/release_agent; [ -e $f ] && (: >>$f) && echo OPENED";
        let b = runtime.bundle(script);
        b.change(|c| {
            for set in ["bounding", "effective", "permitted"] {
                let set = c["process"]["capabilities"][set].as_array_mut().unwrap();
                set.push(json!("CAP_SYS_ADMIN"));
            }
        });
        let ended = b.run();
        assert!(ended.stdout.contains("mounted"), "{}", ended.text());
        ended.says("OPENED")
    });
}

/// CVE-2023-25809: the host's cgroups writable in a container that shares its cgroup namespace.
#[test]
fn cgroups_that_are_writable() {
    prove("cgroups", &["read-only"], |runtime| {
        let b = runtime.bundle("");
        let script = format!(
            "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -e $d/cgroup.procs ] && mkdir $d/{0} && rmdir $d/{0} && echo MADE $d; done",
            b.id
        );
        b.change(|c| {
            c["process"]["args"][2] = json!(script);
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|n| n["type"] != "cgroup");
        });
        b.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"]}),
        );
        b.run().says("MADE")
    });
}

/// The host's settings, write-protected: opened, not written to.
#[test]
fn settings_that_are_writable() {
    prove("settings", &["read-only"], |runtime| {
        runtime
            .bundle("(: >>/proc/sys/kernel/core_pattern) && echo OPENED")
            .run()
            .says("OPENED")
    });
}

/// A read-only root and a read-only volume stay so.
#[test]
fn files_that_are_read_only() {
    prove("root", &["read-only"], |runtime| {
        let b = runtime.bundle("touch /made && echo MADE");
        b.change(|c| c["root"]["readonly"] = json!(true));
        b.run().says("MADE")
    });
    prove("volume", &["read-only"], |runtime| {
        let b = runtime.bundle("touch /volume/made && echo MADE");
        let outside = b.outside();
        b.mount(json!({"destination": "/volume", "source": outside, "options": ["bind", "ro"]}));
        b.run().says("MADE")
    });
}

/// What is masked can't be read, by its own name or by a symlink that is masked.
#[test]
fn what_is_masked() {
    prove("masked", &["masks"], |runtime| {
        let b = runtime.bundle("cat /secret /folder/secret");
        fs::write(b.rootfs().join("secret"), "SECRET").unwrap();
        fs::create_dir(b.rootfs().join("folder")).unwrap();
        fs::write(b.rootfs().join("folder/secret"), "SECRET").unwrap();
        symlink("/secret", b.rootfs().join("alias")).unwrap();
        b.change(|c| c["linux"]["maskedPaths"] = json!(["/alias", "/folder", "/not-there"]));
        b.run().says("SECRET")
    });
    if Path::new("/proc/kcore").exists() {
        prove("kcore", &["masks"], |runtime| {
            runtime
                .bundle("[ -s /proc/kcore ] && echo MEMORY")
                .run()
                .says("MEMORY")
        });
    }
}
