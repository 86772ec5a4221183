//! What a process may do: capabilities, filters, devices, users.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::json;

use crate::harness::{Bundle, Outcome, prove};

/// A program of the image's with capabilities of its own (`setcap`'s words), which the user 1000 executes.
fn with_file_capabilities(b: &Bundle<'_>, words: &str) -> bool {
    let tool = b.rootfs().join("bin/busybox.tool");
    fs::copy("/bin/busybox", &tool).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    b.change(|c| c["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    matches!(Command::new("setcap").arg(words).arg(&tool).status(), Ok(s) if s.success())
}

const PERMITTED: &str = "/bin/busybox.tool grep CapPrm /proc/self/status";

fn permitted(text: &str) -> Outcome {
    let set = text
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .map(|set| u64::from_str_radix(set.trim(), 16).unwrap());
    match set {
        Some(set) => Outcome::judge(set != 0, format!("permitted capabilities {set:#x}")),
        None => Outcome::Held(text.to_owned()),
    }
}

fn no_setcap(test: &str) -> bool {
    let missing = Command::new("setcap").arg("-h").output().is_err();
    if missing {
        println!("SKIP {test}: needs setcap (package libcap2-bin)");
    }
    missing
}

/// CVE-2022-29162, CVE-2022-24769: inheritable capabilities that nobody asked for; a file with inheritable ones gives
/// them to any user.
#[test]
fn inheritable_capabilities() {
    if no_setcap("inheritable") {
        return;
    }
    prove("run", &["inheritable"], |runtime| {
        let b = runtime.bundle(PERMITTED);
        assert!(with_file_capabilities(&b, "cap_net_raw=i"));
        permitted(&b.run().text())
    });
    prove("exec", &["inheritable"], |runtime| {
        let b = runtime.bundle("sleep 1000");
        assert!(with_file_capabilities(&b, "cap_net_raw=i"));
        b.start();
        let args = [
            "exec",
            "--cap",
            "CAP_NET_RAW",
            &b.id,
            "/bin/sh",
            "-c",
            PERMITTED,
        ];
        permitted(&b.call(&args).text())
    });
}

/// With no-new-privileges, no program gives more than its caller has.
#[test]
fn a_program_with_more_privileges() {
    if no_setcap("privileges") {
        return;
    }
    prove("privileges", &["no-new-privileges"], |runtime| {
        let b = runtime.bundle(PERMITTED);
        assert!(with_file_capabilities(&b, "cap_net_raw=ep"));
        b.change(|c| c["process"]["noNewPrivileges"] = json!(true));
        permitted(&b.run().text())
    });
}

/// A call that the profile refuses, and profiles that refuse all: none of them may end up as no filter.
#[test]
fn calls_past_the_filter() {
    let refused = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    let empty = json!({"defaultAction": "SCMP_ACT_ERRNO"});
    for (name, profile) in [("refused", refused), ("empty", empty)] {
        prove(name, &["filter"], |runtime| {
            let b = runtime.bundle("mkdir /made && echo MADE");
            b.change(|c| c["linux"]["seccomp"] = profile.clone());
            b.run().says("MADE")
        });
    }
}

/// A node of the host's devices, made by who may make nodes.
#[test]
fn a_device_of_the_hosts() {
    if !std::path::Path::new("/sys/class/misc/fuse").exists() {
        return println!("SKIP device: this kernel has no FUSE");
    }
    prove("device", &["device-rules"], |runtime| {
        // FUSE's, which anybody may open whom no rule keeps from it; opened, nothing else.
        let b = runtime.bundle("mknod /nodes/fuse c 10 229; (: </nodes/fuse) && echo OPENED");
        b.mount(
            json!({"destination": "/nodes", "type": "tmpfs", "source": "tmpfs", "options": []}),
        );
        b.change(|c| {
            c["linux"]["resources"] = json!({"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            ]});
        });
        b.run().says("OPENED")
    });
}

/// CVE-2024-40635: a user beyond 31 bits; the last one means "as before" to the kernel, which was root.
#[test]
fn a_user_that_wraps() {
    for uid in [4294967295_u32, 2147483648] {
        let name = format!("uid {uid}");
        let attack = |runtime: &crate::harness::Runtime| {
            let b = runtime.bundle("[ $(id -u) = 0 ] && echo ROOT");
            b.change(|c| c["process"]["user"] = json!({"uid": uid, "gid": 0}));
            b.run().says("ROOT")
        };
        match uid {
            u32::MAX => prove(&name, &["ids"], attack),
            // Without the check it is a user like others: nothing to show but that it is refused.
            _ => {
                if let Outcome::Escaped(what) = shipped_alone(attack) {
                    panic!("{what}");
                }
            }
        }
    }
}

fn shipped_alone(attack: impl Fn(&crate::harness::Runtime) -> Outcome) -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP uid: needs root");
        return Outcome::Held(String::new());
    }
    attack(&crate::harness::Runtime::shipped())
}

/// CVE-2026-46680: digits that are no id are taken for a name, which the image's `passwd` has, as root. Here digits are
/// never a name, so that there is no defence to take out. And an id (crun's `exec --user 1`) is that user, nobody else.
#[test]
fn digits_that_are_taken_for_a_name() {
    let outcome = shipped_alone(|runtime| {
        let b = runtime.bundle("sleep 1000");
        let passwd = "99999999999:x:0:0::/:/bin/sh\n";
        fs::write(b.rootfs().join("etc/passwd"), passwd).unwrap();
        b.start();
        let one = b.call(&["exec", "--user", "1", &b.id, "id", "-u"]);
        assert_eq!(one.stdout, "1\n", "{}", one.stderr);
        let ended = b.call(&["exec", "--user", "99999999999", &b.id, "id", "-u"]);
        assert!(!ended.success, "{}", ended.text());
        Outcome::judge(ended.stdout == "0\n", ended.text())
    });
    if let Outcome::Escaped(what) = outcome {
        panic!("{what}");
    }
}
