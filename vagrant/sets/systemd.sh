#!/bin/sh
# systemd as process 1: the unit as it is shipped, pods that outlive it, containers in scopes of their own
# guest: init=systemd
set -eu
export KUBECONFIG=/var/lib/kernelet/kubeconfig
trap 'code=$?; [ $code = 0 ] || { systemctl --no-pager status kernelet; journalctl --no-pager -u kernelet -n 40; }' EXIT
test "$(cat /proc/1/comm)" = systemd
. /lab/sets/lib/bundle.sh
set -x
# What `vagrant up` does in its machine.
mkdir /tmp/kernelet-install
cp /lab/bin/kernelet /lab/bin/kernelet-oci /lab/bin/kernelet-cni /lab/kernelet.service /tmp/kernelet-install/
sh /lab/provision.sh 10.0.2.15
kubectl wait node/lab --for=condition=Ready --timeout=60s
grep -q 'server: "*https://10.0.2.15:' $KUBECONFIG
kubectl apply -f /lab/examples/hello/
kubectl rollout status deployment/hello --timeout=120s
pod=$(kubectl get pods -l app=hello -o 'jsonpath={.items[0].metadata.name}')
started=$(kubectl get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state.running.startedAt}')
# The pods are no part of the unit: a restart of it leaves them running.
shims=$(pgrep -f kernelet-shim | sort)
systemctl restart kernelet
test "$(pgrep -f kernelet-shim | sort)" = "$shims"
deadline=600
until [ "$(kubectl get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state.running.startedAt}' 2>/dev/null)" = "$started" ]; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
systemctl kill -s KILL kernelet
deadline=600
until [ "$(systemctl is-active kernelet)" = active ] && kubectl get node lab 2>/dev/null | grep -qw Ready; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
test "$(pgrep -f kernelet-shim | sort)" = "$shims"
systemctl disable --now kernelet
kernelet down --purge

# The runtime by systemd's driver: the container is a scope with the limits as its properties.
bundle /tmp/b sleep 1000
edit /tmp/b '
config["linux"]["cgroupsPath"] = "lab.slice:klt:one"
config["linux"]["resources"] = {"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "period": 100000}, "pids": {"limit": 40}}
'
kernelet-oci --systemd-cgroup run -d -b /tmp/b --pid-file /tmp/pid one
test "$(systemctl show -P ActiveState klt-one.scope)" = active
test "$(systemctl show -P MemoryMax klt-one.scope)" = 67108864
test "$(systemctl show -P TasksMax klt-one.scope)" = 40
test "$(systemctl show -P CPUQuotaPerSecUSec klt-one.scope)" = 500ms
test "$(systemctl show -P Delegate klt-one.scope)" = yes
test "$(cat /sys/fs/cgroup/lab.slice/klt-one.scope/memory.max)" = 67108864
grep -q 'lab.slice/klt-one.scope' /proc/$(cat /tmp/pid)/cgroup
kernelet-oci --systemd-cgroup update --memory 33554432 one
systemctl daemon-reload
test "$(cat /sys/fs/cgroup/lab.slice/klt-one.scope/memory.max)" = 33554432
test "$(kernelet-oci exec one echo inside)" = inside
kernelet-oci --systemd-cgroup delete --force one
deadline=100
while systemctl is-active --quiet klt-one.scope; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
test ! -e /sys/fs/cgroup/lab.slice/klt-one.scope
