//! Attach and run by stock kubectl: stdin, terminals, several clients; and all of it in a real terminal.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use kernelet_scenarios::{Machine, Output, busybox_image, eventually, skip_unless_root};

/// The two ways in which kubectl speaks.
const WAYS: [(&str, &str); 2] = [("WebSocket", "true"), ("SPDY", "false")];

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine
}

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         restartPolicy: Never\n  containers:\n  - {{name: main, image: \"busybox:test\", {container}}}\n"
    )
}

fn ready(machine: &Machine, name: &str, container: &str) {
    machine.apply(&pod(name, container));
    machine.wait(
        &format!("pod/{name}"),
        "condition=Ready",
        Duration::from_secs(30),
    );
}

/// A running kubectl with a hand on its streams; killed when it is dropped.
struct Client {
    kubectl: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Client {
    fn new(machine: &Machine, websockets: &str, args: &[&str]) -> Client {
        let mut kubectl = machine
            .kubectl_command(args)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl starts");
        let stdin = kubectl.stdin.take();
        let stdout = BufReader::new(kubectl.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Client {
            kubectl,
            stdin,
            lines,
        }
    }

    fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).expect("written");
    }

    /// Reads lines until this one.
    fn hear(&self, expect: &str) {
        let until = Instant::now() + Duration::from_secs(15);
        let mut heard = Vec::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if line == expect {
                return;
            }
            heard.push(line);
        }
        panic!("{expect:?} was not heard, but {heard:?}");
    }

    fn code(&mut self) -> i32 {
        self.stdin = None;
        self.kubectl.wait().expect("it ends").code().unwrap_or(-1)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Says something until the container's echo shows that the client is attached.
fn attached(client: &mut Client, mark: &str) {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        client.say(&format!("{mark}\n"));
        if let Ok(line) = client.lines.recv_timeout(Duration::from_millis(500))
            && line == format!("got {mark}")
        {
            return;
        }
        assert!(Instant::now() < until, "no echo of {mark}");
    }
}

const ECHO: &str = r#"stdin: true, command: [sh, -c, "while read x; do echo got $x; done; echo over; sleep 3600"]"#;

#[test]
fn several_clients_share_a_containers_streams_and_the_agent_may_be_killed() {
    skip_unless_root!();
    let machine = machine();
    ready(&machine, "echo", ECHO);
    for (way, websockets) in WAYS {
        let mut first = Client::new(&machine, websockets, &["attach", "-i", "echo"]);
        attached(&mut first, "first");
        let mut second = Client::new(&machine, websockets, &["attach", "-i", "echo"]);
        attached(&mut second, "second");
        first.say("both\n");
        first.hear("got both");
        second.hear("got both");
        // The end of a client's stdin is the end of its session, not of the container's stdin.
        assert_eq!(first.code(), 0, "{way}");
        second.say("still there\n");
        second.hear("got still there");
    }
    let log = machine.kubectl(&["logs", "echo"]).ok();
    assert_eq!(log.lines().filter(|l| *l == "got both").count(), 2, "{log}");
    assert!(!log.contains("over"), "{log}");

    let pid = nix::unistd::Pid::from_raw(machine.pid().expect("it runs"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    machine.up();
    machine.wait("pod/echo", "condition=Ready", Duration::from_secs(30));
    let mut after = Client::new(&machine, "true", &["attach", "-i", "echo"]);
    attached(&mut after, "after");
    drop(after);
    let status = machine.get(&["pod", "echo"])["status"]["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 0, "{status}");
}

#[test]
fn a_stdin_for_one_client_ends_with_it_and_its_output_comes_whole() {
    skip_unless_root!();
    let machine = machine();
    for (way, websockets) in WAYS {
        let name = way.to_lowercase();
        let container = r#"stdin: true, stdinOnce: true, command: [sh, -c, "wc -c; head -c 5000000 /dev/zero; exit 3"]"#;
        ready(&machine, &name, container);
        let mut kubectl = machine
            .kubectl_command(&["attach", "-i", &name])
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = kubectl.stdin.take().expect("piped");
        let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 1_000_000]));
        let output = kubectl.wait_with_output().expect("it ends");
        writer.join().expect("no panic").expect("written");
        assert_eq!(output.status.code(), Some(0), "{way}");
        let (head, tail) = output.stdout.split_at(
            output
                .stdout
                .iter()
                .position(|b| *b == b'\n')
                .expect("a line")
                + 1,
        );
        assert_eq!((head, tail.len()), (&b"1000000\n"[..], 5_000_000), "{way}");
        machine.wait(
            &format!("pod/{name}"),
            "jsonpath={.status.phase}=Failed",
            Duration::from_secs(20),
        );
    }
    // A client that is killed has ended its stdin, too.
    ready(
        &machine,
        "killed",
        r#"stdin: true, stdinOnce: true, command: [sh, -c, "cat; echo over"]"#,
    );
    let mut client = Client::new(&machine, "true", &["attach", "-i", "killed"]);
    client.say("hello\n");
    client.hear("hello");
    drop(client);
    machine.wait(
        "pod/killed",
        "jsonpath={.status.phase}=Succeeded",
        Duration::from_secs(60),
    );
    assert_eq!(machine.kubectl(&["logs", "killed"]).ok(), "hello\nover\n");
}

#[test]
fn run_attaches_removes_and_hands_on_the_exit_code() {
    skip_unless_root!();
    let machine = machine();
    let run = |websockets: &str, input: &str, script: &str| -> Output {
        let args = [
            "run",
            "once",
            "--rm",
            "-i",
            "--quiet",
            "--restart=Never",
            "--image=busybox:test",
            "--image-pull-policy=Never",
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut child = machine
            .kubectl_command(&args)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("written");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    };
    for (way, websockets) in WAYS {
        let output = run(websockets, "a\nb\n", "cat; exit 4");
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (4, "a\nb\n"),
            "{way}: {}",
            output.stderr
        );
        let gone = machine.kubectl(&["get", "pod", "once"]);
        assert!(gone.stderr.contains("not found"), "{way}: {gone:?}");
    }
}

#[test]
fn a_client_that_never_reads_stops_neither_container_nor_log_nor_others() {
    skip_unless_root!();
    let machine = machine();
    let script =
        r#"command: [sh, -c, "n=0; while :; do n=$((n+1)); echo $n $(printf %0500d 0); done"]"#;
    ready(&machine, "loud", script);
    let newest = || -> u64 {
        let log = machine.kubectl(&["logs", "loud", "--tail=1"]).ok();
        log.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    let open = || {
        let pid = machine.pid().expect("it runs");
        let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let targets = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("pipe:"))
            .count()
    };
    let before = open();
    let mut deaf = machine
        .kubectl_command(&["attach", "loud"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl starts");
    let mut some = [0; 4096];
    let out = deaf.stdout.as_mut().expect("piped");
    out.read_exact(&mut some).expect("it begins");
    // It reads no more. What is on the way fills, the client is cut off, and the container goes on.
    for _ in 0..3 {
        let seen = newest();
        eventually(
            "the container goes on",
            Duration::from_secs(20),
            || match newest() {
                now if now > seen + 1000 => Ok(()),
                now => Err(format!("{now} after {seen}")),
            },
        );
    }
    let other = Client::new(&machine, "true", &["attach", "loud"]);
    for _ in 0..1000 {
        other
            .lines
            .recv_timeout(Duration::from_secs(10))
            .expect("a line");
    }
    drop(other);
    deaf.kill().expect("it runs");
    deaf.wait().expect("it ends");
    eventually(
        "the descriptors are closed",
        Duration::from_secs(60),
        || match open() {
            now if now <= before => Ok(()),
            now => Err(format!("{now} of {before}")),
        },
    );
}

/// A terminal of tmux's, in the machine's network.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn new(machine: &Machine, name: &str, line: &str) -> Terminal {
        let socket = machine.dir().join(name);
        let line = format!(
            "PS1='host$ ' KUBECONFIG={} {line}",
            machine.kubeconfig().display()
        );
        let terminal = Terminal { socket };
        let started = machine
            .command("tmux")
            .arg("-S")
            .arg(&terminal.socket)
            .args([
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-x",
                "101",
                "-y",
                "33",
                "sh",
                "-c",
            ])
            .arg(format!(
                "{line}; code=$?; echo; echo ended $code; exec sleep 1000"
            ))
            .env("HOME", machine.dir())
            .env("KUBECACHEDIR", machine.dir().join("cache"))
            .env("TERM", "xterm")
            .status()
            .expect("tmux is installed");
        assert!(started.success());
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .output()
            .expect("tmux is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn resize(&self, columns: &str, rows: &str) {
        self.tmux(&["resize-window", "-x", columns, "-y", rows]);
    }

    /// Waits until a line of the screen is this.
    fn see(&self, expect: &str) {
        eventually(expect, Duration::from_secs(20), || {
            let screen = self.tmux(&["capture-pane", "-p", "-S", "-100"]);
            match screen.lines().any(|line| line.trim_end() == expect) {
                true => Ok(()),
                false => Err(screen),
            }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

const SHELL: &str = r#"stdin: true, tty: true, env: [{name: PS1, value: "pod$ "}], command: [sh]"#;

#[test]
fn exec_in_a_real_terminal_has_its_size_and_its_keys() {
    skip_unless_root!();
    let machine = machine();
    ready(&machine, "box", r#"command: [sleep, "3600"]"#);
    for (way, websockets) in WAYS {
        let line = format!(
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets} kubectl exec -it box -- sh -c 'PS1=\"pod$ \" exec sh'"
        );
        let terminal = Terminal::new(&machine, way, &line);
        terminal.see("pod$");
        terminal.keys(&["stty size", "Enter"]);
        terminal.see("33 101");
        terminal.resize("77", "22");
        terminal.keys(&[
            "clear; while test \"$(stty size)\" != '22 77'; do sleep 0.1; done; echo resized",
            "Enter",
        ]);
        terminal.see("resized");
        terminal.keys(&["sleep 1000", "Enter"]);
        eventually("sleep runs", Duration::from_secs(10), || {
            let list = machine
                .kubectl(&["exec", "box", "--", "ps", "-o", "args"])
                .ok();
            match list.lines().any(|l| l.trim() == "sleep 1000") {
                true => Ok(()),
                false => Err(list),
            }
        });
        terminal.keys(&["C-c"]);
        terminal.keys(&["echo code=$?", "Enter"]);
        terminal.see("code=130");
        terminal.keys(&["exit 9", "Enter"]);
        terminal.see("ended 9");
    }
}

#[test]
fn attach_and_run_in_a_real_terminal_can_be_left_and_taken_up_again() {
    skip_unless_root!();
    let machine = machine();
    ready(&machine, "shell", SHELL);
    for (way, websockets) in WAYS {
        let line =
            format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets} kubectl attach -it shell");
        let terminal = Terminal::new(&machine, way, &line);
        terminal.keys(&["Enter"]);
        terminal.see("pod$");
        terminal.keys(&["test -t 0 && echo tty=yes; stty size", "Enter"]);
        terminal.see("tty=yes");
        terminal.see("33 101");
        terminal.keys(&["echo typed; cat", "Enter"]);
        terminal.see("typed");
        terminal.keys(&["C-c"]);
        terminal.keys(&["echo code=$?", "Enter"]);
        terminal.see("code=130");
        // Leaves the shell running.
        terminal.keys(&["C-p"]);
        terminal.keys(&["C-q"]);
        terminal.see("ended 0");
        let phase = machine.get(&["pod", "shell"])["status"]["phase"].clone();
        assert_eq!(phase, "Running", "{way}");
    }
    let log = machine.kubectl(&["logs", "shell"]).ok();
    assert!(log.lines().any(|line| line.trim() == "tty=yes"), "{log}");

    let line = "kubectl run once --rm -it --restart=Never --image=busybox:test --image-pull-policy=Never \
                --env='PS1=once$ ' -- sh";
    let terminal = Terminal::new(&machine, "run", line);
    terminal.keys(&["Enter"]);
    terminal.see("once$");
    terminal.keys(&["echo in the pod; exit 6", "Enter"]);
    terminal.see("in the pod");
    terminal.see("ended 6");
    let gone = machine.kubectl(&["get", "pod", "once"]);
    assert!(gone.stderr.contains("not found"), "{gone:?}");

    // A debugging container beside the shell, in its process namespace.
    let line = "kubectl debug -it shell --image=busybox:test --image-pull-policy=Never --target=main -c helper \
                --env=PS1=help: -- sh";
    let terminal = Terminal::new(&machine, "debug", line);
    terminal.keys(&["Enter"]);
    terminal.see("help:");
    terminal.keys(&[
        "ps -o args > /tmp/ps; grep -c '^sh$' /tmp/ps; exit",
        "Enter",
    ]);
    terminal.see("2");
    terminal.see("ended 0");
}

/// The screen has, somewhere, a line with this in it.
fn shows(terminal: &Terminal, text: &str) {
    eventually(text, Duration::from_secs(20), || {
        let screen = terminal.tmux(&["capture-pane", "-p"]);
        match screen.contains(text) {
            true => Ok(()),
            false => Err(screen),
        }
    });
}

#[test]
fn edit_in_a_real_terminal_saves_reopens_what_was_refused_and_can_be_cancelled() {
    skip_unless_root!();
    if Command::new("vi").arg("--version").output().is_err() {
        println!("SKIP edit: there is no vi");
        return;
    }
    let machine = machine();
    machine.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {colour: red}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 0\n  \
         selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
         spec: {containers: [{name: main, image: \"busybox:test\"}]}\n",
    );
    // Saved.
    let terminal = Terminal::new(&machine, "edit", "EDITOR=vi kubectl edit configmap notes");
    shows(&terminal, "colour: red");
    terminal.keys(&[":%s/colour: red/colour: blue/", "Enter", ":wq", "Enter"]);
    terminal.see("configmap/notes edited");
    terminal.see("ended 0");
    let notes = machine.get(&["configmap", "notes", "--show-managed-fields"]);
    assert_eq!(notes["data"]["colour"], "blue");
    let managers: Vec<_> = notes["metadata"]["managedFields"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(
        managers.contains(&"kubectl-edit".to_owned()),
        "{managers:?}"
    );

    // Refused: the editor is opened again, with the server's reason at the top; what is saved then is taken.
    let terminal = Terminal::new(&machine, "refused", "EDITOR=vi kubectl edit deployment web");
    shows(&terminal, "replicas: 0");
    terminal.keys(&[":%s/replicas: 0/replicas: -1/", "Enter", ":wq", "Enter"]);
    shows(&terminal, "# deployments.apps \"web\" was not valid:");
    shows(
        &terminal,
        "# * spec.replicas: Invalid value: -1: must be greater than or equal to 0",
    );
    assert_eq!(machine.get(&["deployment", "web"])["spec"]["replicas"], 0);
    terminal.keys(&[":%s/^  replicas: -1/  replicas: 0/", "Enter"]);
    terminal.keys(&[
        ":%s/^  progressDeadlineSeconds: 600/  progressDeadlineSeconds: 700/",
        "Enter",
        ":wq",
        "Enter",
    ]);
    terminal.see("deployment.apps/web edited");
    terminal.see("ended 0");
    let web = machine.get(&["deployment", "web"]);
    assert_eq!(web["spec"]["progressDeadlineSeconds"], 700);

    // Refused, and given up: what was written is kept in a file, and the exit code says so.
    let terminal = Terminal::new(
        &machine,
        "given-up",
        "EDITOR=vi kubectl edit deployment web",
    );
    shows(&terminal, "replicas: 0");
    terminal.keys(&[":%s/replicas: 0/replicas: -2/", "Enter", ":wq", "Enter"]);
    shows(&terminal, "was not valid:");
    terminal.keys(&[":q!", "Enter"]);
    terminal.see("ended 1");
    shows(
        &terminal,
        "error: Edit cancelled, no valid changes were saved.",
    );
    shows(&terminal, "A copy of your changes has been stored to");
    assert_eq!(machine.get(&["deployment", "web"])["spec"]["replicas"], 0);

    // Left without a change.
    let terminal = Terminal::new(
        &machine,
        "cancelled",
        "EDITOR=vi kubectl edit configmap notes",
    );
    shows(&terminal, "colour: blue");
    terminal.keys(&[":q!", "Enter"]);
    terminal.see("Edit cancelled, no changes made.");
    terminal.see("ended 0");
    assert_eq!(
        machine.get(&["configmap", "notes"])["data"]["colour"],
        "blue"
    );
}
