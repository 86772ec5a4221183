//! What runc's own suite found here, each as a test of ours.

use std::{fs, os::unix::fs::PermissionsExt};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use crate::{
    bundle::{bundle, program},
    sleeping,
};

#[test]
fn a_terminal_in_the_foreground_leaves_line_ends_alone() {
    let Some(b) = bundle("line-ends") else { return };
    b.script("echo first; echo second");
    b.change(|c| c["process"]["terminal"] = json!(true));
    assert_eq!(b.succeeds(&["run", &b.id]), "first\nsecond\n");
    b.script("sleep 1000");
    b.change(|c| c["process"]["terminal"] = json!(false));
    b.succeeds(&["run", "-d", &b.id]);
    assert_eq!(
        b.succeeds(&["exec", "-t", &b.id, "echo", "third"]),
        "third\n"
    );
    b.succeeds(&["delete", "--force", &b.id]);
}

#[test]
fn a_process_without_a_user_is_roots() {
    let Some(b) = sleeping("no-user") else { return };
    b.succeeds(&["run", "-d", &b.id]);
    let process = json!({"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"]});
    fs::write(b.path().join("process.json"), process.to_string()).unwrap();
    let said = b.succeeds(&["exec", "--process", "process.json", &b.id]);
    assert_eq!(said, "0\n");
    b.succeeds(&["delete", "--force", &b.id]);
}

/// Puts the test's own CPUs back, whatever comes of it.
struct Kept(CpuSet);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = sched_setaffinity(nix::unistd::Pid::from_raw(0), &self.0);
    }
}

#[test]
fn who_is_kept_to_one_cpu_keeps_no_container_there() {
    let Some(b) = bundle("affinity") else { return };
    let own = nix::unistd::Pid::from_raw(0);
    let kept = Kept(sched_getaffinity(own).unwrap());
    let mine: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| kept.0.is_set(*cpu).unwrap())
        .collect();
    let [first, .., _] = mine[..] else {
        return println!("SKIP affinity: needs two CPUs");
    };
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(own, &one).unwrap();
    let seen = |text: String| text.trim().rsplit('\t').next().unwrap().to_owned();
    b.script("grep Cpus_allowed_list /proc/self/status; exec sleep 1000");
    let out = b.path().join("out");
    let file = fs::File::create(&out).unwrap();
    let mut run = b.command(&["run", "-d", &b.id]);
    assert!(run.stdout(file).status().unwrap().success());
    crate::until(|| fs::read_to_string(&out).unwrap().ends_with('\n'), "CPUs");
    assert_ne!(seen(fs::read_to_string(&out).unwrap()), first.to_string());
    let script = "grep Cpus_allowed_list /proc/self/status";
    let exec = b.succeeds(&["exec", &b.id, "sh", "-c", script]);
    assert_ne!(seen(exec), first.to_string());
    b.succeeds(&["delete", "--force", &b.id]);
}

#[test]
fn an_ambient_capability_that_is_not_inheritable_is_told() {
    let Some(b) = bundle("ambient") else { return };
    b.script("grep CapAmb /proc/self/status");
    b.change(|c| {
        c["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
        c["process"]["capabilities"]["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
        let permitted = &mut c["process"]["capabilities"]["permitted"];
        *permitted = json!(["CAP_KILL", "CAP_CHOWN"]);
    });
    let ran = b.call(&["run", &b.id]);
    assert_eq!(ran.out, "CapAmb:\t0000000000000020\n", "{ran:?}");
    assert!(
        ran.err
            .contains("can't raise ambient capability CAP_CHOWN: ")
            && !ran.err.contains("CAP_KILL"),
        "{ran:?}"
    );
}

#[test]
fn rights_over_files_count_when_the_program_is_looked_up() {
    let Some(b) = bundle("override") else { return };
    let program = b.root().join("bin/tool");
    fs::copy("/bin/busybox", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    b.change(|c| {
        c["process"]["args"] = json!(["tool", "true"]);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let ran = b.call(&["run", &b.id]);
    assert!(ran.code == Some(1) && ran.err.contains("tool"), "{ran:?}");
    b.change(|c| {
        for set in [
            "bounding",
            "permitted",
            "inheritable",
            "effective",
            "ambient",
        ] {
            c["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
        }
    });
    // By its own name it is no applet, which it says: it ran.
    let ran = b.call(&["run", &b.id]);
    assert!(ran.err.contains("tool: applet not found"), "{ran:?}");
}

#[test]
fn few_descriptors_are_enough_in_a_user_namespace() {
    let Some(b) = bundle("few") else { return };
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    b.change(|c| {
        c["process"]["args"] = json!(["sh", "-c", "ulimit -n; ls /t9"]);
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 12, "hard": 12}]);
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    fs::set_permissions(b.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(b.path().join("shared")).unwrap();
    fs::write(b.path().join("shared/file"), "").unwrap();
    for number in 0..10 {
        let place = format!("/t{number}");
        fs::create_dir(b.root().join(&place[1..])).unwrap();
        b.mount(json!({"destination": place, "source": b.path().join("shared"), "type": "bind", "options": ["bind"]}));
    }
    for place in ["proc", "dev", "sys"] {
        fs::create_dir_all(b.root().join(place)).unwrap();
    }
    let ran = b.call(&["run", &b.id]);
    assert_eq!(ran.out, "12\nfile\n", "{ran:?}");
}

#[test]
fn a_read_only_dev_has_its_console() {
    let Some(b) = bundle("read-only-dev") else {
        return;
    };
    b.script("test -c /dev/console && ! touch /dev/x 2>/dev/null && echo held");
    b.change(|c| {
        c["process"]["terminal"] = json!(true);
        let mounts = c["mounts"].as_array_mut().unwrap();
        let dev = mounts.iter_mut().find(|m| m["destination"] == "/dev");
        let options = dev.unwrap()["options"].as_array_mut().unwrap();
        options.push(json!("ro"));
    });
    assert_eq!(b.succeeds(&["run", &b.id]), "held\n");
}

#[test]
fn it_goes_by_the_name_that_it_is_called_by() {
    let Some(b) = bundle("name") else { return };
    let link = b.path().join("runc");
    std::os::unix::fs::symlink(program(), &link).unwrap();
    let said = |args: &[&str]| {
        let output = std::process::Command::new(&link).args(args).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(said(&["--version"]).starts_with("runc version "));
    assert!(said(&["--help"]).contains("\n   runc - Open Container Initiative runtime\n"));
    assert!(said(&["kill", "--help"]).contains("\n   runc kill - "));
}

#[test]
fn a_group_that_is_frozen_already_is_refused_and_can_be_removed() {
    let Some(b) = bundle("frozen") else { return };
    let layout = kernelet_sys::cgroup::Layout::detect().unwrap();
    let path = format!("/{}", b.id);
    b.change(|c| c["linux"]["cgroupsPath"] = json!(path));
    // Where a freezer of v1 is beside a v2 tree, somebody else may have used that.
    let group = layout.group(&path);
    let dir = group.v1_dir("freezer").or_else(|| group.v2_dir()).unwrap();
    fs::create_dir(&dir).unwrap();
    let (file, frozen, thawed) = match dir.join("freezer.state") {
        file if file.exists() => (file, "FROZEN", "THAWED"),
        _ => (dir.join("cgroup.freeze"), "1", "0"),
    };
    fs::write(&file, frozen).unwrap();
    for command in ["run", "create"] {
        crate::fails(
            &b,
            &[command, &b.id],
            "container's cgroup unexpectedly frozen",
        );
    }
    fs::write(&file, thawed).unwrap();
    fs::remove_dir(&dir).unwrap();
    // Frozen later, a container is paused, and removed all the same.
    b.script("exec sleep 1000");
    b.succeeds(&["run", "-d", &b.id]);
    fs::write(&file, frozen).unwrap();
    crate::until(|| crate::state(&b)["status"] == "paused", "paused");
    b.succeeds(&["delete", "--force", &b.id]);
    assert!(!dir.exists());
}
