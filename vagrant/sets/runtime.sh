#!/bin/sh
# The runtime's and the network's own tests that need root, on pure cgroup v2
set -u
export KERNELET_OCI=/lab/bin/kernelet-oci
# The tests that kill at every n-th system call take bigger steps here, where each call is emulated.
export KERNELET_KILL_STRIDE=37
code=0
for test in /lab/bin/root_*; do
  [ -x "$test" ] || { echo "no tests were carried in"; exit 1; }
  echo "== ${test##*/}"
  # How long an endpoint's change takes says nothing where the processor is emulated.
  "$test" --test-threads=1 --skip an_endpoint_change_costs || code=1
done
exit $code
