//! Pods' network and Services: who reaches whom, by which address, and what happens when there is nobody.

use std::{collections::BTreeSet, io::Read, process::Stdio, time::Duration};

use kernelet_scenarios::{Machine, Output, eventually, glibc_image, musl_image, skip_unless_root};

/// Two servers that answer with their name on HTTP and echo it on UDP, and a client.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-a, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: web-a
  subdomain: headless
  containers:
  - name: main
    image: glibc:test
    command: [/bin/sh, -c, "mkdir -p /tmp/www; hostname > /tmp/www/index.html; udpname 5353 & exec httpd -f -p 8080 -h /tmp/www"]
    ports: [{name: web, containerPort: 8080}, {name: echo, containerPort: 5353, protocol: UDP}]
    readinessProbe: {tcpSocket: {port: web}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: web-b
  subdomain: headless
  containers:
  - name: main
    image: glibc:test
    command: [/bin/sh, -c, "mkdir -p /tmp/www; hostname > /tmp/www/index.html; udpname 5353 & exec httpd -f -p 8080 -h /tmp/www"]
    ports: [{name: web, containerPort: 8080}, {name: echo, containerPort: 5353, protocol: UDP}]
    readinessProbe: {tcpSocket: {port: web}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: glibc:test
    command: [/bin/sh, -c, "mkdir -p /tmp/do; while :; do if [ -e /jobs/job ]; then sh /jobs/job > /jobs/out 2>&1; echo $? > /jobs/rc; mv /jobs/job /jobs/old; fi; sleep 0.05; done"]
    volumeMounts: [{name: jobs, mountPath: /jobs}]
  volumes: [{name: jobs, hostPath: {path: WORK, type: DirectoryOrCreate}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}, {name: echo, port: 53, targetPort: echo, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{name: t, port: 80}, {name: u, port: 53, protocol: UDP}]}
"#;

/// Runs a shell line in the client pod, through the folder they share: `exec` is not part of this.
fn in_pod(machine: &Machine, script: &str) -> Output {
    let work = machine.dir().join("work");
    for name in ["rc", "out", "old"] {
        let _ = std::fs::remove_file(work.join(name));
    }
    std::fs::write(work.join("job.new"), script).unwrap();
    std::fs::rename(work.join("job.new"), work.join("job")).unwrap();
    eventually(script, Duration::from_secs(20), || {
        if work.join("old").exists() {
            Ok(())
        } else {
            Err("it has not ended".into())
        }
    });
    Output {
        code: std::fs::read_to_string(work.join("rc"))
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
        stdout: std::fs::read_to_string(work.join("out")).unwrap(),
        stderr: String::new(),
    }
}

fn with_work(machine: &Machine) -> String {
    PODS.replace("WORK", &machine.dir().join("work").to_string_lossy())
}

fn up(option: Option<&str>) -> Machine {
    let mut machine = Machine::new();
    if let Some(option) = option {
        machine = machine.with(option);
    }
    machine.up();
    machine.load_image(&glibc_image(machine.dir()));
    machine.apply(&with_work(&machine));
    for pod in ["pod/web-a", "pod/web-b", "pod/client"] {
        machine.wait(pod, "condition=Ready", Duration::from_secs(30));
    }
    machine
}

fn ip(machine: &Machine, pod: &str) -> String {
    machine.get(&["pod", pod])["status"]["podIP"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn service_ip(machine: &Machine, name: &str) -> String {
    machine.get(&["service", name])["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Everything that the network promises; run as it is, and beside somebody else's firewall.
fn check_everything(machine: &Machine) {
    let (a, web) = (ip(machine, "web-a"), service_ip(machine, "web"));

    // Pod to pod, host to pod, pod to host.
    assert_eq!(
        in_pod(machine, &format!("curl -sS --max-time 3 http://{a}:8080/")).ok(),
        "web-a\n"
    );
    assert_eq!(
        machine
            .sh(&format!("curl -sS --max-time 3 http://{a}:8080/"))
            .ok(),
        "web-a\n"
    );

    // The Service's address, from a pod and from the host; both backends.
    for from_pod in [true, false] {
        let mut seen = BTreeSet::new();
        for _ in 0..30 {
            let output = if from_pod {
                in_pod(machine, &format!("curl -sS --max-time 3 http://{web}/"))
            } else {
                machine.sh(&format!("curl -sS --max-time 3 http://{web}/"))
            };
            seen.insert(output.ok());
            if seen.len() == 2 {
                break;
            }
        }
        assert_eq!(
            seen.len(),
            2,
            "both backends answer (from a pod: {from_pod}): {seen:?}"
        );
    }
    let echo = in_pod(
        machine,
        &format!(
            "bash -c 'exec 3<>/dev/udp/{web}/53; echo hi >&3; timeout 2 dd bs=256 count=1 <&3 2>/dev/null'"
        ),
    )
    .stdout;
    assert!(
        echo.starts_with("web-"),
        "UDP through the Service: {echo:?}"
    );

    // By name, with glibc's resolver: short, with search paths, headless, a pod's own, and none.
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        let answer = in_pod(machine, &format!("curl -sS --max-time 3 http://{name}/")).ok();
        assert!(answer.starts_with("web-"), "{name}: {answer}");
    }
    let headless = in_pod(machine, "getent ahostsv4 headless").ok();
    assert!(
        headless.contains(&a) && headless.contains(&ip(machine, "web-b")),
        "{headless}"
    );
    let own = in_pod(machine, "curl -sS --max-time 3 http://web-b.headless:8080/").ok();
    assert_eq!(own, "web-b\n");
    assert_ne!(
        in_pod(machine, "getent hosts absent.default.svc.cluster.local").code,
        0
    );
    let service = in_pod(
        machine,
        "nslookup -type=srv _http._tcp.headless.default.svc.cluster.local",
    )
    .stdout;
    assert!(
        service.contains("8080") && service.contains("web-a.headless"),
        "{service}"
    );

    // Nobody there: refused at once, TCP, from a pod and from the host.
    let nobody = service_ip(machine, "nobody");
    let refused = in_pod(machine, &format!("curl -sS --max-time 5 http://{nobody}/"));
    assert_eq!(refused.code, 7, "{}", refused.stdout);
    let refused = machine.sh(&format!("curl -sS --max-time 5 http://{nobody}/"));
    assert_eq!(refused.code, 7, "{}", refused.stderr);

    // The API server, from a pod, by the Service's name and with the pod's own token.
    let answer = in_pod(
        machine,
        "d=/var/run/secrets/kubernetes.io/serviceaccount; curl -sS --max-time 5 --cacert $d/ca.crt \
         -H \"Authorization: Bearer $(cat $d/token)\" https://kubernetes.default.svc/version",
    );
    assert!(answer.stdout.contains("gitVersion"), "{}", answer.stdout);
}

#[test]
fn musls_resolver_finds_services_by_search_path_and_fails_at_once_for_what_is_not_there() {
    skip_unless_root!();
    let machine = up(None);
    let Some(image) = musl_image(machine.dir()) else {
        println!("SKIP root_net::musl: musl-gcc is not installed");
        return;
    };
    machine.load_image(&image);
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: musl}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "musl:test", command: [sh, -c, "lookup web; lookup web.default.svc.cluster.local; lookup headless; lookup absent || echo none"]}
"#,
    );
    machine.wait(
        "pod/musl",
        "jsonpath={.status.phase}=Succeeded",
        Duration::from_secs(20),
    );
    let log = machine.kubectl(&["logs", "musl"]).ok();
    let web = service_ip(&machine, "web");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(&lines[..2], [web.as_str(), web.as_str()], "{log}");
    let mut headless = [ip(&machine, "web-a"), ip(&machine, "web-b")];
    headless.sort();
    let mut found = [lines[2], lines[3]];
    found.sort_unstable();
    assert_eq!(found, headless.each_ref().map(String::as_str), "{log}");
    assert_eq!(lines.last(), Some(&"none"), "{log}");
}

#[test]
fn pods_services_and_names_are_reached_from_pods_and_from_the_host() {
    skip_unless_root!();
    let machine = up(None);
    check_everything(&machine);

    // Affinity: one client keeps one backend.
    let sticky = service_ip(&machine, "sticky");
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(in_pod(&machine, &format!("curl -sS --max-time 3 http://{sticky}/")).ok());
    }
    assert_eq!(seen.len(), 1, "{seen:?}");

    // A new endpoint list is in force for the next connection.
    machine
        .kubectl(&["delete", "pod", "web-b", "--timeout=20s"])
        .ok();
    let web = service_ip(&machine, "web");
    eventually("only web-a is left", Duration::from_secs(5), || {
        let rows = machine.kernelet(&["net", "services", "-o", "json"]).json();
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["address"] == format!("{web}:80"))
            .cloned();
        match row.and_then(|row| row["backends"].as_array().map(Vec::len)) {
            Some(1) => Ok(()),
            other => Err(format!("{other:?} backends")),
        }
    });
    for _ in 0..10 {
        assert_eq!(
            in_pod(&machine, &format!("curl -sS --max-time 3 http://{web}/")).ok(),
            "web-a\n"
        );
    }
}

/// What `net flows` says while `script` is run again and again, until it has said as much as it was asked for.
fn flows(machine: &Machine, options: &[&str], script: &str) -> Vec<serde_json::Value> {
    let mut reader = machine
        .kernelet_command(&[&["net", "flows", "-o", "json"], options].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It asks for flows before it reads; the connections are made until one is seen.
    eventually("flows are read", Duration::from_secs(20), || {
        let _ = machine.sh(script);
        match reader.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("{status}"),
            None => Err("not as many as asked for".to_owned()),
        }
    });
    let mut text = String::new();
    reader
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_the_data_plane_decides_is_streamed_and_foretold() {
    skip_unless_root!();
    let machine = up(None);
    let (web, nobody) = (service_ip(&machine, "web"), service_ip(&machine, "nobody"));
    let (a, b) = (ip(&machine, "web-a"), ip(&machine, "web-b"));

    let seen = flows(
        &machine,
        &["--count", "1"],
        &format!("curl -sS --max-time 3 http://{web}/"),
    );
    assert_eq!(seen.len(), 1);
    let flow = &seen[0];
    assert_eq!(flow["hook"], "connect", "{flow}");
    assert_eq!(flow["reason"], "translated", "{flow}");
    assert_eq!(flow["service"], "default/web:http", "{flow}");
    assert_eq!(flow["destination"], format!("{web}:80"), "{flow}");
    assert_eq!(flow["command"], "curl", "{flow}");
    let backends = [format!("{a}:8080"), format!("{b}:8080")];
    let to = flow["translated"].as_str().unwrap();
    assert!(backends.iter().any(|backend| backend == to), "{flow}");

    // Of a translation and a refusal, the refusal alone.
    let seen = flows(
        &machine,
        &["--count", "1", "--dropped"],
        &format!("curl -sS --max-time 3 http://{web}/; curl -sS --max-time 3 http://{nobody}/"),
    );
    assert_eq!(seen[0]["reason"], "no-backend", "{seen:?}");
    assert_eq!(seen[0]["destination"], format!("{nobody}:80"), "{seen:?}");

    // A table, too; its reader may go at any time.
    let table = machine.sh(&format!(
        "{} net flows --data-dir {} | head -1",
        kernelet_scenarios::binary("kernelet").display(),
        machine.data_dir().display(),
    ));
    let header = table.ok();
    assert!(
        header.starts_with("TIME") && header.contains("VERDICT"),
        "{header}"
    );

    // What a connection from the client would meet, told by the maps, is what it meets.
    let foretold = machine
        .kernelet(&[
            "net",
            "trace",
            "--from",
            "pod/client",
            "--to",
            "svc/web:80",
            "-o",
            "json",
        ])
        .json();
    let hops: Vec<(&str, &str, &str)> = foretold
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| {
            let text = |key: &str| hop[key].as_str().unwrap();
            (text("hook"), text("destination"), text("verdict"))
        })
        .collect();
    let web_address = format!("{web}:80");
    let mut expected = vec![("connect", web_address.as_str(), "translated")];
    let mut sorted = backends.clone();
    sorted.sort();
    expected.extend(
        sorted
            .iter()
            .map(|backend| ("from-pod", backend.as_str(), "to-local-pod")),
    );
    assert_eq!(hops, expected, "{foretold:#}");
    let refused = machine
        .kernelet(&["net", "trace", "--to", "svc/nobody:80"])
        .ok();
    assert!(refused.contains("drop:no-backend"), "{refused}");
    let absent = machine.kernelet(&["net", "trace", "--to", "svc/absent:80"]);
    assert_ne!(absent.code, 0);
    assert!(absent.stderr.contains("default/absent"), "{absent:?}");
}

#[test]
fn a_pod_reaches_the_outside_under_the_nodes_address() {
    skip_unless_root!();
    let mut machine = up(None);
    let script = "import socket,sys\ns=socket.create_server(('10.77.0.1',7070))\nwhile True:\n c,a=s.accept()\n c.sendall(a[0].encode()+b'\\n')\n c.close()\n";
    machine.outside_spawn("python3", &["-c", script]);
    let seen = eventually("the outside answers", Duration::from_secs(10), || {
        let output = in_pod(&machine, "nc -w 3 10.77.0.1 7070");
        if output.code == 0 && !output.stdout.is_empty() {
            Ok(output.stdout)
        } else {
            Err(output.stdout)
        }
    });
    assert_eq!(seen, "10.77.0.2\n", "the outside sees the node's address");
}

#[test]
fn everything_holds_beside_a_firewall_that_drops_forwarded_and_incoming_packets() {
    skip_unless_root!();
    let machine = up(None);
    machine
        .sh("nft 'add table inet foreign; add chain inet foreign forward { type filter hook forward priority 0; policy drop; }; add chain inet foreign input { type filter hook input priority 0; policy drop; }; add rule inet foreign input ct state established,related accept; add rule inet foreign input iif lo accept'")
        .ok();
    check_everything(&machine);
    let rules = machine.sh("nft list table inet foreign").ok();
    assert!(rules.contains("policy drop"), "{rules}");
}
