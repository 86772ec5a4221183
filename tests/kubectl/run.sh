#!/usr/bin/env bash
# Runs the cases with one kubectl against a control plane of ours, without a node: run.sh KUBECTL [OPTION…] [CASE…]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernelet=${KERNELET_BIN_DIR:-$here/../../target/release}/kernelet
kubectl=$1; shift
dir=$(mktemp -d /tmp/kubectl-script.XXXX)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$kernelet" server --data-dir "$dir/data" --config /dev/null --node-ip 127.0.0.1 --api-port "$port" >"$dir/log" 2>&1 &
pid=$!
stop() {
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  "$kernelet" down --purge --data-dir "$dir/data" --config /dev/null >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT
for ((i = 0; i < 300; i++)); do
  [ -e "$dir/data/kubeconfig" ] && "$kubectl" --kubeconfig "$dir/data/kubeconfig" get --raw /readyz >/dev/null 2>&1 && break
  kill -0 "$pid" 2>/dev/null || break
  sleep 0.1
done
if ! "$kubectl" --kubeconfig "$dir/data/kubeconfig" get --raw /readyz >/dev/null; then tail -20 "$dir/log"; exit 1; fi
"$here/run.py" --kubectl "$kubectl" --kubeconfig "$dir/data/kubeconfig" "$@" || { tail -20 "$dir/log"; exit 1; }
