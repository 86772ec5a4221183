#!/bin/sh
# A newer kernel (Debian 13's): a node runs the example, and containers keep their limits
# guest: kernel=trixie
set -eu
uname -r
case $(uname -r) in [0-5].* | 6.[0-9].* ) echo "not a newer kernel"; exit 1 ;; esac
test -s /sys/kernel/btf/vmlinux
exec sh /lab/sets/node.sh
