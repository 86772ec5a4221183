# conmon by itself, as podman and CRI-O call it: it creates, reports the pid, writes the log and the exit code.

cases_of_conmon() {
  command -v conmon >/dev/null || { echo "SKIP conmon: all: conmon cannot be installed"; return; }
  after_case() { "$runtime" --root "$work/conmon-state" delete --force "$id"; }
  holds "the container's output becomes a log, its exit code a file" '
    conmon_bundle false sh -c "echo told; echo wrong >&2; exit 6"
    monitored; begin; soon test -s exits/$id; is 6 cat exits/$id; has "stdout F told" cat log; has "stderr F wrong" cat log'
  holds "the first process is the one of the pid file" '
    conmon_bundle false sleep 100
    monitored; begin; is sleep cat /proc/$(cat pidfile)/comm; "$runtime" --root $work/conmon-state kill $id KILL; soon test -s exits/$id; is 137 cat exits/$id'
  holds "a terminal comes over the console socket" '
    conmon_bundle true sh -c "tty; stty size"
    monitored --terminal; begin; soon test -s exits/$id; is 0 cat exits/$id; has "/dev/pts/" cat log'
  holds "a creation that fails is told with its reason" '
    conmon_bundle false /nothing
    monitored_failing; has "nothing" cat failure'
  holds "exec is monitored as well" '
    conmon_bundle false sleep 100
    monitored; begin
    echo "{\"args\":[\"sh\",\"-c\",\"echo inside; exit 4\"],\"cwd\":\"/\",\"env\":[\"PATH=/bin\"],\"user\":{\"uid\":0,\"gid\":0}}" >process.json
    conmon --api-version 1 -c $id -u $id-exec -r "$runtime" --runtime-arg --root --runtime-arg $work/conmon-state -b $PWD -p $PWD/execpid -l k8s-file:$PWD/execlog --exit-dir $PWD/s -e --exec-process-spec $PWD/process.json --socket-dir-path $PWD/s
    soon test -s s/$id; is 4 cat s/$id; has inside cat execlog'
  after_case() { :; }
}
# conmon_bundle TERMINAL WORD…: a bundle in the working folder that runs these words.
conmon_bundle() {
  local terminal=$1; shift
  mkdir -p exits s
  (umask 022; "$(command -v runc)" spec)
  python3 - "$terminal" "$work/image" "/$id" "$@" <<'PY'
import json, sys
config = json.load(open("config.json"))
terminal, config["root"]["path"], config["linux"]["cgroupsPath"] = sys.argv[1:4]
config["process"].update(args=sys.argv[4:], terminal=terminal == "true", rlimits=[], env=["PATH=/bin"])
json.dump(config, open("config.json", "w"))
PY
}
monitored() {
  conmon --api-version 1 -c "$id" -u "$id" -n "$id" -r "$runtime" --runtime-arg --root --runtime-arg "$work/conmon-state" -b "$PWD" -p "$PWD/pidfile" -l "k8s-file:$PWD/log" \
    --exit-dir "$PWD/exits" --full-attach --socket-dir-path "$PWD/s" "$@"
  soon test -s pidfile
}
monitored_failing() {
  _OCI_SYNCPIPE=3 conmon --api-version 1 -c "$id" -u "$id" -n "$id" -r "$runtime" --runtime-arg --root --runtime-arg "$work/conmon-state" -b "$PWD" -p "$PWD/pidfile" -l "k8s-file:$PWD/log" \
    --exit-dir "$PWD/exits" --full-attach --socket-dir-path "$PWD/s" 3>failure || true
  soon test -s failure
}
begin() { "$runtime" --root "$work/conmon-state" start "$id"; }
