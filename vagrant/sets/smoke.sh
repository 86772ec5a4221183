#!/bin/sh
# The guest itself: kernel, pure cgroup v2 with every controller, BTF, overlayfs, eBPF
set -eux
uname -r
grep -q cgroup2 /proc/mounts
! grep -q ' cgroup ' /proc/mounts
for controller in cpu memory pids io cpuset; do grep -qw $controller /sys/fs/cgroup/cgroup.controllers; done
test -s /sys/kernel/btf/vmlinux
grep -q overlay /proc/filesystems
kernelet --version || echo "kernelet was not carried in"
ip route get 192.0.2.1
