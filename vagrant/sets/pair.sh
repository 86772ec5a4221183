#!/bin/sh
# Two machines on one network: the second one's kubectl works on the first one's node, over its address
# pending: written, but not yet seen to hold from end to end
# guest: guests=2
set -eu
node=10.9.0.1
if [ "$LAB_GUEST" = 1 ]; then
  trap 'code=$?; [ $code = 0 ] || tail -50 /var/log/kernelet/*/kernelet.log' EXIT
  ip route add default via 10.9.0.2
  kernelet up --detach --node-name lab --node-ip $node
  kubectl --kubeconfig /var/lib/kernelet/kubeconfig apply -f /lab/examples/hello/
  kubectl --kubeconfig /var/lib/kernelet/kubeconfig rollout status deployment/hello --timeout=120s
  # The kubeconfig as a person would carry it over, with the address that others reach.
  mkdir -p /tmp/share; kubectl --kubeconfig /var/lib/kernelet/kubeconfig config view --raw --flatten | sed "s#server: https://[^:]*:#server: https://$node:#" > /tmp/share/kubeconfig
  python3 -m http.server --bind $node --directory /tmp/share 8000 >/dev/null 2>&1 & share=$!
  # The other one says when it is done.
  deadline=900
  until kubectl --kubeconfig /var/lib/kernelet/kubeconfig get configmap done >/dev/null 2>&1; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
  kill $share
  kernelet down --purge
  exit
fi
# Debian's static busybox cannot look names up, not even numeric ones.
fetch() { python3 -c "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen('$1', timeout=10).read().decode())"; }
export KUBECONFIG=/tmp/kubeconfig
deadline=300
until fetch http://$node:8000/kubeconfig > $KUBECONFIG 2>/dev/null; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.2; done
set -x
grep -q "server: https://$node:" $KUBECONFIG
trap 'kubectl create configmap done || true' EXIT
kubectl wait node/lab --for=condition=Ready --timeout=30s
kubectl wait pod -l app=hello --for=condition=Ready --timeout=60s
pod=$(kubectl get pods -l app=hello -o 'jsonpath={.items[0].metadata.name}')
kubectl get --raw "/api/v1/namespaces/default/services/hello:http/proxy/" | grep '^pod '
kubectl port-forward "pod/$pod" 8081:8080 >/tmp/forward 2>&1 & forward=$!
deadline=300
until grep -q Forwarding /tmp/forward; do deadline=$((deadline - 1)); test $deadline -gt 0; sleep 0.1; done
fetch http://127.0.0.1:8081/ | grep '^pod '
kill $forward
kubectl scale deployment/hello --replicas=1
kubectl rollout status deployment/hello --timeout=60s
# Without the right to, nobody on the network gets in.
! kubectl --kubeconfig /dev/null --server "https://$node:6443" --insecure-skip-tls-verify get pods
