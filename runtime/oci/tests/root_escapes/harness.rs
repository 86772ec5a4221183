//! A bundle made of busybox, and the proof: shipped, whole, weakened.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What became of an attack.
#[derive(Debug)]
pub enum Outcome {
    /// It failed; how.
    Held(String),
    /// It succeeded; what it got.
    Escaped(String),
}

impl Outcome {
    /// Judges by what was found: `escaped`, told by `evidence`.
    pub fn judge(escaped: bool, evidence: impl Into<String>) -> Outcome {
        match escaped {
            true => Outcome::Escaped(evidence.into()),
            false => Outcome::Held(evidence.into()),
        }
    }
}

/// A program under attack.
pub struct Runtime {
    pub program: PathBuf,
    /// What is taken out of it; `None` for the shipped one.
    out: Option<String>,
}

pub fn shipped() -> PathBuf {
    match std::env::var_os("KERNELET_OCI") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_kernelet-oci").into(),
    }
}

pub fn weakened() -> Option<PathBuf> {
    std::env::var_os("KERNELET_OCI_WEAKENED").map(PathBuf::from)
}

/// Tries an attack three times. `out` names the defences that it meets (`kernelet_spec::weakened`).
pub fn prove(name: &str, out: &[&str], attack: impl Fn(&Runtime) -> Outcome) {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIP {name}: needs root");
    }
    if !Path::new("/bin/busybox").exists() {
        return println!("SKIP {name}: needs /bin/busybox (package busybox-static)");
    }
    let run = |program: PathBuf, out: Option<String>| attack(&Runtime { program, out });
    match run(shipped(), None) {
        Outcome::Held(how) => println!("{name}: held: {}", how.trim()),
        Outcome::Escaped(what) => panic!("{name}: out of the shipped program: {what}"),
    }
    let Some(program) = weakened() else {
        return println!("SKIP {name} without its defence: KERNELET_OCI_WEAKENED names no program");
    };
    if let Outcome::Escaped(what) = run(program.clone(), Some(String::new())) {
        panic!("{name}: with every defence in its place: {what}");
    }
    match run(program, Some(out.join(","))) {
        Outcome::Escaped(what) => println!("{name}: without {}: {}", out.join(","), what.trim()),
        Outcome::Held(how) => panic!(
            "{name}: this attack proves nothing: without {} it fails too: {how}",
            out.join(",")
        ),
    }
}

const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
];

/// A container to be, its files in a folder of its own that is a whole host's worth to it.
pub struct Bundle<'a> {
    pub runtime: &'a Runtime,
    dir: tempfile::TempDir,
    pub id: String,
}

impl Runtime {
    pub fn shipped() -> Runtime {
        Runtime {
            program: shipped(),
            out: None,
        }
    }

    /// A container that runs a shell script.
    pub fn bundle(&self, script: &str) -> Bundle<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bundle = Bundle {
            runtime: self,
            dir: tempfile::tempdir().unwrap(),
            id: format!("oci-test-escape-{}-{number}", std::process::id()),
        };
        let root = bundle.rootfs();
        for folder in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "sleep", "id", "readlink", "ls", "grep", "kill", "mkdir", "rmdir",
            "mknod", "mkfifo", "mount", "rm", "ln", "touch", "true", "test", "head", "env", "stat",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            bundle.path().join("config.json"),
            config(script).to_string(),
        )
        .unwrap();
        bundle
    }
}

fn config(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
                           {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What a command printed and how it ended.
pub struct Ended {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Whether the container's own output has this word.
    pub fn says(&self, word: &str) -> Outcome {
        Outcome::judge(self.stdout.contains(word), self.text())
    }
}

impl Bundle<'_> {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A folder of the host's that no container is given.
    pub fn outside(&self) -> PathBuf {
        let path = self.path().join("outside");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Whether something was made in [`Bundle::outside`].
    pub fn made_outside(&self) -> Outcome {
        let names: Vec<_> = fs::read_dir(self.outside())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        Outcome::judge(!names.is_empty(), format!("made on the host: {names:?}"))
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    pub fn mount(&self, mount: Value) {
        self.change(|c| c["mounts"].as_array_mut().unwrap().push(mount));
    }

    /// Takes the mounts at this path and below out.
    pub fn unmount(&self, path: &str) {
        self.change(|c| {
            c["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|m| !m["destination"].as_str().unwrap().starts_with(path));
        });
    }

    /// The runtime, with this bundle's state folder.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(&self.runtime.program, args)
    }

    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.path().join("state"))
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null());
        if let Some(out) = &self.runtime.out {
            command.env("KERNELET_WEAKENED", out);
        }
        command
    }

    /// Runs a command to its end; what a detached container prints goes there, too.
    pub fn end(&self, mut command: Command) -> Ended {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.path().join(format!("{name}{number}"));
        let mut child = command
            .stdout(fs::File::create(file("out")).unwrap())
            .stderr(fs::File::create(file("err")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    break child.wait().unwrap();
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let read = |name| String::from_utf8_lossy(&fs::read(file(name)).unwrap()).into_owned();
        Ended {
            success: status.success(),
            stdout: read("out"),
            stderr: read("err"),
        }
    }

    pub fn call(&self, args: &[&str]) -> Ended {
        self.end(self.command(args))
    }

    /// Runs the container in the foreground.
    pub fn run(&self) -> Ended {
        self.call(&["run", &self.id])
    }

    /// Runs the container and looks for what was made outside.
    pub fn run_outside(&self) -> Outcome {
        let ended = self.run();
        match self.made_outside() {
            Outcome::Held(_) => Outcome::Held(format!("nothing was made: {}", ended.text())),
            escaped => escaped,
        }
    }

    /// Starts it and lets it be.
    pub fn start(&self) {
        let ended = self.call(&["run", "--detach", &self.id]);
        assert!(ended.success, "{}", ended.text());
    }

    /// What every command so far, and every container it left, has printed.
    pub fn everything_said(&self) -> String {
        let mut files: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with("out") && path.is_file() || name.starts_with("err")
            })
            .collect();
        files.sort();
        let said = |path: &PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            format!("{}: {text}\n", path.file_name().unwrap().display())
        };
        files.iter().map(said).collect()
    }

    /// Waits until a file of the root is there.
    pub fn await_file(&self, name: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.rootfs().join(name).exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        // By the shipped program: what cleans up must not be weakened.
        let mut command = self.command_of(&shipped(), &["delete", "--force", &self.id]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
