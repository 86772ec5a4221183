//! A machine that lacks what a node needs: one line that says what, and the remedy; and nothing is made.

use kernelet_scenarios::{Machine, Output, binary, skip_unless_root};

/// Runs what follows with one system call answered by ENOSYS, as a kernel without it would.
const WITHOUT: &str = r#"
import ctypes, os, struct, sys
call = {"bpf": {"x86_64": 321, "aarch64": 280}, "fsopen": {"x86_64": 430, "aarch64": 430}}[sys.argv[1]]
load, equal, allow, refuse = (0x20, 0, 0, 0), (0x15, 0, 1, call[os.uname().machine]), (0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x50000 | 38)
code = b"".join(struct.pack("HBBI", *step) for step in (load, equal, refuse, allow))
steps = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(steps))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[track_caller]
fn refused(machine: &Machine, output: &Output, says: &[&str]) {
    assert_ne!(output.code, 0, "{}", output.stdout);
    let error = output.stderr.trim();
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    for text in says {
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    }
    assert!(!machine.data_dir().exists(), "something was made");
}

#[test]
fn what_the_kernel_lacks_is_one_line_with_its_remedy() {
    skip_unless_root!();
    let machine = Machine::new();
    let up = format!(
        "{} up --detach --data-dir {}",
        binary("kernelet").display(),
        machine.data_dir().display()
    );

    let hidden = machine.sh(&format!("ip netns exec {} {up}", machine.node_ns()));
    refused(&machine, &hidden, &["cgroup2", "nsenter --net="]);
    let unmounted = machine.sh(&format!(
        "unshare --mount sh -c 'umount -R -l /sys/fs/cgroup && exec {up}'"
    ));
    refused(&machine, &unmounted, &["cgroup2", "mount -t cgroup2"]);

    let script = machine.dir().join("without.py");
    std::fs::write(&script, WITHOUT).unwrap();
    let without = |call: &str| machine.sh(&format!("python3 {} {call} {up}", script.display()));
    refused(
        &machine,
        &without("bpf"),
        &["eBPF", "CONFIG_CGROUP_BPF", "privileged"],
    );
    refused(
        &machine,
        &without("fsopen"),
        &["overlayfs", "CONFIG_OVERLAY_FS", "privileged"],
    );
}
