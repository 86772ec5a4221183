#!/usr/bin/env bash
# Other people's tools with kernelet-oci in runc's place: what a user of each tool does, and what must come of it.
#
#   tests/interop/run.sh [TOOL…]      podman rootless buildah ctr docker conmon (default: all)
#
# Prints `PASS tool: case`, `FAIL tool: case` or `SKIP tool: case: why`, and ends with 1 if anything failed. A case that fails
# is run again with runc and crun: where neither passes it either, this machine is at fault and the case is skipped by
# name. INTEROP_ONLY=REGEX runs the cases whose name matches, INTEROP_RUNTIME takes another runtime than the release
# build's, INTEROP_TRACE=1 shows a failed case's trace.
#
# Everything happens in a mount namespace of its own, over a temporary folder: users, storage, images and daemons are
# made for the run and are gone with it.
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
here=$top/tests/interop
if [ "${INTEROP_INSIDE:-}" != 1 ]; then
  [ "$(id -u)" = 0 ] || { echo "SKIP interop: all: it needs root"; exit 0; }
  . "$top/tests/install.sh"
  interop_tools
  work=$(mktemp -d "${TMPDIR:-/tmp}/kernelet-interop.XXXXXX")
  chmod 755 "$work"
  groups() { find /sys/fs/cgroup -mindepth 1 -depth -type d \( -path '*interop*' -o -path '*libpod*' -o -path '*buildah*' -o -path '*/docker*' \) 2>/dev/null; }
  before=$(groups)
  INTEROP_INSIDE=1 work=$work unshare --mount --propagation private "$0" "$@"
  code=$?
  # The tools leave folders of their own; a container's is the runtime's to remove.
  after=$(groups | grep -vxFf <(echo "$before"))
  left=$(grep -E 'libpod-[0-9a-f]{64}|/interop[0-9]+$|docker/[0-9a-f]{64}' <<<"$after")
  if [ -n "$left" ]; then echo "FAIL interop: no container's cgroup is left"; head -5 <<<"$left"; code=1; else echo "PASS interop: no container's cgroup is left"; fi
  [ -z "$after" ] || xargs -r -d '\n' rmdir 2>/dev/null <<<"$after"
  left=$(pgrep -af "$work" | head -3)
  if [ -n "$left" ]; then echo "FAIL interop: no process is left"; echo "$left"; code=1; else echo "PASS interop: no process is left"; fi
  chmod -R u+w "$work" 2>/dev/null; rm -rf "$work" || { echo "FAIL interop: the temporary folder can be removed"; code=1; }
  exit $code
fi

ours=${INTEROP_RUNTIME:-${KERNELET_OCI:-$top/target/release/kernelet-oci}}
[ -x "$ours" ] || { echo "FAIL interop: there is no $ours"; exit 1; }
cp "$ours" "$work/kernelet-oci"; ours=$work/kernelet-oci
peers=$(command -v runc crun)
runtime=$ours tool=interop failed=0 number=0
. "$here/lib.sh"
prepare
for tool in ${@:-conmon podman rootless buildah ctr docker}; do
  [ -e "$here/$tool.sh" ] || { echo "FAIL $tool: there is no tests/interop/$tool.sh"; failed=1; continue; }
  . "$here/$tool.sh"
  cases_of_$tool
done
exit $failed
