# Sourced by run.sh: how a case is tried, and what all tools share.

# holds NAME SCRIPT: one case. SCRIPT is bash, run in a folder of its own under `set -eu`, with $runtime (the program), $id
# (a name that nothing else has) and the tool's own functions; it holds when its last command succeeds.
holds() {
  local name=$1 script=$2 peer
  [[ $name =~ ${INTEROP_ONLY:-.} ]] || return 0
  # Not as a condition: bash would go on after a failure inside.
  try "$ours" "$script"
  if [ $? = 0 ]; then echo "PASS $tool: $name"; return; fi
  cp "$work/case.log" "$work/ours.log"
  local verdict="SKIP $tool: $name: it holds with neither runc nor crun on this machine"
  for peer in $peers; do
    try "$peer" "$script"
    if [ $? = 0 ]; then verdict="FAIL $tool: $name (it holds with $(basename "$peer"))"; failed=1; break; fi
  done
  echo "$verdict"
  [ -z "${INTEROP_TRACE:-}" ] || tail -"${INTEROP_LINES:-12}" "$work/ours.log"
}

# try RUNTIME SCRIPT: whether the case holds with that runtime; its trace is in $work/case.log.
try() {
  number=$((number + 1))
  runtime=$1 id=interop$number folder=$work/case$number
  mkdir -p "$folder"; chmod 777 "$folder"
  local code
  (cd "$folder" && trap 'exit 124' TERM && set -eux && eval "$2") >"$work/case.log" 2>&1 </dev/null &
  local child=$!
  # A case that hangs is a failure of its own; what it started goes with after_case.
  ( trap 'kill $sleeper 2>/dev/null; exit' TERM; sleep "${INTEROP_LIMIT_S:-40}" & sleeper=$!; wait $sleeper; kill -TERM $child 2>/dev/null; pkill_children $child ) >/dev/null 2>&1 &
  local guard=$!
  wait $child 2>/dev/null; code=$?
  kill $guard 2>/dev/null; wait $guard 2>/dev/null
  after_case >>"$work/case.log" 2>&1
  rm -rf "$folder"
  return $code
}
after_case() { :; }

# pkill_children PID: ends the children of a process, and theirs.
pkill_children() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do pkill_children "$child"; kill -KILL "$child" 2>/dev/null; done
}

# is WANTED COMMAND…: the command prints exactly this (its standard output, without the last newline).
is() { local wanted=$1 got; shift; got=$("$@") || return 1; [ "$got" = "$wanted" ] || { echo "wanted: $wanted"; echo "got: $got"; return 1; }; }
# has PATTERN COMMAND…: the command's output and errors hold a line that matches, whatever its exit code.
# (Its trace is left out, which would hold the pattern.)
has() { local pattern=$1 got; shift; got=$(set +x; "$@" 2>&1) || true; grep -Eq -- "$pattern" <<<"$got" || { echo "no $pattern in: $got"; return 1; }; }
# hasnt PATTERN COMMAND…: the command succeeds, and no line of its output matches.
hasnt() { local pattern=$1 got; shift; got=$("$@") || return 1; ! grep -Eq -- "$pattern" <<<"$got"; }
# ends CODE COMMAND…: the command's exit code.
ends() { local wanted=$1 got=0; shift; "$@" || got=$?; [ "$got" = "$wanted" ] || { echo "wanted exit $wanted, got $got"; return 1; }; }
# soon COMMAND…: the command succeeds within ten seconds.
soon() { local deadline=$((SECONDS + 10)); until "$@"; do [ $SECONDS -lt $deadline ] || return 1; sleep 0.1; done; }
# in_terminal COMMAND…: the command in a terminal of 24 rows and 80 columns, its output without carriage returns.
in_terminal() {
  python3 -c '
import fcntl, os, pty, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    try: data = os.read(terminal, 4096)
    except OSError: break
    if not data: break
    sys.stdout.buffer.write(data.replace(b"\r", b"")); sys.stdout.buffer.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))' "$@"
}

# cgroup_of PID CONTROLLER FILE: what a file of a process's cgroup says, on either version.
cgroup_of() {
  local path
  path=$(awk -F: -v c="$2" '{n = split($2, list, ","); for (i = 1; i <= n; i++) if (list[i] == c) print $3}' /proc/"$1"/cgroup)
  if [ -n "$path" ]; then
    cat "$(awk -v c="$2" '{for (i = 7; i <= NF; i++) if ($i == "-" && $(i + 1) == "cgroup" && ("," $NF ",") ~ ("," c ",")) print $5}' /proc/self/mountinfo | head -1)$path/$3"
  else
    cat "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$1"/cgroup)/$3"
  fi
}
version2() { [ "$(stat -f -c %t /sys/fs/cgroup)" = 63677270 ]; }
# limit_of PID memory|pids|quota|shares|cpus: a limit in the kernel's words, the same for both versions.
limit_of() {
  if version2; then
    case $2 in memory) cgroup_of "$1" memory memory.max ;; pids) cgroup_of "$1" pids pids.max ;; quota) cgroup_of "$1" cpu cpu.max ;; cpus) cgroup_of "$1" cpuset cpuset.cpus ;; esac
  else
    case $2 in memory) cgroup_of "$1" memory memory.limit_in_bytes ;; pids) cgroup_of "$1" pids pids.max ;; quota) echo "$(cgroup_of "$1" cpu cpu.cfs_quota_us) $(cgroup_of "$1" cpu cpu.cfs_period_us)" ;; cpus) cgroup_of "$1" cpuset cpuset.cpus ;; esac
  fi
}

# The image's root, two users who exist only in this mount namespace, and a configuration without a registry.
prepare() {
  local applet root=$work/image
  mkdir -p "$root"/{bin,etc,proc,sys,dev,root} "$work/home" && mkdir -m 1777 "$root/tmp"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n' >"$root/etc/group"
  touch "$root/etc/notexecutable"
  tar -C "$root" --owner=0 --group=0 -cf "$work/image.tar" .

  cp /etc/passwd "$work/passwd"; cp /etc/group "$work/group"
  sed -i '/^interop:/d' "$work/passwd" "$work/group"
  echo "interop:x:7001:7001::$work/home:/bin/bash" >>"$work/passwd"
  echo "interop:x:7001:" >>"$work/group"
  printf 'interop:700000:65536\ncontainers:1000000:1048576\n' >"$work/subids"
  chown 7001:7001 "$work/home"
  touch_at /etc/subuid; touch_at /etc/subgid
  mount --bind "$work/passwd" /etc/passwd && mount --bind "$work/group" /etc/group \
    && mount --bind "$work/subids" /etc/subuid && mount --bind "$work/subids" /etc/subgid \
    || { echo "FAIL interop: users of the run's own"; exit 1; }
  mount -t tmpfs tmpfs /etc/containers 2>/dev/null && echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
  echo 'unqualified-search-registries = []' >/etc/containers/registries.conf 2>/dev/null
}
# A file that a bind mount needs; an empty one stays behind only where there was none, and changes nothing.
touch_at() { [ -e "$1" ] || : >"$1"; }
