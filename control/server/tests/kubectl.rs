//! What people type: stock kubectl over TLS.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use common::{Kubectl, TestServer};

const APP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "nginx:1.25", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
"#;

/// Runs a scenario on its own thread while the server serves on the test's.
async fn with_kubectl(scenario: impl FnOnce(Kubectl) + Send + 'static) {
    let server = TestServer::start().await;
    if let Some(kubectl) = server.kubectl() {
        kubectl.ok("create sa default");
        tokio::task::spawn_blocking(move || scenario(kubectl))
            .await
            .unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_changes_what_differs_and_nothing_else() {
    with_kubectl(|k| {
        let file = k.file("app.yaml", APP);
        assert_eq!(k.ok(&format!("apply -f {file}")), "deployment.apps/web created\nservice/web created\n");
        assert_eq!(k.ok(&format!("apply -f {file}")), "deployment.apps/web unchanged\nservice/web unchanged\n");
        let file = k.file("app2.yaml", &APP.replace("replicas: 3", "replicas: 4"));
        assert_eq!(k.ok(&format!("apply -f {file}")), "deployment.apps/web configured\nservice/web unchanged\n");
        assert_eq!(k.ok("get deploy web -o jsonpath={.spec.replicas}"), "4");
        let dry = "deployment.apps/web unchanged (server dry run)\nservice/web unchanged (server dry run)\n";
        assert_eq!(k.ok(&format!("apply --dry-run=server -f {file}")), dry);
        k.ok(&format!("diff -f {file}"));
        assert!(k.ok(&format!("apply --server-side --force-conflicts -f {file}")).contains("deployment.apps/web serverside-applied"));
        k.ok(&format!("delete -f {file}"));
        assert_eq!(k.ok("get deploy"), "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_edited_in_every_way() {
    with_kubectl(|k| {
        k.ok("create cm a --from-literal=x=1");
        k.ok("label cm a app=web");
        k.ok("annotate cm a note=n");
        k.ok(r#"patch cm a --type=merge -p {"data":{"y":"2"}}"#);
        k.ok(r#"patch cm a --type=json -p [{"op":"replace","path":"/data/x","value":"3"}]"#);
        k.ok(r#"patch cm a -p {"data":{"z":"4"}}"#);
        assert_eq!(
            k.ok("get cm a -o jsonpath={.data}"),
            r#"{"x":"3","y":"2","z":"4"}"#
        );
        assert_eq!(k.ok("get cm -l app=web -o name"), "configmap/a\n");
        let file = k.file(
            "cm.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {only: this}\n",
        );
        k.ok(&format!("replace -f {file}"));
        assert_eq!(k.ok("get cm a -o jsonpath={.data}"), r#"{"only":"this"}"#);
        assert!(
            k.fails("create cm a")
                .contains("configmaps \"a\" already exists")
        );
        assert!(
            k.fails("get cm b")
                .contains("Error from server (NotFound): configmaps \"b\" not found")
        );
        k.ok("delete cm a --wait=true");
        k.ok("create deploy d --image=x --replicas=2");
        k.ok("scale deploy d --replicas=5");
        k.ok("set image deploy/d x=y");
        assert_eq!(
            k.ok(
                "get deploy d -o jsonpath={.spec.replicas}{.spec.template.spec.containers[0].image}"
            ),
            "5y"
        );
        k.ok("expose deploy d --port=80");
        assert!(
            k.ok("describe svc d")
                .contains("Selector:                 app=d")
        );
        assert!(k.ok("describe deploy d").contains("Replicas:"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_bind_and_go() {
    with_kubectl(|k| {
        k.ok("run p --image=busybox --restart=Never -- sleep 1");
        assert!(
            k.ok("get pods").contains("p      0/1     Pending   0"),
            "{}",
            k.ok("get pods")
        );
        assert!(k.ok("get pods -o wide").contains("NOMINATED NODE"));
        assert!(
            k.ok("get pod p -o yaml")
                .contains("mountPath: /var/run/secrets/kubernetes.io/serviceaccount")
        );
        k.ok("delete pod p");
        k.ok("wait --for=delete pod/p --timeout=5s");
        k.ok("run q --image=busybox");
        assert_eq!(
            k.ok("wait --for=jsonpath={.status.phase}=Pending pod/q --timeout=5s"),
            "pod/q condition met\n"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_explains_itself() {
    with_kubectl(|k| {
        let resources = k.ok("api-resources -o wide");
        for kind in [
            "ConfigMap",
            "Deployment",
            "ClusterRole",
            "Lease",
            "EndpointSlice",
            "PodDisruptionBudget",
        ] {
            assert!(resources.contains(kind), "{kind}");
        }
        assert!(k.ok("api-versions").contains("apps/v1\n"));
        assert!(
            k.ok("explain pod.spec.containers")
                .contains("livenessProbe")
        );
        assert!(
            k.ok("explain deploy --recursive")
                .contains("maxUnavailable")
        );
        assert!(k.ok("version").contains("Server Version: v1.35"));
        assert!(k.ok("cluster-info").contains("is running at"));
        assert!(
            k.ok("get --raw /readyz?verbose")
                .contains("readyz check passed")
        );
        assert!(
            k.ok("get --raw /metrics")
                .contains("apiserver_request_total")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_asked_and_granted() {
    with_kubectl(|k| {
        assert_eq!(k.ok("auth can-i create pods"), "yes\n");
        assert!(k.ok("auth whoami").contains("kubernetes-admin"));
        k.ok("create role r --verb=get,list --resource=pods");
        k.ok("create rolebinding b --role=r --serviceaccount=default:default");
        let robot = "--as=system:serviceaccount:default:default";
        assert_eq!(k.ok(&format!("auth can-i list pods {robot}")), "yes\n");
        let output = k.run(&format!("auth can-i delete pods {robot}"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "no\n");
        assert!(k.ok(&format!("auth can-i --list {robot}")).contains("pods"));
        let token = k.ok("create token default --duration=1h");
        let who = k
            .command("auth whoami --kubeconfig /dev/null")
            .output()
            .unwrap();
        assert!(!who.status.success());
        assert_eq!(token.trim().split('.').count(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_each_change() {
    with_kubectl(|k| {
        k.ok("create cm a");
        let mut watch = k
            .command("get cm a -w -o jsonpath={.data.n}{\"\\n\"}")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "");
        for n in 1..4 {
            k.ok(&format!(
                "patch cm a --type=merge -p {{\"data\":{{\"n\":\"{n}\"}}}}"
            ));
            assert_eq!(lines.next().unwrap().unwrap(), n.to_string());
        }
        watch.kill().unwrap();
        watch.wait().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_made_and_marked_for_their_end() {
    with_kubectl(|k| {
        k.ok("create ns team");
        k.ok("create cm a -n team");
        k.ok("delete ns team --wait=false");
        assert_eq!(
            k.ok("get ns team -o jsonpath={.status.phase}"),
            "Terminating"
        );
        let refused = k.fails("create cm b -n team");
        assert!(
            refused.contains(
                "unable to create new content in namespace team because it is being terminated"
            ),
            "{refused}"
        );
        assert!(
            k.fails("delete ns default")
                .contains("this namespace may not be deleted")
        );
    })
    .await;
}
