//! What this runtime says about itself: its version, and a starting configuration.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json, ser::PrettyFormatter};

use kernelet_sys::cgroup::{Layout, Mode};

use crate::{
    cli::Global,
    flags::{Flag, Given},
};

/// OCI's runtime specification that this runtime follows.
pub const OCI_VERSION: &str = "1.3.0";

pub const FLAGS: &[Flag] = &[
    Flag::text("bundle", "path to the root of the bundle directory").or("b"),
    Flag::switch(
        "rootless",
        "generate a configuration for a rootless container",
    ),
];

/// In the form that containerd and Docker read.
pub fn version() -> String {
    format!(
        "{} version {}\ncommit: {}\nspec: {OCI_VERSION}\n",
        crate::help::name(),
        env!("CARGO_PKG_VERSION"),
        option_env!("KERNELET_COMMIT").unwrap_or("unknown")
    )
}

pub fn spec(_: &Global, given: &Given) -> Result<ExitCode> {
    if let Some(bundle) = given.path("bundle") {
        std::env::set_current_dir(&bundle)
            .with_context(|| format!("chdir {}", bundle.display()))?;
    }
    if fs::symlink_metadata("config.json").is_ok() {
        bail!("File config.json exists. Remove it first");
    }
    let pure_v2 = Layout::detect().is_ok_and(|layout| layout.mode() == Mode::V2);
    let ids = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    let text = example(pure_v2, given.on("rootless").then_some(ids))?;
    // An existing configuration is somebody's work.
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open("config.json")
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .context("write config.json")?;
    Ok(ExitCode::SUCCESS)
}

/// An object whose keys stay in the order they are written in here, as in runc's.
struct Ordered(Vec<(&'static str, Node)>);

enum Node {
    Plain(Value),
    Object(Ordered),
    List(Vec<Ordered>),
}

impl Serialize for Ordered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, node)| (key, node)))
    }
}

impl Serialize for Node {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Plain(value) => value.serialize(serializer),
            Node::Object(object) => object.serialize(serializer),
            Node::List(list) => list.serialize(serializer),
        }
    }
}

fn plain(value: Value) -> Node {
    Node::Plain(value)
}

fn object(fields: Vec<(&'static str, Node)>) -> Node {
    Node::Object(Ordered(fields))
}

/// `rootless`: the ids of who will run it.
fn example(cgroup_namespace: bool, rootless: Option<(u32, u32)>) -> Result<String> {
    let caps = || {
        plain(json!([
            "CAP_AUDIT_WRITE",
            "CAP_KILL",
            "CAP_NET_BIND_SERVICE"
        ]))
    };
    let user = Ordered(vec![("uid", plain(json!(0))), ("gid", plain(json!(0)))]);
    let limit = Ordered(vec![
        ("type", plain(json!("RLIMIT_NOFILE"))),
        ("hard", plain(json!(1024))),
        ("soft", plain(json!(1024))),
    ]);
    let env = json!([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm"
    ]);
    let process = object(vec![
        ("terminal", plain(json!(true))),
        ("user", Node::Object(user)),
        ("args", plain(json!(["sh"]))),
        ("env", plain(env)),
        ("cwd", plain(json!("/"))),
        (
            "capabilities",
            object(vec![
                ("bounding", caps()),
                ("effective", caps()),
                ("permitted", caps()),
            ]),
        ),
        ("rlimits", Node::List(vec![limit])),
        ("noNewPrivileges", plain(json!(true))),
    ]);
    let whole = Ordered(vec![
        ("ociVersion", plain(json!(OCI_VERSION))),
        ("process", process),
        (
            "root",
            object(vec![
                ("path", plain(json!("rootfs"))),
                ("readonly", plain(json!(true))),
            ]),
        ),
        ("hostname", plain(json!("runc"))),
        ("mounts", Node::List(mounts(rootless.is_some()))),
        ("linux", linux(cgroup_namespace, rootless)),
    ]);
    let mut text = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    whole.serialize(&mut serializer)?;
    Ok(String::from_utf8(text)?)
}

fn mounts(rootless: bool) -> Vec<Ordered> {
    let table: [(&str, &str, &str, &[&str]); 7] = [
        ("/proc", "proc", "proc", &[]),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        (
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ];
    let one = |(destination, kind, source, options): (&str, &str, &str, &[&str])| {
        // A sysfs of one's own needs a network namespace of one's own.
        let (kind, source, options) = match (rootless, destination) {
            (true, "/sys") => (
                "none",
                "/sys",
                &["rbind", "nosuid", "noexec", "nodev", "ro"][..],
            ),
            _ => (kind, source, options),
        };
        let mapped = |option: &&&str| {
            !(rootless && (option.starts_with("gid=") || option.starts_with("uid=")))
        };
        let options: Vec<&&str> = options.iter().filter(mapped).collect();
        let mut fields = vec![
            ("destination", plain(json!(destination))),
            ("type", plain(json!(kind))),
            ("source", plain(json!(source))),
        ];
        if !options.is_empty() {
            fields.push(("options", plain(json!(options))));
        }
        Ordered(fields)
    };
    table.into_iter().map(one).collect()
}

fn linux(cgroup_namespace: bool, rootless: Option<(u32, u32)>) -> Node {
    let mut kinds = vec!["pid", "network", "ipc", "uts", "mount"];
    if cgroup_namespace {
        kinds.push("cgroup");
    }
    let mut fields = Vec::new();
    if let Some((uid, gid)) = rootless {
        kinds.retain(|kind| *kind != "network");
        kinds.push("user");
        for (name, id) in [("uidMappings", uid), ("gidMappings", gid)] {
            let mapping = Ordered(vec![
                ("containerID", plain(json!(0))),
                ("hostID", plain(json!(id))),
                ("size", plain(json!(1))),
            ]);
            fields.push((name, Node::List(vec![mapping])));
        }
    } else {
        let rule = Ordered(vec![
            ("allow", plain(json!(false))),
            ("access", plain(json!("rwm"))),
        ]);
        fields.push((
            "resources",
            object(vec![("devices", Node::List(vec![rule]))]),
        ));
    }
    let namespaces = kinds
        .into_iter()
        .map(|kind| Ordered(vec![("type", plain(json!(kind)))]));
    fields.push(("namespaces", Node::List(namespaces.collect())));
    let masked = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi",
    ]);
    fields.push(("maskedPaths", plain(masked)));
    let readonly = json!([
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger"
    ]);
    fields.push(("readonlyPaths", plain(readonly)));
    object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starting_configuration_is_one_that_is_understood() {
        for rootless in [None, Some((1000, 100))] {
            let text = example(true, rootless).unwrap();
            assert!(
                text.starts_with(
                    "{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t\"terminal\": true,"
                ),
                "{text}"
            );
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            let id = kernelet_spec::ContainerId::new("c").unwrap();
            let plan = kernelet_spec::from_oci(&spec, id, std::path::Path::new("/b")).unwrap();
            kernelet_spec::validate(&plan).unwrap();
        }
    }
}
