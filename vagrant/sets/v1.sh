#!/bin/sh
# Pure cgroup v1, with CAP_SYS_RESOURCE: a container's limits in each hierarchy, raised hard limits, a lowered OOM score
# guest: cgroup=v1
set -eu
! grep -q cgroup2 /proc/mounts
. /lab/sets/lib/bundle.sh

bundle /tmp/b sleep 1000
edit /tmp/b '
config["linux"]["cgroupsPath"] = "/lab/one"
config["linux"]["resources"] = {"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "period": 100000, "shares": 512}, "pids": {"limit": 40},
  "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}
config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 900000, "soft": 800000}]
config["process"]["oomScoreAdj"] = -700
'
set -x
kernelet-oci run -d -b /tmp/b --pid-file /tmp/pid one
pid=$(cat /tmp/pid)
test "$(cat /sys/fs/cgroup/memory/lab/one/memory.limit_in_bytes)" = 67108864
test "$(cat /sys/fs/cgroup/cpu,cpuacct/lab/one/cpu.cfs_quota_us)" = 50000
test "$(cat /sys/fs/cgroup/cpu,cpuacct/lab/one/cpu.shares)" = 512
test "$(cat /sys/fs/cgroup/pids/lab/one/pids.max)" = 40
grep -q 'c 1:3 rwm' /sys/fs/cgroup/devices/lab/one/devices.list
! grep -q '^a' /sys/fs/cgroup/devices/lab/one/devices.list
for hierarchy in memory pids freezer devices cpu,cpuacct; do grep -qx "$pid" /sys/fs/cgroup/$hierarchy/lab/one/cgroup.procs; done
# What needs CAP_SYS_RESOURCE: more than this guest's own limits, less than its own score.
grep -Eq 'Max open files +800000 +900000' /proc/$pid/limits
test "$(cat /proc/$pid/oom_score_adj)" = -700
kernelet-oci update --memory 33554432 --memory-swap -1 --pids-limit 50 one
test "$(cat /sys/fs/cgroup/memory/lab/one/memory.limit_in_bytes)" = 33554432
test "$(cat /sys/fs/cgroup/pids/lab/one/pids.max)" = 50
kernelet-oci pause one
test "$(cat /sys/fs/cgroup/freezer/lab/one/freezer.state)" = FROZEN
test "$(kernelet-oci state one | field status)" = paused
kernelet-oci resume one
test "$(kernelet-oci exec one echo inside)" = inside
test "$(kernelet-oci ps -f json one | grep -c "$pid")" = 1
kernelet-oci events --stats one | grep -q '"limit":33554432'
kernelet-oci kill one KILL
deadline=100
until [ "$(kernelet-oci state one | field status)" = stopped ]; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
kernelet-oci delete one
test -z "$(find /sys/fs/cgroup -type d -name one)"
rmdir /sys/fs/cgroup/*/lab
