//! A program as people have it: Debian's nginx behind a Service.

use std::{
    fs::{self, File},
    time::Duration,
};

use kernelet_scenarios::{Machine, eventually, nginx_image, skip_unless_root};

const SITE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {index.html: \"first\\n\"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
      - name: nginx
        image: nginx:test
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
        resources: {limits: {memory: 64Mi, cpu: 500m}}
        volumeMounts: [{name: site, mountPath: /site, readOnly: true}]
      volumes: [{name: site, configMap: {name: site}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

#[test]
fn nginx_is_served_changed_and_ended_by_its_own_signal() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine.load_image(&nginx_image(machine.dir()));
    machine.apply(SITE);
    let available = || {
        let minute = Duration::from_secs(60);
        machine.wait("deployment/web", "condition=Available", minute);
    };
    available();

    let service = machine.get(&["service", "web"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let page = || machine.sh(&format!("curl -sS --max-time 5 http://{address}/"));
    assert_eq!(page().ok(), "first\n");
    let missing = machine.sh(&format!(
        "curl -sS -o /dev/null -w %{{http_code}} http://{address}/missing"
    ));
    assert_eq!(missing.ok(), "404");

    // The access log is the containers' standard output, and each request is in one of them.
    eventually("the request is logged", Duration::from_secs(10), || {
        let logs = machine
            .kubectl(&["logs", "-l", "app=web", "--tail=-1"])
            .ok();
        logs.contains("GET /missing HTTP/1.1\" 404")
            .then_some(())
            .ok_or(logs)
    });

    // A changed ConfigMap reaches the running containers, and no container is started again for it.
    machine
        .kubectl(&[
            "patch",
            "configmap",
            "site",
            "-p",
            r#"{"data":{"index.html":"second\n"}}"#,
        ])
        .ok();
    eventually("the new page", Duration::from_secs(90), || {
        let page = page().ok();
        (page == "second\n").then_some(()).ok_or(page)
    });
    let restarts = machine
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
        ])
        .ok();
    assert_eq!(restarts, "0 0");

    // The image's own signal ends it, and whoever follows the logs sees the last line.
    let told = machine.dir().join("followed");
    let mut follow = machine
        .kubectl_command(&["logs", "-f", "-l", "app=web", "--prefix"])
        .stdout(File::create(&told).unwrap())
        .spawn()
        .unwrap();
    let pods = machine
        .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])
        .ok();
    eventually("both logs are followed", Duration::from_secs(30), || {
        let said = fs::read_to_string(&told).map_err(|error| error.to_string())?;
        let all = pods.lines().all(|pod| said.contains(&format!("[{pod}/")));
        all.then_some(()).ok_or(said)
    });
    machine
        .kubectl(&["scale", "deployment/web", "--replicas=0"])
        .ok();
    machine
        .kubectl(&[
            "wait",
            "--for=delete",
            "pod",
            "-l",
            "app=web",
            "--timeout=30s",
        ])
        .ok();
    follow.wait().unwrap();
    let said = fs::read_to_string(&told).unwrap();
    let ends = said.matches("signal 3 (SIGQUIT) received").count();
    assert!(ends >= 2, "{said}");
    let refused = page();
    assert_eq!(refused.code, 7, "refused at once: {refused:?}");
}
