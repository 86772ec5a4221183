//! Paths of the image that lead somewhere else.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;

use crate::harness::{Outcome, prove};

/// A mount's target behind a symlink of the image, absolute or with `..`: folders are made on the host
/// (CVE-2024-45310), and mounted over.
#[test]
fn a_mounts_target_behind_a_symlink() {
    for (name, up) in [("absolute", ""), ("relative", "../../../../../../../../..")] {
        prove(name, &["in-root"], |runtime| {
            let b = runtime.bundle("true");
            let outside = b.outside();
            fs::create_dir(b.path().join("volume")).unwrap();
            symlink(
                format!("{up}{}", outside.display()),
                b.rootfs().join("link"),
            )
            .unwrap();
            b.mount(json!({"destination": "/link/made", "source": b.path().join("volume"), "options": ["bind"]}));
            b.run_outside()
        });
    }
}

/// A file's target with `..`, as an image's `VOLUME` may have it.
#[test]
fn a_target_with_dots() {
    prove("dots", &["plan", "in-root"], |runtime| {
        let b = runtime.bundle("true");
        fs::write(b.path().join("file"), "content").unwrap();
        let target = format!("/../../../../../../../../..{}/made", b.outside().display());
        b.mount(
            json!({"destination": target, "source": b.path().join("file"), "options": ["bind"]}),
        );
        b.run_outside()
    });
}

/// CVE-2021-30465: a volume shared with a container that swaps a mount's target for a symlink while the mount is made.
#[test]
fn a_target_swapped_for_a_symlink_while_it_is_mounted() {
    prove("swapped", &["in-root"], |runtime| {
        let attacker = runtime.bundle("");
        let shared = attacker.path().join("shared");
        fs::create_dir(&shared).unwrap();
        let mount = json!({"destination": "/shared", "source": shared, "options": ["bind"]});
        attacker.mount(mount.clone());
        let outside = attacker.outside();
        let script = format!(
            "cd /shared; while :; do mkdir t; rm -rf t; ln -s /../../../../../..{} t; rm -f t; done 2>/dev/null",
            outside.display()
        );
        attacker.change(|c| c["process"]["args"][2] = json!(script));
        attacker.start();
        for _ in 0..60 {
            let victim = runtime.bundle("true");
            victim.mount(mount.clone());
            victim.mount(
                json!({"destination": "/shared/t/made", "type": "tmpfs", "source": "tmpfs", "options": []}),
            );
            victim.run();
            if let Outcome::Escaped(what) = attacker.made_outside() {
                return Outcome::Escaped(what);
            }
        }
        attacker.made_outside()
    });
}

/// CVE-2019-19921, CVE-2019-16884, CVE-2023-27561, CVE-2023-28642: `/proc` or `/sys` is a symlink, so that the kernel's
/// file system is not where masks, labels and checks look for it.
#[test]
fn proc_or_sys_as_a_symlink() {
    for (name, inside) in [("proc", "self"), ("sys", "kernel")] {
        prove(name, &["symlinks"], |runtime| {
            let b = runtime.bundle(&format!("[ -e /elsewhere/{inside} ] && echo MOVED"));
            fs::remove_dir(b.rootfs().join(name)).unwrap();
            fs::create_dir(b.rootfs().join("elsewhere")).unwrap();
            symlink("elsewhere", b.rootfs().join(name)).unwrap();
            b.run().says("MOVED")
        });
    }
}

/// CVE-2019-16884: a volume over `/proc`, whose files then stand for the kernel's.
#[test]
fn a_volume_over_proc() {
    for target in ["/proc", "/proc/self", "/proc/sys/kernel"] {
        prove(target, &["plan"], |runtime| {
            let b = runtime.bundle(&format!("[ -e {target}/false ] && echo FALSE"));
            let volume = b.path().join("volume");
            fs::create_dir(&volume).unwrap();
            fs::write(volume.join("false"), "").unwrap();
            b.mount(json!({"destination": target, "source": volume, "options": ["bind"]}));
            b.run().says("FALSE")
        });
    }
}

/// Device nodes made through a `/dev` that leads to the host.
#[test]
fn device_nodes_through_a_symlinked_dev() {
    prove("dev", &["in-root"], |runtime| {
        let b = runtime.bundle("true");
        b.unmount("/dev");
        fs::remove_dir(b.rootfs().join("dev")).unwrap();
        symlink(b.outside(), b.rootfs().join("dev")).unwrap();
        b.run_outside()
    });
}

/// CVE-2025-31133: `/dev/null`, which masks are made of, is a symlink to what the attacker wants to have there.
#[test]
fn a_mask_made_of_something_else() {
    prove("null", &["device-node", "symlinks"], |runtime| {
        let b = runtime.bundle("cat /masked");
        b.unmount("/dev");
        fs::write(b.rootfs().join("masked"), "what is masked").unwrap();
        fs::write(b.rootfs().join("etc/chosen"), "CHOSEN").unwrap();
        symlink("../etc/chosen", b.rootfs().join("dev/null")).unwrap();
        b.change(|c| c["linux"]["maskedPaths"] = json!(["/masked"]));
        b.run().says("CHOSEN")
    });
}

/// CVE-2025-52565: `/dev/console` is a symlink, and the terminal is mounted over what it points to, before that is
/// masked or write-protected.
#[test]
fn a_console_that_is_a_symlink() {
    prove("console", &["symlinks"], |runtime| {
        let b = runtime.bundle("[ -c /etc/chosen ] && echo MOVED");
        b.unmount("/dev");
        b.mount(
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
        fs::write(b.rootfs().join("etc/chosen"), "").unwrap();
        symlink("../etc/chosen", b.rootfs().join("dev/console")).unwrap();
        b.change(|c| c["process"]["terminal"] = json!(true));
        b.run().says("MOVED")
    });
}
