//! What kubectl reaches through the server: pods, Services and nodes behind `proxy`, and `top`.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, nginx_image, skip_unless_root};

const SITE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data:
  index.html: \"<a href=\\\"/other.html\\\">other</a>\\n\"
  plain.txt: \"plain\\n\"
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:test
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
        volumeMounts: [{name: site, mountPath: /site, readOnly: true}]
      volumes: [{name: site, configMap: {name: site}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
";

const BUSY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: spins, image: 'busybox:test', imagePullPolicy: Never, command: [sh, -c, 'while :; do :; done'], resources: {limits: {cpu: 200m}}}
  - {name: sleeps, image: 'busybox:test', imagePullPolicy: Never, command: [sh, -c, 'sleep 1000000']}
";

const MINUTE: Duration = Duration::from_secs(60);

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pods_services_and_nodes_are_reached_through_the_server() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&nginx_image(machine.dir()));
    machine.apply(SITE);
    machine.wait("deployment/web", "condition=Available", MINUTE);
    let pods = machine.get(&["pods", "-l", "app=web"]);
    let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap();
    let raw = |path: &str| machine.kubectl(&["get", "--raw", path]);
    let namespaced = |rest: &str| format!("/api/v1/namespaces/default/{rest}");
    eventually("the Service's endpoints", MINUTE, || {
        let answer = raw(&namespaced("services/web:http/proxy/plain.txt"));
        (answer.stdout == "plain\n")
            .then_some(())
            .ok_or(answer.stderr)
    });
    for name in [
        "services/web:80".to_owned(),
        "services/http:web:http".to_owned(),
        format!("pods/{pod}"),
        format!("pods/{pod}:8080"),
        format!("pods/http:{pod}:8080"),
    ] {
        let answer = raw(&namespaced(&format!("{name}/proxy/plain.txt")));
        assert_eq!(answer.ok(), "plain\n", "{name}");
    }
    // Links of a page lead back through the proxy.
    let page = namespaced(&format!("pods/{pod}/proxy/"));
    assert_eq!(
        raw(&page).ok(),
        format!("<a href=\"{page}other.html\">other</a>\n")
    );
    assert_eq!(raw("/api/v1/nodes/node-a/proxy/healthz").ok(), "ok");
    assert_eq!(raw("/api/v1/nodes/node-a:10250/proxy/healthz").ok(), "ok");
    let running = raw("/api/v1/nodes/node-a/proxy/runningpods/").json();
    assert!(
        running["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["metadata"]["name"] == pod),
        "{running}"
    );

    for (path, expect) in [
        (
            namespaced("services/web:81/proxy/"),
            "Error from server (ServiceUnavailable): no service port 81 found for service \"web\"",
        ),
        (
            namespaced("services/web:other/proxy/"),
            "Error from server (ServiceUnavailable): no endpoints available for service \"web:other\"",
        ),
        (
            namespaced("services/ghost/proxy/"),
            "Error from server (NotFound): endpoints \"ghost\" not found",
        ),
        (
            namespaced("pods/ghost/proxy/"),
            "Error from server (NotFound): pods \"ghost\" not found",
        ),
    ] {
        let answer = raw(&path);
        assert_eq!((answer.code, answer.stderr.trim()), (1, expect), "{path}");
    }
    let refused = raw(&namespaced(&format!("pods/{pod}:81/proxy/")));
    assert!(
        refused
            .stderr
            .contains("error trying to reach service: dial tcp ")
            && refused.stderr.contains(":81: connect: connection refused"),
        "{refused:?}"
    );

    // The same through `kubectl proxy`, as a browser does it.
    let local = machine
        .kubectl_command(&["proxy", "--port=8001"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _local = Running(local);
    let site = "http://127.0.0.1:8001/api/v1/namespaces/default/services/web:http/proxy";
    let curl = |rest: &str| machine.sh(&format!("curl -sS --max-time 10 {rest}"));
    eventually("kubectl proxy", MINUTE, || {
        let answer = curl(&format!("{site}/plain.txt"));
        (answer.stdout == "plain\n")
            .then_some(())
            .ok_or(answer.stderr)
    });
    let redirected = curl(&format!(
        "-o /dev/null -w '%{{http_code}} %{{redirect_url}}' {site}"
    ));
    assert_eq!(redirected.ok(), format!("301 {site}/"));
    let missing = curl(&format!("-o /dev/null -w '%{{http_code}}' {site}/missing"));
    assert_eq!(missing.ok(), "404");
    let posted = curl(&format!(
        "-o /dev/null -w '%{{http_code}}' -d x {site}/plain.txt"
    ));
    assert_eq!(posted.ok(), "405", "nginx serves no POST of a file");
    assert!(
        curl("http://127.0.0.1:8001/version")
            .ok()
            .contains("gitVersion")
    );

    machine
        .kubectl(&["scale", "deployment/web", "--replicas=0"])
        .ok();
    let gone = "Error from server (ServiceUnavailable): no endpoints available for service \"web\"";
    eventually("no endpoints", MINUTE, || {
        let answer = raw(&namespaced("services/web:http/proxy/"));
        (answer.stderr.trim() == gone)
            .then_some(())
            .ok_or(answer.stderr)
    });
}

#[test]
fn top_tells_what_nodes_and_pods_use() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(BUSY);
    machine.wait("pod/busy", "condition=Ready", MINUTE);
    let top = |args: &[&str]| {
        let mut all = vec!["top"];
        all.extend(args);
        machine.kubectl(&all)
    };
    // Who asks first waits for the second sample, and then there is a figure.
    let nodes = top(&["node"]).ok();
    let words: Vec<&str> = nodes.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        words,
        ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
        "{nodes}"
    );
    let line = nodes.lines().nth(1).unwrap();
    assert!(line.starts_with("node-a") && line.contains("Mi"), "{nodes}");

    let milli = |line: &str| -> i64 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let cpu = words
            .iter()
            .find(|w| w.ends_with('m') && w.starts_with(|c: char| c.is_ascii_digit()));
        cpu.unwrap().trim_end_matches('m').parse().unwrap()
    };
    let pods = eventually("the busy pod's figure", MINUTE, || {
        let answer = top(&["pod", "--no-headers"]);
        let found = answer.stdout.lines().find(|line| line.starts_with("busy"));
        match found {
            // It may spin for 200m, and gets less only from a machine that is busy itself.
            Some(line) if (20..260).contains(&milli(line)) => Ok(answer.stdout.clone()),
            _ => Err(format!("{answer:?}")),
        }
    });
    assert_eq!(pods.lines().count(), 1);
    let containers = top(&["pod", "busy", "--containers", "--no-headers"]).ok();
    let mut names: Vec<&str> = containers
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["sleeps", "spins"], "{containers}");
    for args in [
        &["pod", "-A", "--sort-by=cpu"][..],
        &["pod", "-l", "app=busy", "--sort-by=memory"],
        &["pod", "--field-selector=metadata.name=busy", "--sum"],
        &["node", "node-a"],
        &["node", "-l", "kubernetes.io/hostname", "--show-capacity"],
    ] {
        let told = top(args).ok();
        assert!(
            told.contains("busy") || told.contains("node-a"),
            "{args:?}: {told}"
        );
    }
    for (args, expect) in [
        (
            &["pod", "ghost"][..],
            "Error from server (NotFound): pods \"ghost\" not found",
        ),
        (
            &["node", "ghost"],
            "Error from server (NotFound): nodes \"ghost\" not found",
        ),
        (
            &["pod", "-n", "kube-public"],
            "No resources found in kube-public namespace.",
        ),
    ] {
        assert_eq!(top(args).stderr.trim(), expect, "{args:?}");
    }

    // As an API like any other.
    let list = machine
        .kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/pods"])
        .json();
    assert_eq!(list["kind"], "PodMetricsList");
    let one = &list["items"][0];
    for field in ["timestamp", "window"] {
        assert!(one[field].is_string(), "{list}");
    }
    assert_eq!(one["metadata"]["labels"]["app"], "busy");
    let table = machine.kubectl(&["get", "pods.metrics.k8s.io"]).ok();
    assert!(
        table
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .eq(["NAME", "CPU", "MEMORY", "WINDOW"]),
        "{table}"
    );
    machine
        .kubectl(&["create", "serviceaccount", "viewer"])
        .ok();
    let can = |what: &str| {
        let as_viewer = "--as=system:serviceaccount:default:viewer";
        machine
            .kubectl(&["auth", "can-i", "list", what, as_viewer])
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(can("pods.metrics.k8s.io"), "no");
    let grant = [
        "create",
        "rolebinding",
        "v",
        "--clusterrole=view",
        "--serviceaccount=default:viewer",
    ];
    machine.kubectl(&grant).ok();
    assert_eq!(can("pods.metrics.k8s.io"), "yes");

    // A namespace with metrics in it is emptied like any: what nobody stores holds nothing up.
    machine.kubectl(&["create", "namespace", "brief"]).ok();
    machine
        .kubectl(&["delete", "namespace", "brief", "--timeout=30s"])
        .ok();
}
