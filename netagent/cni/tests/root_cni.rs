//! The plugin as a runtime calls it: its program, its environment, real namespaces.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

fn skip(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    !root
}

fn sh(script: &str) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-euc", script])
        .output()
        .expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!(
            "{script}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

struct Netns(String);

impl Netns {
    fn new(kind: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("klc{kind}{}x{number}", std::process::id());
        sh(&format!("ip netns add {name}")).expect("a namespace");
        Self(name)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    fn sh(&self, script: &str) -> Result<String, String> {
        sh(&format!(
            "nsenter --net={} sh -euc \"{script}\"",
            self.path().display()
        ))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = sh(&format!("ip netns del {}", self.0));
    }
}

struct Node {
    node: Netns,
    outside: Netns,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let (node, outside) = (Netns::new("n"), Netns::new("o"));
        let (n, o) = (&node.0, &outside.0);
        sh(&format!(
            "ip -n {n} link set lo up; ip -n {o} link set lo up
             ip -n {n} link add eth0 type veth peer name eth0 netns {o}
             ip -n {n} address add 10.78.0.2/24 dev eth0; ip -n {o} address add 10.78.0.1/24 dev eth0
             ip -n {n} link set eth0 up; ip -n {o} link set eth0 up
             ip -n {n} route add default via 10.78.0.1"
        ))
        .expect("the links");
        Self {
            node,
            outside,
            dir: tempfile::tempdir().expect("a folder"),
        }
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "kernelet-cni",
            "ranges": ["10.88.0.0/29"], "ipMasq": true, "stateDir": self.dir.path().join("state"),
        })
    }

    /// Exit code 0 or not, and the answer.
    fn call(
        &self,
        command: &str,
        container: &str,
        netns: Option<&Netns>,
        config: &Value,
    ) -> Result<Value, Value> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.node.path().display()))
            .arg(env!("CARGO_BIN_EXE_kernelet-cni"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns.map(Netns::path).unwrap_or_default())
            .env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the plugin");
        child
            .stdin
            .take()
            .expect("its input")
            .write_all(config.to_string().as_bytes())
            .expect("write");
        let output = child.wait_with_output().expect("its end");
        let answer = if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).expect("JSON")
        };
        if output.status.success() {
            Ok(answer)
        } else {
            Err(answer)
        }
    }
}

fn ip(result: &Value) -> String {
    result["ips"][0]["address"]
        .as_str()
        .expect("an address")
        .trim_end_matches("/32")
        .to_owned()
}

#[test]
fn containers_are_connected_checked_and_disconnected() {
    if skip("containers_are_connected_checked_and_disconnected") {
        return;
    }
    let node = Node::new();
    let look = || {
        node.node
            .sh("ip -o link | cut -d: -f2; ip route; nft list ruleset; sysctl net.ipv4.conf.eth0.forwarding")
            .expect("a look")
    };
    let before = look();
    let config = node.config();
    assert_eq!(node.call("STATUS", "", None, &config), Ok(Value::Null));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let result_a = node.call("ADD", "aaa", Some(&a), &config).expect("ADD");
    let result_b = node.call("ADD", "bbb", Some(&b), &config).expect("ADD");
    assert_eq!(result_a["cniVersion"], "1.1.0");
    assert_eq!(
        result_a["interfaces"][1]["sandbox"],
        a.path().display().to_string()
    );
    assert_eq!(result_a["interfaces"][1]["name"], "eth0");
    assert_eq!(result_a["ips"][0]["interface"], 1);
    assert_eq!(result_a["routes"][0]["dst"], "0.0.0.0/0");
    let (ip_a, ip_b) = (ip(&result_a), ip(&result_b));
    assert_ne!(ip_a, ip_b);
    let mac = a.sh("ip -o link show eth0").expect("look");
    assert!(
        mac.contains(result_a["interfaces"][1]["mac"].as_str().expect("a mac")),
        "{mac}"
    );

    // To each other, to the node, to the outside and back.
    b.sh(&format!("busybox ping -c 1 -W 2 {ip_a}"))
        .expect("container to container");
    node.node
        .sh(&format!("busybox ping -c 1 -W 2 {ip_a}"))
        .expect("node to container");
    a.sh("busybox ping -c 1 -W 2 10.78.0.2")
        .expect("container to node");
    a.sh("busybox ping -c 1 -W 2 10.78.0.1")
        .expect("container to the outside");
    let _ = &node.outside;

    // ADD again is the same attachment.
    assert_eq!(
        node.call("ADD", "aaa", Some(&a), &config).expect("ADD"),
        result_a
    );

    let mut with_result = config.clone();
    with_result["prevResult"] = result_a.clone();
    assert_eq!(
        node.call("CHECK", "aaa", Some(&a), &with_result),
        Ok(Value::Null)
    );
    a.sh("ip route del default").expect("a difference");
    let error = node
        .call("CHECK", "aaa", Some(&a), &with_result)
        .expect_err("a difference");
    assert_eq!(error["code"], 101);
    assert!(
        error["msg"]
            .as_str()
            .expect("a message")
            .contains("default route"),
        "{error}"
    );

    assert_eq!(node.call("DEL", "aaa", Some(&a), &config), Ok(Value::Null));
    assert_eq!(
        node.call("DEL", "aaa", Some(&a), &config),
        Ok(Value::Null),
        "again"
    );
    assert_eq!(
        node.call("CHECK", "aaa", Some(&a), &with_result)
            .expect_err("gone")["code"],
        101
    );
    assert_eq!(
        node.call("DEL", "bbb", None, &config),
        Ok(Value::Null),
        "without a namespace"
    );
    assert_eq!(look(), before);
}

#[test]
fn what_is_not_in_the_list_of_attachments_is_collected() {
    if skip("what_is_not_in_the_list_of_attachments_is_collected") {
        return;
    }
    let node = Node::new();
    let config = node.config();
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    node.call("ADD", "aaa", Some(&a), &config).expect("ADD");
    let ip_b = ip(&node.call("ADD", "bbb", Some(&b), &config).expect("ADD"));
    let mut collect = config.clone();
    collect["cni.dev/valid-attachments"] = json!([{"containerID": "bbb", "ifname": "eth0"}]);
    assert_eq!(node.call("GC", "", None, &collect), Ok(Value::Null));
    assert!(a.sh("ip link show eth0").is_err(), "the other end is gone");
    node.node
        .sh(&format!("busybox ping -c 1 -W 2 {ip_b}"))
        .expect("this one stays");
    node.call("DEL", "bbb", Some(&b), &config).expect("DEL");
}

#[test]
fn errors_have_the_specifications_codes() {
    if skip("errors_have_the_specifications_codes") {
        return;
    }
    let node = Node::new();
    let config = node.config();
    let a = Netns::new("a");
    let code = |command: &str, netns: Option<&Netns>, config: &Value| {
        node.call(command, "aaa", netns, config)
            .map_err(|error| error["code"].clone())
    };
    let version = node
        .call("VERSION", "", None, &json!({"cniVersion": "0.1.0"}))
        .expect("VERSION");
    assert!(
        version["supportedVersions"]
            .as_array()
            .expect("a list")
            .contains(&json!("1.1.0"))
    );
    let mut old = config.clone();
    old["cniVersion"] = json!("0.1.0");
    assert_eq!(code("ADD", Some(&a), &old), Err(json!(1)));
    assert_eq!(code("ADD", None, &config), Err(json!(4)));
    assert_eq!(code("JUMP", Some(&a), &config), Err(json!(4)));
    assert_eq!(code("ADD", Some(&a), &json!({"name": 7})), Err(json!(6)));
    let mut empty = config.clone();
    empty["ranges"] = json!([]);
    assert_eq!(code("ADD", Some(&a), &empty), Err(json!(7)));
    assert_eq!(code("STATUS", None, &empty), Err(json!(50)));
    // Six addresses in a /29; the seventh container has to wait.
    let netns: Vec<Netns> = (0..7).map(|_| Netns::new("f")).collect();
    for (index, netns) in netns.iter().enumerate() {
        let result = node.call("ADD", &format!("full{index}"), Some(netns), &config);
        match index {
            0..6 => assert!(result.is_ok(), "{result:?}"),
            _ => assert_eq!(result.expect_err("full")["code"], 11),
        }
    }
    for index in 0..7 {
        node.call("DEL", &format!("full{index}"), None, &config)
            .expect("DEL");
    }
    let _ = node.call("GC", "", None, &{
        let mut collect = config;
        collect["cni.dev/valid-attachments"] = json!([]);
        collect
    });
}
