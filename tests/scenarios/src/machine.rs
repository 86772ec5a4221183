//! A machine: two network namespaces, a data folder, and the programs that run inside.

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The machine's address, the outside's address, on the link between them.
const NODE_IP: &str = "10.77.0.2";
const OUTSIDE_IP: &str = "10.77.0.1";

/// What a program answered.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// One machine. Dropping it purges the instance and removes the namespaces.
pub struct Machine {
    name: String,
    dir: TempDir,
    children: Vec<Child>,
    node_options: Vec<String>,
    program: Option<PathBuf>,
    environment: Vec<(String, OsString)>,
}

impl Machine {
    /// A machine with an uplink; nothing runs on it yet.
    pub fn new() -> Self {
        let name = format!(
            "klt{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let machine = Self {
            name,
            dir: tempfile::Builder::new()
                .prefix("kernelet-scenario.")
                .tempdir()
                .unwrap(),
            children: Vec::new(),
            node_options: vec![
                "--node-name=node-a".into(),
                format!("--cgroup-root=/kernelet-{}", std::process::id()),
                // The host's disk is no matter of a scenario's.
                "--eviction-hard=".into(),
                "--image-gc-high-threshold=100".into(),
            ],
            program: None,
            environment: Vec::new(),
        };
        let (node, outside) = (machine.node_ns(), machine.outside_ns());
        let script = format!(
            "set -e
             ip netns add {node}; ip netns add {outside}
             ip -n {node} link set lo up; ip -n {outside} link set lo up
             ip -n {node} link add eth0 type veth peer name eth0 netns {outside}
             ip -n {node} address add {NODE_IP}/24 dev eth0; ip -n {outside} address add {OUTSIDE_IP}/24 dev eth0
             ip -n {node} link set eth0 up; ip -n {outside} link set eth0 up
             ip -n {node} route add default via {OUTSIDE_IP}"
        );
        run(Command::new("sh").args(["-c", &script]), None).ok();
        machine
    }

    pub fn node_ip(&self) -> &'static str {
        NODE_IP
    }

    pub fn outside_ip(&self) -> &'static str {
        OUTSIDE_IP
    }

    pub fn node_ns(&self) -> String {
        format!("{}n", self.name)
    }

    pub fn outside_ns(&self) -> String {
        format!("{}o", self.name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Eight hexadecimal digits of the data folder's path, as the program makes them.
    pub fn instance_id(&self) -> String {
        let real = std::fs::canonicalize(self.dir.path())
            .expect("the machine's folder is there")
            .join("data");
        let digest = Sha256::digest(real.as_os_str().as_encoded_bytes());
        digest[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/kernelet").join(self.instance_id())
    }

    pub fn log_dir(&self) -> PathBuf {
        Path::new("/var/log/kernelet").join(self.instance_id())
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    /// Adds an option to every `up`.
    pub fn with(mut self, option: &str) -> Self {
        self.node_options.push(option.into());
        self
    }

    /// Another build of `kernelet` than the one under test.
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Sets a variable in the environment of every `kernelet`.
    pub fn with_env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// `kernelet <args> --data-dir …` on this machine.
    pub fn kernelet(&self, args: &[&str]) -> Output {
        run(&mut self.kernelet_command(args), None)
    }

    pub fn kernelet_command(&self, args: &[&str]) -> Command {
        let program = self.program.clone().unwrap_or_else(|| binary("kernelet"));
        let mut command = self.command(&program.to_string_lossy());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(args).arg("--data-dir").arg(self.data_dir());
        command.args(["--config", "/dev/null"]);
        command
    }

    /// `kernelet up --detach` with the machine's options.
    pub fn try_up(&self) -> Output {
        let mut args = vec!["up", "--detach"];
        args.extend(self.node_options.iter().map(String::as_str));
        self.kernelet(&args)
    }

    /// The same; panics with the log when the node does not become Ready.
    pub fn up(&self) -> String {
        let output = self.try_up();
        if output.code != 0 {
            panic!(
                "up failed: {}\n{}\n{}",
                output.stderr,
                output.stdout,
                self.log()
            );
        }
        output.stdout
    }

    /// The instance's id, from `status`.
    pub fn status(&self) -> Value {
        let output = self.kernelet(&["status", "-o", "json"]);
        serde_json::from_str(&output.stdout).unwrap_or(Value::Null)
    }

    /// The end of the program's log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log_dir().join("kernelet.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// A program in the machine's network.
    pub fn command(&self, program: &str) -> Command {
        in_namespace(&self.node_ns(), program)
    }

    pub fn sh(&self, script: &str) -> Output {
        run(self.command("sh").args(["-c", script]), None)
    }

    /// A shell line in the network outside the machine.
    pub fn outside_sh(&self, script: &str) -> Output {
        run(
            in_namespace(&self.outside_ns(), "sh").args(["-c", script]),
            None,
        )
    }

    /// Starts a program outside the machine; it ends with the machine.
    pub fn outside_spawn(&mut self, program: &str, args: &[&str]) {
        let child = in_namespace(&self.outside_ns(), program)
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        self.children.push(child);
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        run(&mut self.kubectl_command(args), None)
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.command("kubectl");
        command
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .env("KUBECACHEDIR", self.dir.path().join("cache"));
        command
    }

    /// `kubectl apply -f -` of a manifest.
    pub fn apply(&self, manifest: &str) -> String {
        run(
            &mut self.kubectl_command(&["apply", "-f", "-"]),
            Some(manifest),
        )
        .ok()
    }

    pub fn kubectl_stdin(&self, args: &[&str], input: &str) -> Output {
        run(&mut self.kubectl_command(args), Some(input))
    }

    /// `kubectl get … -o json`.
    pub fn get(&self, args: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        self.kubectl(&all).json()
    }

    /// `kubectl wait`, and on failure what `describe` says.
    pub fn wait(&self, what: &str, condition: &str, within: Duration) {
        let timeout = format!("--timeout={}s", within.as_secs());
        let output = self.kubectl(&["wait", what, &format!("--for={condition}"), &timeout]);
        if output.code != 0 {
            panic!(
                "{what} is not {condition}: {}{}\n{}\n{}",
                output.stdout,
                output.stderr,
                self.kubectl(&["describe", what]).stdout,
                self.log(),
            );
        }
    }

    /// Loads an image archive into the node's store.
    pub fn load_image(&self, archive: &Path) {
        self.kernelet(&["image", "load", &archive.to_string_lossy()])
            .ok();
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::env::var_os("KERNELET_KEEP").is_some() {
            eprintln!(
                "kept: {} in namespace {}",
                self.data_dir().display(),
                self.node_ns()
            );
            return;
        }
        if self.data_dir().exists() {
            let output = self.kernelet(&["down", "--purge"]);
            if output.code != 0 {
                eprintln!("purge failed: {}", output.stderr);
            }
        }
        for namespace in [self.node_ns(), self.outside_ns()] {
            run(
                Command::new("ip").args(["netns", "delete", &namespace]),
                None,
            );
        }
    }
}

/// The program under test: `KERNELET_BIN_DIR`, else the release build.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("KERNELET_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release"),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// `ip netns exec` would hide cgroups and bpffs; `nsenter --net` doesn't.
fn in_namespace(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .arg(program);
    command
}

fn run(command: &mut Command, input: Option<&str>) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if let Some(input) = input {
        child
            .stdin
            .take()
            .expect("piped above")
            .write_all(input.as_bytes())
            .unwrap();
    }
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
