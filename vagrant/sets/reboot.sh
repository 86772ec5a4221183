#!/bin/sh
# A reboot: the second start finds everything again and starts the containers anew
set -eu
export KUBECONFIG=/var/lib/kernelet/kubeconfig
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
kubectl wait pod -l app=hello --for=condition=Ready --timeout=120s
for count in $(kubectl get pods -o 'jsonpath={.items[*].status.containerStatuses[0].restartCount}'); do test "$count" = 1; done
address=$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')
busybox wget -qO- -T 5 "http://$address/"
