//! Configurations as JSON, and what becomes of them.

use serde_json::{Value, json};

use super::*;
use crate::{MountSource, NameOrId, NamespaceOf, validate};

fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 5, "gid": 6}, "args": ["true"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]},
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/data", "type": "none", "source": "data", "options": ["rbind", "ro", "rslave"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nodev", "size=1m"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/run/netns/x"}],
            "resources": {"memory": {"limit": 1000000}, "devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore"],
            "cgroupsPath": "a/b"
        }
    })
}

/// The plan, or the error's text, of the base with a change.
fn check(change: impl FnOnce(&mut Value)) -> std::result::Result<ContainerPlan, String> {
    let mut config = base();
    change(&mut config);
    let spec: Spec = serde_json::from_value(config).map_err(|e| e.to_string())?;
    let plan = from_oci(&spec, ContainerId::new("c1").unwrap(), Path::new("/bundle"))
        .map_err(|e| e.to_string())?;
    validate(&plan).map_err(|e| e.to_string())?;
    Ok(plan)
}

#[test]
fn a_configuration_becomes_a_plan() {
    let plan = check(|_| {}).unwrap();
    assert_eq!(plan.rootfs, Rootfs::Path("/bundle/rootfs".into()));
    assert_eq!(plan.process.user.user, NameOrId::Id(5));
    assert_eq!(plan.process.rlimits[0].name, "RLIMIT_NOFILE");
    assert_eq!(plan.process.capabilities.bounding.iter().count(), 1);
    assert_eq!(
        plan.namespaces.net,
        NamespaceOf::Path("/run/netns/x".into())
    );
    assert_eq!(plan.namespaces.ipc, NamespaceOf::Host);
    assert_eq!(plan.cgroup, "/a/b");
    assert_eq!(plan.mounts[1].source, MountSource::Dev);
    let MountSource::Host {
        path,
        recursive: true,
        ..
    } = &plan.mounts[2].source
    else {
        panic!()
    };
    assert_eq!(path, Path::new("/bundle/data"));
    assert!(plan.mounts[2].flags.read_only);
    assert_eq!(plan.resources.memory_limit, Some(1_000_000));
    let devices = plan.resources.devices.unwrap();
    assert!(
        !devices[0].allow && devices.len() > 5,
        "the defaults come after what the bundle denies"
    );
}

#[test]
fn what_is_not_supported_or_wrong_is_named() {
    let set = |path: &'static str, value: Value| {
        move |config: &mut Value| {
            let (parent, name) = path.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[name] = value;
        }
    };
    let cases: Vec<(&'static str, Value, &str)> = vec![
        (
            "/process/user/uid",
            json!(2_147_483_648_u64),
            "process.user.uid: 2147483648 is beyond",
        ),
        (
            "/process/cwd",
            json!("relative"),
            "process.cwd: relative is not absolute",
        ),
        ("/process/args", json!([]), "process.args: is empty"),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}]),
            "a mount namespace is required",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "user"}]),
            "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
        ),
        (
            "/linux/cgroupsPath",
            json!("system.slice:x:y"),
            "linux.cgroupsPath",
        ),
        (
            "/linux/cgroupsPath",
            json!("/../x"),
            "linux.cgroupsPath: /../x contains ..",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "sysctl \"kernel.panic\" is not in a separate kernel namespace",
        ),
        (
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1\n1"}),
            "contains a separator",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "rootfsPropagation=sideways is not supported",
        ),
        ("/linux/maskedPaths", json!(["/x/../y"]), "contains .."),
        (
            "/mounts",
            json!([{"destination": "/proc", "type": "tmpfs", "source": "x"}]),
            "only procfs",
        ),
        (
            "/mounts",
            json!([{"destination": "/proc/self", "type": "tmpfs", "source": "x"}]),
            "inside /proc",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "bind", "source": "x", "options": ["idmap"]}]),
            "must have both uid and gid mappings",
        ),
        (
            "/linux/devices",
            json!([{"path": "/", "type": "c", "major": 1, "minor": 1}]),
            "is the root itself",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
    ];
    for (path, value, message) in cases {
        let error = check(set(path, value.clone())).unwrap_err();
        assert!(error.contains(message), "{path} = {value}: {error}");
    }
}
