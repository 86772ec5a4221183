//! All six hooks: their order, namespaces, state, arguments, environment, timeouts, and what a failure comes to.

mod bundle;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bundle::{Bundle, bundle};
use serde_json::{Value, json};

const NAMES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A bundle whose hooks each write a line: name, own pid namespace, working directory, `$A`, and the state they got.
fn hooked(test: &str) -> Option<Bundle> {
    let b = bundle(test)?;
    let log = b.path().join("log");
    fs::write(&log, "").unwrap();
    let script = |log: &str| {
        format!(
            "#!/bin/sh\n{{ echo \"$1|$(readlink /proc/self/ns/pid)|$PWD|$A|$(cat)\"; }} >> {log}\n[ ! -e {log}.fail.$1 ] || {{ echo said; exit 5; }}\n"
        )
    };
    let host = b.path().join("hook");
    fs::write(&host, script(log.to_str().unwrap())).unwrap();
    // The same for who sees the container's root only; its log is a bind of the host's folder.
    let inside = b.root().join("hook");
    fs::write(&inside, script("/t/log")).unwrap();
    for path in [&host, &inside] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    b.mount(json!({"destination": "/t", "type": "bind", "source": b.path(), "options": ["bind"]}));
    b.script("while :; do sleep 0.05; done");
    b.change(|c| {
        let hook = |path: &Path, name: &str| json!([{"path": path, "args": ["hook", name], "env": ["PATH=/bin:/usr/bin", "A=b"]}]);
        for name in NAMES {
            c["hooks"][name] = match name {
                "startContainer" => hook(Path::new("/hook"), name),
                _ => hook(&host, name),
            };
        }
        c["annotations"] = json!({"org.test": "yes"});
    });
    Some(b)
}

/// Name, pid namespace, folder, variable and state of each hook that ran.
fn ran(b: &Bundle) -> Vec<(String, String, String, String, Value)> {
    let text = fs::read_to_string(b.path().join("log")).unwrap();
    text.lines()
        .map(|line| {
            let parts: Vec<&str> = line.splitn(5, '|').collect();
            let state = serde_json::from_str(parts[4]).unwrap_or_else(|e| panic!("{line}: {e}"));
            let text = |at: usize| parts[at].to_owned();
            (text(0), text(1), text(2), text(3), state)
        })
        .collect()
}

fn names(b: &Bundle) -> Vec<String> {
    ran(b).into_iter().map(|one| one.0).collect()
}

fn nothing_left(b: &Bundle) {
    assert_eq!(b.succeeds(&["list", "--quiet"]), "");
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    assert!(!layout.group(&b.no_cgroup()).exists());
}

#[test]
fn hooks_run_in_their_order_and_namespaces_with_the_right_state() {
    let Some(b) = hooked("hooks") else { return };
    b.succeeds(&["create", &b.id]);
    assert_eq!(names(&b), NAMES[..3]);
    b.succeeds(&["start", &b.id]);
    assert_eq!(names(&b), NAMES[..5]);
    let shown: Value = serde_json::from_str(&b.succeeds(&["state", &b.id])).unwrap();
    b.succeeds(&["delete", "--force", &b.id]);
    let all = ran(&b);
    assert_eq!(names(&b), NAMES);
    let host = fs::read_link("/proc/self/ns/pid")
        .unwrap()
        .display()
        .to_string();
    for (name, namespace, folder, variable, state) in &all {
        // The host's procfs, which createContainer's still see, tells of the container's namespace as well.
        let inside = name == "createContainer" || name == "startContainer";
        assert_eq!(
            *namespace != host && !namespace.is_empty(),
            inside,
            "{name}: {namespace}"
        );
        assert_eq!(variable, "b", "{name}");
        let status = match name.as_str() {
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            "poststart" => "running",
            _ => "stopped",
        };
        let pid = match name.as_str() {
            "poststop" => Value::Null,
            _ if inside => json!(1),
            _ => shown["pid"].clone(),
        };
        assert_eq!(
            (&state["status"], &state["pid"]),
            (&json!(status), &pid),
            "{name}: {state}"
        );
        assert_eq!(
            (&state["id"], &state["bundle"]),
            (&json!(b.id), &json!(b.path())),
            "{name}"
        );
        assert_eq!(state["annotations"]["org.test"], "yes", "{name}");
        assert_eq!(state["ociVersion"], "1.3.0", "{name}");
        let expect = match name.as_str() {
            "prestart" | "createRuntime" => Some(b.path().display().to_string()),
            "createContainer" => Some(b.root().display().to_string()),
            "startContainer" => Some("/".to_owned()),
            _ => None,
        };
        if let Some(expect) = expect {
            assert_eq!(*folder, expect, "{name}");
        }
    }
    nothing_left(&b);
}

#[test]
fn run_calls_them_too() {
    let Some(b) = hooked("hooks of run") else {
        return;
    };
    b.script("exit 3");
    assert_eq!(b.run().code, Some(3));
    assert_eq!(names(&b), NAMES);
    nothing_left(&b);
}

#[test]
fn a_failure_before_the_start_undoes_the_creation() {
    let Some(b) = hooked("failing hooks") else {
        return;
    };
    for (index, name) in NAMES.iter().enumerate().take(3) {
        fs::write(b.path().join("log"), "").unwrap();
        let fail = b.path().join(format!("log.fail.{name}"));
        fs::write(&fail, "").unwrap();
        let ran = b.call(&["create", &b.id]);
        let expect =
            format!("error running {name} hook #0: exit status 5, stdout: said\\n, stderr: ");
        assert!(
            ran.code == Some(1) && ran.err.contains(&expect),
            "{name}: {ran:?}"
        );
        assert_eq!(names(&b), NAMES[..=index]);
        nothing_left(&b);
        fs::remove_file(fail).unwrap();
    }
}

#[test]
fn a_failure_at_the_start_ends_the_container() {
    let Some(b) = hooked("failing start hooks") else {
        return;
    };
    for name in ["startContainer", "poststart"] {
        let fail = b.path().join(format!("log.fail.{name}"));
        fs::write(&fail, "").unwrap();
        b.succeeds(&["create", &b.id]);
        let ran = b.call(&["start", &b.id]);
        let expect = format!("error running {name} hook #0: exit status 5");
        assert!(
            ran.code == Some(1) && ran.err.contains(&expect),
            "{name}: {ran:?}"
        );
        assert_eq!(
            names(&b).last().map(String::as_str),
            Some("poststop"),
            "{name}"
        );
        nothing_left(&b);
        let ran = b.run();
        assert!(
            ran.code == Some(1) && ran.err.contains(&expect),
            "{name}: {ran:?}"
        );
        nothing_left(&b);
        fs::remove_file(fail).unwrap();
    }
}

#[test]
fn a_failing_poststop_hook_is_a_warning() {
    let Some(b) = hooked("failing poststop") else {
        return;
    };
    b.change(|c| {
        let list = c["hooks"]["poststop"].as_array_mut().unwrap();
        list.push(list[0].clone());
    });
    fs::write(b.path().join("log.fail.poststop"), "").unwrap();
    b.succeeds(&["run", "-d", &b.id]);
    let ran = b.call(&["delete", "--force", &b.id]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err.contains("level=warning") && ran.err.contains("error running poststop hook #0"),
        "{ran:?}"
    );
    // The second ran although the first had failed.
    assert_eq!(
        names(&b).iter().filter(|name| *name == "poststop").count(),
        2
    );
    nothing_left(&b);
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let Some(b) = bundle("hook timeout") else {
        return;
    };
    b.script("exit 0");
    for (name, path) in [
        ("createRuntime", "/bin/sleep"),
        ("startContainer", "/bin/sleep"),
    ] {
        b.change(|c| {
            c["hooks"] = json!({});
            c["hooks"][name] = json!([{"path": path, "args": ["sleep", "1000"], "timeout": 1}]);
        });
        let ran = b.run();
        let expect =
            format!("error running {name} hook #0: hook ran past specified timeout of 1.0s");
        assert!(ran.code == Some(1) && ran.err.contains(&expect), "{ran:?}");
        nothing_left(&b);
    }
}

#[test]
fn an_inside_hook_is_confined_as_the_program() {
    let Some(b) = bundle("confined hook") else {
        return;
    };
    let show = "grep -E 'CapEff|Uid|NoNewPrivs' /proc/self/status";
    b.script(show);
    b.change(|c| {
        c["process"]["user"] = json!({"uid": 7, "gid": 8});
        c["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", format!("{show} > /t/seen; echo $PATH >> /t/seen")]}]});
    });
    let seen = b.path().join("shared");
    fs::create_dir(&seen).unwrap();
    fs::set_permissions(&seen, fs::Permissions::from_mode(0o777)).unwrap();
    b.mount(json!({"destination": "/t", "type": "bind", "source": seen, "options": ["bind"]}));
    let ran = b.run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let hook = fs::read_to_string(seen.join("seen")).unwrap();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // Without an environment of its own it has the program's.
    assert_eq!(hook, format!("{}{path}\n", ran.out));
    assert!(hook.contains("Uid:\t7\t7"), "{hook}");
}

#[test]
fn a_mount_of_create_container_is_the_containers_alone() {
    let Some(b) = bundle("mount by hook") else {
        return;
    };
    let place = b.root().join("place");
    fs::create_dir(&place).unwrap();
    b.change(|c| {
        c["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
            "args": ["sh", "-c", format!("mount -t tmpfs -o size=64k by-hook {}", place.display())]}]});
    });
    assert!(
        b.output("grep /place /proc/self/mounts")
            .starts_with("by-hook /place tmpfs")
    );
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains("by-hook")
    );
}
