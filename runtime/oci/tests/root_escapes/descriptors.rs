//! What the runtime holds open, and the runtime's own program.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use nix::{fcntl::OFlag, sys::stat::Mode};
use serde_json::json;

use crate::harness::{Bundle, Outcome, prove};

const SECRET: &str = "THE-HOSTS-SECRET";

/// A folder of the host's with a secret, open and inherited by whatever is started next, as a caller's (or a careless
/// runtime's) descriptor is.
fn leaked(b: &Bundle<'_>) -> OwnedFd {
    fs::write(b.outside().join("secret"), SECRET).unwrap();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    nix::fcntl::open(&b.outside(), flags, Mode::empty()).unwrap()
}

/// CVE-2024-21626, CVE-2016-9962: the program inherits a descriptor of a folder of the host's.
#[test]
fn a_descriptor_that_leaks() {
    let script =
        "n=3; while [ $n -lt 40 ]; do cat /proc/self/fd/$n/secret; n=$((n+1)); done 2>/dev/null";
    prove("run", &["descriptors"], |runtime| {
        let b = runtime.bundle(script);
        let _leaked = leaked(&b);
        b.run().says(SECRET)
    });
    prove("exec", &["descriptors"], |runtime| {
        let b = runtime.bundle("sleep 1000");
        b.start();
        let _leaked = leaked(&b);
        b.call(&["exec", &b.id, "/bin/sh", "-c", script])
            .says(SECRET)
    });
}

/// CVE-2024-21626: the working directory is a descriptor of the runtime's, which leads to the host.
#[test]
fn a_working_directory_of_a_descriptor() {
    let out = ["descriptors", "working-directory"];
    prove("run", &out, |runtime| {
        let b = runtime.bundle("cat secret");
        let leaked = leaked(&b);
        let cwd = format!("/proc/self/fd/{}", leaked.as_raw_fd());
        b.change(|c| c["process"]["cwd"] = json!(cwd));
        b.run().says(SECRET)
    });
    prove("exec", &out, |runtime| {
        let b = runtime.bundle("sleep 1000");
        b.start();
        let leaked = leaked(&b);
        let cwd = format!("/proc/self/fd/{}", leaked.as_raw_fd());
        b.call(&["exec", "--cwd", &cwd, &b.id, "/bin/cat", "secret"])
            .says(SECRET)
    });
    // A symlink of the image's in between.
    prove("symlink", &out, |runtime| {
        let b = runtime.bundle("cat secret");
        let leaked = leaked(&b);
        let target = format!("/proc/self/fd/{}", leaked.as_raw_fd());
        std::os::unix::fs::symlink(target, b.rootfs().join("work")).unwrap();
        b.change(|c| c["process"]["cwd"] = json!("/work"));
        b.run().says(SECRET)
    });
}

/// Puts the libraries that a program of this machine is linked with into the root, where the loader looks for them.
fn libraries(program: &Path, root: &Path) {
    let output = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        let path = Path::new(word);
        if !path.is_absolute() || !path.exists() {
            continue;
        }
        let inside = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
}

/// CVE-2019-5736: a container gets the runtime to execute itself inside (`/proc/self/exe`), opens its program while
/// that runs, and overwrites it as soon as it has ended: the next container's start executes what it wrote.
#[test]
fn the_runtimes_program_overwritten() {
    prove("exe", &["own-program"], |runtime| {
        // Looks for a process that isn't busybox; writes when it has gone. Until nobody runs it, ETXTBSY.
        let script = "touch /ready; while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *busybox|'') ;; \
            *) exec 3<$p/exe; break 2;; esac; done; done; echo '{}' >/b/config.json; n=0; \
            while [ $n -lt 40 ]; do (echo hacked >/proc/self/fd/3) 2>/dev/null && break; n=$((n+1)); sleep 0.05; done; \
            touch /done; sleep 1000";
        let b = runtime.bundle(script);
        libraries(&runtime.program, &b.rootfs());
        // A copy, since this one may really be overwritten.
        let copy = b.path().join("runtime");
        fs::copy(&runtime.program, &copy).unwrap();
        fs::create_dir(b.rootfs().join("b")).unwrap();
        let fifo = b.rootfs().join("b/config.json");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        let started = b.end(b.command_of(&copy, &["run", "--detach", &b.id]));
        assert!(started.success, "{}", started.text());
        assert!(b.await_file("ready"));
        // Inside, the runtime waits for the FIFO's writer: long enough to be found.
        let args = [
            "exec",
            "--detach",
            &b.id,
            "/proc/self/exe",
            "run",
            "--bundle",
            "/b",
            "x",
        ];
        let inside = b.end(b.command_of(&copy, &args));
        assert!(inside.success, "{}", inside.text());
        assert!(
            b.await_file("done"),
            "the attacker found nothing: {}",
            b.everything_said()
        );
        let content = fs::read(&copy).unwrap();
        Outcome::judge(content.starts_with(b"hacked"), "the program's first bytes")
    });
}

/// CVE-2019-14271: code of the container's root is loaded into the runtime's process, before that has given up its
/// capabilities, because a library looks up a user by the root's `nsswitch.conf`.
#[test]
fn code_of_the_roots_loaded_for_a_lookup() {
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("SKIP lookup: needs cc (package gcc)");
    }
    prove("lookup", &["names"], |runtime| {
        let b = runtime.bundle("true");
        libraries(&runtime.program, &b.rootfs());
        let source = b.path().join("evil.c");
        let code = "#include <fcntl.h>\n__attribute__((constructor)) static void evil(void) { open(\"/LOADED\", O_CREAT, 0600); }\n";
        fs::write(&source, code).unwrap();
        let folder = b.rootfs().join("lib");
        fs::create_dir_all(&folder).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-nostartfiles", "-o"])
            .arg(folder.join("libnss_evil.so.2"))
            .arg(&source)
            .status()
            .unwrap();
        assert!(built.success());
        fs::write(b.rootfs().join("etc/nsswitch.conf"), "passwd: evil\n").unwrap();
        let ended = b.run();
        Outcome::judge(b.rootfs().join("LOADED").exists(), ended.text())
    });
}

/// CVE-2025-23266: a hook of the host's takes over variables of the image's, `LD_PRELOAD` among them.
#[test]
fn a_hook_with_the_images_environment() {
    prove("hook", &["hook-environment"], |runtime| {
        let b = runtime.bundle("true");
        let seen = b.path().join("seen");
        b.change(|c| {
            c["process"]["env"] = json!(["PATH=/bin", "IMAGES=EVIL"]);
            c["hooks"] = json!({"createRuntime": [{
                "path": "/bin/busybox",
                "args": ["busybox", "sh", "-c", format!("echo \"$IMAGES\" >{}", seen.display())],
            }]});
        });
        let ended = b.run();
        assert!(ended.success, "{}", ended.text());
        let seen = fs::read_to_string(seen).unwrap();
        Outcome::judge(seen.contains("EVIL"), format!("the hook saw {seen:?}"))
    });
}
