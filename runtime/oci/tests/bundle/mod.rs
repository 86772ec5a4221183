//! A bundle with busybox as its root, changed as a test wants it, and run.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// KERNELET_OCI names it where this test runs on another machine than the one it was built on.
pub fn program() -> String {
    std::env::var("KERNELET_OCI").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kernelet-oci").into())
}

pub struct Bundle {
    dir: tempfile::TempDir,
    pub id: String,
}

/// What one run came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// `None`, loudly, where the test can't run.
pub fn bundle(test: &str) -> Option<Bundle> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("SKIP {test}: needs /bin/busybox (package busybox-static)");
        return None;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let bundle = Bundle {
        dir: tempfile::tempdir().unwrap(),
        id: format!("oci-bundle-{}-{number}", std::process::id()),
    };
    let bin = bundle.root().join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "readlink", "hostname", "ls", "ps", "grep", "kill",
        "stat", "touch", "mkdir", "mount", "umount", "awk", "true", "chmod", "chown", "rm",
        "mknod", "head", "dd", "sort", "cut", "uname", "cp", "test", "dirname",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    bundle.succeeds(&["spec", "--bundle", bundle.path().to_str().unwrap()]);
    bundle.change(|config| {
        config["root"]["readonly"] = json!(false);
        config["process"]["terminal"] = json!(false);
    });
    Some(bundle)
}

impl Bundle {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The container's root on the host.
    pub fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    pub fn script(&self, script: &str) {
        self.change(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    }

    /// One mount more, in the order of the calls.
    pub fn mount(&self, mount: Value) {
        self.change(|config| config["mounts"].as_array_mut().unwrap().push(mount));
    }

    /// Takes the mounts away that tests have added, those at `/t` and below.
    pub fn unmount(&self) {
        self.change(|config| {
            let own = |mount: &Value| mount["destination"].as_str().unwrap().contains("/t");
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| !own(mount));
        });
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--root")
            .arg(self.path().join("state"))
            .args(args)
            .current_dir(self.path());
        command
    }

    pub fn call(&self, args: &[&str]) -> Ran {
        // To files: a container that goes on would keep a pipe open.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.path().join(format!("{name}{number}"));
        let (out, err) = (file("out"), file("err"));
        let status = self
            .command(args)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Ran {
            code: status.code(),
            out: fs::read_to_string(out).unwrap(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    pub fn succeeds(&self, args: &[&str]) -> String {
        let ran = self.call(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.out
    }

    /// Runs the container once, to its end.
    pub fn run(&self) -> Ran {
        self.call(&["run", &self.id])
    }

    /// The output of a script that must succeed.
    pub fn output(&self, script: &str) -> String {
        self.script(script);
        let ran = self.run();
        assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
        ran.out
    }

    /// The message of a creation that must fail, and leave nothing.
    pub fn refused(&self) -> String {
        self.script("echo it ran");
        let ran = self.run();
        assert!(
            ran.code != Some(0) && !ran.out.contains("it ran"),
            "it ran: {ran:?}"
        );
        assert_eq!(self.succeeds(&["list", "--quiet"]), "");
        ran.err
    }

    /// Options of the mount at a place, as the container sees them.
    pub fn options(&self, place: &str) -> Vec<String> {
        let text = self.output(&format!("grep ' {place} ' /proc/self/mounts"));
        let line = text.lines().last().unwrap();
        let options = line.split(' ').nth(3).unwrap();
        options.split(',').map(str::to_owned).collect()
    }

    pub fn no_cgroup(&self) -> String {
        self.id.clone()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _: std::io::Result<Output> = self.command(&["delete", "--force", &self.id]).output();
    }
}
