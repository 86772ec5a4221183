#!/usr/bin/env bash
# Measures the budgets of the design, each figure beside its peer in the same run, and prints a table.
#
#   ./bench.sh                     everything
#   ./bench.sh start|pods|idle|store|control|scheduler|connect|runtime|unpack|size   one part
set -euo pipefail
cd "$(dirname "$0")"
. tests/install.sh
build_tools
packages busybox:busybox-static ip:iproute2 nsenter:util-linux etcd:etcd-server python3:python3
kubectl_tool
release_programs -p kernelet-bench
what=${1:-all}
echo "On $(nproc) cores, $(awk '/MemTotal/{printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r), kernelet $(target/release/kernelet --version | cut -d' ' -f2):"
echo
case $what in
  all) target/release/kernelet-bench || true ;;
  runtime | unpack | size) echo "| what | measured | budget or peer |"; echo "|---|---|---|" ;;
  *) target/release/kernelet-bench "$what"; exit ;;
esac
if [ "$what" = all ] || [ "$what" = runtime ]; then tests/bench/runtime.sh; fi
if [ "$what" = all ] || [ "$what" = unpack ] || [ "$what" = runtime ]; then tests/bench/unpack.sh; fi
if [ "$what" = all ] || [ "$what" = size ]; then
  bytes=$(cat target/release/kernelet target/release/kernelet-oci target/release/kernelet-cni | wc -c)
  echo "| the node's binaries together | $((bytes / 1048576)) MiB | ≤ 40 MiB |"
fi
