#!/usr/bin/env bash
# The Python client against a node of its own: namespaces, `up`, the checks of client.py, purge.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=kltpy$$
data=$(mktemp -d "${TMPDIR:-/tmp}/kernelet-python.XXXXXX")
kernelet=${KERNELET_BIN_DIR:-$PWD/target/release}/kernelet
inside() { nsenter --net=/run/netns/${name}n -- "$@"; }
finish() {
  inside "$kernelet" down --purge --data-dir "$data/data" --config /dev/null >/dev/null || true
  ip netns delete ${name}n; ip netns delete ${name}o
  rm -rf "$data"
}
ip netns add ${name}n; ip netns add ${name}o
trap finish EXIT
ip -n ${name}n link set lo up
ip link add name eth0 netns ${name}n type veth peer name eth0 netns ${name}o
ip -n ${name}n address add 10.78.0.2/24 dev eth0; ip -n ${name}o address add 10.78.0.1/24 dev eth0
ip -n ${name}n link set eth0 up; ip -n ${name}o link set eth0 up
ip -n ${name}n route add default via 10.78.0.1
inside "$kernelet" up --detach --node-name node-a --cgroup-root "/kernelet-$name" --eviction-hard= --data-dir "$data/data" --config /dev/null
KUBECONFIG=$data/data/kubeconfig inside "$KERNELET_PYTHON" tests/python/client.py
