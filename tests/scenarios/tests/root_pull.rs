//! Images pulled from Debian's docker-registry, with TLS by an authority of its own and a password.

use std::{path::PathBuf, process::Command, time::Duration};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};
use serde_json::Value;

const REGISTRY: &str = "10.77.0.1:5443";
/// `user:secret`.
const HTPASSWD: &str = "user:$2b$04$qmsnTU8PEizhVy0k4rTdYe1DPttMRUTmecudXd60yxmohsw7YYw2C\n";

/// False, loudly, without the programs that this needs.
fn has_programs(test: &str) -> bool {
    for (program, argument) in [
        ("docker-registry", "--version"),
        ("skopeo", "--version"),
        ("openssl", "version"),
    ] {
        if Command::new(program).arg(argument).output().is_err() {
            println!("SKIP {test}: {program} is not installed");
            return false;
        }
    }
    true
}

/// A machine that isn't up yet, with a registry outside that has busybox as `private/busybox:v1`.
fn machine() -> Machine {
    let mut machine = Machine::new();
    let dir = machine.dir().join("registry");
    std::fs::create_dir_all(dir.join("certs.d")).unwrap();
    let text = dir.display().to_string();
    std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {text}/data}}}}\n\
         http: {{addr: \"{REGISTRY}\", tls: {{certificate: {text}/cert.pem, key: {text}/key.pem}}}}\n\
         auth: {{htpasswd: {{realm: test, path: {text}/htpasswd}}}}\n"
    );
    std::fs::write(dir.join("config.yml"), config).unwrap();
    std::fs::write(
        dir.join("ext"),
        "subjectAltName=IP:10.77.0.1\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    machine
        .outside_sh(&format!(
            "set -e; cd {text}
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj '/CN=test authority' \
               -keyout ca.key -out ca.pem 2>/dev/null
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/CN=registry' -keyout key.pem \
               -out request.pem 2>/dev/null
             openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem 2>/dev/null
             cp ca.pem certs.d/ca.crt"
        ))
        .ok();
    machine.outside_spawn("docker-registry", &["serve", &format!("{text}/config.yml")]);
    let archive = busybox_image(machine.dir());
    let copy = format!(
        "skopeo copy --insecure-policy --dest-creds user:secret --dest-cert-dir {text}/certs.d \
         docker-archive:{} docker://{REGISTRY}/private/busybox:v1",
        archive.display()
    );
    eventually(
        "the registry takes the image",
        Duration::from_secs(30),
        || {
            let output = machine.outside_sh(&copy);
            if output.code == 0 {
                Ok(())
            } else {
                Err(output.stderr)
            }
        },
    );
    machine
}

fn ca(machine: &Machine) -> PathBuf {
    machine.dir().join("registry/ca.pem")
}

fn pod(name: &str, image: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{rest}\n  containers:\n  \
         - {{name: main, image: \"{image}\", command: [/bin/true]}}\n"
    )
}

/// Waits for the container's waiting reason; answers its message.
fn waits(machine: &Machine, name: &str, reasons: &[&str]) -> String {
    eventually(name, Duration::from_secs(30), || {
        let pod = machine.get(&["pod", name]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if reasons.contains(&reason) {
            Ok(waiting["message"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(pod["status"].to_string())
        }
    })
}

fn succeeded(machine: &Machine, name: &str) -> Value {
    machine.wait(
        &format!("pod/{name}"),
        "jsonpath={.status.phase}=Succeeded",
        Duration::from_secs(40),
    );
    machine.get(&["pod", name])["status"]["containerStatuses"][0].clone()
}

/// `reason message` of each event of a pod, in their order, as soon as one has `text`.
fn events(machine: &Machine, name: &str, text: &str) -> Vec<String> {
    eventually(text, Duration::from_secs(20), || {
        let selector = format!("--field-selector=involvedObject.name={name}");
        let all = machine.get(&["events", &selector]);
        let lines: Vec<_> = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                format!(
                    "{} {}",
                    e["reason"].as_str().unwrap(),
                    e["message"].as_str().unwrap()
                )
            })
            .collect();
        if lines.iter().any(|line| line.contains(text)) {
            Ok(lines)
        } else {
            Err(lines.join("\n"))
        }
    })
}

#[test]
fn a_pod_runs_an_image_that_only_its_pull_secret_opens() {
    skip_unless_root!();
    if !has_programs("a_pod_runs_an_image_that_only_its_pull_secret_opens") {
        return;
    }
    let machine = machine();
    let option = format!("--registry-ca={REGISTRY}={}", ca(&machine).display());
    let machine = machine.with(&option);
    machine.up();
    let image = format!("{REGISTRY}/private/busybox:v1");

    machine.apply(&pod("nobody", &image, ""));
    let message = waits(&machine, "nobody", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains("pull access denied"), "{message}");
    let told = events(&machine, "nobody", "Failed Error: ErrImagePull");
    let failed = format!(
        "Failed Failed to pull image \"{image}\": failed to pull and unpack image \"{image}\""
    );
    assert!(
        told.iter().any(|line| line.starts_with(&failed)),
        "{told:?}"
    );
    assert!(
        told.contains(&format!("Pulling Pulling image \"{image}\"")),
        "{told:?}"
    );

    // By its service account, whose pull secrets admission gives to the pod.
    machine
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "pull",
            "--docker-server",
            REGISTRY,
            "--docker-username",
            "user",
            "--docker-password",
            "secret",
        ])
        .ok();
    machine
        .kubectl(&["create", "serviceaccount", "puller"])
        .ok();
    machine
        .kubectl(&[
            "patch",
            "serviceaccount",
            "puller",
            "-p",
            r#"{"imagePullSecrets": [{"name": "pull"}]}"#,
        ])
        .ok();
    machine.apply(&pod("somebody", &image, "  serviceAccountName: puller"));
    let status = succeeded(&machine, "somebody");
    assert_eq!(status["image"], image.as_str());
    let id = status["imageID"].as_str().unwrap();
    assert!(
        id.starts_with(&format!("{REGISTRY}/private/busybox@sha256:")),
        "{id}"
    );
    let told = events(&machine, "somebody", "Successfully pulled image");
    let pulled = told
        .iter()
        .find(|line| line.starts_with("Pulled "))
        .unwrap();
    assert!(
        pulled.contains(" including waiting). Image size: "),
        "{pulled}"
    );

    // It is there now, and still only for who can open it.
    machine.apply(&pod("stranger", &image, ""));
    let message = waits(&machine, "stranger", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains("pull access denied"), "{message}");
    machine.apply(&pod("again", &image, "  imagePullSecrets: [{name: pull}]"));
    succeeded(&machine, "again");
    let told = events(&machine, "again", "already present on machine");
    assert!(
        !told.iter().any(|line| line.starts_with("Pulling")),
        "{told:?}"
    );
    eventually(
        "the node tells of its image",
        Duration::from_secs(30),
        || {
            let node = machine.get(&["node", "node-a"]);
            let names = node["status"]["images"].to_string();
            if names.contains(id) && names.contains(&image) {
                Ok(())
            } else {
                Err(names)
            }
        },
    );

    let by_digest = id.to_owned();
    machine.apply(&pod(
        "by-digest",
        &by_digest,
        "  imagePullSecrets: [{name: pull}]",
    ));
    assert_eq!(succeeded(&machine, "by-digest")["imageID"], id);

    // And what can't be had, in upstream's words.
    machine.apply(&pod(
        "missing",
        &format!("{REGISTRY}/private/none:v1"),
        "  imagePullSecrets: [{name: pull}, {name: absent}]",
    ));
    let message = waits(&machine, "missing", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains("private/none:v1: not found"), "{message}");
    events(
        &machine,
        "missing",
        "Unable to retrieve some image pull secrets (absent)",
    );
    let never = pod("never", &format!("{REGISTRY}/private/none:v2"), "")
        .replace("command:", "imagePullPolicy: Never, command:");
    machine.apply(&never);
    let message = waits(&machine, "never", &["ErrImageNeverPull"]);
    assert!(
        message.contains("is not present with pull policy of Never"),
        "{message}"
    );
    machine.apply(&pod("nonsense", "Not:An:Image", ""));
    waits(&machine, "nonsense", &["InvalidImageName"]);
    waits(&machine, "missing", &["ImagePullBackOff"]);
    let told = events(&machine, "missing", "Failed Error: ImagePullBackOff");
    assert!(
        told.iter()
            .any(|line| line.starts_with("BackOff Back-off pulling image")),
        "{told:?}"
    );
}

#[test]
fn an_image_pulled_on_the_command_line_is_saved_readable_and_collected() {
    skip_unless_root!();
    if !has_programs("an_image_pulled_on_the_command_line_is_saved_readable_and_collected") {
        return;
    }
    let machine = machine();
    let image = format!("{REGISTRY}/private/busybox:v1");
    let ca = ca(&machine).display().to_string();
    let pull = |args: &[&str]| {
        let mut all = vec!["image", "pull", image.as_str()];
        all.extend(args);
        machine.kernelet(&all)
    };
    let unknown = pull(&["--creds", "user:secret"]);
    assert_ne!(unknown.code, 0);
    assert!(
        unknown.stderr.contains("UnknownIssuer"),
        "{}",
        unknown.stderr
    );
    let denied = pull(&["--ca", &ca, "--creds", "user:wrong"]);
    assert!(
        denied.stderr.contains("pull access denied"),
        "{}",
        denied.stderr
    );
    let told = pull(&["--ca", &ca, "--creds", "user:secret", "-o", "json"]).ok();
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told[0]["event"], "resolving");
    let last = told.last().unwrap();
    assert_eq!(last["event"], "pulled");
    assert!(last["downloaded"].as_u64().unwrap() > 100_000, "{last}");
    // Again, without verifying: nothing is fetched twice.
    let again = pull(&["--tls-verify=false", "--creds", "user:secret", "-o", "json"]).ok();
    let last: Value = serde_json::from_str(again.lines().last().unwrap()).unwrap();
    assert_eq!(last["downloaded"], 0);
    let credentials = machine.dir().join("auth.json");
    std::fs::write(
        &credentials,
        format!(r#"{{"auths": {{"{REGISTRY}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#),
    )
    .unwrap();
    pull(&[
        "--ca",
        &ca,
        "--registry-credentials",
        &credentials.display().to_string(),
    ])
    .ok();
    let listed = machine.kernelet(&["image", "ls", "-o", "json"]).json();
    assert_eq!(listed[0]["name"], image.as_str());

    let saved = machine.dir().join("saved");
    machine
        .kernelet(&[
            "image",
            "save",
            &image,
            "--output",
            &saved.display().to_string(),
        ])
        .ok();
    let seen = machine
        .outside_sh(&format!("skopeo inspect --config oci:{}", saved.display()))
        .json();
    assert_eq!(seen["config"]["Cmd"][0], "sh");

    // A disk that is always too full: what nobody uses goes, and what the program carries stays.
    let machine = machine
        .with("--image-gc-high-threshold=0")
        .with("--image-gc-low-threshold=0")
        .with("--minimum-image-ttl-duration=0s");
    machine.up();
    eventually("the image is collected", Duration::from_secs(20), || {
        let listed = machine.kernelet(&["image", "ls", "-o", "json"]).json();
        let names = listed.to_string();
        if names.contains("private/busybox") {
            Err(names)
        } else {
            Ok(())
        }
    });
    let listed = machine.kernelet(&["image", "ls", "-o", "json"]).json();
    assert!(
        listed.to_string().contains("kernelet.local/hello"),
        "{listed}"
    );
    events(
        &machine,
        "node-a",
        "FreeDiskSpaceFailed Failed to garbage collect required amount of images",
    );
}
