#!/bin/sh
# A reboot: the second start finds everything again and starts the containers anew
set -eu
export KUBECONFIG=/var/lib/kernelet/kubeconfig
# Debian's static busybox cannot look names up, not even numeric ones, so bash asks.
ask() { timeout 10 bash -c "exec 3<>/dev/tcp/$1/$2; printf 'GET / HTTP/1.1\\r\\nHost: hello\\r\\nConnection: close\\r\\n\\r\\n' >&3; grep -a '^pod ' <&3"; }
trap 'code=$?; [ $code = 0 ] || { kubectl get all,events -A -o wide; kubectl describe pods; tail -50 /var/log/kernelet/*/kernelet.log; }' EXIT
kernelet up --detach --node-name lab
if [ ! -e /lab/second ]; then
  kubectl apply -f /lab/examples/hello/
  kubectl rollout status deployment/hello --timeout=120s
  kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.uid}{"\n"}{end}' | sort > /lab/uids
  touch /lab/second /lab/out/reboot
  exit 0
fi
kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.uid}{"\n"}{end}' | sort > /lab/uids.now
cmp /lab/uids /lab/uids.now
# What the first boot wrote still says Ready, so the count comes first.
kubectl wait pod -l app=hello '--for=jsonpath={.status.containerStatuses[0].restartCount}=1' --timeout=120s
kubectl wait pod -l app=hello --for=condition=Ready --timeout=120s
for count in $(kubectl get pods -o 'jsonpath={.items[*].status.containerStatuses[0].restartCount}'); do test "$count" = 1; done
for address in $(kubectl get pods -o 'jsonpath={.items[*].status.podIP}'); do ask "$address" 8080; done
address=$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')
for _ in 1 2 3; do ask "$address" 80; done
