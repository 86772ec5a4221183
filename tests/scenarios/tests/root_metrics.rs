//! A stock Prometheus reads every page that node and server have, and finds on them what it looks for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: 'busybox:test'
    imagePullPolicy: Never
    command: [sh, -c, 'head -c 1000000 /dev/zero > /scratch/file; echo ok > /scratch/index.html; httpd -f -p 8080 -h /scratch']
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:monitoring'}
subjects: [{kind: ServiceAccount, namespace: default, name: prometheus}]
";

/// The pages: job, address, path.
const PAGES: [(&str, &str, &str); 5] = [
    ("apiserver", ":6443", "/metrics"),
    ("kubelet", ":10250", "/metrics"),
    ("resource", ":10250", "/metrics/resource"),
    ("cadvisor", ":10250", "/metrics/cadvisor"),
    ("probes", ":10250", "/metrics/probes"),
];

/// Names that break promtool's taste, and are upstream's.
const UPSTREAMS: [&str; 5] = [
    "container_memory_failcnt",
    "container_cpu_",
    "container_spec_",
    "container_fs_",
    "container_memory_",
];

const MINUTE: Duration = Duration::from_secs(60);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder with Prometheus' two programs.
fn prometheus() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("KERNELET_PROMETHEUS")?);
    let both = ["prometheus", "promtool"]
        .iter()
        .all(|name| dir.join(name).exists());
    both.then_some(dir)
}

fn configuration(machine: &Machine, ca: &Path, token: &Path) -> String {
    let mut text =
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
    for (job, port, path) in PAGES {
        text += &format!(
            "- job_name: {job}\n  scheme: https\n  metrics_path: {path}\n  tls_config: {{ca_file: {}}}\n  \
             authorization: {{credentials_file: {}}}\n  static_configs: [{{targets: ['{}{port}']}}]\n",
            ca.display(),
            token.display(),
            machine.node_ip()
        );
    }
    text
}

#[test]
fn prometheus_reads_every_page() {
    skip_unless_root!();
    let Some(programs) = prometheus() else {
        println!(
            "SKIP {}: KERNELET_PROMETHEUS names no folder with prometheus",
            module_path!()
        );
        return;
    };
    let machine = Machine::new();
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(PODS);
    machine.wait("pod/probed", "condition=Ready", MINUTE);
    let dir = machine.dir();
    let (ca, token) = (dir.join("ca.crt"), dir.join("token"));
    let ca_text = machine.kubectl(&[
        "get",
        "configmap",
        "kube-root-ca.crt",
        "-o",
        "jsonpath={.data.ca\\.crt}",
    ]);
    fs::write(&ca, ca_text.ok()).unwrap();
    fs::write(
        &token,
        machine
            .kubectl(&["create", "token", "prometheus"])
            .ok()
            .trim(),
    )
    .unwrap();

    // Each page by itself, as its own checker reads it.
    for (_, port, path) in PAGES {
        let url = format!("https://{}{port}{path}", machine.node_ip());
        let page = machine.sh(&format!(
            "curl -sS --fail --cacert {} -H \"Authorization: Bearer $(cat {})\" {url}",
            ca.display(),
            token.display()
        ));
        let file = dir.join("page");
        fs::write(&file, page.ok()).unwrap();
        let promtool = programs.join("promtool");
        let checked = machine.sh(&format!(
            "{} check metrics < {}",
            promtool.display(),
            file.display()
        ));
        // 3: matters of taste.
        assert!(matches!(checked.code, 0 | 3), "{url}: {checked:?}");
        let told = format!("{}{}", checked.stdout, checked.stderr);
        let ours: Vec<&str> = told
            .lines()
            .filter(|line| {
                !line.trim().is_empty() && !UPSTREAMS.iter().any(|name| line.starts_with(name))
            })
            .collect();
        assert!(ours.is_empty(), "{url}: {ours:#?}");
    }

    let config = dir.join("prometheus.yml");
    fs::write(&config, configuration(&machine, &ca, &token)).unwrap();
    let data = dir.join("tsdb");
    let log = fs::File::create(dir.join("prometheus.log")).unwrap();
    let program = programs.join("prometheus");
    let child = machine
        .command(&program.to_string_lossy())
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .args(["--web.listen-address=127.0.0.1:9090", "--log.level=warn"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _running = Running(child);
    let query = |text: &str| -> Result<Vec<Value>, String> {
        let answer = machine.sh(&format!(
            "curl -sS --max-time 10 --get --data-urlencode 'query={text}' http://127.0.0.1:9090/api/v1/query"
        ));
        let body: Value =
            serde_json::from_str(&answer.stdout).map_err(|e| format!("{e}: {answer:?}"))?;
        match body["data"]["result"].as_array() {
            Some(result) => Ok(result.clone()),
            None => Err(body.to_string()),
        }
    };
    eventually("every target is up", MINUTE, || {
        let up = query("up == 1")?;
        if up.len() == PAGES.len() {
            return Ok(());
        }
        let targets = machine
            .sh("curl -sS http://127.0.0.1:9090/api/v1/targets?state=active")
            .stdout;
        Err(format!("{up:?}\n{targets}"))
    });
    let pod = r#"namespace="default",pod="probed""#;
    for series in [
        r#"apiserver_request_total{verb="POST",resource="pods",code="201",component="apiserver"} > 0"#.to_owned(),
        r#"apiserver_request_duration_seconds_bucket{verb="LIST",resource="pods",le="+Inf"} > 0"#.to_owned(),
        r#"apiserver_longrunning_requests{verb="WATCH",resource="pods"} > 0"#.to_owned(),
        r#"apiserver_current_inflight_requests{request_kind="readOnly"}"#.to_owned(),
        r#"process_resident_memory_bytes{job="apiserver"} > 1000000"#.to_owned(),
        r#"kubelet_running_pods == 1"#.to_owned(),
        r#"kubelet_running_containers{container_state="running"} == 1"#.to_owned(),
        r#"kubelet_started_containers_total{container_type="container"} == 1"#.to_owned(),
        r#"kubelet_pod_start_duration_seconds_count == 1"#.to_owned(),
        r#"kubelet_http_requests_total{path="metrics/cadvisor",method="GET"} > 0"#.to_owned(),
        r#"node_cpu_usage_seconds_total{job="resource"} > 0"#.to_owned(),
        r#"node_memory_working_set_bytes > 1000000"#.to_owned(),
        format!(r#"container_memory_working_set_bytes{{job="resource",container="main",{pod}}} > 0"#),
        format!(r#"pod_cpu_usage_seconds_total{{{pod}}} > 0"#),
        r#"scrape_error == 0 and resource_scrape_error == 0"#.to_owned(),
        format!(
            r#"container_cpu_usage_seconds_total{{job="cadvisor",container="main",image=~".*busybox:test",cpu="total",{pod}}} > 0"#
        ),
        format!(r#"container_spec_memory_limit_bytes{{container="main",{pod}}} == 67108864"#),
        format!(r#"container_spec_cpu_quota{{container="main",{pod}}} == 50000"#),
        format!(r#"container_network_receive_bytes_total{{interface="eth0",{pod}}} > 0"#),
        r#"container_network_receive_bytes_total{id="/",interface="eth0",pod=""}"#.to_owned(),
        r#"machine_memory_bytes > 1000000"#.to_owned(),
        format!(
            r#"prober_probe_total{{probe_type="Readiness",result="successful",container="main",{pod}}} > 0"#
        ),
    ] {
        eventually(&series, MINUTE, || {
            let found = query(&series)?;
            (!found.is_empty())
                .then_some(())
                .ok_or("no such series".to_owned())
        });
    }

    // The summary has the same, and more, in the kubelet's form.
    let summary = |query: &str| {
        let path = format!("/api/v1/nodes/node-a/proxy/stats/summary{query}");
        machine.kubectl(&["get", "--raw", &path]).json()
    };
    summary("");
    let full = eventually("a rate between two questions", MINUTE, || {
        let told = summary("");
        let rate = &told["node"]["cpu"]["usageNanoCores"];
        rate.is_u64().then(|| told.clone()).ok_or(told.to_string())
    });
    assert_eq!(full["node"]["nodeName"], "node-a");
    let numbers = |value: &Value, pointers: &[&str]| {
        for pointer in pointers {
            let number = value.pointer(pointer).and_then(Value::as_u64);
            assert!(number.is_some_and(|n| n > 0), "{pointer}: {value:#}");
        }
    };
    numbers(
        &full["node"],
        &[
            "/cpu/usageCoreNanoSeconds",
            "/memory/workingSetBytes",
            "/memory/availableBytes",
            "/network/rxBytes",
            "/fs/capacityBytes",
            "/runtime/imageFs/capacityBytes",
            "/rlimit/maxpid",
        ],
    );
    let mut system: Vec<&str> = full["node"]["systemContainers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    system.sort_unstable();
    assert_eq!(system, ["kubelet", "pods", "runtime"]);
    let pod = &full["pods"][0];
    assert_eq!(
        (&pod["podRef"]["name"], &pod["podRef"]["namespace"]),
        (&"probed".into(), &"default".into())
    );
    numbers(
        pod,
        &[
            "/cpu/usageCoreNanoSeconds",
            "/memory/workingSetBytes",
            "/network/interfaces/0/rxBytes",
            "/containers/0/memory/workingSetBytes",
            "/containers/0/rootfs/capacityBytes",
            "/process_stats/process_count",
        ],
    );
    let volumes = pod["volume"].as_array().unwrap();
    let scratch = volumes.iter().find(|v| v["name"] == "scratch").unwrap();
    let written = scratch["usedBytes"].as_u64().unwrap();
    assert!(written >= 1_000_000, "{pod:#}");
    assert!(pod["ephemeral-storage"]["usedBytes"].as_u64().unwrap() >= written);
    let brief = summary("?only_cpu_and_memory=true");
    assert!(
        brief["pods"][0]["cpu"].is_object() && brief["pods"][0]["network"].is_null(),
        "{brief:#}"
    );
}
