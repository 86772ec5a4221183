#!/usr/bin/env bash
# The runtime beside crun and runc, the newest that Debian 13 has, all three in one chroot, with one bundle and by the same
# loop: create+start+wait+delete of `true` in five namespaces, back to back and with pauses of 50 ms; `exec`; 200 starts at
# once; peak resident memory; the smallest memory limit under which a container starts.
#
# RUNS (50) is the number of runs of each loop, ROUNDS (1) how often each figure is taken; the least counts.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/install.sh
[ "$(id -u)" = 0 ] || { echo "| container start | not measured: needs root | |"; exit 0; }
runs=${RUNS:-50}
root=$cache/bench-root
if [ ! -x "$root/usr/bin/crun" ]; then
  packages debootstrap:debootstrap
  rm -rf "$root"
  debootstrap --variant=minbase --include=crun,runc,busybox-static trixie "$root" >"$cache/bench-root.log" 2>&1 \
    || { tail -3 "$cache/bench-root.log" >&2; exit 1; }
fi
cp target/release/kernelet-oci "$root/usr/local/bin/kernelet-oci"
bundle=$root/bundle
rm -rf "$bundle"; mkdir -p "$bundle/rootfs/bin" "$bundle/rootfs/proc" "$bundle/rootfs/dev" "$bundle/rootfs/sys"
cp "$root/bin/busybox" "$bundle/rootfs/bin/true"
# One bundle for all: what `runc spec` writes, without a terminal and without resources (crun raises RLIMIT_MEMLOCK for
# the device program, which not every host lets it), with the same seccomp profile.
python3 - "$bundle/config.json" <<'PY'
import json, sys
path = sys.argv[1]
capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
options = ["nosuid", "noexec", "nodev"]
config = {
  "ociVersion": "1.0.2",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": True,
    "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")}},
  "root": {"path": "rootfs", "readonly": True},
  "hostname": "bench",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options + ["mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": options},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options + ["ro"]},
  ],
  "linux": {
    "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
    "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
  },
}
config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
  "syscalls": [{"names": """access arch_prctl bind brk capget capset chdir chmod chown clock_gettime clock_nanosleep clone clone3 close connect dup dup2 dup3 epoll_create1
epoll_ctl epoll_pwait epoll_wait eventfd2 execve execveat exit exit_group faccessat faccessat2 fchdir fchmod fchmodat fchown fchownat fcntl fdatasync flock fork
fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid inotify_add_watch inotify_init1 io_setup ioctl kill lchown link
linkat listen listxattr lseek lstat madvise membarrier memfd_create mkdir mkdirat mmap mprotect mremap msync munlock munmap nanosleep newfstatat open openat openat2
pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll prctl pread64 preadv prlimit64 pselect6 pwrite64 read readahead readlink readlinkat readv recvfrom recvmsg
rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity
sched_yield seccomp select sendfile sendmsg sendto set_robust_list set_tid_address setgid setgroups setitimer setpgid setpriority setresgid setresuid setrlimit setsid
setsockopt setuid shutdown sigaltstack socket socketpair splice stat statfs statx symlink symlinkat sync sysinfo tee tgkill time timerfd_create timerfd_settime times
tkill truncate umask uname unlink unlinkat utime utimensat vfork wait4 waitid write writev""".split(), "action": "SCMP_ACT_ALLOW"}]}
json.dump(config, open(path, "w"))
PY
cat > "$root/loop" <<'LOOP'
#!/bin/bash
# loop run|exec|parallel|limit RUNTIME RUNS PAUSE_S: microseconds a run (the pauses and the first three runs left out), for
# `parallel` those of all. Nothing else is started between the two looks at the clock.
what=$1 runtime=$2 runs=$3 pause=$4 sum=0
state=(--root /run/bench-state)
fail() { echo "failed: $(</run/bench-error)"; exit 1; }
case $what in
  run | exec)
    if [ "$what" = exec ]; then
      $runtime "${state[@]}" run -d -b /bundle-sleep bench </dev/null >/dev/null 2>/run/bench-error || fail
      trap '$runtime "${state[@]}" delete --force bench >/dev/null 2>&1' EXIT
    fi
    for ((i = 0; i < runs + 3; i++)); do
      began=${EPOCHREALTIME/./}
      if [ "$what" = run ]; then
        $runtime "${state[@]}" run -b /bundle "bench$i" >/dev/null 2>/run/bench-error || fail
      else
        $runtime "${state[@]}" exec bench /bin/true </dev/null >/dev/null 2>/run/bench-error || fail
      fi
      ended=${EPOCHREALTIME/./}
      ((i >= 3)) && sum=$((sum + ended - began))
      [ "$pause" = 0 ] || sleep "$pause"
    done
    echo $((sum / runs))
    ;;
  parallel)
    began=${EPOCHREALTIME/./}
    for ((i = 0; i < runs; i++)); do $runtime "${state[@]}" run -b /bundle "bench$i" >/dev/null 2>>/run/bench-error & started[i]=$!; done
    for one in "${started[@]}"; do wait "$one" || fail; done
    ended=${EPOCHREALTIME/./}
    echo $((ended - began))
    ;;
  limit)
    $runtime "${state[@]}" run -b /bundle-limit bench-limit >/dev/null 2>/run/bench-error && exit
    $runtime "${state[@]}" delete --force bench-limit >/dev/null 2>&1
    exit 1
    ;;
esac
LOOP
chmod +x "$root/loop"
# Copies of the bundle: one that stays for exec, one whose limit is searched.
for copy in sleep limit; do rm -rf "$root/bundle-$copy"; cp -a "$bundle" "$root/bundle-$copy"; done
cp "$root/bin/busybox" "$root/bundle-sleep/rootfs/bin/sleep"
python3 - "$root/bundle-sleep/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1])); config["process"]["args"] = ["/bin/sleep", "1000"]; json.dump(config, open(sys.argv[1], "w"))
PY
# within RUNTIME COMMAND…: a shell's words that run a command in the chroot. All have the same cgroups, v2's alone (crun
# refuses a hybrid layout); LAYOUT=host is the host's own.
within() {
  shift
  local groups="mount -t cgroup2 cgroup2 '$root/sys/fs/cgroup'"
  [ "${LAYOUT:-}" != host ] || groups="mount --rbind /sys/fs/cgroup '$root/sys/fs/cgroup'"
  echo "mount --make-rprivate / && mount --bind '$root' '$root' && mount -t proc proc '$root/proc' && mount --rbind /dev '$root/dev' \
    && mount -t sysfs sys '$root/sys' && mount -t tmpfs tmpfs '$root/run' && $groups && exec chroot '$root' $*"
}
# measure WHAT RUNTIME RUNS PAUSE_S: what the loop prints, on two cores.
measure() { unshare -m taskset -c 0,1 sh -c "$(within "$2" /loop "$@")"; }
# least WHAT RUNTIME RUNS PAUSE_S: the least of ROUNDS figures.
least() {
  local round figure best=
  for ((round = 0; round < ${ROUNDS:-1}; round++)); do
    figure=$(measure "$@") || { echo "$figure"; return; }
    if [ -z "$best" ] || [ "$figure" -lt "$best" ]; then best=$figure; fi
  done
  echo "$best"
}
version() { chroot "$root" dpkg-query -W -f '${Package} ${Version}' "$1"; }
# report NAME UNIT DIVISOR BUDGET OURS CRUN RUNC: a row, the figure beside both peers; a peer that can't says so.
report() {
  python3 - "$@" "$(version crun)" "$(version runc)" <<'PY'
import sys
name, unit, divisor, budget, ours, crun, runc, crun_version, runc_version = sys.argv[1:]
def number(text):
    try: return int(text) / float(divisor)
    except ValueError: return None
o = number(ours)
if o is None:
    print(f"| {name} | not measured: {ours} | {budget} |"); sys.exit()
beside = []
for figure, version in ((crun, crun_version), (runc, runc_version)):
    peer = number(figure)
    beside.append(f"{o / peer:.2f} × {version} ({peer:.2f} {unit})" if peer else f"{version}: {figure or 'no figure'}")
print(f"| {name} | {o:.2f} {unit}: {', '.join(beside)} | {budget} |")
PY
}
compare() { # NAME UNIT DIVISOR BUDGET WHAT RUNS PAUSE_S
  report "$1" "$2" "$3" "$4" "$(least "$5" kernelet-oci "$6" "$7")" "$(least "$5" crun "$6" "$7")" "$(least "$5" runc "$6" "$7")"
}
compare 'create+start+wait+delete of `true`, back to back' ms 1000 "≤ 0.8 × crun, ≤ 0.3 × runc" run "$runs" 0
compare 'create+start+wait+delete of `true`, with 50 ms pauses' ms 1000 "≤ 0.8 × crun, ≤ 0.3 × runc" run "$runs" 0.05
compare '`exec` of `true`' ms 1000 "beside crun and runc" exec "$runs" 0
parallel=${PARALLEL:-200}
compare "$parallel starts at once on 2 cores, until the last has ended" s 1000000 "beside crun and runc" parallel "$parallel" 0

# The largest process among the runtime and its children. What makes the chroot (2 MiB) is the floor.
packages /usr/bin/time:time || true
peak() {
  /usr/bin/time -q -o "$root/peak" -f %M unshare -m sh -c "$(within "$1" "$1" --root /run/bench-state run -b /bundle bench-peak)" >/dev/null 2>"$root/peak-error" </dev/null \
    || { echo "failed: $(tail -1 "$root/peak-error" | cut -c1-100)"; return; }
  cat "$root/peak"
}
report "peak resident memory of one run" MiB 1024 "beside crun and runc" "$(peak kernelet-oci)" "$(peak crun)" "$(peak runc)"

# Bisected to 32 KiB between what surely fails and what surely starts; three starts in a row count. On the host's cgroups,
# which have the memory controller; crun refuses a hybrid layout, so there it has no figure.
smallest() {
  local LAYOUT=host
  local low=0 high=65536 middle try
  while ((high - low > 32)); do
    middle=$(((low + high) / 2))
    python3 - "$root/bundle-limit/config.json" $((middle * 1024)) <<'PY'
import json, sys
config = json.load(open(sys.argv[1])); config["linux"]["cgroupsPath"] = "/bench-limit"
config["linux"]["resources"] = {"memory": {"limit": int(sys.argv[2]), "swap": int(sys.argv[2])}}
json.dump(config, open(sys.argv[1], "w"))
PY
    for try in 1 2 3; do measure limit "$1" 1 0 >/dev/null 2>&1 || break; [ $try = 3 ] && try=started; done
    if [ "$try" = started ]; then high=$middle; else low=$middle; fi
  done
  if [ "$high" = 65536 ]; then echo "starts under no limit here"; else echo "$high"; fi
}
report "smallest memory limit under which a container starts" MiB 1024 "beside crun and runc" "$(smallest kernelet-oci)" "$(smallest crun)" "$(smallest runc)"
