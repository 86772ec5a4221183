//! Seccomp profiles of a bundle, in real containers: actions, conditions, and a listener that decides.

mod bundle;

use std::{
    fs,
    io::Read,
    os::{fd::AsFd, unix::net::UnixListener},
};

use bundle::{Bundle, bundle};
use serde_json::{Value, json};

fn profile(b: &Bundle, profile: Value) {
    b.change(|c| {
        c["linux"]["seccomp"] = profile;
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    });
}

#[test]
fn an_action_is_what_the_call_gets() {
    let Some(b) = bundle("seccomp actions") else {
        return;
    };
    for no_new_privileges in [true, false] {
        b.change(|c| c["process"]["noNewPrivileges"] = json!(no_new_privileges));
        let mkdir = |action: &str, errno: Value| {
            let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
            if !errno.is_null() {
                rule["errnoRet"] = errno;
            }
            profile(
                &b,
                json!({"defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
                "syscalls": [rule, {"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}]}),
            );
            b.script("mkdir /tmp-new; echo $?");
            let ran = b.run();
            let _ = fs::remove_dir(b.root().join("tmp-new"));
            ran
        };
        assert!(
            mkdir("SCMP_ACT_ERRNO", Value::Null)
                .err
                .contains("Operation not permitted")
        );
        assert!(
            mkdir("SCMP_ACT_ERRNO", json!(100))
                .err
                .contains("Network is down")
        );
        assert_eq!(mkdir("SCMP_ACT_KILL_PROCESS", Value::Null).out, "159\n");
        assert_eq!(mkdir("SCMP_ACT_KILL", Value::Null).out, "159\n");
        assert_eq!(mkdir("SCMP_ACT_TRAP", Value::Null).out, "159\n");
        // Without a tracer.
        assert!(
            mkdir("SCMP_ACT_TRACE", Value::Null)
                .err
                .contains("Function not implemented")
        );
        assert_eq!(mkdir("SCMP_ACT_LOG", Value::Null).out, "0\n");
        assert_eq!(mkdir("SCMP_ACT_ALLOW", Value::Null).out, "0\n");
    }
}

#[test]
fn flags_and_wrong_profiles() {
    let Some(b) = bundle("seccomp flags") else {
        return;
    };
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!([
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_LOG"
        ]),
    ] {
        profile(
            &b,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}),
        );
        assert_eq!(
            b.output("grep Seccomp: /proc/self/status").trim(),
            "Seccomp:\t2"
        );
    }
    for (wrong, message) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}),
            "SCMP_ARCH_VAX",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/not/there", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
            "failed to connect with seccomp agent",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
    ] {
        profile(&b, wrong);
        let error = b.refused();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_listener_gets_the_descriptor_and_the_state() {
    let Some(b) = bundle("seccomp listener") else {
        return;
    };
    for no_new_privileges in [true, false] {
        b.change(|c| c["process"]["noNewPrivileges"] = json!(no_new_privileges));
        let path = b.path().join(format!("agent-{no_new_privileges}"));
        let listener = UnixListener::bind(&path).unwrap();
        profile(
            &b,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "meta",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}),
        );
        let agent = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            // A stream, of which a packet's reader takes the beginning.
            let packet = kernelet_sys::socket::receive(stream.as_fd(), 16 << 10)
                .unwrap()
                .unwrap();
            let mut bytes = packet.bytes;
            (&stream).read_to_end(&mut bytes).unwrap();
            // With the only descriptor gone, nobody decides any more: the call is ENOSYS.
            drop(packet.descriptors.into_iter().next().expect("a descriptor"));
            serde_json::from_slice::<Value>(&bytes).unwrap()
        });
        b.script("mkdir /new");
        let ran = b.run();
        assert!(ran.err.contains("Function not implemented"), "{ran:?}");
        let state = agent.join().unwrap();
        assert_eq!(
            (&state["fds"], &state["metadata"]),
            (&json!(["seccompFd"]), &json!("meta"))
        );
        assert_eq!(state["state"]["id"], json!(b.id));
        assert_eq!(state["state"]["status"], json!("creating"));
        assert_eq!(state["pid"], state["state"]["pid"]);
    }
}
