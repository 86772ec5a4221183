//! What the caller hands over and gets: terminals, pidfds, descriptors, readiness.

use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;

use crate::{
    bundle::{bundle, program},
    fails,
};

/// A message's text, and what its one descriptor is.
fn receive(listener: &UnixListener) -> String {
    let (stream, _) = listener.accept().unwrap();
    let packet = kernelet_sys::socket::receive(std::os::fd::AsFd::as_fd(&stream), 64)
        .unwrap()
        .unwrap();
    let [descriptor] = packet.descriptors.as_slice() else {
        panic!("{packet:?}");
    };
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let target = fs::read_link(link).unwrap();
    format!(
        "{} {}",
        String::from_utf8_lossy(&packet.bytes),
        target.display()
    )
}

#[test]
fn sockets_get_a_terminal_and_the_process() {
    let Some(b) = bundle("sockets") else { return };
    b.script("exit 0");
    b.change(|c| c["process"]["terminal"] = json!(true));
    // Relative to the bundle, as with runc.
    let console = UnixListener::bind(b.path().join("console")).unwrap();
    let pidfd = UnixListener::bind(b.path().join("pidfd")).unwrap();
    fails(
        &b,
        &["create", &b.id],
        "cannot allocate tty if runc will detach without setting console socket",
    );
    b.succeeds(&[
        "create",
        "--console-socket",
        "console",
        "--pidfd-socket",
        "pidfd",
        &b.id,
    ]);
    let told = receive(&console);
    assert!(told.ends_with("ptmx"), "{told}");
    let told = receive(&pidfd);
    assert!(told.contains("pidfd"), "{told}");
    b.succeeds(&["delete", "--force", &b.id]);
    b.change(|c| c["process"]["terminal"] = json!(false));
    fails(
        &b,
        &["run", "--console-socket", "console", &b.id],
        "cannot use console socket if runc will not detach or allocate tty",
    );
}

#[test]
fn descriptors_and_socket_activation_are_inherited() {
    let Some(b) = bundle("inherited descriptors") else {
        return;
    };
    b.script("cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID");
    fails(
        &b,
        &["run", "--preserve-fds", "60", &b.id],
        "unable to stat preserved-fd",
    );
    fs::write(b.path().join("three"), "third ").unwrap();
    fs::write(b.path().join("four"), "fourth ").unwrap();
    // The shell becomes the runtime, so that its pid is the one the variables are meant for.
    let line = format!(
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec {} --root state run --preserve-fds 1 {} 3<three 4<four",
        program(),
        b.id
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &line])
        .current_dir(b.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "third fourth 1 1\n",
        "{output:?}"
    );
}

#[test]
fn readiness_is_passed_on() {
    let Some(b) = bundle("sd_notify") else { return };
    // busybox has no datagrams to unix sockets; the host's python or socat would be another root.
    let sender = Path::new("/usr/bin/systemd-notify");
    let Ok(libs) = Command::new("ldd").arg(sender).output() else {
        println!("SKIP sd_notify: needs ldd and /usr/bin/systemd-notify (package systemd)");
        return;
    };
    if !libs.status.success() {
        println!("SKIP sd_notify: needs /usr/bin/systemd-notify (package systemd)");
        return;
    }
    let text = String::from_utf8_lossy(&libs.stdout).into_owned();
    let files = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .chain(["/usr/bin/systemd-notify"]);
    for file in files {
        let to = b.root().join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    b.script("/usr/bin/systemd-notify --ready STATUS=fine; while :; do sleep 0.05; done");
    let host = UnixDatagram::bind(b.path().join("host")).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut buffer = [0_u8; 4096];
        while said.len() < 3 {
            let Ok(n) = host.recv(&mut buffer) else { break };
            said.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        // The barrier's descriptor is closed with the message that nobody took it from.
        said
    });
    let command = b
        .command(&["run", "--detach", "--pid-file", "pid", &b.id])
        .env("NOTIFY_SOCKET", b.path().join("host"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(command.success());
    let said = reader.join().unwrap();
    let pid = fs::read_to_string(b.path().join("pid")).unwrap();
    assert_eq!(
        said,
        ["READY=1\n", &format!("MAINPID={pid}\n"), "BARRIER=1"]
    );
    b.succeeds(&["delete", "--force", &b.id]);
}

#[test]
fn a_session_keyring_is_the_containers_own_unless_it_shall_not_be() {
    let Some(b) = bundle("keyring") else { return };
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("SKIP keyring: needs cc (package gcc)");
    }
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING, without making one.
    let code = "#include <stdio.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
        int main(void) { printf(\"%ld\\n\", syscall(SYS_keyctl, 0, -3, 0)); return 0; }\n";
    let (source, asker) = (
        b.path().join("keyring.c"),
        b.path().join("rootfs/bin/keyring"),
    );
    fs::write(&source, code).unwrap();
    let built = Command::new("cc")
        .args(["-static", "-o"])
        .args([&asker, &source])
        .status();
    assert!(built.unwrap().success());
    let callers = String::from_utf8(Command::new(&asker).output().unwrap().stdout).unwrap();
    b.script("keyring");
    let own = b.succeeds(&["run", &b.id]);
    assert!(own != callers && own.trim().parse::<u32>().is_ok(), "{own}");
    let inherited = b.succeeds(&["run", "--no-new-keyring", &b.id]);
    assert_eq!(inherited, callers);
}
