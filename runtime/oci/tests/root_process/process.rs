//! Who the process is, where it runs and what it finds.

use serde_json::json;

use crate::harness::bundle;

#[test]
fn home_is_the_users_and_the_last_of_a_name_counts() {
    let Some(b) = bundle("environment", "echo $HOME $A; pwd; id -u") else {
        return;
    };
    let etc = b.path().join("rootfs/etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(
        etc.join("passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
    )
    .unwrap();
    b.change(|c| {
        c["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2", "HOME="]);
        c["process"]["user"] = json!({"uid": 33, "gid": 33});
        c["process"]["cwd"] = json!("/made/for/it");
    });
    assert_eq!(b.run(), "/srv 2\n/made/for/it\n33\n");
    // Without an entry the home is the root.
    b.change(|c| {
        c["process"]["user"] =
            json!({"uid": 4321, "gid": 0, "umask": 0o27, "additionalGids": [7, 9]});
        c["process"]["args"] = json!(["sh", "-c", "echo $HOME; umask; id -G"]);
        c["process"]["capabilities"]["bounding"] = json!([]);
    });
    assert_eq!(b.run(), "/\n0027\n0 7 9\n");
}

#[test]
fn a_command_that_is_not_there_is_named_as_runc_names_it() {
    let Some(b) = bundle("commands", "true") else {
        return;
    };
    for (command, error) in [
        (
            "nothing",
            "exec: \"nothing\": executable file not found in $PATH",
        ),
        (
            "/nothing",
            "exec: \"/nothing\": stat /nothing: no such file or directory",
        ),
        ("/bin", "exec: \"/bin\": is a directory"),
        ("/plain", "exec: \"/plain\": permission denied"),
    ] {
        std::fs::write(b.path().join("rootfs/plain"), "").unwrap();
        b.change(|c| c["process"]["args"] = json!([command]));
        let said = b.fails();
        assert!(said.contains(error), "{command}: {said}");
    }
    b.change(|c| {
        c["process"]["args"] = json!(["true"]);
        c["process"]["cwd"] = json!("/plain");
    });
    let said = b.fails();
    assert!(
        said.contains("chdir to cwd (\"/plain\") set in config.json failed"),
        "{said}"
    );
}

#[test]
fn what_is_unknown_is_passed_over_or_named() {
    let Some(b) = bundle("unknown", "grep CapBnd /proc/self/status") else {
        return;
    };
    b.change(|c| {
        let caps = json!(["CAP_KILL", "CAP_TO_FLY"]);
        c["process"]["capabilities"] =
            json!({"bounding": caps, "permitted": caps, "effective": caps});
    });
    let output = b.call(&["run", &b.id]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        text,
        "CapBnd:\t0000000000000020\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warned.contains("ignoring unknown or unavailable capabilities: [CAP_TO_FLY]"),
        "{warned}"
    );
    b.change(|c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_WINGS", "soft": 1, "hard": 1}]));
    assert!(b.fails().contains("wrong rlimit value: RLIMIT_WINGS"));
    b.change(|c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 78}])
    });
    b.change(|c| c["process"]["args"] = json!(["sh", "-c", "ulimit -n; ulimit -Hn"]));
    assert_eq!(b.run(), "77\n78\n");
}

#[test]
fn the_five_capability_sets_are_as_they_are_given() {
    let Some(b) = bundle("capabilities", "grep Cap /proc/self/status") else {
        return;
    };
    b.change(|c| {
        c["process"]["args"] = json!(["grep", "Cap", "/proc/self/status"]);
        c["process"]["user"] = json!({"uid": 5, "gid": 5});
        c["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"], "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]
        });
    });
    let said = b.run().replace('\t', " ");
    let line = |name: &str, bits: u64| format!("{name}: {bits:016x}\n");
    // The program isn't root's and has no capabilities in its file: what's ambient is what it keeps.
    let expected = [
        ("CapInh", 0x20),
        ("CapPrm", 0x20),
        ("CapEff", 0x20),
        ("CapBnd", 0x2021),
        ("CapAmb", 0x20),
    ];
    assert_eq!(said, expected.map(|(name, bits)| line(name, bits)).concat());
}

#[test]
fn names_of_the_host_need_a_namespace() {
    let Some(b) = bundle("names", "hostname; cat /proc/sys/kernel/domainname") else {
        return;
    };
    b.change(|c| {
        c["hostname"] = json!("box");
        c["domainname"] = json!("example.org");
    });
    assert_eq!(b.run(), "box\nexample.org\n");
    b.change(|c| c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}]));
    assert!(
        b.fails()
            .contains("unable to set hostname without a private UTS namespace")
    );
    b.change(|c| c["hostname"] = json!(""));
    assert!(
        b.fails()
            .contains("unable to set domainname without a private UTS namespace")
    );
}
