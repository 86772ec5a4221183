#!/usr/bin/env bash
# create+start+wait+delete of `true` in five namespaces, with a cgroup where the peer can, beside crun and runc: the newest
# that Debian 13 has, all three in one chroot, by the same loop, back to back and with pauses of 50 ms.
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
  "syscalls": [{"names": """access arch_prctl bind brk capget capset chdir chmod chown clock_gettime clone clone3 close connect dup dup2 dup3 epoll_create1
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
# loop RUNTIME RUNS PAUSE_S: microseconds a run, the pauses and the first three runs left out. Nothing else is started
# between the two looks at the clock.
runtime=$1 runs=$2 pause=$3 sum=0
for ((i = 0; i < runs + 3; i++)); do
  began=${EPOCHREALTIME/./}
  $runtime --root /run/bench-state run -b /bundle "bench$i" >/dev/null 2>/run/bench-error || { echo "failed: $(</run/bench-error)"; exit 1; }
  ended=${EPOCHREALTIME/./}
  ((i >= 3)) && sum=$((sum + ended - began))
  [ "$pause" = 0 ] || sleep "$pause"
done
echo $((sum / runs))
LOOP
chmod +x "$root/loop"
measure() { # RUNTIME PAUSE_S
  unshare -m sh -c "
    mount --make-rprivate / && mount --bind '$root' '$root' && mount -t proc proc '$root/proc' && mount --rbind /dev '$root/dev' \
    && mount -t sysfs sys '$root/sys' && mount -t tmpfs tmpfs '$root/run' \
    && { [ $1 = runc ] && mount --rbind /sys/fs/cgroup '$root/sys/fs/cgroup' || mount -t cgroup2 cgroup2 '$root/sys/fs/cgroup'; } \
    && exec chroot '$root' /loop $1 $runs $2"
}
version() { chroot "$root" dpkg-query -W -f '${Package} ${Version}' "$1"; }
for pause in 0 0.05; do
  label=$([ $pause = 0 ] && echo "back to back" || echo "with 50 ms pauses")
  ours=$(measure kernelet-oci $pause); crun=$(measure crun $pause); runc=$(measure runc $pause)
  python3 - "$label" "$ours" "$crun" "$runc" "$(version crun)" "$(version runc)" <<'PY'
import sys
label, ours, crun, runc, crun_version, runc_version = sys.argv[1:]
def row(figure, beside): print(f"| create+start+wait+delete of `true`, {label} | {figure} | {beside} |")
try:
    o, c, r = int(ours) / 1000, int(crun) / 1000, int(runc) / 1000
    row(f"{o:.2f} ms: {o / c:.2f} × {crun_version} ({c:.2f} ms), {o / r:.2f} × {runc_version} ({r:.2f} ms)", "≤ 0.8 × crun, ≤ 0.3 × runc")
except ValueError:
    row(f"not measured: ours {ours}, crun {crun}, runc {runc}", "≤ 0.8 × crun, ≤ 0.3 × runc")
PY
done
