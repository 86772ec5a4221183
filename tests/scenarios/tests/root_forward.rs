//! Port-forward by stock kubectl, over SPDY in a WebSocket and over SPDY alone: pods, deployments, services.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Stdio},
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

const DEPLOYMENT: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: "busybox:test"
        # One connection after the other, each answered by what it has sent.
        command: [sh, -c, "mkdir /www; echo hello > /www/index.html; while :; do nc -l -p 7000 -e cat; done & httpd -f -p 8080 -h /www"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(DEPLOYMENT);
    machine.wait(
        "deployment/web",
        "condition=Available",
        Duration::from_secs(40),
    );
    machine
}

/// The two ways in which kubectl forwards.
const WAYS: [(&str, &str); 2] = [("WebSocket", "true"), ("SPDY", "false")];

/// A running `kubectl port-forward`; killed when it is dropped.
struct Forward {
    kubectl: Child,
    port: u16,
    errors: std::path::PathBuf,
}

impl Forward {
    fn new(machine: &Machine, websockets: &str, target: &str, port: u16) -> Forward {
        let errors = machine.dir().join("forward.err");
        let mut kubectl = machine
            .kubectl_command(&["port-forward", target, &format!(":{port}")])
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).expect("made"))
            .spawn()
            .expect("kubectl starts");
        let mut lines = BufReader::new(kubectl.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("text");
        // Forwarding from 127.0.0.1:41243 -> 8080
        let port = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(port) = port else {
            let why = fs::read_to_string(&errors).unwrap_or_default();
            panic!("{target}: {line}{why}");
        };
        // Who writes to a closed pipe is killed.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Forward {
            kubectl,
            port,
            errors,
        }
    }

    fn curl(&self, machine: &Machine, options: &str, path: &str) -> kernelet_scenarios::Output {
        machine.sh(&format!(
            "curl -sS -m 60 {options} http://127.0.0.1:{}/{path}",
            self.port
        ))
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn pod(machine: &Machine) -> String {
    let pods = machine.get(&["pods", "-l", "app=web"]);
    let name = pods["items"][0]["metadata"]["name"].as_str();
    format!("pod/{}", name.expect("a pod"))
}

#[test]
fn pods_deployments_and_services_are_reached_and_large_files_arrive_unharmed() {
    skip_unless_root!();
    let machine = machine();
    let pod = pod(&machine);
    for (way, websockets) in WAYS {
        for (target, port) in [(pod.as_str(), 8080), ("deploy/web", 8080), ("svc/web", 80)] {
            let forward = Forward::new(&machine, websockets, target, port);
            for _ in 0..3 {
                let page = forward.curl(&machine, "", "").ok();
                assert_eq!(page, "hello\n", "{way} {target}: {}", forward.errors());
            }
        }
    }

    // An agent that comes back knows the pod's network.
    let pid = nix::unistd::Pid::from_raw(machine.pid().expect("it runs"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    machine.up();
    machine.wait(
        "deployment/web",
        "condition=Available",
        Duration::from_secs(40),
    );
    let page = eventually("a page", Duration::from_secs(20), || {
        let forward = Forward::new(&machine, "true", &pod, 8080);
        let page = forward.curl(&machine, "", "");
        match page.code {
            0 => Ok(page.stdout),
            _ => Err(format!("{page:?} {}", forward.errors())),
        }
    });
    assert_eq!(page, "hello\n");

    // 100 MB down, as the pod has them; two at once.
    let sum = machine.kubectl(&[
        "exec",
        "deploy/web",
        "--",
        "sh",
        "-c",
        "dd if=/dev/urandom of=/www/big bs=1M count=100 2>/dev/null; sha256sum < /www/big",
    ]);
    let sum = sum.ok();
    for (way, websockets) in WAYS {
        let forward = Forward::new(&machine, websockets, &pod, 8080);
        let get = |_| forward.curl(&machine, "-o -", "big | sha256sum").ok();
        std::thread::scope(|scope| {
            let both: Vec<_> = (0..2).map(|n| scope.spawn(move || get(n))).collect();
            for one in both {
                assert_eq!(one.join().expect("no panic"), sum, "{way}");
            }
        });
    }

    // And up and back again over one connection, whose end the client tells first.
    let here = machine.dir().join("big");
    let script = format!(
        "head -c 20000000 /dev/urandom > {0}; sha256sum < {0}",
        here.display()
    );
    let sum = machine.sh(&script).ok();
    for (way, websockets) in WAYS {
        let forward = Forward::new(&machine, websockets, &pod, 7000);
        let echoed = machine.sh(&format!(
            "busybox nc 127.0.0.1 {} < {} | sha256sum",
            forward.port,
            here.display()
        ));
        assert_eq!(echoed.ok(), sum, "{way}: {}", forward.errors());
    }
}

#[test]
fn a_port_where_nobody_listens_is_told_in_upstreams_words() {
    skip_unless_root!();
    let machine = machine();
    for (way, websockets) in WAYS {
        let forward = Forward::new(&machine, websockets, "deploy/web", 8081);
        let refused = forward.curl(&machine, "", "");
        assert_ne!(refused.code, 0, "{way}");
        eventually("kubectl's error", Duration::from_secs(10), || {
            let errors = forward.errors();
            let all = [
                "an error occurred forwarding",
                "error forwarding port 8081 to pod",
                "failed to connect to localhost:8081 inside namespace",
                "IPv4: dial tcp4 127.0.0.1:8081: connect: connection refused",
                "IPv6 dial tcp6 [::1]:8081: connect: connection refused",
            ];
            match all.iter().find(|text| !errors.contains(**text)) {
                None => Ok(()),
                Some(missing) => Err(format!("{missing}: {errors}")),
            }
        });
    }
    let nowhere = machine.kubectl(&["port-forward", "pod/nothing", ":80"]);
    assert!(
        nowhere.code == 1 && nowhere.stderr.contains("pods \"nothing\" not found"),
        "{nowhere:?}"
    );
}

#[test]
fn a_client_that_vanishes_or_never_reads_harms_nobody() {
    skip_unless_root!();
    let machine = machine();
    let pod = pod(&machine);
    let fill = "dd if=/dev/zero of=/www/big bs=1M count=100 2>/dev/null";
    machine
        .kubectl(&["exec", "deploy/web", "--", "sh", "-c", fill])
        .ok();
    // Sessions' sockets and pipes; what else the program has open comes and goes.
    let open = || {
        let pid = machine.pid().expect("it runs");
        let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let targets = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let ours = targets.map(|target| target.to_string_lossy().into_owned());
        ours.filter(|target| target.starts_with("pipe:") || target.starts_with("socket:"))
            .count()
    };
    // In the pod's network namespace: its own end of the forwarded connections.
    let connections = || {
        let list = ["exec", "deploy/web", "--", "netstat", "-tn"];
        let list = machine.kubectl(&list).ok();
        list.lines()
            .filter(|l| l.contains(":8080") && l.contains("ESTABLISHED"))
            .count()
    };
    drop(Forward::new(&machine, "true", &pod, 8080));
    let quiet = eventually("a quiet machine", Duration::from_secs(30), || {
        let first = open();
        std::thread::sleep(Duration::from_millis(500));
        match open() == first {
            true => Ok(first),
            false => Err(format!("{first}")),
        }
    });
    for (way, websockets) in WAYS {
        let slow = Forward::new(&machine, websockets, &pod, 8080);
        let mut held = Vec::new();
        for _ in 0..3 {
            // The machine's network is another namespace: a program there asks and never reads.
            let script = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /big HTTP/1.0\\r\\n\\r\\n' >&3; echo asked; exec sleep 1000",
                slow.port
            );
            let mut client = machine
                .command("bash")
                .args(["-c", &script])
                .stdout(Stdio::piped())
                .spawn()
                .expect("bash starts");
            let mut asked = [0; 6];
            let out = client.stdout.as_mut().expect("piped");
            out.read_exact(&mut asked).expect("asked");
            held.push(client);
        }
        eventually(
            "the pod serves them",
            Duration::from_secs(20),
            || match connections() {
                0 => Err("no connection".into()),
                _ => Ok(()),
            },
        );
        let quick = Forward::new(&machine, websockets, &pod, 8080);
        let all = quick.curl(&machine, "-o /dev/null -w '%{size_download}'", "big");
        assert_eq!(all.ok(), (100 << 20).to_string(), "{way}");
        // Killed, not told.
        drop((slow, quick));
        for mut client in held {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
    eventually("everything is closed", Duration::from_secs(60), || {
        let (now, inside) = (open(), connections());
        match now <= quiet && inside == 0 {
            true => Ok(()),
            false => Err(format!(
                "{now} descriptors of {quiet}, {inside} connections"
            )),
        }
    });
}

/// The oldest way, which the Python client takes: a pair of channels a port, in a WebSocket.
#[test]
fn channels_in_a_websocket_are_forwarded_too() {
    skip_unless_root!();
    let machine = machine();
    let name = pod(&machine).replace("pod/", "");
    // kubectl's proxy brings its credentials, and passes an upgrade on.
    let socket = machine.dir().join("proxy");
    let mut proxy = machine
        .kubectl_command(&["proxy", "--reject-paths=^$", "--unix-socket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl starts");
    let mut stream = eventually("the proxy", Duration::from_secs(10), || {
        std::os::unix::net::UnixStream::connect(&socket).map_err(|e| e.to_string())
    });
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    let request = format!(
        "GET /api/v1/namespaces/default/pods/{name}/portforward?ports=8080 HTTP/1.1\r\nHost: localhost\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    // One masked binary message with a mask of zeroes: channel 0, then the request.
    let get = b"\0GET / HTTP/1.0\r\n\r\n";
    let mut frame = vec![0x82, 0x80 | get.len() as u8, 0, 0, 0, 0];
    frame.extend(get);
    stream.write_all(&frame).expect("sent");
    let mut data = Vec::new();
    while !String::from_utf8_lossy(&data).contains("hello") {
        let mut header = [0; 2];
        stream.read_exact(&mut header).expect("a message");
        let mut length = usize::from(header[1] & 0x7f);
        if length == 126 {
            let mut more = [0; 2];
            stream.read_exact(&mut more).expect("a length");
            length = usize::from(u16::from_be_bytes(more));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).expect("a payload");
        if header[0] == 0x82 && payload[0] == 0 {
            data.extend(&payload[1..]);
        }
    }
    assert_eq!(&data[..2], 8080_u16.to_le_bytes());
    proxy.kill().expect("it runs");
    proxy.wait().expect("it ends");
}
