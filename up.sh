#!/usr/bin/env bash
# From a fresh machine to an answer from a Service: installs what the build needs, builds, starts one node, runs the
# example and shows what it says. Run it again whenever you like; `target/release/kernelet down --purge` ends it all.
set -euo pipefail
cd "$(dirname "$0")"
. tests/install.sh
began=$SECONDS
build_tools
release_programs
kernelet=$PWD/target/release/kernelet
[ "$(id -u)" = 0 ] || { echo "built; the node needs root: run ./up.sh with sudo" >&2; exit 1; }
kubectl_tool || { echo "no kubectl 1.31 or newer could be found or fetched" >&2; exit 1; }
"$kernelet" status >/dev/null 2>&1 || "$kernelet" up --detach
export KUBECONFIG=/var/lib/kernelet/kubeconfig
kubectl apply -f examples/hello/
kubectl rollout status deployment/hello --timeout=60s
kubectl get pods,services -o wide
address=$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')
echo
for _ in 1 2 3 4; do
  exec 3<>"/dev/tcp/$address/80"
  printf 'GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n' >&3
  sed '1,/^\r*$/d' <&3
  exec 3>&-
done
echo
echo "Ready after $((SECONDS - began)) s. Go on with: export KUBECONFIG=$KUBECONFIG"
