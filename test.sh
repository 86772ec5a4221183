#!/usr/bin/env bash
# Runs every check that this machine can run, prints what it skipped and why, and ends with the counts.
#
#   ./test.sh                 everything
#   ./test.sh quick           format, clippy, layers, unit tests
#   ./test.sh root [FILTER]   the tests that need root (a nextest filter narrows them)
#   ./test.sh kubectl         kubectl's commands, beside a stock control plane's answers
#   ./test.sh interop [TOOL…] podman, buildah, containerd, Docker and conmon with kernelet-oci as their runtime
#   ./test.sh vm              the VM tier, and the Vagrantfile
set -uo pipefail
cd "$(dirname "$0")"
. tests/install.sh
passed=0 failed=0 skipped=0
failures=() skips=()
# Seconds after which no further check begins, and a running one is ended: what is known by then is worth more than
# a run that somebody else cuts off.
limit=${KERNELET_TEST_LIMIT_S:-4800}
logs=target/test-logs
mkdir -p "$logs"

note_pass() { passed=$((passed + 1)); printf 'PASS  %s\n' "$1"; }
note_fail() { failed=$((failed + 1)); failures+=("$1"); printf 'FAIL  %s\n' "$1"; }
note_skip() { skipped=$((skipped + 1)); skips+=("$1: $2"); printf 'SKIP  %s: %s\n' "$1" "$2"; }

# Whether there is time for NAME.
begin() {
  [ "$SECONDS" -lt "$limit" ] && return 0
  note_fail "$1 (not begun: $limit s are over)"
  return 1
}

# within COMMAND…: ends it when the time is over.
within() { timeout --signal=INT --kill-after=60 "$((limit - SECONDS > 0 ? limit - SECONDS : 1))" "$@"; }

# check NAME COMMAND…: one check; its output is shown when it fails.
check() {
  local name=$1; shift
  local began=$SECONDS
  begin "$name" || return
  if "$@" >"$logs/$name.log" 2>&1; then
    note_pass "$name ($((SECONDS - began)) s)"
  else
    tail -60 "$logs/$name.log"
    note_fail "$name"
  fi
}

# nextest NAME ARGS…: many checks; the counts are the runner's own.
nextest() {
  local name=$1; shift
  local began=$SECONDS line
  begin "$name" || return
  within cargo nextest run --locked --no-fail-fast --no-tests=warn --success-output final --failure-output final --final-status-level flaky "$@" 2>&1 \
    | tee "$logs/$name.log" | grep --line-buffered -E '^ +(TRY|FAIL|SLOW|TIMEOUT|TERMINATING|SIGNAL|ABORT|CANCEL)' | sed -u 's/^ */  /'
  local code=${PIPESTATUS[0]}
  line=$(grep -E '^ +Summary \[' "$logs/$name.log" | tail -1)
  if [ -z "$line" ]; then
    tail -60 "$logs/$name.log"; note_fail "$name (did not run)"; return
  fi
  local ok bad
  ok=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) passed.*/\1/p' <<<"$line"); bad=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) failed.*/\1/p' <<<"$line")
  local timed; timed=$(sed -n 's/.*[^0-9]\([0-9][0-9]*\) timed out.*/\1/p' <<<"$line")
  bad=$(( ${bad:-0} + ${timed:-0} ))
  [ "$code" != 0 ] && [ "$bad" = 0 ] && bad=1
  passed=$((passed + ${ok:-0})); failed=$((failed + bad))
  printf '%s: %s passed, %s failed (%d s)\n' "$name" "${ok:-0}" "$bad" "$((SECONDS - began))"
  sed -n 's/^ *FLAKY/  needed another try:/p' "$logs/$name.log" | sort -u
  if [ "$bad" != 0 ]; then
    failures+=("$name: $bad tests, see the log above")
    tail -150 "$logs/$name.log"
  fi
  while read -r row; do note_skip "${row%%: *}" "${row#*: }"; passed=$((passed > 0 ? passed - 1 : 0)); done \
    < <(sed -n 's/^ *SKIP \(.*: .*\)/\1/p' "$logs/$name.log" | sort -u)
}

# What must be the same before and after.
traces() {
  # Other people's cgroups come and go as they like.
  find /sys/fs/cgroup -mindepth 1 -type d 2>/dev/null | grep -e kernelet -e kubepods -e oci-test -e klt | sort
  awk '{print "mount", $5}' /proc/self/mountinfo | sort
  find /sys/fs/bpf -mindepth 1 2>/dev/null | sort
  ls /sys/class/net /run/netns /run/kernelet /var/log/kernelet 2>/dev/null
  for comm in /proc/[0-9]*/comm; do
    read -r name 2>/dev/null <"$comm" && case $name in kernelet*) echo "process $name" ;; esac
  done
}

quick() {
  check format cargo fmt --all --check
  check clippy cargo clippy --locked --workspace --all-targets -- -D warnings
  nextest unit --workspace -E 'not binary(/^root_/)'
}

# A program of its own that can be told to kill itself, or a shim, at any step of a pod.
fault_build() {
  export KERNELET_FAULT_BIN_DIR=$PWD/target/faults/debug
  CARGO_PROFILE_DEV_DEBUG=0 check fault-build cargo build --locked -p kernelet --features fault-points --target-dir target/faults
}

# kernelet-oci, out of which tests of escapes take single defences.
weakened_build() {
  export KERNELET_OCI_WEAKENED=$PWD/target/faults/debug/kernelet-oci
  CARGO_PROFILE_DEV_DEBUG=0 check weakened-build cargo build --locked -p kernelet-oci --features weakened --target-dir target/faults
}

release() { check release-build release_programs; }

root_tier() {
  if [ "$(id -u)" != 0 ]; then note_skip root-tier "it needs root"; return; fi
  # The program as it is shipped, static.
  export KERNELET_OCI=$PWD/target/release/kernelet-oci
  nextest root --workspace -E "binary(/^root_/)${1:+ and ($1)}"
}

# Every command of kubectl beside what it printed against a stock control plane (tests/kubectl).
kubectl_tier() {
  if [ "$(id -u)" != 0 ]; then note_skip kubectl-script "it needs root"; return; fi
  if ! kubectls; then note_skip kubectl-script "a kubectl cannot be had"; return; fi
  packages openssl:openssl python3:python3 || true
  local minor
  for minor in 1.32 1.36; do
    check "kubectl-$minor" within tests/kubectl/run.sh "$KERNELET_KUBECTLS/$minor/kubectl"
  done
}

python_tier() {
  if [ "$(id -u)" != 0 ]; then note_skip python-client "it needs root"; return; fi
  if ! python_client; then note_skip python-client "it cannot be installed"; return; fi
  check python-client within tests/python/run.sh
}

# Other people's tools over kernelet-oci (tests/interop): each case is a check, each that can't hold here a named skip.
interop_tier() {
  if [ "$(id -u)" != 0 ]; then note_skip interop-tier "it needs root"; return; fi
  local row began=$SECONDS
  begin interop || return
  within tests/interop/run.sh "$@" >"$logs/interop.log" 2>&1
  while read -r row; do
    case $row in
      PASS\ *) passed=$((passed + 1)) ;;
      FAIL\ *) note_fail "interop ${row#FAIL }" ;;
      SKIP\ *) row=${row#SKIP }; note_skip "interop ${row%: *}" "${row##*: }" ;;
    esac
  done <"$logs/interop.log"
  printf 'interop: %s passed, %s failed (%d s)\n' "$(grep -c '^PASS' "$logs/interop.log")" "$(grep -c '^FAIL' "$logs/interop.log")" "$((SECONDS - began))"
  grep -q '^PASS' "$logs/interop.log" || { tail -20 "$logs/interop.log"; note_fail "interop (did not run)"; }
}

# The Vagrantfile is for people; what can be checked without a hypervisor is that vagrant understands it.
vagrantfile() {
  if ! packages vagrant:vagrant; then note_skip vagrantfile "vagrant cannot be installed"; return; fi
  check vagrantfile env VAGRANT_CWD=vagrant VAGRANT_HOME="$cache/vagrant" vagrant validate --ignore-provider
}

vm_tier() {
  if [ "$(id -u)" != 0 ]; then note_skip vm-tier "it needs root to build the guest's root"; return; fi
  local set binaries carried scope=(--workspace)
  # The root tests of runtime and network travel as the programs that cargo builds of them: after the root tier those
  # that it has built, alone only what is needed.
  [ "$what" = vm ] && scope=(-p kernelet-shim-client -p kernelet-oci -p kernelet-maps -p kernelet-netagent)
  mapfile -t binaries < <(cargo test --no-run --message-format=json "${scope[@]}" --test 'root_*' 2>/dev/null \
    | sed -nE '/(runtime\/shim-client|runtime\/oci|netagent\/maps|netagent\/agent)#/s/.*"executable":"([^"]*\/root_[^"]*)".*/\1/p')
  for set in vagrant/sets/*.sh; do
    set=$(basename "$set" .sh)
    # A set that nobody has seen pass says so, and is run by hand (vagrant/lab run SET) until it does.
    local pending; pending=$(sed -n 's/^# pending: //p' "vagrant/sets/$set.sh")
    [ -z "$pending" ] || { note_skip "vm-$set" "$pending"; continue; }
    carried=()
    [ "$set" = runtime ] && carried=("${binaries[@]}")
    check "vm-$set" within env LAB_LIMIT_S=400 vagrant/lab run "$set" "${carried[@]}"
  done
}

what=${1:-all}
build_tools || exit 2
nextest_tool || exit 2
if [ "$what" = all ] || [ "$what" = root ]; then
  packages busybox:busybox-static ip:iproute2 nft:nftables nsenter:util-linux runc:runc crun:crun strace:strace \
    ps:procps dbus-daemon:dbus-daemon /usr/lib/python3/dist-packages/dbus:python3-dbus /usr/lib/python3/dist-packages/gi:python3-gi \
    etcd:etcd-server etcdctl:etcd-client fusermount3:fuse3 curl:curl nginx:nginx-light python3:python3 musl-gcc:musl-tools tmux:tmux vi:vim-tiny \
    docker-registry:docker-registry skopeo:skopeo openssl:openssl || true
  kubectl_tool || note_skip kubectl "no kubectl 1.31 or newer can be had"
  prometheus_tool || note_skip prometheus "Debian 12's package cannot be fetched"
fi
case $what in all | quick)
  fixtures || note_skip fixtures "golang-k8s-api-dev cannot be fetched"
  schemas || { unset KERNELET_SCHEMAS; tail -2 "$cache/schemas.log"; }
  ;;
esac
case $what in
  quick) quick ;;
  root)
    release; fault_build; weakened_build; root_tier "${2:-}"
    [ -n "${2:-}" ] || kubectl_tier
    ;;
  kubectl) release; kubectl_tier ;;
  interop) release; shift; interop_tier "$@" ;;
  vm) release; vagrantfile; vm_tier ;;
  all)
    before=$(traces)
    quick
    release
    fault_build
    weakened_build
    root_tier ""
    kubectl_tier
    python_tier
    interop_tier
    vagrantfile
    vm_tier
    after=$(traces)
    if [ "$before" = "$after" ]; then note_pass nothing-left-behind; else diff <(echo "$before") <(echo "$after"); note_fail nothing-left-behind; fi
    ;;
  *) echo "usage: ./test.sh [quick | root [FILTER] | kubectl | interop [TOOL…] | vm]" >&2; exit 2 ;;
esac

echo
printf 'took %d s\n' "$SECONDS"
printf 'ledger: %d held, %d in part, %d missing (docs/status.md)\n' \
  "$(grep -cE '^\|.*\| held \|' docs/status.md)" "$(grep -cE '^\|.*\| part \|' docs/status.md)" "$(grep -cE '^\|.*\| missing \|' docs/status.md)"
for row in "${skips[@]+"${skips[@]}"}"; do echo "skipped: $row"; done
for row in "${failures[@]+"${failures[@]}"}"; do echo "failed: $row"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
