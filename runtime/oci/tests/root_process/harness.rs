//! A bundle of busybox, changed per test and run by the program itself.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

/// KERNELET_OCI names it where this test runs on another machine than the one it was built on.
pub fn program() -> String {
    std::env::var("KERNELET_OCI").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kernelet-oci").into())
}

/// What a command wrote to stderr, without the log's escapes.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).replace("\\\"", "\"")
}

pub struct Bundle {
    dir: tempfile::TempDir,
    pub id: String,
    /// What stands before the program on each command line.
    pub before: Vec<String>,
    program: String,
}

/// `None`, loudly, where the test can't run.
pub fn bundle(test: &str, script: &str) -> Option<Bundle> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("SKIP {test}: needs /bin/busybox (package busybox-static)");
        return None;
    }
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let bundle = Bundle {
        dir: tempfile::tempdir().unwrap(),
        id: format!("oci-process-{}-{number}", std::process::id()),
        before: Vec::new(),
        program: program(),
    };
    let bin = bundle.path().join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "readlink", "hostname", "stat", "grep", "stty",
        "uname", "ionice", "ip", "pwd", "env", "ls", "tail", "true",
    ] {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let made = bundle.call(&["spec", "--bundle", bundle.path().to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    bundle.change(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
    });
    Some(bundle)
}

impl Bundle {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    /// With these namespaces beside mount, pid, ipc and uts.
    pub fn namespaces(&self, more: Value) {
        self.change(|config| {
            let mut all =
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}]);
            all.as_array_mut()
                .unwrap()
                .extend(more.as_array().unwrap().clone());
            config["linux"]["namespaces"] = all;
        });
    }

    /// A new user namespace with these ids as its 0 and on.
    pub fn user_namespace(&self, host_id: u32, size: u32, more: Value) {
        let mut all = json!([{"type": "user"}]);
        all.as_array_mut()
            .unwrap()
            .extend(more.as_array().unwrap().clone());
        self.namespaces(all);
        // Its root makes what is missing in there.
        std::os::unix::fs::chown(self.path().join("rootfs"), Some(host_id), Some(host_id)).unwrap();
        let mapping = json!([{"containerID": 0, "hostID": host_id, "size": size}]);
        self.change(|config| {
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
        });
    }

    fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.before.clone();
        words.extend([self.program.clone(), "--root".into()]);
        words.push(self.root().to_str().unwrap().to_owned());
        words.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the container to its end and returns what it said.
    pub fn run(&self) -> String {
        let output = self.call(&["run", &self.id]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}: {}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The error of a run that must not succeed.
    pub fn fails(&self) -> String {
        let output = self.call(&["run", &self.id]);
        assert!(!output.status.success(), "it succeeded: {output:?}");
        said(&output)
    }

    /// Starts it in the background; its output goes nowhere. Returns its process id.
    pub fn start(&self) -> u32 {
        let err = self.path().join("err");
        let status = self
            .command(&["run", "--detach", &self.id])
            .stdout(Stdio::null())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(err).unwrap());
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])).unwrap();
        state["pid"].as_u64().unwrap() as u32
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// From here on an ordinary user calls the program, to whom the bundle belongs. `ranges`: with subordinate ids,
    /// in files that only this command line sees.
    pub fn as_user(&mut self, uid: u32, ranges: bool) {
        let dir = self.path().to_str().unwrap().to_owned();
        self.program = format!("{dir}/kernelet-oci");
        fs::copy(program(), &self.program).unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(
            self.path().join("passwd"),
            format!("root:x:0:0::/root:/bin/sh\ntester:x:{uid}:{uid}::/:/bin/sh\n"),
        )
        .unwrap();
        let lines = if ranges { "tester:200000:65536\n" } else { "" };
        fs::write(self.path().join("sub"), lines).unwrap();
        let chown = Command::new("chown")
            .args(["-R", &format!("{uid}:{uid}"), &dir])
            .status();
        assert!(chown.unwrap().success());
        fs::set_permissions(
            self.path().join("passwd"),
            fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        for file in ["passwd", "sub"] {
            let path = self.path().join(file);
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
        }
        let script = format!(
            "mount --bind {dir}/passwd /etc/passwd && \
             touch /etc/subuid /etc/subgid && mount --bind {dir}/sub /etc/subuid && \
             mount --bind {dir}/sub /etc/subgid && \
             exec setpriv --reuid={uid} --regid={uid} --clear-groups --inh-caps=-all \"$@\""
        );
        self.before = ["unshare", "--mount", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec();
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}
