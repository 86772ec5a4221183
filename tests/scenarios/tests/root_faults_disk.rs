//! No space left: where the containers' logs are, and where the store is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kernelet_scenarios::{Machine, busybox_image, eventually, skip_unless_root};

/// A small file system at a place; dropped before its machine, whose purge removes the place.
struct Small {
    at: PathBuf,
}

impl Small {
    fn new(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount(
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("mode=700,size={size}"),
                "tmpfs",
            ],
            &at,
        );
        Self { at }
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], &self.at);
    }

    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.at).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn mount(args: &[&str], at: &Path) {
    let status = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(status.success(), "mount {args:?}");
}

/// Every ConfigMap whose creation was acknowledged.
fn all_there(machine: &Machine, made: &[String]) {
    let listed = machine.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    for name in made {
        let row = format!("configmap/{name}");
        assert!(
            listed.lines().any(|line| line == row),
            "{name} is lost: {listed}"
        );
    }
}

/// Kills the program and waits for its end.
fn kill_program(machine: &Machine) {
    let pid = machine.pid().expect("it runs on");
    machine.sh(&format!("kill -9 {pid}")).ok();
    eventually("its end", Duration::from_secs(10), || {
        machine.pid().map_or(Ok(()), |pid| Err(pid.to_string()))
    });
}

/// Numbered lines of 500 bytes, and the last number in a file beside.
const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:test
    command:
    - sh
    - -c
    - |
      pad=$(head -c 490 /dev/zero | tr '\0' x)
      i=0
      while :; do
        i=$((i+1)); echo "$i $pad"
        [ $((i % 50)) = 0 ] && { echo $i >/scratch/n; sleep 0.1; }
      done
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
"#;

#[test]
fn a_full_disk_costs_log_lines_which_are_counted_and_never_the_container() {
    skip_unless_root!();
    let machine = Machine::new();
    let small = Small::new(machine.log_dir(), "2m");
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(TALKER);
    machine.wait("pod/talker", "condition=Ready", Duration::from_secs(30));
    let uid = machine.get(&["pod", "talker"])["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let said = || {
        let processes = machine.pod_processes(&uid);
        let of = processes.iter().find(|p| p.ends_with(" sh")).unwrap();
        let pid = of.split(' ').next().unwrap();
        let text = fs::read_to_string(format!("/proc/{pid}/root/scratch/n")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    eventually(
        "the disk is full",
        Duration::from_secs(60),
        || match small.free() {
            free if free < 4096 => Ok(()),
            free => Err(format!("{free} bytes are free")),
        },
    );
    let full_at = said();
    eventually("it talks on", Duration::from_secs(30), || {
        let now = said();
        if now > full_at + 500 {
            Ok(())
        } else {
            Err(format!("{full_at}, {now}"))
        }
    });
    // The rest of the program minds its business: its own log is on that disk too.
    machine.kubectl(&["create", "configmap", "meanwhile"]).ok();
    assert_eq!(
        machine.get(&["pod", "talker"])["status"]["containerStatuses"][0]["restartCount"],
        0
    );

    small.resize("64m");
    let log = || {
        let dir = machine.log_dir().join("pods");
        let mut files = Vec::new();
        for pod in fs::read_dir(dir).unwrap().flatten() {
            files.extend(fs::read_dir(pod.path().join("main")).unwrap().flatten());
        }
        assert_eq!(files.len(), 1, "{files:?}");
        fs::read_to_string(files[0].path()).unwrap()
    };
    let text = eventually("the marker", Duration::from_secs(20), || {
        let text = log();
        match text.rfind("lines of this log were dropped") {
            // Something follows it.
            Some(at) if text[at..].lines().count() > 20 => Ok(text),
            _ => Err(format!("{} bytes without a marker", text.len())),
        }
    });
    // Between two lines that are there, exactly as many are told lost as are missing.
    let (mut last, mut dropped, mut gaps) = (0_u64, 0_u64, 0);
    let whole = &text[..=text.rfind('\n').unwrap()];
    for line in whole.lines() {
        let mut parts = line.splitn(4, ' ');
        let (stream, content) = (parts.nth(1).unwrap(), parts.nth(1).unwrap());
        if stream == "stderr" {
            let (count, why) = content
                .strip_prefix("kernelet: ")
                .and_then(|rest| rest.split_once(" lines of this log were dropped: "))
                .unwrap_or_else(|| panic!("{line}"));
            assert_eq!(why, "No space left on device");
            dropped += count.parse::<u64>().unwrap();
            continue;
        }
        let (number, pad) = content.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert_eq!(pad.len(), 490, "a whole line: {line}");
        let number: u64 = number.parse().unwrap();
        assert_eq!(
            number,
            last + dropped + 1,
            "after line {last}, {dropped} told lost"
        );
        gaps += usize::from(dropped > 0);
        (last, dropped) = (number, 0);
    }
    println!("{last} lines, {gaps} gaps");
    assert!(gaps > 0);
    machine
        .kubectl(&["delete", "pod", "talker", "--timeout=20s"])
        .ok();
    machine.kernelet(&["down"]).ok();
    drop(small);
}

#[test]
fn a_full_store_refuses_clearly_loses_nothing_and_recovers() {
    skip_unless_root!();
    let machine = Machine::new();
    let small = Small::new(machine.data_dir().join("store"), "24m");
    machine.up();
    let big = machine.dir().join("big");
    fs::write(&big, "y".repeat(400_000)).unwrap();
    let big = format!("--from-file=big={}", big.display());
    let mut made = Vec::new();
    let refusal = loop {
        let name = format!("big-{}", made.len());
        let output = machine.kubectl(&["create", "configmap", &name, &big]);
        if output.code != 0 {
            break output;
        }
        made.push(name);
        assert!(made.len() < 100, "the disk does not fill");
    };
    println!("{} maps, then: {}", made.len(), refusal.stderr.trim());
    assert!(
        refusal.stderr.contains("no space left"),
        "{}",
        refusal.stderr
    );
    // Reading goes on, and what was acknowledged is there.
    all_there(&machine, &made);
    let status = machine.kernelet(&["status"]);
    println!("status: {}", status.stdout);

    // A start without space succeeds or says what is missing.
    kill_program(&machine);
    let output = machine.try_up();
    println!(
        "up on a full disk: {} {}",
        output.code,
        output.stderr.trim()
    );
    if output.code != 0 {
        assert!(output.stderr.contains("no space left"), "{}", output.stderr);
    } else {
        all_there(&machine, &made);
    }

    small.resize("128m");
    if machine.pid().is_none() {
        machine.up();
    }
    eventually("writes are taken again", Duration::from_secs(30), || {
        let output = machine.kubectl(&["create", "configmap", "later", &big]);
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    all_there(&machine, &made);
    kill_program(&machine);
    machine.up();
    all_there(&machine, &made);
    machine.kernelet(&["down"]).ok();
    drop(small);
}

/// An ext4 on a loop device, whose blocks come from a file system that can be filled: then its writes fail below the
/// file system, as a dying disk's do.
struct Dying {
    at: PathBuf,
    below: Small,
}

impl Dying {
    fn new(at: PathBuf, below: Small) -> Self {
        let image = below.at.join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&image)
            .status()
            .unwrap();
        assert!(made.success(), "mkfs.ext4");
        fs::create_dir_all(&at).unwrap();
        let disk = Self { at, below };
        disk.attach();
        disk
    }

    fn attach(&self) {
        let image = self.below.at.join("image");
        mount(&["-o", "loop", &image.to_string_lossy()], &self.at);
    }

    fn detach(&self) {
        let status = Command::new("umount").arg(&self.at).status().unwrap();
        assert!(status.success(), "umount");
    }

    /// From here on every block that was never written before fails.
    fn fail(&self) {
        let mut filler = fs::File::create(self.below.at.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
        assert_eq!(self.below.free(), 0);
    }

    fn heal(&self) {
        fs::remove_file(self.below.at.join("filler")).unwrap();
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn a_failing_disk_ends_the_program_but_no_pod_and_the_next_start_has_every_acknowledged_write() {
    skip_unless_root!();
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIP {}: needs loop devices", module_path!());
        return;
    }
    let machine = Machine::new();
    let below = Small::new(machine.dir().join("below"), "96m");
    let disk = Dying::new(machine.data_dir().join("store"), below);
    machine.up();
    machine.load_image(&busybox_image(machine.dir()));
    machine.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "busybox:test", command: [sleep, "100000"]}]
"#,
    );
    machine.wait("pod/sleeper", "condition=Ready", Duration::from_secs(30));
    let state = || machine.get(&["pod", "sleeper"])["status"]["containerStatuses"][0].clone();
    let before = state();

    let mut made = Vec::new();
    for n in 0..20 {
        let name = format!("small-{n}");
        machine
            .kubectl(&["create", "configmap", &name, "--from-literal=a=b"])
            .ok();
        made.push(name);
    }
    disk.fail();
    let big = machine.dir().join("big");
    fs::write(&big, "z".repeat(400_000)).unwrap();
    let big = format!("--from-file=big={}", big.display());
    loop {
        let name = format!("big-{}", made.len());
        let output = machine.kubectl(&["create", "configmap", &name, &big]);
        if output.code != 0 {
            println!("{} maps, then: {}", made.len(), output.stderr.trim());
            break;
        }
        made.push(name);
        assert!(made.len() < 200, "the disk does not fail");
    }
    eventually("the program's end", Duration::from_secs(20), || {
        machine
            .pid()
            .map_or(Ok(()), |pid| Err(format!("{pid} lives\n{}", machine.log())))
    });
    let log = machine.log();
    assert!(log.contains("kernelet: the store has stopped"), "{log}");
    let sleeps = machine
        .pod_processes(&machine.instance_id())
        .iter()
        .filter(|process| process.ends_with(" sleep"))
        .count();
    assert_eq!(sleeps, 1, "the pod runs on");

    disk.heal();
    disk.detach();
    disk.attach();
    machine.up();
    all_there(&machine, &made);
    machine.wait("pod/sleeper", "condition=Ready", Duration::from_secs(30));
    let after = state();
    for field in ["containerID", "restartCount"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    machine.kernelet(&["down"]).ok();
}
