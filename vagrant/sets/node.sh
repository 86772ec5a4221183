#!/bin/sh
# A node on pure cgroup v2: the example, its Service, limits, an out-of-memory kill, purge without a trace
set -eu
export KUBECONFIG=/var/lib/kernelet/kubeconfig
# Debian's static busybox cannot look names up, not even numeric ones, so bash asks.
ask() { timeout 10 bash -c "exec 3<>/dev/tcp/$1/80; printf 'GET / HTTP/1.1\\r\\nHost: hello\\r\\nConnection: close\\r\\n\\r\\n' >&3; grep -a '^pod ' <&3"; }
held() { find /sys/fs/cgroup -type d | sort; cut -d' ' -f5 /proc/self/mountinfo | sort; find /sys/fs/bpf | sort; ls /sys/class/net; nft list tables; ls /run /var/log; }
before=$(held)
trap 'code=$?; [ $code = 0 ] || { kubectl get all,events -A -o wide; kubectl describe pods; tail -50 /var/log/kernelet/*/kernelet.log; }' EXIT
kernelet up --detach --node-name lab
kubectl apply -f /lab/examples/hello/
kubectl rollout status deployment/hello --timeout=120s
address=$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')
for _ in 1 2 3; do ask "$address"; done

set -x
uid=$(kubectl get pod -l app=hello -o 'jsonpath={.items[0].metadata.uid}')
pod=$(find /sys/fs/cgroup -type d -name "pod$uid" | head -1)
test -n "$pod"
container=$(find "$pod" -mindepth 1 -maxdepth 1 -type d | head -1)
test "$(cat "$container/memory.max")" = 33554432
grep -q . "$container/cgroup.procs"
grep -q 'cpuset\|cpu' "$pod/cgroup.controllers"

# An image of Debian's static busybox, as `docker save` would write it.
mkdir -p /tmp/image/layer/bin; cp /bin/busybox /tmp/image/layer/bin/tail
(cd /tmp/image && tar -cf layer.tar -C layer . && digest=$(sha256sum layer.tar | cut -d' ' -f1) \
  && printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$digest" > config.json \
  && config=$(sha256sum config.json | cut -d' ' -f1).json && mv config.json "$config" \
  && printf '[{"Config":"%s","RepoTags":["busybox:test"],"Layers":["layer.tar"]}]' "$config" > manifest.json \
  && tar -cf ../image.tar "$config" layer.tar manifest.json)
kernelet image load /tmp/image.tar
kubectl apply -f - <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:test
    command: [tail, -c, 200m, /dev/zero]
    resources: {limits: {memory: 24Mi, cpu: 500m}}
POD
kubectl wait pod/full '--for=jsonpath={.status.phase}=Failed' --timeout=60s
test "$(kubectl get pod full -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}')" = 'OOMKilled 137'

kernelet down --purge
set +x
after=$(held)
[ "$before" = "$after" ] || { echo "left behind:"; echo "$before" > /tmp/a; echo "$after" > /tmp/b; diff /tmp/a /tmp/b; exit 1; }
test ! -e /var/lib/kernelet
